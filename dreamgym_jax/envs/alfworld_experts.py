"""Who acts in ALFWorld: an expert by text alone, and the course of near misses.

The expert remembers nothing but what the page shows. On a page that shows all
it is the full-knowledge one; on one that shows what has been seen it searches,
first where the thing may lie. It starts anew from any state, so it also mends.
"""

from collections.abc import Callable

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.envs import (
    alfworld_games,
    alfworld_pages,
    alfworld_tasks,
    behaviours,
    goals,
)
from dreamgym_jax.text import actions, states

GoalError = goals.GoalError
Line, Page = alfworld_pages.Line, alfworld_pages.Page
Goal = alfworld_tasks.Goal
Advice = tuple[str, str]      # (thought, action)
_LONGEST = 30       # of a course


@goals.or_wait
def advise(task: types.Task, state: str) -> tuple[str, str]:
  """(thought, action) of the expert.

  Raises InstructionError where the instruction cannot be read.
  """
  return _advise(alfworld_tasks.goal_of(task), alfworld_tasks.read(state))


def errands(rng: np.random.Generator) -> Callable[[str], str]:
  """Carries any thing to any place, or to a tool first, allowed or not.

  What fits where, and what can be heated, no page shows: it has to be tried.
  On to the next errand when one is done, refused or impossible.
  """
  goal, carried, seen = None, '', ''

  def act(state: str) -> str:
    nonlocal goal, carried, seen
    try:
      page = alfworld_tasks.read(state)
      is_over = (state in (seen, states.invalid(state))
                 or carried and not page.carried)
      carried, seen = page.carried, state
      if goal is None or is_over:
        goal = _draw(page, rng)
      return _advise(goal, page)[1]
    except GoalError:
      goal = None
      return ''

  return act


def _draw(page: Page, rng: np.random.Generator) -> Goal:
  """An errand elsewhere, with what is held or shown; GoalError without."""
  things = page.of_kind(alfworld_pages.THING)
  things = [t for t in things if t.place == alfworld_pages.HAND] or things
  places, tools = (page.of_kind(kind) for kind in (
      alfworld_pages.PLACE, alfworld_pages.TOOL))
  here = {p.type for p in places if p.name in page.at} | {
      t.name for t in tools if t.place in page.at}
  places = [p.type for p in places if p.type not in here]
  if not things or not places:
    raise GoalError('nothing to carry here')
  kinds = ['pick', *(t.name for t in tools if t.name not in here)]
  return Goal(str(rng.choice(kinds)), str(rng.choice([t.type for t in things])),
              str(rng.choice(places)), '')


def _advise(goal: Goal, page: Page) -> Advice:
  hand = next((t for t in page.of_kind(alfworld_pages.THING)
               if t.place == alfworld_pages.HAND), None)
  if hand is None:
    return _fetch(goal, page)
  if hand.type != goal.object:
    return _put(hand, _anywhere(hand, page), page)
  if goal.kind == 'look':
    return _light(goal, page)
  if goal.word and goal.word not in hand.words:
    return _make_ready(goal, hand, page)
  wanted = [p.name for p in page.of_kind(alfworld_pages.PLACE)
            if p.type == goal.place]
  if not wanted:
    raise GoalError(f'no {goal.place} here')
  # Two belong into one; otherwise where one stands is as good as any.
  return _put(hand, max(wanted, key=lambda p: (
      goal.kind == 'pick-two' and len(alfworld_tasks.lying(goal, page, p)),
      p in page.at, -wanted.index(p))), page)


def rehearse(task: types.Task) -> behaviours.Course:
  """The course of near misses: what the expert would do were all to succeed.

  On a page that does not show where things are the course is empty, and the
  expert mends the slip.
  """
  state, course = task.initial_state, []
  while len(course) < _LONGEST and state != states.OVER:
    try:
      action = advise(task, state)[1]
      following = imagine(state, action)
    except (GoalError, alfworld_pages.PageError, actions.ActionError):
      break
    if following == state:
      break
    course.append(action)
    if _is_reached(task, state, action):
      break
    state = following
  else:
    course = []
  return behaviours.Course(
      max(len(course), 1), lambda t, state: ''.join(course[t:t + 1]))


def imagine(state: str, action: str) -> str:
  """The page after an admissible action, as far as the page itself tells.

  `state` itself where nothing is known to change. Raises ActionError, and
  PageError.
  """
  page = alfworld_pages.read(state)
  lines = {line.id: line for line in page.lines}
  command, *_ = alfworld_pages.commands(action, page) or ['']
  line = lines.get(actions.parse(action).element)
  verb = command.partition(' ')[0]
  at, carrying = page.lines[:2]
  if verb == 'go':
    known = (w for w in line.words if w != alfworld_pages.SEEN)
    lines[at.id] = at._replace(name=' '.join((*known, line.name)))
  elif verb in ('open', 'close'):
    word = {'open': alfworld_pages.OPEN, 'close': alfworld_pages.CLOSED}[verb]
    lines[line.id] = line._replace(words=(word,))
    lines[at.id] = at._replace(name=f'{word} {line.name}')
  elif verb == 'take' and line.type not in alfworld_tasks.LIGHTS:
    lines[carrying.id] = carrying._replace(name=line.known)
    lines[line.id] = line._replace(place=alfworld_pages.HAND)
  elif verb == 'take':
    lines[line.id] = line._replace(words=(alfworld_pages.LIT,))
  elif verb == 'move':
    lines[carrying.id] = carrying._replace(name='')
    lines[line.id] = line._replace(place=page.at[0])
  elif line and line.kind == alfworld_pages.TOOL:
    word = alfworld_tasks.READY[line.name]
    hand = page.find(alfworld_pages.THING, page.carried)
    hand = hand._replace(words=tuple(sorted({*hand.words, word})))
    lines[hand.id] = hand
    lines[carrying.id] = carrying._replace(name=hand.known)
  return str(Page(tuple(lines.values())))


