"""Rollouts: a policy acts in a world, real or dreamed, a batch at a time.

The policy's streams stay in its sampler's cache across turns; what the sampler
drew is kept token by token, so that the learner trains on exactly what was
sampled, with the log-probabilities it was sampled with.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from dreamgym_jax import sampling, types
from dreamgym_jax.text import prompts


class Attempt(NamedTuple):
  """One episode with the policy's token stream."""

  episode: types.Episode
  token_T: np.ndarray      # the whole stream
  is_written_T: np.ndarray  # bool: the policy wrote this token
  logp_T: np.ndarray       # sampler's log-prob where written, else 0
  n_invalid: int           # actions that could not be carried out


class Settings(NamedTuple):
  """How the policy is decoded."""

  max_new: int              # tokens of one reply
  temperature: float = 1.0


class _Stream:
  """Host-side record of one row."""

  def __init__(self, task: types.Task, ids: list[int]):
    self.task = task
    self.pending = ids
    self.state = task.initial_state
    self.steps: list[types.Transition] = []
    self.ids: list[int] = []
    self.written: list[bool] = []
    self.logp: list[float] = []
    self.is_malformed = False
    self.error = ''

  def append(self, turn: sampling.Turn) -> None:
    self.ids += [*self.pending, *map(int, turn.tokens)]
    self.written += [False] * len(self.pending) + [True] * len(turn.tokens)
    self.logp += [0.0] * len(self.pending) + list(map(float, turn.logp))
    self.pending = []


def rollout(
    params: types.Params, sampler: sampling.Sampler, prompt: prompts.Prompts,
    world: types.World, tasks: Sequence[types.Task], key: jax.Array,
    settings: Settings, source: str, label: str,
    on_step: Callable[[int], None] = lambda n: None,
) -> list[Attempt]:
  """One attempt at each task, in lock step; finished rows cost nothing.

  Args:
    params: of the policy.
    sampler: at least len(tasks) rows; its cache is taken over.
    prompt: encodes and parses the streams.
    world: where to act; its rows are those of `tasks`.
    tasks: the same task may stand several times (a group of Eq. 3).
    key: consumed; row i of turn t depends on (key, i, t) alone.
    settings: temperature and limits.
    source: types.REAL or types.DREAMED, kept on the episodes.
    label: prefix of the episode ids.
    on_step: called with the number of steps just taken, for progress bars.

  Returns:
    An Attempt for each task, in order. A row whose world failed carries the
    error on its episode; none is dropped.
  """
  tasks = world.reset(tasks)
  sampler.start(len(tasks))
  rows = [_Stream(t, prompt.start(t.instruction, t.initial_state)
                  + prompt.policy_ask()) for t in tasks]
  active = list(range(len(rows)))
  turn_index = 0
  while active:
    fits = [r for r in active if sampler.fits(
        r, len(rows[r].pending) + settings.max_new)]
    for r in set(active) - set(fits):
      rows[r].error = 'the stream is full'
    turns = sampler.turn(
        params, fits, [rows[r].pending for r in fits],
        key=jax.random.fold_in(key, turn_index), streams=fits,
        temperature=settings.temperature, max_new=settings.max_new,
        stop=(prompt.tok.tag['end'],), watch=())
    replies = []
    for r, turn in zip(fits, turns, strict=True):
      rows[r].append(turn)
      replies.append(prompt.parse_reply(turn.tokens))
    seen = world.step(fits, [action for _, action in replies])
    on_step(len(fits))
    active = []
    for r, (thought, action), o in zip(fits, replies, seen, strict=True):
      row = rows[r]
      row.steps.append(types.Transition(
          row.state, action, o.state, o.reward, o.done, o.is_invalid,
          o.reasoning, thought, o.success_prob))
      row.is_malformed, row.error = o.is_malformed, o.error
      if not o.done:
        row.pending = prompt.observe(row.state, o.state) + prompt.policy_ask()
        active.append(r)
      row.state = o.state
    turn_index += 1
  return [_attempt(row, source, f'{label}-{i}') for i, row in enumerate(rows)]


def _attempt(row: _Stream, source: str, episode_id: str) -> Attempt:
  episode = types.Episode(
      row.task, tuple(row.steps), source, 'policy', episode_id,
      row.is_malformed, row.error)
  return Attempt(
      episode, np.asarray(row.ids, np.int32), np.asarray(row.written, bool),
      np.asarray(row.logp, np.float32),
      sum(step.is_invalid for step in row.steps))
