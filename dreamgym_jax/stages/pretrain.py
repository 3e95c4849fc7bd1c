"""Stages before any reinforcement: collect, base, experience, warmup.

The offline set is played by scripted behaviours in the real environment; the
base learns all tokens of all roles from it; the experience model is the base
after SFT on Eq. 5; the policy is the base after behaviour cloning.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from dreamgym_jax import collect, config, corpus, distributed, sft, types
from dreamgym_jax.data import augment, batches, trajectories
from dreamgym_jax.envs import behaviours
from dreamgym_jax.models import transformer
from dreamgym_jax.stages import cast, domains, memory, teaching
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import prompts, states, tokenizer

# Words of the grammar, so that the tokenizer knows them whatever was collected.
_GRAMMAR = ('page textbox: combobox: textarea: checkbox: radio: button: link: '
            'text: tab: header: clickable: remove unchecked unselected '
            'unexpanded expanded selected checked same over invalid options')

_NUMBERED = re.compile(r'(?:in )?[a-z]+ \d+')
_ROLE = re.compile(r'[a-z]+:')


def collect_stage(run: runs.Run) -> None:
  """Real transitions: given, or of every behaviour on training pages."""
  c = run.config
  path, domain = run.workdir / runs.OFFLINE, domains.of(run.config)
  with run.stage('collect') as result:
    # The teacher may take long: what the world gave is kept before it begins.
    raw = run.workdir / runs.UNTAUGHT if c.teacher.base_url else path
    get = _given if c.collect.trajectories else _played
    if not run.is_there(path):
      if not run.is_there(raw):
        run.write(raw, get(run, domain))
      if raw != path:
        run.write(path, teaching.annotate(run, trajectories.read_jsonl(raw)))
    episodes = run.offline()
    if not any(map(corpus.is_usable, episodes)):
      raise config.ConfigError(
          f'{path}: no episode has a reasoning trace on every step, so nothing '
          'teaches the experience model; a teacher writes them: '
          '--config.teacher.base_url and --config.teacher.model, in a new '
          'workdir')
    if c.collect.tfds and distributed.is_first():
      trajectories.build_tfds(
          {'train': episodes}, run.workdir / 'tfds', name=domain.dataset,
          version='1.0.0', card=trajectories.card(episodes))
    result.update(trajectories.card(episodes))


def _played(run: runs.Run, domain: domains.Domain) -> list[types.Episode]:
  """Every behaviour on every training page."""
  c = run.config
  if domain.advise is None:
    raise config.ConfigError(
        f'name={c.name!r} has no experts to play its pages: give recorded '
        'episodes, --config.collect.trajectories=episodes.jsonl.gz')
  if behaviours.ERRAND in c.collect.behaviours and domain.errands is None:
    raise config.ConfigError(
        f'collect.behaviours: name={c.name!r} knows no {behaviours.ERRAND!r}')
  tasks = [types.Task(f, s) for f in c.env.families
           for s in domains.pages(c, f, 'train')[:c.collect.pages]]
  total = len(tasks) * len(c.collect.behaviours)
  with cast.Cast(run) as players, run.bar(None, 'steps') as bar:
    collected = collect.collect(
        players.real, tasks, c.collect.behaviours, domain.advise,
        domain.rehearse, domain.accepts, domain.annotate,
        c.env.max_elements, c.seed, c.env.rows, bar.update, domain.errands)
  run.say(f'   {len(collected.episodes)} of {total} episodes kept; pages '
          f'passed over: {collected.passed_over or "none"}')
  return collected.episodes


def _given(run: runs.Run, domain: domains.Domain) -> list[types.Episode]:
  """Those of a file that are of training pages, with R* where it has none."""
  c = run.config
  path = pathlib.Path(c.collect.trajectories)
  if not path.is_file():
    raise config.ConfigError(f'collect.trajectories={str(path)!r}: no such '
                             'file; want episodes as .jsonl or .jsonl.gz')
  episodes = trajectories.read_jsonl(path)
  low, high = c.env.train_seeds
  kept = [e if e.annotator else collect.explained(e, domain.annotate)
          for e in episodes
          if e.task.family in c.env.families and low <= e.task.seed < high
          and e.source == types.REAL and not e.error]
  run.say(f'   {len(kept)} of {len(episodes)} episodes of {path} are real ones '
          'of training pages')
  if not kept:
    raise config.ConfigError(
        f'collect.trajectories={str(path)!r}: no episode is a real one of '
        f'env.families and of env.train_seeds={(low, high)}')
  return kept


def base_stage(run: runs.Run) -> None:
  """The tiny base: all tokens of all roles, from random weights."""
  c = run.config
  with run.stage('base') as result:
    episodes = run.offline()
    path = run.workdir / runs.TOKENIZER
    if not run.is_there(path):
      refers = f' {prompts.HERE} {prompts.SHOWN}' if c.prompt.refers else ''
      learned = tokenizer.train(_texts(_GRAMMAR + refers, episodes),
                                c.tokenizer.vocab_size,
                                phrases(episodes, c.tokenizer.phrases))
      if distributed.is_first():
        path.write_bytes(learned.model)
      distributed.barrier('tokenizer written')
    prompt = run.prompts()
    cfg = run.model_config(prompt.tok.vocab_size)
    retrieve = (memory.retrieve_all(run, episodes) if c.base.retrieves
                else corpus.no_demos)
    streams = _fitting(run, base_streams(
        prompt, episodes, c.base.rename, c.base.lookups, c.seed, retrieve,
        c.replay.dropped))
    params = transformer.place(jax.jit(transformer.init, static_argnums=1)(
        jax.random.key(c.seed), cfg), cfg)
    params, result['loss'] = _fit(run, 'base', params, streams, cfg,
                                  c.base.steps, c.base.lr)
    result.update(parameters=transformer.n_params(params),
                  streams=len(streams), steps=c.base.steps,
                  transitions=_count(episodes))
    run.save_params('base', params, cfg, recipe='base', **result)


def base_streams(
    prompt: prompts.Prompts, episodes: list[types.Episode], rename: float,
    lookups: float, seed: int, retrieve: corpus.RetrieveAll = corpus.no_demos,
    drop_demos: float = 0.25,
) -> list[batches.Stream]:
  """The base's data: the offline set, and a share of it renamed."""
  renamer = augment.make_renamer(episodes)
  renamed = _renamed(renamer, episodes, rename, seed)
  return [stream for i, some in enumerate((episodes, renamed))
          for stream in corpus.base_streams(
              prompt, some, renamer, lookups, seed + i, retrieve, drop_demos)]


