"""Rollouts: a policy acts in a world, real or dreamed, a batch at a time.

The policy's streams stay in its sampler's cache across turns; what the sampler
drew is kept token by token, so that the learner trains on exactly what was
sampled, with the log-probabilities it was sampled with.

Rows may play in parts: while those of one part are in the world, the policy
writes for the others, in a thread of its own.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np

from dreamgym_jax import sampling, types
from dreamgym_jax.models import sharding
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
  parts: int = 1            # of the rows, each in the world in its turn


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
    settings: see there; the episodes are the same whatever `refill` and
      `parts` are.
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
                    + prompt.policy_ask(t.instruction)) for t in begun]

  sampler.start(n_rows)
  streams = begin(world.reset(tasks[:n_rows]))
  playing = {r: r for r in range(n_rows)}     # row -> index of its task

  def write(
      part: dict[int, int], fresh: Sequence[int]
  ) -> tuple[list[int], list[tuple[str, str]]]:
    """The rows that there was room for, and their (thought, action)."""
    sampler.forget(fresh)
    rows = [r for r, i in part.items() if sampler.fits(
        r, len(streams[i].pending) + settings.max_new)]
    for r in part.keys() - set(rows):
      streams[part[r]].error = 'the stream is full'
    now = [streams[part[r]] for r in rows]
    turns = sampler.turn(
        params, rows, [s.pending for s in now],
        key=_keys([luck(len(s.steps)) for s in now]),
        streams=[part[r] for r in rows],
        temperature=settings.temperature, max_new=settings.max_new,
        stop=(prompt.tok.tag['end'],), watch=())
    for s, turn in zip(now, turns, strict=True):
      s.append(turn)
    return rows, [prompt.parse_reply(turn.tokens, s.state)
                  for s, turn in zip(now, turns, strict=True)]

  with _starter(settings.parts) as start:
    written = collections.deque()
    for k in range(min(settings.parts, n_rows)):
      part = range(n_rows)[k::settings.parts]
      written.append((part, start(write, {r: r for r in part}, ())))
    while written:
      part, future = written.popleft()
      rows_now, replies = future.result()
      seen = world.step(rows_now, [action for _, action in replies])
      on_step(len(rows_now))
      before = {r: playing.pop(r) for r in part if r in playing}
      for r, (thought, action), o in zip(
          rows_now, replies, seen, strict=True):
        s = streams[before[r]]
        s.steps.append(types.Transition(
            s.state, action, o.state, o.reward, o.done, o.is_invalid,
            o.reasoning, thought, o.success_prob))
        s.is_malformed, s.error = o.is_malformed, o.error
        if not o.done:
          s.pending = (prompt.observe(s.state, o.state)
                       + prompt.policy_ask(s.task.instruction))
          playing[r] = before[r]
        s.state = o.state
      free = [r for r in part if r not in playing]
      new = range(len(streams), min(len(tasks), len(streams) + len(free)))
      fresh = ()
      if new and (len(free) >= settings.refill or len(free) == len(part)):
        fresh = free[:len(new)]
        streams += begin(world.reset(tasks[new.start:new.stop], fresh))
        playing |= zip(fresh, new, strict=True)
      if mine := {r: playing[r] for r in part if r in playing}:
        written.append((part, start(write, mine, fresh)))
  return [_attempt(s, source, f'{label}-{i}') for i, s in enumerate(streams)]


@contextlib.contextmanager
def _starter(
    parts: int
) -> Iterator[Callable[..., futures.Future]]:
  """What starts a call: at once, or where there are parts in one thread."""
  if parts == 1:
    yield _at_once
    return
  mesh = sharding.in_use()      # threads begin without one

  def within(call, *args):
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
      return call(*args)

  with futures.ThreadPoolExecutor(1) as pool:
    yield functools.partial(pool.submit, within)


def _at_once(call: Callable, *args) -> futures.Future:
  done = futures.Future()
  done.set_result(call(*args))
  return done


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
