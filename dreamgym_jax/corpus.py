"""Training streams of every role, made of episodes.

Which tokens of a stream carry loss, and how much, is one array indexed by the
kind of the token (`prompts.CONTEXT` ...), so that base training (all tokens),
Eq. 5 (reasoning, next state, flags), Eq. 6 and behaviour cloning differ by one
argument. Retrieval and renaming are passed in.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.data import augment, batches
from dreamgym_jax.text import actions, prompts, states

_LOOKUPS_PER_PAGE = 5
_CANDIDATES = 64    # tasks among which the seeds of one target are looked for
# demos of every step of every episode, by the rule against leaks
RetrieveAll = Callable[
    [Sequence[types.Episode]], list[list[list[prompts.Demo]]]]


def kind_weights(**weights: float) -> np.ndarray:
  """[N_KINDS] loss weights by kind name, e.g. reasoning=1; others 0."""
  table = np.zeros(prompts.N_KINDS, np.float32)
  for name, weight in weights.items():
    table[getattr(prompts, name.upper())] = weight
  return table


def to_stream(piece: prompts.Piece, weight_of_kind: np.ndarray):
  """A Stream whose tokens weigh what their kind weighs."""
  weight = weight_of_kind[np.asarray(piece.kinds)]
  return batches.Stream(np.asarray(piece.ids, np.int32), weight)


def is_usable(episode: types.Episode) -> bool:
  """Whether M_exp may learn from it: no crash, and a reason for every step.

  `reasoning` is '' where the annotator's rules disagree with the page: such
  an episode would teach a verdict against its own reasons.
  """
  return not episode.error and bool(episode.transitions) and all(
      step.reasoning for step in episode.transitions
      if prompts.is_wellformed(step.action))


def no_demos(
    episodes: Sequence[types.Episode],
) -> list[list[list[prompts.Demo]]]:
  return [[[] for _ in e.transitions] for e in episodes]


def make_demo(
    step: types.Transition, state: str = '', action: str = ''
) -> prompts.Demo:
  """A stored step as it is shown where `action` is asked about in `state`."""
  return prompts.Demo(
      step.action, actions.ground(step.action, step.state),
      states.diff(step.state, step.next_state, actions.argument(step.action)),
      step.reward,
      step.next_state == states.OVER,
      action == step.action and states.body(state) == states.body(step.state))


def dream_streams(
    prompt: prompts.Prompts, episodes: Sequence[types.Episode],
    retrieve: RetrieveAll, weights: np.ndarray, use_reasoning: bool = True,
    drop_demos: float = 0.25, seed: int = 0,
) -> list[batches.Stream]:
  """Streams of the experience model (Eq. 5).

  Args:
    prompt: encodes them.
    episodes: annotated ones; those that are not usable are left out.
    retrieve: demos of each step; dropped from a share of the episodes, so that
      the model does not come to lean on them.
    weights: [N_KINDS] loss weights.
    use_reasoning: False leaves R out (the ablation, trained apart).
    drop_demos: that share.
    seed: of the choice.
  """
  episodes = [e for e in episodes if is_usable(e)]
  rng = np.random.default_rng((seed, len(episodes)))
  streams = []
  for episode, demos in zip(episodes, retrieve(episodes), strict=True):
    if rng.random() < drop_demos:
      demos = [[] for _ in demos]
    streams.append(to_stream(
        prompt.dream_stream(episode, demos, use_reasoning), weights))
  return streams


def task_streams(
    prompt: prompts.Prompts, tasks: Sequence[types.Task], n: int, m: int,
    weights: np.ndarray, seed: int,
) -> list[batches.Stream]:
  """Streams of the task generator (Eq. 6): m seeds, then one like them.

  The seeds are those of some tasks of the family, drawn at random, that have
  most words in common with the target: M_task is to vary a task, and where
  seed and target have nothing to do with each other it learns to ignore it.
  """
  rng = np.random.default_rng((seed, n))
  by_family: dict[str, list[types.Task]] = {}
  for task in tasks:
    by_family.setdefault(task.family, []).append(task)
  groups = [(g, [_words(t) for t in g])
            for g in by_family.values() if len(g) > m]
  streams = []
  for _ in range(n if groups else 0):
    group, words = groups[rng.integers(len(groups))]
    size = min(len(group), max(m + 1, _CANDIDATES))
    target, *others = rng.choice(len(group), size, replace=False)
    nearest = sorted(others, key=lambda i: _unlike(words[i], words[target]))
    streams.append(to_stream(prompt.task_stream(
        [group[i] for i in nearest[:m]], group[target]), weights))
  return streams


def _words(task: types.Task) -> frozenset[str]:
  return frozenset(f'{task.instruction} {task.initial_state}'.split())


def _unlike(one: frozenset[str], other: frozenset[str]) -> float:
  """Jaccard distance."""
  return 1 - len(one & other) / len(one | other)


def policy_streams(
    prompt: prompts.Prompts, episodes: Sequence[types.Episode],
    weights: np.ndarray,
) -> list[batches.Stream]:
  """Streams of the policy, e.g. for behaviour cloning of experts."""
  return [to_stream(prompt.policy_stream(e), weights) for e in episodes]


def lookup_streams(
    prompt: prompts.Prompts, episodes: Sequence[types.Episode],
    renamer: augment.Renamer, n: int, seed: int,
) -> list[batches.Stream]:
  """Streams of n look-ups each, on one page of every episode.

  The page is one that the episode saw, and stays as it is between them. Loss
  is on the ids and the actions: what a thought wants is drawn at random. Where
  a policy acts on names, loss is also on how one goes on once its beginning is
  written (`mug 1 in` -> `drawer 2`).
  """
  rng = np.random.default_rng((seed, len(episodes)))
  id_tokens = prompt.tok.element_ids
  streams = []
  for episode in episodes:
    state = _a_page(episode, rng)
    pairs = [augment.lookup(state, renamer.draw(rng), rng) for _ in range(n)]
    task = dataclasses.replace(episode.task, initial_state=state)
    still = tuple(
        types.Transition(state, action, state, 0.0, False, thought=thought)
        for thought, action in pairs if action)
    if still:
      piece = prompt.policy_stream(
          dataclasses.replace(episode, task=task, transitions=still))
      ids, kind = np.asarray(piece.ids, np.int32), np.asarray(piece.kinds)
      is_id = (kind == prompts.THOUGHT) & np.isin(ids, id_tokens)
      is_told = is_id | (kind == prompts.ACTION)
      if prompt.names:
        is_told |= _goes_on(ids, kind)
      streams.append(batches.Stream(ids, np.float32(is_told)))
  return streams


def _a_page(episode: types.Episode, rng: np.random.Generator) -> str:
  """One that the episode saw, without notices."""
  steps = episode.transitions
  return states.body(steps[rng.integers(len(steps))].state)


def recital_streams(
    prompt: prompts.Prompts, episodes: Sequence[types.Episode], seed: int,
) -> list[batches.Stream]:
  """A page of every episode, then all its names, in any order.

  Loss is on how a name goes on (`mug 1` -> `in drawer 2`). What is in what is
  drawn anew, so that only the page tells it: on pages as they are, a small
  model learns where things mostly are and never to look.
  """
  rng = np.random.default_rng((seed, len(episodes)))
  streams = []
  for episode in episodes:
    page = augment.moved(_a_page(episode, rng), rng)
    names = [e.name for e in states.parse(page) if e.name]
    ids = prompt.start(episode.task.instruction, page)
    ids += prompt.policy_ask(episode.task.instruction)
    recital = prompt.tok.encode(' ; '.join(rng.permutation(names)))
    kind = np.repeat([prompts.CONTEXT, prompts.THOUGHT],
                     [len(ids), len(recital)])
    ids = np.array([*ids, *recital], np.int32)
    is_told = _goes_on(ids, kind)
    if is_told.any():
      streams.append(batches.Stream(ids, np.float32(is_told)))
  return streams


def _goes_on(ids: np.ndarray, kind: np.ndarray) -> np.ndarray:
  """Where a thought goes on as a page does: a pair of tokens of both."""
  pairs = np.stack([ids[:-1], ids[1:]], -1)
  shown, thought = (((kind[:-1] == k) & (kind[1:] == k))
                    for k in (prompts.CONTEXT, prompts.THOUGHT))
  on_page = set(map(tuple, pairs[shown]))
  return np.append(False, thought & [tuple(p) in on_page for p in pairs])


def base_streams(
    prompt: prompts.Prompts, episodes: Sequence[types.Episode],
    renamer: augment.Renamer, lookups: float, seed: int,
    retrieve: RetrieveAll = no_demos, drop_demos: float = 0.25,
) -> list[batches.Stream]:
  """All tokens of the world's roles, and of the policy's the look-ups alone.

  What experts do, and those who follow them, carries no loss: the base knows
  pages, their consequences and where things are on them; only the
  demonstrations of the warm-up say how to act.

  Args:
    prompt: encodes them.
    episodes: annotated ones.
    renamer: makes texts to type.
    lookups: share of the episodes that lend a page to look-ups.
    seed: of every choice.
    retrieve, drop_demos: as of `dream_streams`.
  """
  world = kind_weights(context=1, reasoning=1, state=1, flag=1, task=1)
  streams = dream_streams(prompt, episodes, retrieve, world,
                          drop_demos=drop_demos, seed=seed)
  tasks = list({e.task.task_id: e.task for e in episodes}.values())
  streams += task_streams(prompt, tasks, len(tasks) // 2, 1, world, seed)
  rng = np.random.default_rng((seed, 1))
  lenders = [e for e in episodes if e.transitions and rng.random() < lookups]
  return streams + lookup_streams(
      prompt, lenders, renamer, _LOOKUPS_PER_PAGE, seed)
