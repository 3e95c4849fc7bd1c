"""A vending machine in text: an environment from outside the package.

    [1] radio: tea for 2
    [2] radio: cola for 1
    [3] status: coins = 0
    [4] button: insert coin
    [5] button: take

One is asked to buy a drink: choose it, insert its price, take it. `take` ends
the episode, which is won if what was asked for is chosen and paid to the coin;
the machine gives no change. The slot holds three coins.

The family vending-3 has three drinks. A config names this environment by
name='vending:DOMAIN', where this file's directory is on PYTHONPATH, or by
name='colabs.vending:DOMAIN' from a checkout.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, checks, goals
from dreamgym_jax.stages import domains
from dreamgym_jax.text import actions, states

DRINKS = ('tea', 'cola', 'milk', 'soup', 'cocoa', 'water', 'juice', 'coffee',
          'mate', 'cider', 'tonic', 'latte', 'malt', 'soda', 'punch', 'broth')
SLOT = 3                          # coins it holds, and the highest price
INSERT, TAKE = 'insert coin', 'take'
_FAMILY = re.compile(r'vending-([2-9])')
_ASKED = re.compile(r'Buy (\w+)\.')


# -- the world: what really happens --------------------------------------------


@dataclasses.dataclass
class _Machine:
  """One machine and who stands before it."""

  prices: dict[str, int]          # of its drinks, in the order of the page
  wanted: str
  chosen: str = ''
  coins: int = 0
  steps: int = 0
  is_over: bool = False

  @property
  def page(self) -> str:
    lines = [f'radio: {drink} for {price}'
             + ' checked' * (drink == self.chosen)
             for drink, price in self.prices.items()]
    lines += [f'status: coins = {self.coins}', f'button: {INSERT}',
              f'button: {TAKE}']
    return '\n'.join(f'[{i}] {line}' for i, line in enumerate(lines, 1))

  def do(self, action: actions.Action) -> bool | None:
    """Whether it is won, where that ends it; ActionError where it cannot be."""
    *drinks, display, insert, take = range(1, len(self.prices) + 4)
    if action.verb == 'noop':
      return None
    if action.verb == 'click' and action.element in drinks:
      self.chosen = list(self.prices)[action.element - 1]
    elif (action.verb == 'click' and action.element == insert
          and self.coins < SLOT):
      self.coins += 1
    elif action.verb == 'click' and action.element == take:
      return (self.chosen == self.wanted
              and self.coins == self.prices[self.wanted])
    else:
      raise actions.ActionError(f'{action} cannot be done here')
    return None


class Vending:
  """A `types.World` of vending machines; the seed says which."""

  def __init__(self, max_steps: int):
    self._max_steps = max_steps
    self._rows: list[_Machine] = []

  def reset(self, tasks: Sequence[types.Task]) -> list[types.Task]:
    """Row i starts on tasks[i]; raises EnvError for a task it has not."""
    self._rows = [_make(task) for task in tasks]
    return [dataclasses.replace(t, instruction=f'Buy {m.wanted}.',
                                initial_state=m.page)
            for t, m in zip(tasks, self._rows, strict=True)]

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
    self._rows = []


def _make(task: types.Task) -> _Machine:
  match = _FAMILY.fullmatch(task.family)
  if not match or task.source != types.REAL:
    raise checks.EnvError(f'{task.task_id}: no vending machine of this kind')
  n = int(match[1])
  rng = np.random.default_rng((task.seed, n))
  names = [DRINKS[i] for i in rng.permutation(len(DRINKS))[:n]]
  prices = rng.integers(1, SLOT + 1, n)
  return _Machine(dict(zip(names, map(int, prices), strict=True)),
                  names[rng.integers(n)])


# -- what is known of it, from text alone --------------------------------------


def advise(task: types.Task, state: str) -> tuple[str, str]:
  """(thought, action) of an expert; no coin that is too many can be mended."""
  wanted, elements = _wanted(task), states.parse(state)
  *drinks, display, insert, take = elements
  target = next(e for e in drinks if _drink(e) == wanted)
  if not target.is_checked:
    return f'need {target.label}', f'click [{target.id}]'
  if int(display.value) < _price(target):
    return (f'need {_price(target)} have {display.value} {insert.label}',
            f'click [{insert.id}]')
  return f'finish {take.label}', f'click [{take.id}]'


def rehearse(task: types.Task) -> behaviours.Course:
  """The course of near misses: what an expert does, without looking again."""
  *drinks, _, insert, take = states.parse(task.initial_state)
  target = next(e for e in drinks if _drink(e) == _wanted(task))
  script = [f'click [{i}]' for i in (
      target.id, *[insert.id] * _price(target), take.id)]
  return behaviours.Course(
      len(script), lambda t, state: ''.join(script[t:t + 1]))


def annotate(task: types.Task, step: types.Transition) -> str:
  """R*: why the true transition is what it is; '' where the rules differ."""
  elements = states.parse(step.state)
  *drinks, display, _, _ = elements
  chosen = next((e for e in drinks if e.is_checked), None)
  if step.next_state == states.OVER:
    items = [('', _wanted(task), _drink(chosen) if chosen else goals.NONE)]
    if chosen:
      items.append(('coins', str(_price(chosen)), display.value))
    is_won = all(want == have for _, want, have in items)
    return goals.verdict(items) if is_won == (step.reward > 0) else ''
  try:
    action = actions.parse(step.action)
  except actions.ActionError:
    return actions.NO_ELEMENT
  target = next((e for e in elements if e.id == action.element), None)
  if step.is_invalid:
    if target is None:
      return actions.NO_ELEMENT
    is_full = action.verb == 'click' and target.name == INSERT
    return 'slot is full' if is_full else (
        f'{target.role} takes no {action.verb}')
  if target is None or target == chosen:
    return 'nothing changes'
  return 'turns on' if target.role == 'radio' else f'{display.value} and one'


def accepts(task: types.Task) -> bool:
  """Whether a machine could have set the task: it has the drink, once."""
  try:
    *drinks, display, _, _ = states.parse(task.initial_state)
    offered = [_drink(e) for e in drinks]
    return (offered.count(_wanted(task)) == 1 and display.value == '0'
            and all(1 <= _price(e) <= SLOT for e in drinks))
  except (goals.GoalError, states.StateError, ValueError):
    return False


def _wanted(task: types.Task) -> str:
  match = _ASKED.fullmatch(task.instruction)
  if not match:
    raise goals.InstructionError(f'cannot read {task.instruction[:80]!r}')
  return match[1]


def _drink(radio: states.Element) -> str:
  return radio.name.partition(' for ')[0]


def _price(radio: states.Element) -> int:
  return int(radio.name.partition(' for ')[2])


DOMAIN = domains.Domain(
    title='the vending machine', shipped='vending',
    dataset='dreamgym_vending',
    world=lambda c: functools.partial(Vending, c.env.max_steps),
    advise=advise, rehearse=rehearse, accepts=accepts, annotate=annotate,
    is_determined=domains.always)
