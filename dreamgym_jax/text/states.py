"""States as text: lines of `[id] role: description`, and edits between them.

    [1] textbox: Username = Renda
    [2] checkbox: fzzqo checked
    [3] combobox: = Aurora options Aurora ; Bernelle
    [4] button: Submit

A line is `[id] role: name`, for boxes and radios `checked` when they are, for
textboxes, textareas and status lines ` = value` (nothing after the sign when
empty), for lists also ` options a ; b`, for tabs ` selected`, for headers
` expanded`. Ids count from 1 down the page. A notice that belongs to no
element, such as INVALID, is a first line `! ...`. The state after the end of an
episode is OVER, or UNKNOWN where a dream breaks off since it knows no more.

An edit is what changed between two states; `apply(old, diff(old, new)) == new`
for every pair of states:

    same | over | invalid            nothing; the end; nothing but the notice
    [1] = Renda                      the value of a textbox, status or list
    [1] typed                        the same, where it is the action's argument
    [2] checked | [2] unchecked      likewise selected, expanded; a radio that
                                     is checked unchecks those beside it, up to
                                     the next line of text, which names a group
    [5] link: more | remove [4]      any line in full; a line less
    page ...                         the whole page, where the rest is longer
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

OVER = 'over'
UNKNOWN = '! unknown'
INVALID = '! invalid action'
SAME = 'same'
# Roles that hold a value, and the marks that say a role's other states.
_HOLDERS = ('textbox', 'textarea', 'combobox', 'status')
_MARKS = {'checkbox': ('checked',), 'radio': ('checked',),
          'tab': ('selected',), 'header': ('expanded',)}
_INVALID_EDIT = 'invalid'
_TYPED = 'typed'
_PAGE = 'page'
_REMOVE = 'remove'
_LINE = re.compile(r'\[(\d{1,3})\] ((\w+):.*)')
_SHORT = re.compile(
    r'\[(\d{1,3})\] (?:= ?(.*)|(typed|(?:un)?(?:checked|selected|expanded)))')
_SPLIT = re.compile(
    r'\s+(?=\[\d{1,3}\] (?:\w+:|=|typed|(?:un)?(?:checked|selected|expanded)))'
    r'|(?<=^page)\s+|\s+(?=remove \[)')


class Element(NamedTuple):
  id: int
  role: str
  body: str     # the line without its id: `role: description`

  @property
  def description(self) -> str:
    return self.body[len(self.role) + 1:].strip()

  @property
  def name(self) -> str:
    """The description without value, options and checked state."""
    text = self.description
    if self.role in _HOLDERS:
      return text.split('=')[0].strip()
    for mark in _MARKS.get(self.role, ()):
      if text == mark or text.endswith(f' {mark}'):
        return text.removesuffix(mark).strip()
    return text

  @property
  def value(self) -> str:
    """What a textbox holds or a list shows; '' for other roles."""
    if self.role not in _HOLDERS:
      return ''
    return self.description.partition('=')[2].partition(' options ')[0].strip()

  @property
  def options(self) -> tuple[str, ...]:
    tail = self.description.partition(' options ')[2]
    return tuple(o.strip() for o in tail.split(' ; ')) if tail else ()

  @property
  def is_checked(self) -> bool:
    return self.role in ('checkbox', 'radio') and (
        self.description == 'checked' or self.description.endswith(' checked'))

  @property
  def label(self) -> str:
    """`name [id]`, or `[id]` alone where it has no name."""
    return f'{self.name} [{self.id}]'.strip()

  def __str__(self) -> str:
    return f'[{self.id}] {self.body}'


class StateError(ValueError):
  """The text is not a state, or not an edit of the given state."""


def body(state: str) -> str:
  """The state without its notice."""
  if not state.startswith('!'):
    return state
  return state.partition('\n')[2]


def parse(state: str) -> list[Element]:
  """The elements of a state; raises StateError naming the line."""
  text = body(state)
  if text in ('', OVER):
    return []
  elements = []
  for line in text.split('\n'):
    match = _LINE.fullmatch(line)
    if not match:
      raise StateError(f'not "[id] role: description": {line[:60]!r}')
    elements.append(Element(int(match[1]), match[3], match[2]))
  ids = [e.id for e in elements]
  if len(set(ids)) != len(ids):
    raise StateError(f'the same id twice: {ids}')
  return elements


def ids_last(state: str) -> str:
  """The state with each id behind its name: `button: Submit [4]`.

  What streams show. To find the id of a name is then to say what came after
  the name the last time, which small models learn long before the way back.
  """
  notice = state[:len(state) - len(body(state))]
  return notice + '\n'.join(
      ' '.join(f'{e.role}: {e.label} {e.description[len(e.name):]}'.split())
      for e in parse(state))


def held(elements: Sequence[Element]) -> list[str]:
  """What has been entered and chosen: `name = value` and `name checked`."""
  return [f'{e.name} = {e.value}'.strip() if e.value else e.description
          for e in elements if e.value or e.is_checked]


def radio_group(elements: Sequence[Element], id_: int) -> list[int]:
  """Ids of the radios of which one at most is checked; [] if it is none."""
  group: list[int] = []
  for element in elements:
    if element.role == 'text':
      if id_ in group:
        break
      group = []
    elif element.role == 'radio':
      group.append(element.id)
  return group if id_ in group else []


def lines(text: str) -> str:
  """One element a line again, for text a tokenizer wrote in one line."""
  return '\n'.join(_SPLIT.split(text.strip()))


def invalid(state: str) -> str:
  """The state after an action that could not be carried out."""
  return f'{INVALID}\n{body(state)}'


def diff(old: str, new: str, typed: str = '') -> str:
  """The edit from old to new: words and changed lines, joined by newlines.

  `typed` is the argument of the action between them, '' if it has none.

  The whole new page stands behind `page` where lines are not exact (they were
  reordered) or not shorter.
  """
  if new == OVER:
    return OVER
  if new == invalid(old):
    return _INVALID_EDIT
  if new == body(old):
    return SAME
  before = {e.id: e for e in parse(old)}
  after = parse(new)
  kept = {e.id for e in after}
  edit = [f'{_REMOVE} [{i}]' for i in before if i not in kept]
  changes = [_change(before.get(e.id), e, typed) for e in after
             if before.get(e.id) != e]
  checked = [c for c in changes if c.endswith('] checked')]
  whole = f'{_PAGE}\n{new}'
  for lines_ in (edit + checked, edit + changes):
    text = '\n'.join(lines_)
    if text and len(text) < len(whole) and apply(old, text, typed) == new:
      return text
  return whole


def apply(old: str, edit: str, typed: str = '') -> str:
  """The state that the edit makes of old; raises StateError if it cannot."""
  if edit == OVER:
    return OVER
  if edit == _INVALID_EDIT:
    return invalid(old)
  if edit == SAME:
    return body(old)
  first, _, rest = edit.partition('\n')
  if first == _PAGE:
    parse(rest)
    return rest
  elements = {e.id: e for e in parse(old)}
  for line in edit.split('\n'):
    if line.startswith(_REMOVE):
      match = re.fullmatch(_REMOVE + r' \[(\d{1,3})\]', line)
      if not match or int(match[1]) not in elements:
        raise StateError(f'removes what is not there: {line[:60]!r}')
      del elements[int(match[1])]
    else:
      element = _changed(elements, line, typed)
      if element.role == 'radio' and line.endswith('] checked'):
        for i in radio_group(list(elements.values()), element.id):
          elements[i] = _marked(elements[i], 'radio', '')
      elements[element.id] = element   # a new id goes to the end
  return '\n'.join(map(str, elements.values()))


def _change(old: Element | None, new: Element, typed: str) -> str:
  """One changed line, by its new value or mark alone where that is enough."""
  short = []
  if new.role in _HOLDERS:
    short = [f'[{new.id}] {_TYPED}', f'[{new.id}] = {new.value}'.rstrip()]
  for mark in _MARKS.get(new.role, ()):
    short = [f'[{new.id}] {mark}', f'[{new.id}] un{mark}']
  for line in short if old else ():
    try:
      if _changed({old.id: old}, line, typed) == new:
        return line
    except StateError:
      continue
  return str(new)


def _changed(elements: dict[int, Element], line: str, typed: str) -> Element:
  """The element that one line of an edit makes."""
  match = _SHORT.fullmatch(line)
  if not match:
    parsed = parse(line)
    if len(parsed) != 1:
      raise StateError(f'not an edit: {line[:60]!r}')
    return parsed[0]
  old = elements.get(int(match[1]))
  if old is None:
    raise StateError(f'changes what is not there: {line[:60]!r}')
  if match[2] is not None or match[3] == _TYPED:
    if old.role not in _HOLDERS:
      raise StateError(f'{old.role} holds no value: {line[:60]!r}')
    value = typed if match[3] == _TYPED else match[2]
    head = old.body.partition('=')[0].rstrip()
    options = ''.join(old.body.partition(' options ')[1:]).strip()
    return old._replace(body=' '.join(
        part for part in (head, '=', value, options) if part))
  mark = match[3].removeprefix('un')
  if mark not in _MARKS.get(old.role, ()):
    raise StateError(f'{old.role} cannot be {match[3]}')
  return _marked(old, old.role, '' if match[3] != mark else mark)


def _marked(old: Element, role: str, mark: str) -> Element:
  """The element with the mark, '' for none; as it is if of another role."""
  if old.role != role:
    return old
  return old._replace(body=' '.join(
      part for part in (f'{old.role}:', old.name, mark) if part))
