"""What a MiniWoB++ family is: goal, expert, verdict, realism.

Everything here reads text only (an instruction and a state), so it runs without
a browser, in the real world and on dreamed pages alike. A family is one
function from (instruction, state) to a `Goal`; expert, reasoning annotator and
the check of generated tasks all follow from it. It never decides an outcome:
the real page does, and where the rules here disagree with the page the
annotator says so (`explain` gives '').
"""

import dataclasses
import re
from collections.abc import Callable, Iterable

from dreamgym_jax import types
from dreamgym_jax.envs import goals
from dreamgym_jax.text import actions, states

GoalError, InstructionError = goals.GoalError, goals.InstructionError
NONE, verdict = goals.NONE, goals.verdict
Elements = list[states.Element]
BLANK = '␣'     # how a state shows a blank at the end, where it counts
# How a field of a role is set; all others are clicked.
_SETTERS = {'textbox': 'fill', 'textarea': 'fill', 'combobox': 'select_option'}


@dataclasses.dataclass(frozen=True)
class Field:
  """One thing the page must show before the finishing click."""

  what: str            # how the reasoning names it; '' if there is just one
  element: int         # where the expert acts
  want: str            # text of a textbox or list; 'on' or 'off' of a box
  have: str            # what the state shows now


@dataclasses.dataclass(frozen=True)
class Goal:
  """What an instruction asks of the page as it is now."""

  fields: tuple[Field, ...] = ()
  finish: int = 0                      # the element that ends the episode
  need: str = ''                       # pick families: what to click, and
  have_of: Callable[[states.Element], str] | None = None  # what a click hits
  verb: str = 'click'
  # (what, want, have) of the verdict, where it is not one item a field
  items: tuple[tuple[str, str, str], ...] = ()
  # (thought, action) that comes first, where the page is not there yet
  move: tuple[str, actions.Action] | None = None


@dataclasses.dataclass(frozen=True)
class Family:
  """A MiniWoB++ page with its goal reader and the roles its pages show."""

  name: str
  pattern: re.Pattern
  read: Callable[[re.Match, Elements], Goal]
  roles: frozenset[str]

  def goal(self, instruction: str, state: str) -> Goal:
    match = self.pattern.fullmatch(instruction.strip())
    if not match:
      raise InstructionError(f'{self.name}: cannot read {instruction[:80]!r}')
    return self.read(match, states.parse(state))

  def expert(self, instruction: str, state: str) -> tuple[str, str]:
    """(thought, action) of an expert that sees only the text."""
    goal = self.goal(instruction, state)
    if goal.move:
      return goal.move[0], str(goal.move[1])
    element = {e.id: e for e in states.parse(state)}
    for field in goal.fields:
      if field.want != field.have:
        target = element[field.element]
        verb = _SETTERS.get(target.role, 'click')
        argument = '' if verb == 'click' else field.want
        return (_thought(field, target),
                str(actions.Action(verb, field.element, argument)))
    if goal.finish not in element:
      raise GoalError('the page does not offer how to finish')
    target = element[goal.finish]
    thought = f'finish {target.label}'
    if goal.need:
      thought = f'need {target.label}'
      if goal.need == target.role:
        thought = f'need {target.role}: {target.label}'
    return thought, str(actions.Action(goal.verb, goal.finish))

  def explain(self, instruction: str, step: types.Transition) -> str:
    """R*: why the true transition is what it is; '' where the rules differ."""
    # Not by `done`: the step limit ends episodes on pages that are not over.
    if step.next_state != states.OVER:
      return _explain_step(step.state, step.action, step.next_state)
    try:
      goal = self.goal(instruction, step.state)
    except GoalError:
      return ''
    items = list(goal.items) or [
        (f.what, f.want, f.have) for f in goal.fields]
    if goal.have_of:
      target = _target(step.state, step.action)
      if target is None:
        return ''
      items.append(('', goal.need, goal.have_of(target)))
    agrees = all(want == have for _, want, have in items) == (step.reward > 0)
    return verdict(items) if agrees and items else ''

  def accepts(self, instruction: str, state: str) -> bool:
    """Whether the family's own generator could have made this task.

    By the family's template, the roles that its pages show, and a target that
    exists once. Names may be any: MiniWoB++ draws them from long word lists.
    """
    try:
      elements = states.parse(state)
      goal = self.goal(instruction, state)
    except (GoalError, states.StateError):
      return False
    ids = {e.id for e in elements}
    targets = {f.element for f in goal.fields}
    targets |= {goal.move[1].element if goal.move else goal.finish}
    fresh = not any(e.is_checked for e in elements)
    return targets <= ids and fresh and {
        e.role for e in elements} <= self.roles