def experience_stage(run: runs.Run) -> None:
  """M_exp (Eq. 5), with a share of M_task (Eq. 6), from the base."""
  c = run.config
  with run.stage('experience') as result:
    prompt = run.prompts()
    cfg = run.model_config(prompt.tok.vocab_size)
    streams = experience_streams(run, prompt, run.offline())
    params, result['loss'] = _fit(
        run, 'experience', run.params('base', cfg), streams, cfg,
        c.experience.steps, c.experience.lr)
    result.update(streams=len(streams), steps=c.experience.steps)
    run.save_params('experience', params, cfg, recipe='experience', **result)


def experience_streams(
    run: runs.Run, prompt: prompts.Prompts, episodes: list[types.Episode],
) -> list[batches.Stream]:
  """What M_exp learns from a set of annotated real episodes."""
  c = run.config
  weights = corpus.kind_weights(
      reasoning=1, state=1, flag=c.experience.flag_weight, task=1)
  retrieve = memory.retrieve_all(run, episodes)
  everything = episodes + _renamed(
      augment.make_renamer(episodes), episodes, c.experience.rename, c.seed + 2)
  streams = corpus.dream_streams(
      prompt, everything, retrieve, weights, c.experience.use_reasoning,
      c.replay.dropped, seed=c.seed)
  tasks = list({e.task.task_id: e.task for e in episodes}.values())
  share = c.experience.task_share
  streams += corpus.task_streams(
      prompt, tasks, int(len(streams) * share / (1 - share)),
      c.curriculum.seeds_per_task, weights, c.seed)
  return _fitting(run, streams)


def warmup_stage(run: runs.Run) -> None:
  """The policy before RL: behaviour cloning of few demonstrations."""
  c = run.config
  with run.stage('warmup') as result:
    prompt = run.prompts()
    cfg = run.model_config(prompt.tok.vocab_size)
    demos = demonstrations(run.offline(), c.warmup.demos)
    weights = corpus.kind_weights(thought=1, action=1)
    recitals = _recitals(run, prompt, round(c.warmup.recitals * len(demos)))
    streams = _fitting(
        run, corpus.policy_streams(prompt, demos, weights) + recitals)
    n_batches = batches.count_batches(
        streams, c.batch.rows, c.batch.length, c.batch.positions, c.seed)
    params, result['loss'] = _fit(
        run, 'warmup', run.params('base', cfg), streams, cfg,
        c.warmup.epochs * n_batches, c.warmup.lr)
    result.update(demos=len(demos), transitions=_count(demos),
                  recitals=len(recitals))
    run.save_params('warmup', params, cfg, recipe='warmup', **result)


