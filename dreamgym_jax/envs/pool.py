"""A World that spreads its rows over worker processes.

Every worker makes a World of its own and answers over a pipe in JSON: what a
web page wrote is never unpickled. A worker that dies or does not answer in time
is replaced, and its rows answer with `error` set and done.
"""

import dataclasses
import json
import multiprocessing as mp
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import connection

from dreamgym_jax import types

Task, Observation = types.Task, types.Observation
_GRACE = 5.     # seconds to end by itself before a worker is killed


class PoolError(RuntimeError):
  """A worker failed in a way that another attempt did not cure."""


class WorkerDied(PoolError):
  """A worker is gone or did not answer in time."""


class Worker:
  """One process with one World, and the pipe to it."""

  def __init__(
      self, context: mp.context.SpawnContext,
      make_world: Callable[[], types.World], timeout: float
  ):
    self._timeout = timeout
    self.restarts = 0       # of the world inside, as last heard
    self._is_used, self._grace = False, 0.
    self._pipe, theirs = context.Pipe()
    # A daemon ends with the interpreter, even one that ends by an exception.
    self._process = context.Process(
        target=_serve, args=(make_world, theirs), daemon=True)
    self._process.start()
    theirs.close()

  def send(self, name: str, *args: object) -> None:
    self._is_used = True
    try:
      self._pipe.send_bytes(json.dumps([name, *args]).encode())
    except OSError as error:
      raise WorkerDied(f'worker process is gone: {error}') from error

  def receive(self, deadline: float) -> list:
    """The answer; raises WorkerDied, or PoolError with the remote traceback."""
    wait = max(deadline - time.monotonic(), 0.)
    ready = connection.wait([self._pipe, self._process.sentinel], wait)
    if not ready:
      raise WorkerDied(f'worker did not answer in {self._timeout:g} s')
    try:
      # A last answer may lie in the pipe of a process that is gone.
      is_ok, answer, restarts = json.loads(self._pipe.recv_bytes())
    except (EOFError, OSError) as error:
      raise WorkerDied('worker process died') from error
    self.restarts = max(restarts, self.restarts)
    if not is_ok:
      raise PoolError(f'in a worker:\n{answer}')
    return answer

  def dismiss(self) -> None:
    """Asks the process to close its world and end; `end` makes sure of it."""
    if self._is_used:     # otherwise there is no browser to close
      try:
        self.send('close')
        self._grace = _GRACE
      except WorkerDied:
        pass

  def end(self) -> None:
    """Ends the process, by force unless a dismissed one ends in time."""
    self._process.join(self._grace)
    if self._process.is_alive():
      self._process.terminate()
      self._process.join(1.)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()
    self._pipe.close()


