"""The pool against a world without a browser; workers are real processes."""

import dataclasses
import gc
import os
import time

import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import pool

TASKS = [types.Task('toy', seed) for seed in range(5)]


class Toy:
  """Answers with what it was asked; some actions harm its process."""

  restarts = 0

  def __init__(self):
    self.tasks = {}

  def reset(self, tasks, rows=None):
    if rows is None:
      self.tasks, rows = {}, range(len(tasks))
    self.tasks.update(zip(rows, tasks, strict=True))
    return [
        dataclasses.replace(t, instruction=f'do {t.seed} é',
                            initial_state=f'[1] text: {t.seed}')
        for t in tasks]

  def step(self, rows, actions):
    for action in actions:
      if action == 'die':
        os._exit(3)
      if action == 'hang':
        time.sleep(1000)
      if action == 'raise':
        raise ValueError('toy trouble')
      if action == 'restart':
        self.restarts += 1
    return [
        types.Observation(f'[1] text: {self.tasks[i].seed} {a}', 1., True,
                          success_prob=.5)
        for i, a in zip(rows, actions, strict=True)]

  def close(self):
    pass


@pytest.fixture(scope='module')
def workers():
  made = pool.Pool(Toy, n_workers=2, timeout=4.)
  yield made
  made.close()


def alive(pids):
  gone = [p for p in pids if not os.path.exists(f'/proc/{p}')]
  return set(pids) - set(gone)


def test_rows_answer_as_in_one_world(workers):
  one = Toy()
  assert workers.reset(TASKS) == one.reset(TASKS)
  rows = [4, 0, 3]
  texts = ['a', 'b', 'click [1]']
  assert workers.step(rows, texts) == one.step(rows, texts)
  assert workers.step([], []) == []
  assert workers.reset(TASKS[:1]) == one.reset(TASKS[:1])


def test_rows_begin_anew_and_the_others_go_on(workers):
  one, more = Toy(), [types.Task('toy', 10 + i) for i in range(3)]
  assert workers.reset(TASKS) == one.reset(TASKS)
  assert workers.reset(more, [4, 0, 7]) == one.reset(more, [4, 0, 7])
  rows = [0, 1, 2, 3, 4, 7]
  assert workers.step(rows, ['go'] * 6) == one.step(rows, ['go'] * 6)


def test_rows_of_a_lost_worker_can_begin_anew(workers):
  workers.reset(TASKS)
  assert workers.step([0], ['die'])[0].error
  workers.reset(TASKS[3:4], [2])
  seen = workers.step([2, 4], ['go'] * 2)
  assert [o.state for o in seen] == ['[1] text: 3 go', '[1] text: 4']
  assert [bool(o.error) for o in seen] == [False, True]


def test_a_worker_that_dies_in_a_reset_takes_its_other_rows(workers):
  workers.reset(TASKS)
  workers._workers[0]._process.kill()
  workers._workers[0]._process.join()
  assert workers.reset(TASKS[3:4], [2])[0].seed == 3
  seen = workers.step([0, 1, 2], ['go'] * 3)
  assert [bool(o.error) for o in seen] == [True, False, False]
  assert seen[2].state == '[1] text: 3 go'


@pytest.mark.parametrize('harm', ['die', 'hang'])
def test_a_lost_worker_is_replaced_and_its_rows_say_so(workers, harm):
  started = workers.reset(TASKS)
  before = workers.restarts
  begin = time.monotonic()
  seen = workers.step([0, 1], [harm, 'go'])
  assert time.monotonic() - begin < 30
  assert seen[0].error and seen[0].done and seen[0].reward == 0
  assert seen[0].state == started[0].initial_state
  assert not seen[1].error and seen[1].state == '[1] text: 1 go'
  # Rows 2 and 4 lived in the same worker; row 3 did not.
  later = workers.step([2, 3, 4], ['go'] * 3)
  assert [bool(o.error) for o in later] == [True, False, True]
  assert workers.restarts == before + 1
  assert workers.reset(TASKS) == started
  assert not any(o.error for o in workers.step(range(5), ['go'] * 5))


def test_an_exception_in_a_worker_arrives_with_its_traceback(workers):
  workers.reset(TASKS)
  with pytest.raises(pool.PoolError, match='toy trouble'):
    workers.step([0, 1], ['raise', 'go'])
  # The pipes are in step again afterwards.
  assert [o.state for o in workers.step([0, 1], ['x', 'y'])] == [
      '[1] text: 0 x', '[1] text: 1 y']


def test_restarts_inside_a_world_are_counted(workers):
  workers.reset(TASKS)
  before = workers.restarts
  workers.step([0, 1], ['restart', 'go'])
  assert workers.restarts == before + 1


def test_close_ends_the_processes():
  made = pool.Pool(Toy, n_workers=2)
  pids = [w._process.pid for w in made._workers]
  assert alive(pids) == set(pids)
  made.close()
  made.close()
  assert not alive(pids)
  dropped = pool.Pool(Toy, n_workers=1)
  assert dropped._finalizer.atexit     # the same at the interpreter's end
  pids = [w._process.pid for w in dropped._workers]
  del dropped
  gc.collect()
  assert not alive(pids)
  with pytest.raises(ValueError, match='n_workers'):
    pool.Pool(Toy, n_workers=0)
