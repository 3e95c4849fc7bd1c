"""ALFWorld's games, sampled by the package's own rules.

The wheel of alfworld (MIT) brings the PDDL domain, the text grammar, the six
goals, what may lie where, and the layouts of 120 rooms of AI2-THOR. Only where
the loose objects lie is sampled here (ALFRED did so with a physics engine), and
`Generated` may leave a room some of its receptacles and objects alone.

A family is a kind of task, 'alfworld-clean', in the 96 rooms for training; with
'-unseen' behind it, in the 24 rooms that are held out. The official games are
those of alfworld_files.
"""

import dataclasses
import functools
import json
import pathlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dreamgym_jax import types
from dreamgym_jax.envs import checks

try:
  import alfworld
  from alfworld import info
  from alfworld.gen import constants, goal_library
except ModuleNotFoundError as error:
  raise ModuleNotFoundError(
      f'ALFWorld needs the package {error.name!r}: '
      'pip install -r requirements-alfworld.txt', name=error.name) from error

# kind -> the package's name of it
KINDS = {
    'pick': 'pick_and_place_simple',
    'look': 'look_at_obj_in_light',
    'clean': 'pick_clean_then_place_in_recep',
    'heat': 'pick_heat_then_place_in_recep',
    'cool': 'pick_cool_then_place_in_recep',
    'pick-two': 'pick_two_obj_and_place',
}
UNSEEN, SEEN = '-unseen', '-seen'
# kind -> the receptacle it takes, and what its object must be
TOOLS = {'clean': ('SinkBasin', 'Cleanable'),
         'heat': ('Microwave', 'Heatable'),
         'cool': ('Fridge', 'Coolable')}
LAMP = 'DeskLamp'
_PLACES = constants.RECEPTACLES - constants.MOVABLE_RECEPTACLES_SET
# Receptacles that the layouts leave out, where the room is said to have one.
_EXTRA = {'GarbageCan': 1, 'CoffeeMachine': 1, 'Toaster': 1, 'StoveBurner': 4,
          'ToiletPaperHanger': 1, 'TowelHolder': 1, 'HandTowelHolder': 2,
          'LaundryHamper': 1, 'Cart': 1, 'Ottoman': 1}
_FIXED = {'Faucet', 'LightSwitch', 'Window', 'Chair', 'Mirror', 'StoveKnob',
          'Painting', 'Blinds', 'Television', 'HousePlant', 'Curtains',
          'Poster', 'ShowerDoor', 'ShowerGlass', 'ShowerCurtain',
          'ShowerHead', 'Sink', 'Bathtub', 'Lamp', 'Footstool', 'DeskLamp',
          'FloorLamp', 'LaundryHamperLid', 'Boots', 'TeddyBear',
          'ScrubBrush', 'PaperTowelRoll', 'Plunger', 'Towel'}
_LAMP_ON = {'Desk', 'SideTable', 'Dresser', 'DiningTable', 'CoffeeTable',
            'Shelf'}
_ABILITIES = ('Cleanable', 'Heatable', 'Coolable', 'Toggleable', 'Sliceable')
_TRIES = 200


class Place(NamedTuple):
  """A receptacle, e.g. ('Cabinet', 2): the second by number."""

  type: str
  number: int


class Thing(NamedTuple):
  """A loose object, and where it lies."""

  type: str
  number: int
  place: Place


class Goal(NamedTuple):
  """What is asked for, in the package's names of types; '' for none."""

  kind: str
  object: str
  place: str
  light: str


class House(NamedTuple):
  """A room as a game begins: all that its PDDL problem says."""

  places: tuple[Place, ...]
  things: tuple[Thing, ...]
  goal: Goal


def family_of(kind: str, suffix: str = '') -> str:
  return f'alfworld-{kind}{suffix}'


def split_family(family: str) -> tuple[str, str]:
  """(kind, suffix) of a family; raises EnvError where there is none."""
  known = {family_of(k, s): (k, s) for s in ('', UNSEEN, SEEN) for k in KINDS}
  if family not in known:
    raise checks.EnvError(f'no family {family!r} of ALFWorld'
                          + checks.did_you_mean(family, known))
  return known[family]


def can_hold(place: str, thing: str) -> bool:
  """Whether a type of receptacle takes a type of object."""
  return thing in constants.VAL_RECEPTACLE_OBJECTS.get(place, ())


def may_lie(thing: str, place: str) -> bool:
  """Whether a game may begin with a thing in a place: as above, and lamps."""
  return can_hold(place, thing) or thing == LAMP and place in _LAMP_ON


def is_openable(place: str) -> bool:
  return place in constants.OPENABLE_CLASS_SET


@functools.cache
def place_types() -> dict[str, str]:
  """The package's names of receptacles, by the names in the game's text."""
  return {t.lower(): t for t in sorted(_PLACES)}


