"""What is known about household tasks: goal, verdict, realism.

Everything here reads text only (an instruction and a page of alfworld_pages)
and the package's tables of what fits where. Nothing decides an outcome: the
engine does, and where the rules here disagree with it the annotator says so
(`annotate` gives '').

The experts are in alfworld_experts.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from alfworld.gen import constants, goal_library

from dreamgym_jax import types
from dreamgym_jax.envs import (
    alfworld_games,
    alfworld_pages,
    goals,
)
from dreamgym_jax.text import actions, states

GoalError, InstructionError = goals.GoalError, goals.InstructionError
NONE = goals.NONE
Line, Page = alfworld_pages.Line, alfworld_pages.Page

# command of a tool, and kind of task -> the word of an object that is ready
READY = {'clean': alfworld_pages.CLEAN, 'heat': alfworld_pages.HOT,
         'cool': alfworld_pages.COOL}
_TURNED = {alfworld_pages.OPEN, alfworld_pages.CLOSED}
LIGHTS = {t.lower() for t in constants.VAL_ACTION_OBJECTS['Toggleable']}


class Goal(NamedTuple):
  """What an instruction asks for, in the names that pages use."""

  kind: str
  object: str       # a type, 'mug'
  place: str        # a type, 'drawer'; '' where it is to be looked at
  light: str        # a type, 'desklamp'; '' otherwise

  @property
  def word(self) -> str:
    """What the object must be: clean, hot, cool or ''."""
    return READY.get(self.kind, '')


def goal_of(task: types.Task) -> Goal:
  """Raises InstructionError where the instruction is not the family's."""
  kind, _ = alfworld_games.split_family(task.family)
  for pattern in _patterns(kind):
    match = pattern.fullmatch(task.instruction.strip())
    if match:
      found = {'recep': '', 'toggle': '', **match.groupdict()}
      return Goal(kind, found['obj'], found['recep'], found['toggle'])
  raise InstructionError(
      f'{task.family}: cannot read {task.instruction[:80]!r}')


@functools.cache
def _patterns(kind: str) -> list[re.Pattern[str]]:
  """The package's own wordings of a kind of task."""
  templates = goal_library.gdict[alfworld_games.KINDS[kind]]['templates']
  return [re.compile(re.sub(r'\\{(\w+)\\}', r'(?P<\1>[a-z]+)', re.escape(t)))
          for t in templates]


def annotate(task: types.Task, step: types.Transition) -> str:
  """R*: why the true transition is what it is; '' where the rules differ."""
  try:
    page = alfworld_pages.read(step.state)
    action = actions.parse(step.action)
  except actions.ActionError:
    return actions.NO_ELEMENT
  except alfworld_pages.PageError:
    return ''
  line = next((x for x in page.lines if x.id == action.element), None)
  why = _why_not(page, action, line)
  if step.next_state == states.invalid(step.state):
    if not why and line is not None and action.verb == 'click':
      # What fits where, and what can be cleaned, is the engine's to say.
      why = 'does not fit'
    return why and _before(task, page, action, line, why) + why
  if why:
    return ''
  items = verdict_items(goal_of(task), page, line)
  is_won = bool(items) and all(want == have for _, want, have in items)
  if is_won != (step.next_state == states.OVER):
    return ''
  why = goals.verdict(items) if items else _what_happens(page, action, line)
  return _before(task, page, action, line, why) + why


def is_determined(episode: types.Episode, t: int) -> bool:
  """False where step t looks into what has not been looked into before.

  Never so where pages show all: they show things from the start.
  """
  step = episode.transitions[t]
  is_full = bool(read(episode.task.initial_state).of_kind(
      alfworld_pages.THING))
  return is_full or step.next_state == states.OVER or (
      _looked_into(step.next_state) <= _looked_into(step.state))


def accepts(task: types.Task) -> bool:
  """Whether `alfworld_games.Generated` could have made the task.

  By the wording, by what may lie where, and by the page being the first one of
  such a room; a page that shows no things is taken for one that hides them.
  """
  try:
    page = read(task.initial_state)
    house = _house(goal_of(task), page)
  except (GoalError, KeyError):
    return False
  lies = [t.place for t in house.things]
  goal = house.goal
  is_hidden = not lies
  kept = [t for t in house.things if t.type == goal.object]
  tool, ability = alfworld_games.TOOLS.get(goal.kind, ('', ''))
  kinds = {p.type for p in house.places}
  return (
      str(page) == first_page(house) and set(lies) <= set(house.places)
      and all(alfworld_games.may_lie(t.type, t.place.type)
              for t in house.things)
      and not _has_gaps(house.places) and not _has_gaps(house.things)
      and (not tool or tool in kinds
           and goal.object in constants.VAL_ACTION_OBJECTS[ability])
      and (not goal.place or goal.place in kinds and goal.place != tool
           and alfworld_games.can_hold(goal.place, goal.object))
      and goal.object != alfworld_games.LAMP
      and (is_hidden or (
          len(kept) >= (2 if goal.kind == 'pick-two' else 1)
          and all(t.place.type != goal.place for t in kept)
          and (not goal.light or any(
              t.type == goal.light for t in house.things)))))


