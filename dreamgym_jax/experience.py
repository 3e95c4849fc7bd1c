"""The experience model M_exp as a world, and its second face, M_task.

A dreamed step (Eq. 4) appends the action, the line of the page that it names
and k retrieved transitions to the episode's stream, decodes the reasoning R
greedily, then the edit that makes the next state and the flag, and parses
them strictly. Malformed actions are invalid by rule, in the dream as in the
browser. A malformed answer is decoded once more with a key of its own, then
ends the episode as malformed: reward 0, left out of the policy's batch.

With `Settings.compares` the model says what is compared, and the harness how
it compares: a `yes` or `no` in R that does not follow from the two names before
it is put right, and what comes after it is decoded again.

With `Settings.halts` the dream is pessimistic where it knows nothing, as the
P-MDP of MOReL is (Kidambi et al., arXiv 2005.05951, HALT): a new page that
differs in several lines and was not retrieved is the model's invention, and
ends the episode as a failure, in the state UNKNOWN.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from dreamgym_jax import sampling, types
from dreamgym_jax.text import actions, prompts, states


def no_retrieval(
    tasks: Sequence[types.Task], states_: Sequence[str],
    actions_: Sequence[str],
) -> list[list[prompts.Demo]]:
  """The ablation without D_k."""
  del states_, actions_
  return [[] for _ in tasks]


class Settings(NamedTuple):
  """How the dream is decoded."""

  max_steps: int            # an episode ends as a failure after so many
  max_new: int              # tokens of one answer
  use_reasoning: bool = True
  retry_temperature: float = 0.7
  compares: bool = False    # wrong comparisons in R are put right
  halts: bool = False       # a page that was made up ends the episode


class Row(NamedTuple):
  """Where one dreamed episode stands."""

  task: types.Task
  state: str                # current, with a notice if there is one
  seen: str | None          # the page the stream asked of last; None: not begun
  told: str = ''            # what its answer made of that page
  demos: Sequence[prompts.Demo] = ()   # shown beside the last action
  steps: int = 0
  number: int = 0           # of the episodes since the last whole reset
  pages: frozenset[str] = frozenset()  # that the episode has been on


class DreamWorld:
  """`types.World` whose every transition is dreamed. Owns a sampler's cache."""

  def __init__(
      self, params: types.Params, sampler: sampling.Sampler,
      prompt: prompts.Prompts, retrieve: prompts.Retrieve, settings: Settings,
      key: jax.Array,
  ):
    self._params = params
    self._sampler = sampler
    self._prompt = prompt
    self._retrieve = retrieve
    self._settings = settings
    self._key = key
    self._rows: dict[int, Row] = {}
    self._n_begun = 0
    # What a checkpoint keeps: retries draw by it.
    self.counts = {'resets': 0, 'malformed': 0, 'corrected': 0, 'shown': 0,
                   'halted': 0}
    # What was put right of each row's last answer: its beginning.
    self._begun: dict[int, list[int]] = {}

  def reset(
      self, tasks: Sequence[types.Task], rows: Sequence[int] | None = None
  ) -> list[types.Task]:
    """As types.World; a retry's luck goes by the order of the episodes."""
    if rows is None:
      self._sampler.start(len(tasks))
      self._rows, self._n_begun, rows = {}, 0, range(len(tasks))
      self.counts['resets'] += 1
    else:
      self._sampler.forget(rows)
    for r, task in zip(rows, tasks, strict=True):
      self._rows[r] = Row(task, task.initial_state, None, number=self._n_begun)
      self._n_begun += 1
    return list(tasks)

  def follow(self, rows: Sequence[int], states_: Sequence[str]) -> None:
    """Puts rows on given states, e.g. the real ones, before the next step."""
    for r, state in zip(rows, states_, strict=True):
      self._rows[r] = self._rows[r]._replace(state=state)

  def step(
      self, rows: Sequence[int], actions_: Sequence[str]
  ) -> list[types.Observation]:
    written = dict(zip(rows, actions_, strict=True))
    asked = [r for r in rows if prompts.is_wellformed(written[r])]
    answers = self._dream(asked, [written[r] for r in asked])
    observations = []
    for r in rows:
      row = self._rows[r]
      observation = answers.get(r) or prompts.malformed_action(row.state)
      if row.steps + 1 >= self._settings.max_steps:
        observation = observation._replace(done=True)
      told = observation.state if r in answers else row.told
      self._rows[r] = self._rows[r]._replace(
          state=observation.state, told=told, steps=row.steps + 1)
      observations.append(observation)
    return observations

  def close(self) -> None:
    self._rows = {}

  def _dream(
      self, rows: list[int], actions_: list[str]
  ) -> dict[int, types.Observation]:
    if not rows:
      return {}
    now = [self._rows[r] for r in rows]
    demos = self._retrieve(
        [row.task for row in now], [row.state for row in now], actions_)
    inputs = [self._ask(row, a, d)
              for row, a, d in zip(now, actions_, demos, strict=True)]
    for r, row, d in zip(rows, now, demos, strict=True):
      self._rows[r] = row._replace(
          seen=row.state, demos=d, pages=row.pages | {states.body(row.state)})
    full = types.Observation('', done=True, is_malformed=True,
                             reasoning='the stream is full')
    fits = [i for i, r in enumerate(rows) if self._sampler.fits(
        r, len(inputs[i]) + self._settings.max_new)]
    answers = dict.fromkeys(rows, full)
    rows, inputs = [rows[i] for i in fits], [inputs[i] for i in fits]
    asked = [actions_[i] for i in fits]
    self._begun = {r: [] for r in rows}
    answered = self._decode(rows, inputs, asked, temperature=0.0, attempt=0)
    again = [i for i, a in enumerate(answered) if a.is_malformed]
    if again:
      self.counts['malformed'] += len(again)
      retried = self._retry([rows[i] for i in again],
                            [asked[i] for i in again])
      for i, answer in zip(again, retried, strict=True):
        answered[i] = answer
    return answers | dict(zip(rows, answered, strict=True))

  def _ask(
      self, row: Row, action: str, demos: Sequence[prompts.Demo]
  ) -> list[int]:
    if row.seen is None:
      ids = self._prompt.start(row.task.instruction, row.task.initial_state)
    else:
      ids = self._prompt.dream_observe(row.seen, row.told, row.state)
    grounded = actions.ground(action, row.state)
    return ids + self._prompt.dream_ask(
        action, grounded, demos, self._settings.use_reasoning,
        row.task.instruction)

  def _retry(
      self, rows: list[int], asked: Sequence[str]
  ) -> list[types.Observation]:
    """Takes the last answer back and samples another."""
    last = self._sampler.undo(rows)
    return self._decode(rows, [[t] for t in last], asked,
                        temperature=self._settings.retry_temperature,
                        attempt=1)

  def _decode(
      self, rows: list[int], inputs: Sequence[Sequence[int]],
      asked: Sequence[str], temperature: float, attempt: int,
  ) -> list[types.Observation]:
    turns = self._write(rows, inputs, temperature, attempt)
    left = list(range(len(rows))) if self._settings.compares else []
    while left:
      wrong = {i: ids for i in left
               if (ids := self._prompt.corrected(turns[i].tokens))}
      left = list(wrong)
      if wrong:
        self.counts['corrected'] += len(wrong)
        again = self._continue(
            [rows[i] for i in left], list(wrong.values()), temperature, attempt)
        for i, turn in zip(left, again, strict=True):
          turns[i] = turn
    return [self._read(self._rows[r], action, turn)
            for r, action, turn in zip(rows, asked, turns, strict=True)]

  def _continue(
      self, rows: list[int], begun: Sequence[list[int]], temperature: float,
      attempt: int,
  ) -> list[sampling.Turn]:
    """Takes the last answers back to where they are right, and goes on."""
    last = self._sampler.undo(rows)
    inputs = [[t, *ids[len(self._begun[r]):]]
              for r, t, ids in zip(rows, last, begun, strict=True)]
    self._begun |= dict(zip(rows, begun, strict=True))
    return self._write(rows, inputs, temperature, attempt)

  def _write(
      self, rows: list[int], inputs: Sequence[Sequence[int]],
      temperature: float, attempt: int,
  ) -> list[sampling.Turn]:
    """Whole answers: what is begun, of log-prob 0, and what is added to it."""
    key = jax.random.fold_in(self._key, self.counts['resets'])
    begun = [self._begun[r] for r in rows]
    # No answer is longer than max_new: the streams have no room for more.
    turns = self._sampler.turn(
        self._params, rows, inputs, key=key, temperature=temperature,
        streams=[1000 * row.number + 2 * row.steps + attempt
                 for row in map(self._rows.get, rows)],
        max_new=self._settings.max_new - max(map(len, begun), default=0),
        stop=self._prompt.flags, watch=self._prompt.flags,
        barred=self._prompt.dream_barred)
    return [turn._replace(
        tokens=np.concatenate([np.array(ids, np.int32), turn.tokens]),
        logp=np.concatenate([np.zeros(len(ids), np.float32), turn.logp]))
            for ids, turn in zip(begun, turns, strict=True)]

  def _read(
      self, row: Row, action: str, turn: sampling.Turn
  ) -> types.Observation:
    try:
      answer = self._prompt.parse_answer(
          turn.tokens, row.state, action, self._settings.use_reasoning,
          row.demos)
    except prompts.ParseError as error:
      return types.Observation(
          row.state, done=True, is_malformed=True, reasoning=str(error))
    self.counts['shown'] += answer.is_shown
    if self._settings.halts and _is_made_up(answer, row, action):
      self.counts['halted'] += 1
      return types.Observation(
          states.UNKNOWN, done=True, reasoning=answer.reasoning)
    _, win, _ = np.exp(turn.watch)
    return types.Observation(
        answer.next_state, answer.reward, answer.done, answer.is_invalid,
        answer.reasoning, success_prob=float(win))