@functools.cache
def thing_types() -> dict[str, str]:
  """The same of objects; lamps are among them."""
  return {t.lower(): t for t in constants.OBJECTS
          if t not in _PLACES and (t not in _FIXED or t == LAMP)}


@dataclasses.dataclass(frozen=True)
class Generated:
  """Games of the package's rules; (family, seed) is always the same one.

  `max_places` and `max_objects` bound what a room keeps, 0 for all of it. The
  receptacles that the task needs are kept first, the others by lot.
  """

  max_places: int = 0
  max_objects: int = 0

  def game(self, task: types.Task) -> dict:
    """The game file of a task, as a dictionary; raises EnvError."""
    return to_game(*self.house(task))

  def house(self, task: types.Task) -> tuple[House, str]:
    """(the room, the instruction) of a task."""
    kind, suffix = split_family(task.family)
    if suffix == SEEN:
      raise checks.EnvError(f'{task.family!r}: generated games of rooms for '
                            f'training are {family_of(kind)!r}')
    if task.seed < 0:
      raise checks.EnvError(f'{task.task_id}: seeds are 0 or more')
    if not 0 <= self.max_places != 1 and self.max_objects >= 0:
      raise checks.EnvError(f'{self}: limits are 0 (none) or above; a task '
                            'needs two receptacles')
    rng = random.Random(f'{task.family}/{task.seed}')
    rooms = _rooms(kind, suffix == UNSEEN)
    for _ in range(_TRIES):
      house = self._sample(kind, rng.choice(rooms), rng)
      if house:
        return house, _instruction(house.goal, rng)
    raise checks.EnvError(f'{task.task_id}: no room has what the task needs '
                          f'within {self}')

  def _sample(
      self, kind: str, room: int, rng: random.Random
  ) -> House | None:
    """A task in a room; None where what was drawn cannot be."""
    places, known = _layout(room)
    loose = [t for t in known if t not in _FIXED and t not in _PLACES]
    have = sorted({p.type for p in places})
    tool, ability = TOOLS.get(kind, ('', ''))
    if tool and tool not in have:
      return None
    pairs = [
        (o, p) for o in loose
        for p in (have if kind != 'look' else [''])
        if not tool or o in constants.VAL_ACTION_OBJECTS[ability]
        if not p or (can_hold(p, o) and p != tool)]
    if not pairs:
      return None
    wanted, target = rng.choice(pairs)
    # Where the objects lie that the task is about, and what it takes to do it.
    homes = [p for p in have if can_hold(p, wanted) and p != target]
    if not homes:
      return None
    kept = [rng.choice([p for p in places if p.type == t])
            for t in (target, tool, rng.choice(homes)) if t]
    if kind == 'look' and LAMP not in known:
      return None
    stands = [p for p in places if p.type in _LAMP_ON]
    lamp = rng.choice(stands) if LAMP in known and stands else None
    if kind == 'look':
      if not lamp:
        return None
      kept.append(lamp)
    kept = _fill(kept, places, self.max_places, rng)
    if self.max_places and len(kept) > self.max_places:
      return None
    kept = _renumbered(kept, places)
    things = [(LAMP, kept[lamp])] if lamp in kept else []
    n = (2 if kind == 'pick-two' else 1) + rng.randint(0, 1)
    places = tuple(kept.values())
    for t, count in [(wanted, n), *_others(loose, wanted, rng)]:
      for _ in range(count):
        types_ = sorted({p.type for p in places if can_hold(p.type, t)
                         and (t != wanted or p.type != target)})
        is_full = self.max_objects and len(things) >= self.max_objects
        if types_ and not is_full:
          type_ = rng.choice(types_)      # else rooms are cabinets, mostly
          things.append((t, rng.choice([p for p in places
                                        if p.type == type_])))
    if sum(t == wanted for t, _ in things) < n:
      return None
    rng.shuffle(things)
    counts: Counter[str] = Counter()
    numbered = []
    for t, place in things:
      counts[t] += 1
      numbered.append(Thing(t, counts[t], place))
    return House(tuple(sorted(places)), tuple(sorted(numbered)), Goal(
        kind, wanted, target, LAMP if kind == 'look' else ''))


def _rooms(kind: str, is_unseen: bool) -> list[int]:
  numbers = (constants.TEST_SCENE_NUMBERS if is_unseen
             else constants.TRAIN_SCENE_NUMBERS)
  return [n for n in numbers for room, span in constants.SCENE_TYPE.items()
          if n in span and room in constants.GOALS_VALID[KINDS[kind]]]


@functools.cache
def _layout(room: int) -> tuple[list[Place], list[str]]:
  """(receptacles, types of objects) that a room of AI2-THOR has."""
  folder = pathlib.Path(alfworld.__file__).parent / 'gen' / 'layouts'
  openable, objects = (
      json.loads((folder / f'FloorPlan{room}-{name}.json').read_text())
      for name in ('openable', 'objects'))
  # Sink|x|y|z|SinkBasin is a SinkBasin
  counts = Counter(
      parts[4] if len(parts) > 4 else parts[0]
      for parts in (name.split('|') for name in openable))
  counts.update({t: n for t, n in _EXTRA.items()
                 if t in objects and t not in counts})
  return ([Place(t, i + 1) for t in sorted(counts) if t in _PLACES
           for i in range(counts[t])], sorted(set(objects)))