def _recitals(
    run: runs.Run, prompt: prompts.Prompts, n: int
) -> list[batches.Stream]:
  """Recitals on pages of n offline episodes, whoever played them."""
  episodes = [e for e in run.offline() if e.transitions]
  seed = run.config.seed
  chosen = np.random.default_rng((seed, 3)).choice(
      len(episodes), min(n, len(episodes)), replace=False)
  return corpus.recital_streams(
      prompt, [episodes[i] for i in chosen], seed)


def demonstrations(
    episodes: Sequence[types.Episode], n: int
) -> list[types.Episode]:
  """The first n of each family won by an expert, or by who is unknown here."""
  taken: dict[str, list[types.Episode]] = {}
  for episode in episodes:
    demos = taken.setdefault(episode.task.family, [])
    is_experts = (episode.behaviour == behaviours.EXPERT
                  or episode.behaviour not in behaviours.BEHAVIOURS)
    if is_experts and episode.success and len(demos) < n:
      demos.append(episode)
  return [e for demos in taken.values() for e in demos]


def _renamed(
    renamer: augment.Renamer, episodes: Sequence[types.Episode], share: float,
    seed: int,
) -> list[types.Episode]:
  """A share of the episodes with other names, each beside its original."""
  rng = np.random.default_rng((seed, len(episodes)))
  chosen = [e for e in episodes if rng.random() < share]
  return [dataclasses.replace(renamer.rename(e, rng),
                              episode_id=f'{e.episode_id}~')
          for e in chosen]


def _fitting(
    run: runs.Run, streams: list[batches.Stream]
) -> list[batches.Stream]:
  """The streams that a batch has room for; says how many it has not."""
  if not streams:
    raise config.ConfigError(
        'no episode to learn from: experts did not succeed within '
        f'env.max_steps={run.config.env.max_steps}, or warmup.demos is 0')
  b = run.config.batch
  kept, n_long = batches.drop_long(
      streams, batches.Shape(b.rows, b.length, b.positions))
  said = (f'{n_long} of {len(streams)} streams do not fit batch.length='
          f'{b.length} and batch.positions={b.positions}')
  if not kept:
    raise config.ConfigError(said)
  if n_long:
    run.say(f'   {said}: left out')
  return kept


def _fit(run, name, params, streams, cfg, steps, lr):
  """`sft.fit` with a bar, metrics and checkpoints under the stage's name."""
  c = run.config
  shape = batches.Shape(c.batch.rows, c.batch.length, c.batch.positions)
  last = []
  with run.bar(steps, 'updates') as bar:

    def on_step(step: int, loss: float, n_tokens: int) -> None:
      bar.update(step - bar.n)
      bar.set_postfix(loss=f'{loss:.3f}')
      run.metrics.write(name, step, {'loss': loss, 'tokens': n_tokens})
      last.append(loss)

    params = sft.fit(params, streams, cfg, shape, steps, lr, c.seed,
                     run.workdir / 'checkpoints' / name, on_step=on_step)
  return params, float(np.mean(last[-10:])) if last else None


def _count(episodes: Sequence[types.Episode]) -> int:
  return sum(len(e.transitions) for e in episodes)


def phrases(episodes: Iterable[types.Episode], n: int) -> list[str]:
  """What is one token each: roles, and the n numbered names most tasks show.

  Such as `drawer 1`, and `in drawer 1` where something is in it. Else nearly
  all names end alike, and a place follows every thing with the same word
  between. So what follows a name, its place or its id, follows its token.
  """
  pages = {e.task.task_id: e.task.initial_state for e in episodes}

  def found(pattern: re.Pattern) -> collections.Counter:
    return collections.Counter(
        x for page in pages.values() for x in set(pattern.findall(page)))

  names = [name for name, _ in found(_NUMBERED).most_common(n)]
  return names and sorted(found(_ROLE)) + names


def _texts(
    grammar: str, episodes: Sequence[types.Episode]
) -> Iterator[str]:
  yield from (' '.join([grammar] * 3),)
  for episode in episodes:
    yield episode.task.instruction
    yield episode.task.initial_state
    for step in episode.transitions:
      yield step.action
      yield step.reasoning
      yield step.thought
      yield step.next_state
      yield states.diff(step.state, step.next_state)
