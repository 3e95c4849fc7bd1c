"""What the knowledge of every environment is made of: goals and verdicts.

An environment's `*_tasks.py` reads goals from instructions and pages; experts
and reasons that follow from them are said in the same way everywhere.
"""

import functools
from collections.abc import Callable, Sequence

from dreamgym_jax import types
from dreamgym_jax.text import actions

NONE = 'none'
# (task, state) -> (thought, action) of an expert
Advise = Callable[[types.Task, str], tuple[str, str]]


class GoalError(ValueError):
  """The instruction cannot be read, or the page does not offer what it asks."""


class InstructionError(GoalError):
  """The instruction is not of the family's kind, whatever the page."""


def or_wait(advise: Advise) -> Advise:
  """Advice that is to do nothing where the page offers nothing to do.

  A dialog may be closed, or a page be none that the expert knows; only an
  instruction that cannot be read is still an InstructionError.
  """

  @functools.wraps(advise)
  def patient(task: types.Task, state: str) -> tuple[str, str]:
    try:
      return advise(task, state)
    except InstructionError:
      raise
    except GoalError:
      return '', str(actions.Action('noop'))

  return patient


def verdict(items: Sequence[tuple[str, str, str]]) -> str:
  """`what need X have Y yes|no` for each item, joined by ` ; `."""
  return ' ; '.join(
      f'{what} need {want} have {have} {"yes" if want == have else "no"}'
      .strip() for what, want, have in items)