def _is_made_up(answer: prompts.Answer, row: Row, action: str) -> bool:
  """Whether a next state is neither a small change, nor shown, nor known."""
  if answer.is_shown or states.body(answer.next_state) in row.pages:
    return False
  return '\n' in states.diff(
      row.state, answer.next_state, actions.argument(action))


class Proposal(NamedTuple):
  """A task M_task wrote, or why it could not be read."""

  parents: tuple[types.Task, ...]
  instruction: str = ''
  initial_state: str = ''
  error: str = ''


def propose_tasks(
    params: types.Params, sampler: sampling.Sampler, prompt: prompts.Prompts,
    seeds: Sequence[Sequence[types.Task]], key: jax.Array,
    temperature: float, max_new: int,
) -> list[Proposal]:
  """M_task (Eq. 6): a variation of each group of m seed tasks."""
  sampler.start(len(seeds))
  rows = list(range(len(seeds)))
  turns = sampler.turn(
      params, rows, [prompt.task_ask(s) for s in seeds], key=key,
      streams=rows, temperature=temperature, max_new=max_new,
      stop=(prompt.tok.tag['end'],), barred=prompt.task_barred)
  proposals = []
  for parents, turn in zip(seeds, turns, strict=True):
    try:
      instruction, state = prompt.parse_task(turn.tokens)
      proposals.append(Proposal(tuple(parents), instruction, state))
    except prompts.ParseError as error:
      proposals.append(Proposal(tuple(parents), error=str(error)))
  return proposals
