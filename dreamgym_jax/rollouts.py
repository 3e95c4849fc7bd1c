"""Rollouts: a policy acts in a world, real or dreamed, a batch at a time.

The policy's streams stay in its sampler's cache across turns; what the sampler
drew is kept token by token, so that the learner trains on exactly what was
sampled, with the log-probabilities it was sampled with.
"""

import functools
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
  """How the policy is decoded, and when rows begin anew."""

  max_new: int              # tokens of one reply
  temperature: float = 1.0
  # Rows that must be free before they take the next tasks: all rows wait for a
  # reset, and some worlds take long for one.
  refill: int = 1


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
    rows: int | None = None,
) -> list[Attempt]:
  """One attempt at each task; the row of a finished one takes the next.

  Args:
    params: of the policy.
    sampler: of at least `rows` rows; its cache is taken over.
    prompt: encodes and parses the streams.
    world: where to act; its rows are taken over, too.
    tasks: the same task may stand several times (a group of Eq. 3).
    key: consumed; turn t of task i depends on (key, i, t) alone, not on the
      row, on the others, or on how many rows there are.
    settings: see there; the episodes are the same whatever `refill` is.
    source: types.REAL or types.DREAMED, kept on the episodes.
    label: prefix of the episode ids.
    on_step: called with the number of steps just taken, for progress bars.
    rows: tasks played at once, at most; None: all of them.

  Returns:
    An Attempt for each task, in order. A row whose world failed carries the
    error on its episode; none is dropped.
  """
  n_rows = min(rows or len(tasks), len(tasks))
  luck = functools.cache(
      lambda turn: np.asarray(jax.random.key_data(
          jax.random.fold_in(key, turn))))

  def begin(begun: Sequence[types.Task]) -> list[_Stream]:
    return [_Stream(t, prompt.start(t.instruction, t.initial_state)
                    + prompt.policy_ask()) for t in begun]

  sampler.start(n_rows)
  streams = begin(world.reset(tasks[:n_rows]))
  playing = {r: r for r in range(n_rows)}     # row -> index of its task
  while playing:
    fits = [r for r, i in playing.items() if sampler.fits(
        r, len(streams[i].pending) + settings.max_new)]
    for r in playing.keys() - set(fits):
      streams[playing[r]].error = 'the stream is full'
    now = [streams[playing[r]] for r in fits]
    turns = sampler.turn(
        params, fits, [s.pending for s in now],
        key=_keys([luck(len(s.steps)) for s in now]),
        streams=[playing[r] for r in fits],
        temperature=settings.temperature, max_new=settings.max_new,
        stop=(prompt.tok.tag['end'],), watch=())
    replies = []
    for s, turn in zip(now, turns, strict=True):
      s.append(turn)
      replies.append(prompt.parse_reply(turn.tokens))
    seen = world.step(fits, [action for _, action in replies])
    on_step(len(fits))
    still = set()
    for r, s, (thought, action), o in zip(
        fits, now, replies, seen, strict=True):
      s.steps.append(types.Transition(
          s.state, action, o.state, o.reward, o.done, o.is_invalid,
          o.reasoning, thought, o.success_prob))
      s.is_malformed, s.error = o.is_malformed, o.error
      if not o.done:
        s.pending = prompt.observe(s.state, o.state) + prompt.policy_ask()
        still.add(r)
      s.state = o.state
    playing = {r: i for r, i in playing.items() if r in still}
    free = [r for r in range(n_rows) if r not in playing]
    new = range(len(streams), min(len(tasks), len(streams) + len(free)))
    if new and (len(free) >= settings.refill or not playing):
      free = free[:len(new)]
      sampler.forget(free)
      streams += begin(world.reset(tasks[new.start:new.stop], free))
      playing |= zip(free, new, strict=True)
  return [_attempt(s, source, f'{label}-{i}') for i, s in enumerate(streams)]


def _keys(data: list[np.ndarray]) -> jax.Array:
  """Typed keys of these key data, which are host arrays."""
  return jax.random.wrap_key_data(np.stack(data)) if data else None


def _attempt(row: _Stream, source: str, episode_id: str) -> Attempt:
  episode = types.Episode(
      row.task, tuple(row.steps), source, 'policy', episode_id,
      row.is_malformed, row.error)
  return Attempt(
      episode, np.asarray(row.ids, np.int32), np.asarray(row.written, bool),
      np.asarray(row.logp, np.float32),
      sum(step.is_invalid for step in row.steps))