class Pool:
  """A types.World over `n_workers` Worlds; row i lives in worker i % n.

  `make_world` must be importable (spawned workers receive it by name).
  `timeout` in seconds bounds one call of `step`, and five times that one of
  `reset`, which starts browsers and loads pages.
  """

  def __init__(
      self, make_world: Callable[[], types.World], n_workers: int,
      timeout: float = 60.
  ):
    if n_workers < 1:
      raise ValueError(f'n_workers must be at least 1, got {n_workers}')
    self.timeout = timeout
    self._replaced = 0
    context = mp.get_context('spawn')
    self._make = lambda: Worker(context, make_world, timeout)
    self._workers = [self._make() for _ in range(n_workers)]
    self._tasks: list[Task] = []
    self._error: dict[int, str] = {}    # rows lost with their worker
    self._state: dict[int, str] = {}    # the last state of every row
    # Runs at exit and when the pool is dropped: no browser outlives it.
    self._finalizer = weakref.finalize(self, _end_all, self._workers)

  @property
  def restarts(self) -> int:
    """Workers replaced, and browsers started again inside workers."""
    return self._replaced + sum(w.restarts for w in self._workers)

  def reset(
      self, tasks: Sequence[Task], rows: Sequence[int] | None = None
  ) -> list[Task]:
    """As World.reset; a worker that dies is replaced once, then PoolError."""
    is_whole, n = rows is None, len(self._workers)
    if is_whole:
      self._error, self._state, rows = {}, {}, range(len(tasks))
    calls: dict[int, list[list]] = {}
    for i, task in zip(rows, tasks, strict=True):
      self._error.pop(i, None)
      self._state.pop(i, None)    # not lost with its worker, but begun again
      parts, local_rows = calls.setdefault(i % n, [[], []])
      parts.append(dataclasses.asdict(task))
      local_rows.append(i // n)
    if is_whole:    # no rows: the worker forgets those that it had
      calls = {w: [parts] for w, (parts, _) in calls.items()}
    answers, died = self._ask('reset', calls, 5.)
    if died:
      self._lose(died)
      again, died_again = self._ask('reset', {w: calls[w] for w in died}, 5.)
      if died_again:
        raise PoolError(f'workers died twice in reset: {died_again}')
      answers |= again
    left = {w: iter(answer) for w, answer in answers.items()}
    started = [Task(**next(left[i % n])) for i in rows]
    self._state.update(
        (i, t.initial_state) for i, t in zip(rows, started, strict=True))
    return started

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[Observation]:
    """As World.step; rows of a worker that died answer with `error`."""
    n = len(self._workers)
    calls: dict[int, list[list]] = {}
    for i, action in zip(rows, actions, strict=True):
      if i not in self._error:
        local_rows, texts = calls.setdefault(i % n, [[], []])
        local_rows.append(i // n)
        texts.append(action)
    answers, died = self._ask('step', calls, 1.)
    self._lose(died)
    seen: dict[int, Observation] = {}
    for worker, answer in answers.items():
      for row, fields in zip(calls[worker][0], answer, strict=True):
        seen[row * n + worker] = Observation(*fields)
    for i in rows:
      if i in self._error:
        seen[i] = Observation(self._state[i], done=True, error=self._error[i])
      self._state[i] = seen[i].state
    return [seen[i] for i in rows]

  def _lose(self, died: dict[int, str]) -> None:
    """Remembers why the rows of workers that died are lost."""
    for i in self._state:
      if error := died.get(i % len(self._workers)):
        self._error[i] = error

  def close(self) -> None:
    """Ends every worker and its browser; harmless when called twice."""
    self._finalizer()

  def _ask(
      self, name: str, calls: dict[int, list], patience: float
  ) -> tuple[dict[int, list], dict[int, str]]:
    """Answers by worker, and why the others, now replaced, have none."""
    answers, died = {}, {}
    for worker, args in calls.items():
      try:
        self._workers[worker].send(name, *args)
      except WorkerDied as error:
        died[worker] = str(error)
    deadline = time.monotonic() + patience * self.timeout
    failure = None
    for worker in calls:
      if worker in died:
        continue
      try:
        answers[worker] = self._workers[worker].receive(deadline)
      except WorkerDied as error:
        died[worker] = str(error)
      except PoolError as error:
        failure = error     # raised when all pipes have been read
    for worker in died:
      self._workers[worker].end()
      self._replaced += 1 + self._workers[worker].restarts
      self._workers[worker] = self._make()
    if failure:
      raise failure
    return answers, died


def _end_all(workers: list[Worker]) -> None:
  for worker in workers:
    worker.dismiss()
  for worker in workers:
    worker.end()
  workers.clear()


def _serve(
    make_world: Callable[[], types.World], pipe: connection.Connection
) -> None:
  """The worker's loop: the world at the first call, the end with the pipe."""
  world = None
  try:
    while True:
      name, *args = json.loads(pipe.recv_bytes())
      if name == 'close':
        return
      try:
        world = world or make_world()
        if name == 'reset':
          tasks = world.reset([Task(**fields) for fields in args[0]], *args[1:])
          answer = [dataclasses.asdict(task) for task in tasks]
        else:
          answer = [list(o) for o in world.step(*args)]
        reply = True, answer, getattr(world, 'restarts', 0)
      except Exception:
        reply = False, traceback.format_exc(), 0
      pipe.send_bytes(json.dumps(reply).encode())
  except (EOFError, OSError, KeyboardInterrupt):
    pass          # the parent is gone, or about to go
  finally:
    if world is not None:
      world.close()