def family(name: str, pattern: str, read: Callable, roles: str) -> Family:
  """A family; `roles` are words, the pattern matches whole instructions."""
  return Family(name, re.compile(pattern), read, frozenset(roles.split()))


# -- what goal readers are made of ---------------------------------------------


def one(found: Elements, what: str) -> states.Element:
  """The only element found; raises GoalError if there are others or none."""
  if len(found) != 1:
    raise GoalError(f'{len(found)} elements are {what}')
  return found[0]


def with_role(elements: Elements, *roles: str) -> Elements:
  return [e for e in elements if e.role in roles]


def named(
    elements: Elements, name: str, *roles: str
) -> states.Element | None:
  """The first element of the name, of any role if none are given."""
  return next((e for e in elements if e.name == name
               and (not roles or e.role in roles)), None)


def offers(
    elements: Elements, price: str
) -> list[tuple[int, int, states.Element]]:
  """($, minutes, button) of each, the line of its duration before it.

  `price` matches a button's whole name. Raises GoalError if there are none.
  """
  found, minutes = [], 0
  for e in elements:
    if duration := re.fullmatch(r'Duration: (\d+)h (\d+)m', e.description):
      minutes = 60 * int(duration[1]) + int(duration[2])
    elif match := re.fullmatch(price, e.name):
      found.append((int(match[1]), minutes, e))
  if not found:
    raise GoalError('nothing has a price')
  return found


def submit(elements: Elements) -> int:
  return one(with_role(elements, 'button'), 'buttons').id


def text_field(what: str, element: states.Element, want: str) -> Field:
  return Field(what, element.id, want, element.value or NONE)


def box_field(what: str, element: states.Element, is_wanted: bool) -> Field:
  on = {True: 'on', False: 'off'}
  return Field(what, element.id, on[is_wanted], on[element.is_checked])


def listed(names: Iterable[str]) -> str:
  """Names as an instruction lists them."""
  return ', '.join(names) or 'nothing'


def click(element: states.Element, why: str) -> tuple[str, actions.Action]:
  """A move; the thought is `why` and the label of what is clicked."""
  return f'{why} {element.label}', actions.Action('click', element.id)


def pick(role: str, *more: str) -> Callable:
  """Click the one element of the role that has the name asked for.

  `more` are instructions' words for names that the page shows otherwise, each
  followed by the name.
  """
  shown_as = dict(zip(more[::2], more[1::2], strict=True))

  def read(match: re.Match, elements: Elements) -> Goal:
    name = shown_as.get(match[1], match[1].strip())
    target = named(elements, name, role)
    if target is None:    # there may be two alike: either will do
      raise GoalError(f'no {role} named {name!r}')
    return Goal(finish=target.id, need=name,
                have_of=lambda e: e.name or NONE)

  return read


def checkboxes(match: re.Match, elements: Elements) -> Goal:
  """Exactly the boxes that the instruction lists, then submit."""
  wanted = [] if match[1] == 'nothing' else match[1].split(', ')
  boxes = with_role(elements, 'checkbox')
  names = [b.name for b in boxes]
  if not boxes or any(names.count(w) != 1 for w in wanted):
    raise GoalError(f'not one checkbox for each of {wanted}')
  return boxes_goal(elements, wanted)


def boxes_goal(elements: Elements, wanted: Iterable[str]) -> Goal:
  """One field for each box, one item of the verdict for all of them."""
  boxes = with_role(elements, 'checkbox')
  fields = [box_field(b.name, b, b.name in wanted) for b in boxes]
  # What is asked beside what a browser would send.
  items = [listed(b.name for b in boxes if b.name in wanted),
           listed(b.name for b in boxes if b.is_checked)]
  return Goal(tuple(fields), submit(elements), items=(('', *items),))


def _thought(field: Field, target: states.Element) -> str:
  """`name [id] need value`; without the id where the target has no name."""
  if field.what and target.name:
    return f'{target.label} need {field.want}'
  if field.want == target.name:
    return f'need {target.label}'
  return f'{field.what} need {field.want}'.strip()


def _target(state: str, action: str) -> states.Element | None:
  try:
    wanted = actions.parse(action).element
  except actions.ActionError:
    return None
  return next((e for e in states.parse(state) if e.id == wanted), None)


def _explain_step(state: str, action: str, next_state: str) -> str:
  target = _target(state, action)
  if next_state == states.invalid(state):
    if target is None:
      return actions.NO_ELEMENT
    verb = actions.parse(action).verb
    if verb == 'select_option' and target.role == 'combobox':
      return 'no such option'
    return f'{target.role} takes no {verb}'
  if next_state == states.body(state):
    return 'nothing changes'
  if target is not None and target.role in ('checkbox', 'radio'):
    return 'turns off' if target.is_checked else 'turns on'
  if target is not None and target.value != '' and 'fill' in action:
    return 'value replaced'
  return 'changes'
