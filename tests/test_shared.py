"""Rows of one world over several processes, here over threads that meet."""

import functools
import threading
from concurrent import futures

import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import (
    checks,
    shared,
    webshop,
    webshop_catalogue,
    webshop_tasks,
)

N = 3
TASKS = [types.Task('shop-beauty', i) for i in range(5)]


class Meeting:
  """What `distributed.gather` is to processes, among threads."""

  def __init__(self):
    self._brought = [None] * N
    self._barrier = threading.Barrier(N, timeout=60)

  def gather(self, part: int, name: str, value):
    del name
    self._brought[part] = value
    self._barrier.wait()
    found = list(self._brought)
    self._barrier.wait()    # or one that is ahead would bring its next
    return found


def shop() -> webshop.WebShop:
  return webshop.WebShop(webshop_catalogue.generate, pose=webshop_tasks.pose)


def together(act, n_parts: int = N, make=lambda part: shop()) -> list:
  """What each thread's `act(world, part)` gives, or raises."""
  meeting = Meeting()
  worlds = [shared.Shared(make(i), i, n_parts,
                          functools.partial(meeting.gather, i))
            for i in range(N)]
  with futures.ThreadPoolExecutor(N) as threads:
    jobs = [threads.submit(act, w, i) for i, w in enumerate(worlds)]
    return [job.exception() or job.result() for job in jobs]


def play(world, part: int = 0):
  """Experts until all rows are done: tasks, and observations by step."""
  del part
  tasks = world.reset(TASKS)
  now = {i: t.initial_state for i, t in enumerate(tasks)}
  seen = []
  while now:
    rows = list(now)
    answers = world.step(rows, [
        webshop_tasks.advise(tasks[r], now[r])[1] for r in rows])
    seen.append(answers)
    now = {r: o.state for r, o in zip(rows, answers, strict=True)
           if not o.done}
  return tasks, seen


@pytest.mark.parametrize('n_parts', [N, 1])
def test_all_hear_what_one_world_would_say(n_parts):
  want = play(shop())
  assert len(want[1]) > 2 and any(o.reward for o in want[1][-1])
  assert together(play, n_parts) == [want] * N


def test_fewer_tasks_than_processes():
  def act(world, part):
    task, = world.reset(TASKS[:1])
    return task, world.step([0], ['click [99]'])

  (want, (seen,)), *others = together(act)
  assert want.initial_state and seen.is_invalid
  assert others == [(want, [seen])] * (N - 1)


class _Broken:
  """A world that is gone."""

  def reset(self, tasks):
    raise checks.EnvError('no browser')


def test_an_error_of_one_reaches_all():
  raised = together(lambda world, part: world.reset(TASKS),
                    make=lambda part: _Broken() if part == 1 else shop())
  assert str(raised[1]) == 'no browser'
  for error in (raised[0], raised[2]):
    assert isinstance(error, shared.SharedError)
    assert str(error) == 'process 1: EnvError: no browser'


def test_processes_that_disagree_are_told():
  def act(world, part):
    world.reset(TASKS)
    world.step([0], [f'click [{part + 1}]'])

  for error in together(act):
    assert isinstance(error, shared.SharedError)
    assert 'acts otherwise than process' in str(error)


def refill(world, part: int = 0):
  """Rows 1 and 2 begin anew, in the other order, while the rest goes on."""
  del part
  world.reset(TASKS[:4])
  again = world.reset([TASKS[4], TASKS[0]], [2, 1])
  seen = world.step([0, 1, 2, 3], ['click [99]'] * 4)
  return again, seen


@pytest.mark.parametrize('n_parts', [N, 1])
def test_rows_begin_anew_where_they_are_played(n_parts):
  want = refill(shop())
  assert want[0][0] == play(shop())[0][4]
  assert together(refill, n_parts) == [want] * N