def _is_reached(task: types.Task, state: str, action: str) -> bool:
  page = alfworld_pages.read(state)
  line = next((x for x in page.lines
               if x.id == actions.parse(action).element), None)
  items = alfworld_tasks.verdict_items(alfworld_tasks.goal_of(task), page, line)
  return bool(items) and all(want == have for _, want, have in items)


def _fetch(goal: Goal, page: Page) -> Advice:
  """Towards the wanted thing in the hand, with nothing there now."""
  things = [t for t in page.of_kind(alfworld_pages.THING)
            if t.type == goal.object]
  if goal.kind == 'pick-two':
    homes = [p.name for p in page.of_kind(alfworld_pages.PLACE)
             if p.type == goal.place]
    best = max(homes, default='', key=lambda p: (
        len(alfworld_tasks.lying(goal, page, p)), -homes.index(p)))
    things = [t for t in things if t.place != best]
  if not things:
    return _search(goal.object, page)
  thing = max(things, key=lambda t: t.place in page.at)
  return _reach(thing.place, page, lambda: _click('take', thing), thing)


def _search(wanted: str, page: Page) -> Advice:
  """Looks into the next place that has not been looked into."""
  looked = {alfworld_pages.SEEN, alfworld_pages.OPEN}
  unknown = [p for p in page.of_kind(alfworld_pages.PLACE)
             if not looked & {*p.words}]
  if not unknown:
    raise GoalError(f'no {wanted} here')
  thing = alfworld_games.thing_types().get(wanted, '')
  types_ = alfworld_games.place_types()
  place = max(unknown, key=lambda p: (
      p.name in page.at,
      alfworld_games.may_lie(thing, types_.get(p.type, ''))))
  if place.name in page.at and alfworld_pages.CLOSED not in place.words:
    raise GoalError(f'no {wanted} here')
  return _reach(place.name, page, lambda: _click('look into', place))


def _light(goal: Goal, page: Page) -> Advice:
  lights = [t for t in page.of_kind(alfworld_pages.THING)
            if t.type == goal.light]
  if not lights:
    return _search(goal.light, page)
  light = max(lights, key=lambda t: t.place in page.at)
  return _reach(light.place, page, lambda: _click('use', light), light)


def _make_ready(goal: Goal, hand: Line, page: Page) -> Advice:
  tools = [t for t in page.of_kind(alfworld_pages.TOOL)
           if t.name == goal.kind]
  if not tools:
    raise GoalError(f'nothing to {goal.kind} with')
  tool = max(tools, key=lambda t: t.place in page.at)
  if tool.place in page.at:
    return _click('', tool)
  return _go(page.find(alfworld_pages.PLACE, tool.place), tool)


def _put(hand: Line, place: str, page: Page) -> Advice:
  return _reach(place, page, lambda: _click('put', hand))


def _anywhere(hand: Line, page: Page) -> str:
  """Where what one carries may be put, here if it may."""
  thing = alfworld_games.thing_types().get(hand.type, '')
  types_ = alfworld_games.place_types()
  fit = [p for p in page.of_kind(alfworld_pages.PLACE)
         if alfworld_games.can_hold(types_.get(p.type, ''), thing)]
  if not fit:
    raise GoalError(f'nowhere to put {hand.name}')
  return max(fit, key=lambda p: (
      p.name in page.at, alfworld_pages.CLOSED not in p.words)).name


def _reach(
    place: str, page: Page, then: Callable[[], Advice],
    wanted: Line | None = None,
) -> Advice:
  """Goes there, for what is wanted there, and opens it, and then acts."""
  line = page.find(alfworld_pages.PLACE, place)
  if line is None:
    raise GoalError(f'no {place} here')
  if place not in page.at:
    return _go(line, wanted)
  if alfworld_pages.CLOSED in line.words:
    return _click('open', line)
  return then()


def _go(line: Line, wanted: Line | None = None) -> Advice:
  """The thought says what is wanted first: its line tells the place."""
  why = f'{wanted.label} ; ' if wanted else ''
  return _click(f'{why}go to', line)


def _click(verb: str, line: Line) -> Advice:
  """The thought ends in the line's own words, whose next one is its id."""
  name = line.name if line.kind == alfworld_pages.PLACE else line.label
  return (f'{verb} {name} [{line.id}]'.strip(),
          str(actions.Action('click', line.id)))
