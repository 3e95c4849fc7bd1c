"""A dream whose verdicts a program passes: the hybrid world.

The pages are dreamed; whether an episode that the dream ends was won is read
from the last page, goal and action by the environment's own rules: those that
write R* of a true transition, and are silent about one that cannot be. A win
that they do not explain is a loss. A reward as the paper's M_exp gives it this
is not: say so beside a figure.
"""

from collections.abc import Callable, Sequence

from dreamgym_jax import types
from dreamgym_jax.text import states


class VerifiedWorld:
  """`types.Dream` that passes on the pages of another and judges their ends."""

  def __init__(
      self, dream: types.Dream,
      annotate: Callable[[types.Task, types.Transition], str],
  ):
    """`annotate` gives R* of a true transition, '' of one that cannot be."""
    self._dream, self._annotate = dream, annotate
    self.counts = dream.counts
    self.counts.setdefault('overruled', 0)
    self._tasks: dict[int, types.Task] = {}
    self._now: dict[int, str] = {}

  def reset(
      self, tasks: Sequence[types.Task], rows: Sequence[int] | None = None
  ) -> list[types.Task]:
    begun = self._dream.reset(tasks, rows)
    if rows is None:
      self._tasks, self._now, rows = {}, {}, range(len(tasks))
    for r, task in zip(rows, begun, strict=True):
      self._tasks[r], self._now[r] = task, task.initial_state
    return begun

  def follow(self, rows: Sequence[int], states_: Sequence[str]) -> None:
    self._dream.follow(rows, states_)
    self._now.update(zip(rows, states_, strict=True))

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[types.Observation]:
    seen = [
        self._judged(r, action, o) for r, action, o in zip(
            rows, actions, self._dream.step(rows, actions), strict=True)]
    self._now.update((r, o.state) for r, o in zip(rows, seen, strict=True))
    return seen

  def close(self) -> None:
    self._dream.close()

  def _judged(
      self, row: int, action: str, dreamed: types.Observation
  ) -> types.Observation:
    if dreamed.state != states.OVER:    # goes on, or ran out of steps
      return dreamed
    why = self._annotate(self._tasks[row], types.Transition(
        self._now[row], action, states.OVER, 1.0, True))
    reward = float(bool(why))
    self.counts['overruled'] += reward != dreamed.reward
    return dreamed._replace(reward=reward, success_prob=reward,
                            reasoning=why or dreamed.reasoning)