def _fill(
    kept: list[Place], places: Sequence[Place], limit: int,
    rng: random.Random,
) -> list[Place]:
  """`kept`, each once, and others by lot up to the limit; 0: all."""
  kept = list(dict.fromkeys(kept))
  others = [p for p in places if p not in kept]
  rng.shuffle(others)
  return kept + (others[:max(limit - len(kept), 0)] if limit else others)


def _renumbered(
    kept: Sequence[Place], places: Sequence[Place]
) -> dict[Place, Place]:
  """Numbers without gaps for those that are kept, in their order."""
  counts: Counter[str] = Counter()
  renumbered = {}
  for place in places:
    if place in kept:
      counts[place.type] += 1
      renumbered[place] = Place(place.type, counts[place.type])
  return renumbered


def _others(
    loose: Sequence[str], wanted: str, rng: random.Random
) -> Iterator[tuple[str, int]]:
  """Each other type of the room in turn by lot, with how many of it."""
  others = [t for t in loose if t != wanted]
  for t in rng.sample(others, len(others)):
    yield t, rng.choice((1, 1, 1, 2, 2, 3))


def _instruction(goal: Goal, rng: random.Random) -> str:
  template = rng.choice(goal_library.gdict[KINDS[goal.kind]]['templates'])
  return template.format(obj=goal.object.lower(), recep=goal.place.lower(),
                         toggle=goal.light.lower())


@functools.cache
def _rules() -> tuple[str, str]:
  return (pathlib.Path(info.ALFRED_PDDL_PATH).read_text(),
          pathlib.Path(info.ALFRED_TWL2_PATH).read_text())


def to_game(house: House, instruction: str) -> dict:
  """The game file of a room and an instruction, as a dictionary."""
  domain, grammar = _rules()
  return {'pddl_domain': domain,
          'grammar': grammar.replace('UNKNOWN GOAL', instruction),
          'pddl_problem': _problem(house), 'solvable': True,
          'walkthrough': None}


def _problem(house: House) -> str:
  """The PDDL problem, as the package's augment_pddl_states writes it."""
  spot = {p: f'loc_bar_{i}' for i, p in enumerate(house.places)}
  name = {x: _name(x.type, x.number) for x in (*house.places, *house.things)}
  rtypes = sorted({p.type for p in house.places})
  otypes = sorted({t.type for t in house.things})
  objects = ['agent1 - agent']
  objects += [f'{t}Type - otype' for t in otypes]
  objects += [f'{t}Type - rtype' for t in rtypes]
  objects += [f'{name[t]} - object' for t in house.things]
  objects += [f'{name[p]} - receptacle' for p in house.places]
  objects += [f'{s} - location' for s in (*spot.values(), 'loc_bar_start')]
  facts = ['atLocation agent1 loc_bar_start']
  facts += [f'canContain {p}Type {t}Type' for p in rtypes for t in otypes
            if can_hold(p, t)]
  for p in house.places:
    facts += [f'receptacleType {name[p]} {p.type}Type',
              f'receptacleAtLocation {name[p]} {spot[p]}']
    facts += [f'openable {name[p]}'] * is_openable(p.type)
  for t in house.things:
    facts += [f'objectType {name[t]} {t.type}Type',
              f'inReceptacle {name[t]} {name[t.place]}',
              f'objectAtLocation {name[t]} {spot[t.place]}']
    facts += [f'pickupable {name[t]}'] * (t.type not in _FIXED)
    facts += [f'isReceptacleObject {name[t]}'] * (
        t.type in constants.MOVABLE_RECEPTACLES_SET)
    facts += [f'{a.lower()} {name[t]}' for a in _ABILITIES
              if t.type in constants.VAL_ACTION_OBJECTS[a]]
  goal = goal_library.gdict[KINDS[house.goal.kind]]['pddl'].format(
      obj=house.goal.object, recep=house.goal.place,
      toggle=house.goal.light).replace('#', '-')
  init = '\n'.join(f'({fact})' for fact in facts)
  listed = '\n'.join(objects)
  return (f'(define (problem plan)\n(:domain alfred)\n(:objects\n{listed}\n)\n'
          f'(:init\n{init}\n)\n{goal}')


def _name(type_: str, number: int) -> str:
  """An id that ALFWorld's demangler calls '<type> <number>'.

  It numbers a type's ids from the last down, and puts "basin" behind those
  that have it, wherever it stands.
  """
  head = f'{type_.removesuffix("Basin")}_bar_{999 - number:03d}'
  return head + f'_bar_{type_}' * type_.endswith('Basin')