def pose(task: types.Task) -> dict:
  """The game of a task that was made up, so that the engine can judge it.

  Raises GoalError where its page is not one that shows where things are.
  """
  house = _house(goal_of(task), read(task.initial_state))
  if not house.things:
    raise GoalError(f'{task.task_id}: the page shows no things')
  return alfworld_games.to_game(house, task.instruction)


def first_page(house: alfworld_games.House) -> str:
  """The page that a game of this room begins with, all of it shown."""
  lines = [Line(1, alfworld_pages.AT, ''),
           Line(2, alfworld_pages.CARRYING, '')]

  def add(kind: str, name: str, words=(), place: str = '') -> None:
    lines.append(Line(len(lines) + 1, kind, name, words, place))

  def in_order(xs: Sequence) -> list:
    return sorted(xs, key=lambda x: (x.type.lower(), x.number))

  for p in in_order(house.places):
    is_closed = alfworld_games.is_openable(p.type)
    add(alfworld_pages.PLACE, _name(p),
        (alfworld_pages.CLOSED,) * is_closed)
    if p.type.lower() in alfworld_pages.TOOLS:
      add(alfworld_pages.TOOL, alfworld_pages.TOOLS[p.type.lower()], (),
          _name(p))
  for t in in_order(house.things):
    add(alfworld_pages.THING, _name(t), (), _name(t.place))
  return str(Page(tuple(lines)))


def verdict_items(
    goal: Goal, page: Page, line: Line | None
) -> list[tuple[str, str, str]]:
  """(what, want, have) where a click may end the episode; [] elsewhere.

  `line` is what is clicked, and the click is taken to be admissible.
  """
  if line is None or line.kind not in (alfworld_pages.THING,
                                       alfworld_pages.PLACE):
    return []
  if goal.kind == 'look':
    return _look_items(goal, page, line)
  if line.place != alfworld_pages.HAND:
    return []
  is_ready = goal.word and goal.word in line.words
  items = [
      ('object', f'{goal.word} {goal.object}'.strip(),
       f'{goal.word} {line.type}' if is_ready else line.type),
      ('place', goal.place, page.at[0].partition(' ')[0])]
  if goal.kind == 'pick-two':
    there = {*lying(goal, page, page.at[0])}
    there |= {line.name} if line.type == goal.object else set()
    items.append(('count', '2', str(min(len(there), 2))))
  return items


def _look_items(
    goal: Goal, page: Page, line: Line
) -> list[tuple[str, str, str]]:
  """Of the task that ends once a thing is held where its light is on."""
  is_light = line.type == goal.light and line.kind == alfworld_pages.THING
  is_here = line.name in page.at
  if line.kind == alfworld_pages.PLACE:
    at, held = (line.name,), page.carried
    if is_here:
      return []       # opens and closes
  elif line.place == alfworld_pages.HAND:
    return []         # puts it down
  else:
    at, held = page.at, page.carried if is_light else line.name
  lit = [t for t in page.of_kind(alfworld_pages.THING)
         if t.type == goal.light and t.place in at
         and (alfworld_pages.LIT in t.words or t.id == line.id)]
  if not lit:
    return []
  return [('object', goal.object, held.partition(' ')[0] or NONE),
          ('light', goal.light, lit[0].type)]


def _why_not(
    page: Page, action: actions.Action, line: Line | None
) -> str:
  """Why the page itself says that an action is not admissible, or ''."""
  if action.verb == 'noop':
    return ''
  if line is None:
    return actions.NO_ELEMENT
  is_status = line.kind in (alfworld_pages.AT, alfworld_pages.CARRYING)
  if is_status or action.verb not in ('click', 'hover'):
    return f'takes no {action.verb}'
  closed = {p.name for p in page.of_kind(alfworld_pages.PLACE)
            if alfworld_pages.CLOSED in p.words}
  place = line.place or line.name
  if line.kind == alfworld_pages.PLACE:
    can_turn = _TURNED & {*line.words}
    if action.verb == 'hover':
      return '' if place in page.at else 'not there'
    return 'there already' if place in page.at and not can_turn else ''
  if line.kind == alfworld_pages.TOOL:
    if action.verb == 'hover':
      return 'takes no hover'
    return 'nothing carried' if not page.carried else (
        '' if place in page.at else 'not there')
  if place == alfworld_pages.HAND:
    if action.verb == 'hover':
      return ''
    return 'nowhere to put it' if not page.at else (
        'closed' if closed >= {*page.at} else '')
  if place not in page.at:
    return 'not there'
  is_light = line.type in LIGHTS
  if place in closed:
    return 'closed'
  return 'hands full' if page.carried and not is_light and (
      action.verb == 'click') else ''


