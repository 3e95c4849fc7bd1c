"""What is known about each MiniWoB++ family: goal, expert, verdict, realism.

Everything here reads text only (an instruction and a state), so it runs without
a browser, in the real world and on dreamed pages alike. A family is one
function from (instruction, state) to a `Goal`; expert, reasoning annotator and
the check of generated tasks all follow from it. It never decides an outcome:
the real page does, and where the rules here disagree with the page the
annotator says so (`explain` gives '').
"""

import dataclasses
import re
from collections.abc import Callable

from dreamgym_jax import types
from dreamgym_jax.envs import goals
from dreamgym_jax.text import actions, states

GoalError, InstructionError = goals.GoalError, goals.InstructionError
NONE, verdict = goals.NONE, goals.verdict
# The button that the dialogs' instructions call "x".
_SHOWN_AS = {'x': 'Close'}
_ROLE_OF_WIDGET = {'text': 'textbox', 'textarea': 'textarea',
                   'button': 'button', 'checkbox': 'checkbox',
                   'radio': 'radio'}


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


@dataclasses.dataclass(frozen=True)
class Family:
  """A MiniWoB++ page with its goal reader and the roles its pages show."""

  name: str
  pattern: re.Pattern
  read: Callable[[re.Match, list[states.Element]], Goal]
  roles: frozenset[str]

  def goal(self, instruction: str, state: str) -> Goal:
    match = self.pattern.fullmatch(instruction.strip())
    if not match:
      raise InstructionError(f'{self.name}: cannot read {instruction[:80]!r}')
    return self.read(match, states.parse(state))

  def expert(self, instruction: str, state: str) -> tuple[str, str]:
    """(thought, action) of an expert that sees only the text."""
    goal = self.goal(instruction, state)
    element = {e.id: e for e in states.parse(state)}
    for field in goal.fields:
      if field.want != field.have:
        target = element[field.element]
        verb = {'checkbox': 'click', 'radio': 'click',
                'combobox': 'select_option'}.get(target.role, 'fill')
        argument = '' if verb == 'click' else field.want
        return (_thought(field, target),
                str(actions.Action(verb, field.element, argument)))
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
    targets = {f.element for f in goal.fields} | {goal.finish}
    fresh = not any(e.is_checked for e in elements)
    return targets <= ids and fresh and {
        e.role for e in elements} <= self.roles


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


# -- goal readers -------------------------------------------------------------


def _one(found: list[states.Element], what: str) -> states.Element:
  if len(found) != 1:
    raise GoalError(f'{len(found)} elements are {what}')
  return found[0]


def _with_role(elements, *roles: str) -> list[states.Element]:
  return [e for e in elements if e.role in roles]


def _pick(role: str) -> Callable:
  """Click the one element of the role that has the name asked for."""

  def read(match: re.Match, elements: list[states.Element]) -> Goal:
    name = _SHOWN_AS.get(match[1], match[1].strip())
    targets = [e for e in _with_role(elements, role) if e.name == name]
    if not targets:    # there may be two alike: either will do
      raise GoalError(f'no {role} named {name!r}')
    return Goal(finish=targets[0].id, need=name,
                have_of=lambda e: e.name or NONE)

  return read


def _pick_widget(match: re.Match, elements: list[states.Element]) -> Goal:
  role = _ROLE_OF_WIDGET[match[1]]
  targets = _with_role(elements, role)
  if not targets:
    raise GoalError(f'no {role}')
  return Goal(finish=targets[0].id, need=role, have_of=lambda e: e.role)


def _pick_only(match: re.Match, elements: list[states.Element]) -> Goal:
  del match
  target = _one(_with_role(elements, 'button'), 'buttons')
  return Goal(finish=target.id, need='button', have_of=lambda e: e.role)


def _focus(match: re.Match, elements: list[states.Element]) -> Goal:
  boxes = _with_role(elements, 'textbox')
  nth = int(match[1]) if match.re.groups else 1
  if not 1 <= nth <= len(boxes):
    raise GoalError(f'no textbox number {nth}')
  target = boxes[nth - 1].id
  return Goal(finish=target, need=f'[{target}]',
              have_of=lambda e: f'[{e.id}]')


def _submit(elements: list[states.Element]) -> int:
  return _one(_with_role(elements, 'button'), 'buttons').id


def _text_field(what: str, element: states.Element, want: str) -> Field:
  return Field(what, element.id, want, element.value or NONE)


def _fill_all(*labels: str) -> Callable:
  """Fill textboxes by label (one textbox needs none), then submit."""

  def read(match: re.Match, elements: list[states.Element]) -> Goal:
    boxes = _with_role(elements, 'textbox')
    if len(boxes) != len(labels):
      raise GoalError(f'{len(boxes)} textboxes, want {len(labels)}')
    values = match.groups()
    fields = []
    for i, label in enumerate(labels):
      box = boxes[0] if not label else _one(
          [b for b in boxes if b.name == label], f'textboxes named {label!r}')
      fields.append(_text_field(label, box, values[min(i, len(values) - 1)]))
    return Goal(tuple(fields), _submit(elements))

  return read


