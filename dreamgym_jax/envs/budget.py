"""A real budget that is kept to the step."""

from collections.abc import Sequence

from dreamgym_jax import types

SPENT = 'the real budget is spent'


class Budgeted:
  """A types.World that takes no more than `budget` transitions in all.

  Rows that would act beyond it end with the error SPENT, so the last iteration
  learns from the attempts that had ended by then. Closing is for the owner of
  the world underneath.
  """

  def __init__(self, world: types.World, budget: int, spent: int = 0):
    self._world, self._budget, self.spent = world, budget, spent

  def reset(
      self, tasks: Sequence[types.Task], rows: Sequence[int] | None = None
  ) -> list[types.Task]:
    return self._world.reset(tasks, rows)

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[types.Observation]:
    n = min(len(rows), max(0, self._budget - self.spent))
    seen = list(self._world.step(rows[:n], actions[:n])) if n else []
    self.spent += n
    return seen + [types.Observation('', done=True, error=SPENT)
                   for _ in rows[n:]]

  def close(self) -> None:
    """Nothing: the world underneath is somebody else's."""


def taken(episodes: Sequence[types.Episode]) -> int:
  """Transitions that the world gave, without those that were refused."""
  return sum(len(e.transitions) - (e.error == SPENT) for e in episodes)
