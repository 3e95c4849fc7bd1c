"""A vending machine in text: an environment from outside the package.

    [1] radio: tea
    [2] radio: cola checked
    [3] status: to pay = 1
    [4] button: insert coin
    [5] button: take

One is asked to buy a drink: choose it, insert coins until all is paid, take it.
`take` ends the episode, which is won if the right drink is chosen and paid. All
drinks of a machine cost the same. The family vending-3 has three of them.

A config names it by name='vending:DOMAIN', where this file's directory is on
PYTHONPATH, or by name='colabs.vending:DOMAIN' from a checkout.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, checks, goals
from dreamgym_jax.stages import domains
from dreamgym_jax.text import actions, prompts, states

DRINKS = ('tea', 'cola', 'milk', 'soup', 'cocoa', 'water', 'juice', 'coffee',
          'mate', 'cider', 'tonic', 'latte', 'malt', 'soda', 'punch', 'broth')
PRICES = ('1', '2')               # coins
_N_DRINKS = {f'vending-{n}': n for n in range(2, 10)}


# -- the world: what really happens --------------------------------------------


@dataclasses.dataclass
class _Machine:
  """One machine and who stands before it."""

  drinks: list[str]
  wanted: str
  to_pay: int
  chosen: str = ''
  steps: int = 0
  is_over: bool = False

  @property
  def page(self) -> str:
    lines = [f'radio: {drink}{" checked" * (drink == self.chosen)}'
             for drink in self.drinks]
    lines += [f'status: to pay = {self.to_pay}', 'button: insert coin',
              'button: take']
    return '\n'.join(f'[{i}] {line}' for i, line in enumerate(lines, 1))

  def do(self, action: actions.Action) -> bool | None:
    """Whether it is won, once over; ActionError for what cannot be done."""
    *drinks, _, insert, take = range(1, len(self.drinks) + 4)
    clicked = action.element if action.verb == 'click' else 0
    if clicked in drinks:
      self.chosen = self.drinks[clicked - 1]
    elif clicked == insert and self.to_pay:
      self.to_pay -= 1
    elif clicked == take:
      return self.chosen == self.wanted and not self.to_pay
    elif action.verb != 'noop':
      raise actions.ActionError(f'{action} cannot be done here')
    return None


class Vending:
  """A `types.World` of vending machines; the seed says which."""

  def __init__(self, max_steps: int):
    self._max_steps = max_steps
    self._rows: dict[int, _Machine] = {}

  def reset(
      self, tasks: Sequence[types.Task], rows: Sequence[int] | None = None
  ) -> list[types.Task]:
    """As types.World; raises EnvError for a task it has not."""
    begun = [_make(task) for task in tasks]
    if rows is None:
      self._rows, rows = {}, range(len(tasks))
    self._rows.update(zip(rows, begun, strict=True))
    return [dataclasses.replace(t, instruction=f'Buy {m.wanted}.',
                                initial_state=m.page)
            for t, m in zip(tasks, begun, strict=True)]

  def step(
      self, rows: Sequence[int], actions_: Sequence[str]
  ) -> list[types.Observation]:
    """Acts in the rows; raises ValueError for a finished row."""
    checks.check_rows(rows, lambda i: self._rows[i].is_over)
    return [self._step(self._rows[i], text)
            for i, text in zip(rows, actions_, strict=True)]

  def _step(self, row: _Machine, text: str) -> types.Observation:
    row.steps += 1
    row.is_over = row.steps >= self._max_steps
    try:
      is_won = row.do(actions.parse(text))
    except actions.ActionError:
      return types.Observation(
          states.invalid(row.page), done=row.is_over, is_invalid=True)
    if is_won is None:
      return types.Observation(row.page, done=row.is_over)
    row.is_over = True
    return types.Observation(states.OVER, float(is_won), done=True)

  def close(self) -> None:
    self._rows = {}


def _make(task: types.Task) -> _Machine:
  n = _N_DRINKS.get(task.family)
  if not n or task.source != types.REAL:
    raise checks.EnvError(f'{task.task_id}: no vending machine of this kind')
  rng = np.random.default_rng((task.seed, n))
  drinks = rng.permutation(DRINKS)[:n].tolist()
  return _Machine(drinks, drinks[rng.integers(n)], int(rng.choice(PRICES)))


# -- what is known of it, from text alone --------------------------------------


def advise(task: types.Task, state: str) -> tuple[str, str]:
  """(thought, action) of an expert, who looks at the page before each step."""
  target, display, insert, take = _read(task, state)
  if not target.is_checked:
    return f'need {_wanted(task)} [{target.id}]', f'click [{target.id}]'
  if display.value != '0':
    return f'{display.value} to pay {insert.label}', f'click [{insert.id}]'
  return f'finish {take.label}', f'click [{take.id}]'


def rehearse(task: types.Task) -> behaviours.Course:
  """The course of near misses: what an expert does, without looking again."""
  target, display, insert, take = _read(task, task.initial_state)
  script = [f'click [{e.id}]' for e in (
      target, *[insert] * int(display.value), take)]
  return behaviours.Course(
      len(script), lambda t, state: ''.join(script[t:t + 1]))


def annotate(task: types.Task, step: types.Transition) -> str:
  """R*: why the true transition is what it is; '' where the rules differ."""
  *drinks, display, _, _ = elements = states.parse(step.state)
  if step.next_state == states.OVER:
    chosen = [e.name for e in drinks if e.is_checked]
    items = [('', _wanted(task), *(chosen or [goals.NONE])),
             ('pay', '0', display.value)]
    is_won = all(want == have for _, want, have in items)
    return goals.verdict(items) if is_won == (step.reward > 0) else ''
  if not prompts.is_wellformed(step.action):
    return 'malformed action'
  action = actions.parse(step.action)
  target = next((e for e in elements if e.id == action.element), None)
  if step.is_invalid and target is None:
    return actions.NO_ELEMENT
  if step.is_invalid:
    is_paid = action.verb == 'click' and target.role == 'button'
    return 'all paid' if is_paid else f'{target.role} takes no {action.verb}'
  if step.next_state == states.body(step.state):
    return 'nothing changes'
  return 'turns on' if target.role == 'radio' else 'one less'


def accepts(task: types.Task) -> bool:
  """Whether a machine could have set the task: it has the drink, once."""
  try:
    return _read(task, task.initial_state)[1].value in PRICES
  except ValueError:            # of the page or the instruction
    return False


def _read(task: types.Task, state: str) -> list[states.Element]:
  """The drink that is wanted, the display and the two buttons."""
  *drinks, display, insert, take = states.parse(state)
  [target] = [e for e in drinks if e.name == _wanted(task)]
  return [target, display, insert, take]


def _wanted(task: types.Task) -> str:
  return task.instruction.removeprefix('Buy ').removesuffix('.')


DOMAIN = domains.Domain(
    title='the vending machine', shipped='vending', dataset='vending',
    world=lambda c: functools.partial(Vending, c.env.max_steps),
    advise=advise, rehearse=rehearse, accepts=accepts, annotate=annotate,
    is_determined=domains.always)