def _where(page: Page, line: Line | None, why: str) -> str:
  """Where the line is and where one is, side by side, if that decides."""
  place = line and (line.place or line.name)
  is_status = line and line.kind in (alfworld_pages.AT, alfworld_pages.CARRYING)
  if not place or is_status or place == alfworld_pages.HAND or (
      why == 'nothing carried' or why.startswith('takes no')):
    return ''
  at = ', '.join(page.at) or NONE
  return f'{place} at {at} {"yes" if place in page.at else "no"} ; '


def _before(
    task: types.Task, page: Page, action: actions.Action, line: Line | None,
    why: str,
) -> str:
  """What decides an outcome, said before it: where, how it is, what fits."""
  place = line and (line.place or line.name)
  told = _where(page, line, why)
  if line is None or action.verb != 'click':
    return told
  if line.kind == alfworld_pages.PLACE and place in page.at:
    return told + ''.join(f'{w} ; ' for w in line.words if w in _TURNED)
  if line.kind == alfworld_pages.TOOL and page.carried and place in page.at:
    return f'{told}{line.name} {page.carried.partition(" ")[0]} ; '
  if place == alfworld_pages.HAND and page.at and why != 'closed':
    goal = goal_of(task)
    want = f'want {goal.word} {goal.object}'.replace('  ', ' ')
    want += f' in {goal.place}' if goal.place else ''
    return f'{want} ; {line.type} into {page.at[0].partition(" ")[0]} ; '
  return told


def _what_happens(
    page: Page, action: actions.Action, line: Line | None
) -> str:
  """What an admissible action does, and to what."""
  if action.verb != 'click' or line is None:
    return 'nothing changes'
  if line.kind == alfworld_pages.PLACE:
    verb = alfworld_pages.commands(str(action), page)[0].partition(' ')[0]
    return {'go': 'goes there', 'open': 'opens', 'close': 'closes'}[verb]
  if line.kind == alfworld_pages.TOOL:
    return f'{line.name}s {page.carried}'
  if line.place == alfworld_pages.HAND:
    return f'puts down {line.name}'
  return f'{"turns on" if line.type in LIGHTS else "takes"} {line.name}'


def read(state: str) -> Page:
  """Raises GoalError where it is no page."""
  try:
    return alfworld_pages.read(states.body(state))
  except alfworld_pages.PageError as error:
    raise GoalError(str(error)) from None


def lying(goal: Goal, page: Page, place: str) -> list[str]:
  """Names of the wanted things in a place."""
  return [t.name for t in page.of_kind(alfworld_pages.THING)
          if t.type == goal.object and t.place == place]


def _house(goal: Goal, page: Page) -> alfworld_games.House:
  """The room of a page; raises KeyError for what the package does not know."""
  place_of, thing_of = (alfworld_games.place_types(),
                        alfworld_games.thing_types())

  def split(name: str, known) -> tuple[str, int]:
    type_, _, number = name.partition(' ')
    return known[type_], int(number)

  return alfworld_games.House(
      tuple(alfworld_games.Place(*split(p.name, place_of))
            for p in page.of_kind(alfworld_pages.PLACE)),
      tuple(alfworld_games.Thing(
          *split(t.name, thing_of),
          alfworld_games.Place(*split(t.place, place_of)))
            for t in page.of_kind(alfworld_pages.THING)),
      alfworld_games.Goal(
          goal.kind, thing_of[goal.object],
          goal.place and place_of[goal.place],
          goal.light and thing_of[goal.light]))


def _has_gaps(names: Sequence[tuple]) -> bool:
  """Whether the numbers of a type do not count from 1."""
  found: dict[str, list[int]] = {}
  for type_, number, *_ in names:
    found.setdefault(type_, []).append(number)
  return any(sorted(ns) != list(range(1, len(ns) + 1))
             for ns in found.values())


def _name(x: alfworld_games.Place | alfworld_games.Thing) -> str:
  return f'{x.type.lower()} {x.number}'


def _looked_into(state: str) -> set[str]:
  marks = {alfworld_pages.SEEN, alfworld_pages.OPEN}
  return {p.name for p in read(state).of_kind(alfworld_pages.PLACE)
          if marks & {*p.words}}
