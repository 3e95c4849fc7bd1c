"""Every MiniWoB++ family that text can solve, by name, and what is asked of it.

What a family is and knows: envs/miniwob_goals. Which of the package's pages
are left out, and why: docs/MINIWOB.md.
"""

from dreamgym_jax import types
from dreamgym_jax.envs import (
    goals,
    miniwob_basics,
    miniwob_clicks,
    miniwob_dates,
    miniwob_forms,
    miniwob_goals,
    miniwob_keys,
    miniwob_mail,
    miniwob_sites,
)

GoalError, InstructionError = goals.GoalError, goals.InstructionError
FAMILIES: dict[str, miniwob_goals.Family] = {
    family.name: family
    for part in (miniwob_basics, miniwob_clicks, miniwob_forms, miniwob_keys,
                 miniwob_dates, miniwob_sites, miniwob_mail)
    for family in part.FAMILIES}


@goals.or_wait
def advise(task: types.Task, state: str) -> tuple[str, str]:
  """(thought, action) of the expert of the task's family.

  Raises InstructionError where the instruction is another family's.
  """
  return FAMILIES[task.family].expert(task.instruction, state)


def accepts(task: types.Task) -> bool:
  """Whether the task, real or generated, is one its family could make."""
  return FAMILIES[task.family].accepts(task.instruction, task.initial_state)


def annotate(task: types.Task, step: types.Transition) -> str:
  """R* of a real transition of a known family."""
  return FAMILIES[task.family].explain(task.instruction, step)