def _read_table(match: re.Match, elements: list[states.Element]) -> Goal:
  texts = [e.description for e in _with_role(elements, 'text')]
  keys = [i for i, t in enumerate(texts[:-1]) if t == match[1] and i % 2 == 0]
  if len(keys) != 1:
    raise GoalError(f'{len(keys)} rows named {match[1]!r}')
  box = _one(_with_role(elements, 'textbox'), 'textboxes')
  field = _text_field(match[1], box, texts[keys[0] + 1])
  return Goal((field,), _submit(elements))


def _choose(match: re.Match, elements: list[states.Element]) -> Goal:
  box = _one(_with_role(elements, 'combobox'), 'lists')
  if match[1] not in box.options:
    raise GoalError(f'no option {match[1]!r}')
  return Goal((_text_field('', box, match[1]),), _submit(elements))


def _option(match: re.Match, elements: list[states.Element]) -> Goal:
  radios = _with_role(elements, 'radio')
  target = _one([r for r in radios if r.name == match[1]],
                f'radios named {match[1]!r}')
  checked = [r.name for r in radios if r.is_checked]
  have = checked[0] if checked else NONE
  return Goal((Field('', target.id, match[1], have),), _submit(elements))


def _checkboxes(match: re.Match, elements: list[states.Element]) -> Goal:
  wanted = [] if match[1] == 'nothing' else match[1].split(', ')
  boxes = _with_role(elements, 'checkbox')
  names = [b.name for b in boxes]
  if not boxes or any(names.count(w) != 1 for w in wanted):
    raise GoalError(f'not one checkbox for each of {wanted}')
  on = {True: 'on', False: 'off'}
  fields = [Field(b.name, b.id, on[b.name in wanted], on[b.is_checked])
            for b in boxes]
  # One item for all boxes: what is asked beside what a browser would send.
  items = [', '.join(n for n in names if n in chosen) or 'nothing'
           for chosen in (wanted, [b.name for b in boxes if b.is_checked])]
  return Goal(tuple(fields), _submit(elements), items=(('', *items),))


_MOVIE = (('genre', 1), ('director', 2), ('year', 3))


def _movie(match: re.Match, elements: list[states.Element]) -> Goal:
  boxes = _with_role(elements, 'textbox')
  fields = []
  for key, group in _MOVIE:
    words = ('year', 'date') if key == 'year' else (key,)
    box = _one([b for b in boxes if any(w in b.name.lower() for w in words)],
               f'textboxes for {key}')
    fields.append(_text_field(key, box, match[group]))
  return Goal(tuple(fields), _submit(elements))


def _family(name: str, pattern: str, read: Callable, roles: str) -> Family:
  return Family(name, re.compile(pattern), read, frozenset(roles.split()))


_ALL = (
    _family('click-test', r'Click the button\.', _pick_only, 'button'),
    _family('click-test-2', r'Click button (\w+)\.', _pick('button'), 'button'),
    _family('click-button', r'Click on the "(.*)" button\.', _pick('button'),
            'button textbox'),
    _family('unicode-test', r'Click on the "(.*)" button\.', _pick('button'),
            'button textbox'),
    _family('click-link', r'Click on the link "(.*)"\.', _pick('link'), 'link'),
    _family('click-dialog', r'Close the dialog box by clicking the "(x)"\.',
            _pick('button'), 'button text'),
    _family('click-dialog-2',
            r'Click the button in the dialog box labeled "(.*)"\.',
            _pick('button'), 'button text'),
    _family('click-tab', r'Click on (Tab #\d+)\.', _pick('tab'), 'tab'),
    _family('click-widget', r'Click on a "(\w+)" widget\.', _pick_widget,
            'button textbox textarea checkbox radio'),
    _family('focus-text', r'Focus into the textbox\.', _focus, 'textbox'),
    _family('focus-text-2', r'Focus into the (\d+)\w\w input textbox\.', _focus,
            'textbox'),
    _family('enter-text',
            r'Enter "(.*)" into the text field and press Submit\.',
            _fill_all(''), 'textbox button'),
    _family('enter-text-dynamic',
            r'Enter "(.*)" into the text field and press Submit\.',
            _fill_all(''), 'textbox button'),
    _family('login-user',
            r'Enter the username "(.*)" and the password "(.*)" into the text '
            r'fields and press login\.', _fill_all('Username', 'Password'),
            'textbox button'),
    _family('login-user-popup',
            r'Enter the username "(.*)" and the password "(.*)" into the text '
            r'fields and press login\.', _fill_all('Username', 'Password'),
            'textbox button text'),
    _family('enter-password',
            r'Enter the password "(.*)" into both text fields and press '
            r'submit\.', _fill_all('Password', 'Verify password'),
            'textbox button'),
    _family('read-table',
            r'Enter the value of (.*) into the text field and press Submit\.',
            _read_table, 'text textbox button'),
    _family('choose-list', r'Select (.*) from the list and click Submit\.',
            _choose, 'combobox button'),
    _family('click-option', r'Select (.*) and click Submit\.', _option,
            'radio button'),
    _family('click-checkboxes', r'Select (.*) and click Submit\.', _checkboxes,
            'checkbox button'),
    _family('click-checkboxes-transfer', r'Select (.*) and click Submit\.',
            _checkboxes, 'checkbox button'),
    _family('multi-layouts',
            r'Search for (.*) movies directed by (.*) from year (\d+)\.',
            _movie, 'textbox button'),
)
FAMILIES: dict[str, Family] = {f.name: f for f in _ALL}


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
