"""A World that several processes play together, each some of its rows.

Every process makes the same calls with the same arguments, acts in its own
rows and tells the others what it saw: all get the same answers, as JSON.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from dreamgym_jax import types
from dreamgym_jax.envs import checks

# (name, value) -> what each process brought, in their order
Gather = Callable[[str, Any], list[Any]]


class SharedError(checks.EnvError):
  """Another process's world failed, or the processes no longer agree."""


class Shared:
  """A types.World; row i is played by process i % n_parts."""

  def __init__(
      self, world: types.World, part: int, n_parts: int, gather: Gather
  ):
    """`world` is this process's own; `part` says which process this is."""
    self._world, self._gather = world, gather
    self._part, self._n_parts = part, n_parts

  def reset(
      self, tasks: Sequence[types.Task], rows: Sequence[int] | None = None
  ) -> list[types.Task]:
    """As types.World; raises SharedError where another process failed."""
    at = range(len(tasks)) if rows is None else rows
    mine = [t for i, t in zip(at, tasks, strict=True) if self._is_mine(i)]
    # No rows: the world forgets those that it had.
    where = () if rows is None else (
        [i // self._n_parts for i in rows if self._is_mine(i)],)
    told = self._tell(
        [[t.task_id for t in tasks], list(map(int, at))], lambda: [
            dataclasses.asdict(t) for t in self._world.reset(mine, *where)]
        if mine or rows is None else [])
    return [types.Task(**next(told[i % self._n_parts])) for i in at]

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[types.Observation]:
    mine = [(i // self._n_parts, a) for i, a in zip(rows, actions, strict=True)
            if self._is_mine(i)]
    told = self._tell(
        [list(map(int, rows)), list(actions)],
        lambda: list(map(list, self._world.step(*zip(*mine, strict=True))))
        if mine else [])
    return [types.Observation(*next(told[i % self._n_parts])) for i in rows]

  def close(self) -> None:
    self._world.close()

  def _is_mine(self, row: int) -> bool:
    return row % self._n_parts == self._part

  def _tell(self, asked: Any, act: Callable[[], list]) -> list:
    """What each process's rows gave, as iterators; its error, if it has one.

    An error goes round as well: others would wait for it in vain.
    """
    failure, seen = None, []
    try:
      seen = act()
    except Exception as error:    # raised below, when all know of it
      failure = error
    digest = zlib.crc32(json.dumps(asked).encode())
    words = f'{type(failure).__name__}: {failure}' if failure else ''
    told = self._gather('world', [digest, words, seen])
    if failure:
      raise failure
    for process, (theirs, error, _) in enumerate(told):
      if error:
        raise SharedError(f'process {process}: {error}')
      if theirs != digest:
        raise SharedError(
            f'process {process} acts otherwise than process {self._part}: they '
            'have other files, packages or flags')
    return [iter(seen) for _, _, seen in told]


class SharedDream(Shared):
  """A types.Dream that the first process dreams, e.g. by asking an endpoint."""

  def __init__(self, dream: types.Dream, part: int, gather: Gather):
    super().__init__(dream, part, 1, gather)
    self.counts = dream.counts

  def follow(self, rows: Sequence[int], states: Sequence[str]) -> None:
    if not self._part:
      self._world.follow(rows, states)
