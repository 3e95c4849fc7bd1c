"""ALFWorld's states as pages: where one is, what one holds, what is where.

    [1] status: at = closed drawer 1
    [2] status: carrying = clean mug 1
    [3] button: closed drawer 1
    [4] button: sinkbasin 1
    [5] button: clean with sinkbasin 1
    [6] button: clean mug 1 in hand
    [7] button: knife 1 in sinkbasin 1

Every line but the first two stands for what can be done with it, in order:
places, with what they are good for; then things, where they were last seen.
Streams show each id at the end of its line, so whoever has said a thing's name
reads on to its place and from there to its id. Words before a name say what has
been seen of it: open and closed, clean, hot, cool, lit; `seen` where a page
shows only what the episode has looked into.

Clicks are ALFWorld's commands, by what the line is and where one is:

  a place elsewhere           go to drawer 1
  a place here                open drawer 1, close drawer 1
  what a place is good for    clean mug 1 with sinkbasin 1 (what one carries)
  a thing in the hand         move mug 1 to drawer 1 (where one is)
  a thing somewhere           take mug 1 from drawer 1, use desklamp 1

hover is `examine`, noop is `look`: neither shows more than the page does.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dreamgym_jax.text import actions, states

AT, CARRYING, PLACE, TOOL, THING = 'at', 'carrying', 'place', 'tool', 'thing'
HAND = 'hand'
OPEN, CLOSED, SEEN = 'open', 'closed', 'seen'
CLEAN, HOT, COOL, LIT, SLICED = 'clean', 'hot', 'cool', 'lit', 'sliced'
WORDS = (SEEN, OPEN, CLOSED, CLEAN, HOT, COOL, LIT, SLICED)
# what a place is good for: the command's verb, by the place's type
TOOLS = {'sinkbasin': 'clean', 'microwave': 'heat', 'fridge': 'cool'}
_WITH, _IN = ' with ', ' in '
_NAME = re.compile(r'([a-z]+) (\d+)')


class PageError(ValueError):
  """The state is no page of ALFWorld."""


class Line(NamedTuple):
  """One line; `name` is 'mug 1', a tool's verb, or the value of a status."""

  id: int
  kind: str
  name: str
  words: tuple[str, ...] = ()
  place: str = ''           # of a tool or a thing; HAND if it is carried

  @property
  def type(self) -> str:
    return self.name.partition(' ')[0]

  @property
  def known(self) -> str:
    """The name with what is known of it: 'clean mug 1'."""
    return ' '.join((*self.words, self.name))

  @property
  def label(self) -> str:
    """'clean mug 1 in hand', 'clean with sinkbasin 1', 'closed drawer 1'."""
    if not self.place:
      return self.known
    return f'{self.known}{_WITH if self.kind == TOOL else _IN}{self.place}'

  def __str__(self) -> str:
    if self.kind in (AT, CARRYING):
      return f'[{self.id}] status: {self.kind} = {self.name}'.rstrip()
    return f'[{self.id}] button: {self.label}'


class Page(NamedTuple):
  """A page's lines, and what its first two say."""

  lines: tuple[Line, ...]

  @property
  def at(self) -> tuple[str, ...]:
    """Names of the places where one is; most often one, () at the start."""
    return tuple(_split(known)[1] for known in self.lines[0].name.split(', ')
                 if known)

  @property
  def carried(self) -> str:
    """The name of what one carries; '' if nothing."""
    return _split(self.lines[1].name)[1]

  def of_kind(self, kind: str) -> list[Line]:
    return [line for line in self.lines if line.kind == kind]

  def find(self, kind: str, name: str) -> Line | None:
    return next((line for line in self.lines
                 if line.kind == kind and line.name == name), None)

  def __str__(self) -> str:
    return '\n'.join(map(str, self.lines))


def read(state: str) -> Page:
  """The page that a state shows; raises PageError."""
  try:
    elements = states.parse(state)
  except states.StateError as error:
    raise PageError(str(error)) from None
  page = Page(tuple(map(_read_line, elements)))
  if [line.kind for line in page.lines[:2]] != [AT, CARRYING]:
    raise PageError('the page begins with at and carrying')
  if any(line.kind in (AT, CARRYING) for line in page.lines[2:]):
    raise PageError('at or carrying stands twice')
  return page


def _read_line(element: states.Element) -> Line:
  text = element.description
  if element.role == 'status':
    kind, _, value = text.partition('=')
    if kind.strip() not in (AT, CARRYING):
      raise PageError(f'no line of a page: {element}')
    return Line(element.id, kind.strip(), value.strip())
  if element.role != 'button':
    raise PageError(f'no line of a page: {element}')
  name, mark, place = text.partition(_WITH)
  if mark and name == TOOLS.get(place.partition(' ')[0]):
    return Line(element.id, TOOL, name, (), place)
  known, mark, place = text.partition(_IN)
  words, name = _split(known)
  if not _NAME.fullmatch(name) or (
      mark and place != HAND and not _NAME.fullmatch(place)):
    raise PageError(f'no line of a page: {element}')
  return Line(element.id, THING if mark else PLACE, name, words, place)


def _split(known: str) -> tuple[tuple[str, ...], str]:
  """(words, name) of 'clean mug 1'."""
  parts = known.split(' ')
  n = 0
  while n + 1 < len(parts) and parts[n] in WORDS:
    n += 1
  return tuple(parts[:n]), ' '.join(parts[n:])


def commands(text: str, page: Page) -> list[str]:
  """What an action of text/actions.py may mean, likeliest first.

  Raises ActionError where it means no command. Whether one can be carried out
  is for the engine to say.
  """
  action = actions.parse(text)
  if action.verb == 'noop':
    return ['look']
  line = next((x for x in page.lines if x.id == action.element), None)
  if line is None:
    raise actions.ActionError(actions.NO_ELEMENT)
  if action.verb == 'hover' and line.kind in (PLACE, THING):
    return [f'examine {line.name}']
  if action.verb == 'click':
    if line.kind == PLACE:
      return [_at_place(line, page.at)]
    if line.kind == TOOL and page.carried:
      return [f'{line.name} {page.carried} with {line.place}']
    if line.kind == THING and line.place == HAND:
      return [f'move {line.name} to {place}' for place in page.at]
    if line.kind == THING:
      return [f'take {line.name} from {line.place}', f'use {line.name}']
  raise actions.ActionError(f'{line.kind} takes no {action.verb} now')


def _at_place(line: Line, at: Sequence[str]) -> str:
  verb = 'go to'
  if line.name in at:
    verb = 'close' if OPEN in line.words else (
        'open' if CLOSED in line.words else verb)
  return f'{verb} {line.name}'


def sort_key(name: str) -> tuple[str, int]:
  """Order of names: 'shelf 2' before 'shelf 10'."""
  type_, _, number = name.partition(' ')
  return type_, int(number or 0)
