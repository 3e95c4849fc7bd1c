"""ALFWorld (Shridhar et al., arXiv 2010.03768) as a World, text alone.

TextWorld's PDDL engine decides every transition and success
(alfworld_engine); games are sampled by the package's rules (alfworld_games) or
read from its data (alfworld_files). A family is a kind of task and a set of
rooms, e.g. 'alfworld-clean' and 'alfworld-clean-unseen'; the seed is a game.

Pages are those of alfworld_pages. What they show of things out of sight:

  observe='seen'   what this episode has looked into: ALFWorld as it is
  observe='full'   everything, closed drawers too: ALFWorld with a map. Rules,
                   commands and outcomes stay the same, searching is over.

An episode ends with success or after `max_steps`: nothing that is done loses.
An action that is malformed or not admissible ("Nothing happens.") changes
nothing, and is answered with the notice.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from dreamgym_jax import types
from dreamgym_jax.envs import (
    alfworld_engine,
    alfworld_games,
    alfworld_pages,
    checks,
)
from dreamgym_jax.text import actions as actions_lib
from dreamgym_jax.text import states

Task, Observation = types.Task, types.Observation
Line = alfworld_pages.Line
EnvError = checks.EnvError

MAX_STEPS = 50      # ALFWorld's own
OBSERVE = ('seen', 'full')
_TASK = re.compile(r'Your task is to: (.*)\.')
_FEATURES = {'isclean': alfworld_pages.CLEAN, 'ishot': alfworld_pages.HOT,
             'iscool': alfworld_pages.COOL, 'istoggled': alfworld_pages.LIT,
             'issliced': alfworld_pages.SLICED}
# (action text, page) -> commands, of which the first admissible one is given
Read = Callable[[str, alfworld_pages.Page], list[str]]


class Source(Protocol):
  """Where games come from."""

  def game(self, task: Task) -> dict:
    """The game file of a task, as a dictionary; raises EnvError."""


def read_command(text: str, page: alfworld_pages.Page) -> list[str]:
  """ALFWorld's own commands, e.g. 'go to drawer 1', as they are."""
  del page
  return [text.strip()]


@dataclasses.dataclass
class _Row:
  """One episode. Names and places of a game never change."""

  data: dict                    # the game file
  game: alfworld_engine.Game
  node: alfworld_engine.Node
  spot: dict[str, str]          # place -> location
  openable: frozenset[str]
  seen: set[str]                # places looked into
  things: list[str]             # in the order in which they were first seen
  feedback: str
  page: alfworld_pages.Page
  steps: int = 0
  is_over: bool = False


class AlfWorld:
  """A types.World; rows on the same game share what the engine has said."""

  def __init__(
      self,
      source: Source | None = None,
      max_steps: int = MAX_STEPS,
      observe: str = 'seen',
      read: Read = alfworld_pages.commands,
      pose: Callable[[Task], dict] | None = None,
      cache: str = '',
      max_games: int = 64,
  ):
    """Opens the engine.

    Args:
      source: of the games; alfworld_games.Generated() if None.
      max_steps: longer episodes fail.
      observe: one of OBSERVE, above.
      read: what an action text means; alfworld_pages.commands or read_command.
      pose: the game file of a generated task; None refuses them.
      cache: directory of translations; '' is alfworld_engine.cache_dir().
      max_games: games kept loaded, each with a copy of the engine (34 MB of
        the temporary directory, most of it never read); rows can be on
        no more games than that at once.
    """
    if observe not in OBSERVE:
      raise ValueError(f'observe={observe!r}: choose from {OBSERVE}')
    self.max_steps, self._observe, self._read = max_steps, observe, read
    self._source = source or alfworld_games.Generated()
    self._pose, self._max_games = pose, max_games
    self._games = alfworld_engine.Games(
        max_games, pathlib.Path(cache) if cache else None)
    self._rows: dict[int, _Row] = {}

  @property
  def feedback(self) -> list[str]:
    """What the engine last said to each row, word for word."""
    return [row.feedback for row in self._rows.values()]

  def reset(
      self, tasks: Sequence[Task], rows: Sequence[int] | None = None
  ) -> list[Task]:
    """As types.World; raises EnvError for a task it has not."""
    if rows is None:
      self._rows, rows = {}, range(len(tasks))
    live = [row.data for i, row in self._rows.items()
            if i not in rows and not row.is_over]
    data = [self._game(task) for task in tasks]
    n_games = len({d['pddl_problem'] + d['grammar'] for d in (*live, *data)})
    if n_games > self._max_games:
      raise EnvError(f'{n_games} games at once; max_games={self._max_games}')
    for d in live:    # first, so that no game in play is forgotten
      self._games.open(d)
    begun = [self._start(d) for d in data]
    self._rows.update(zip(rows, begun, strict=True))
    return [
        dataclasses.replace(
            task, instruction=_TASK.search(row.feedback)[1],
            initial_state=str(row.page))
        for task, row in zip(tasks, begun, strict=True)
    ]

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[Observation]:
    """Acts in the rows; raises ValueError for a finished row."""
    checks.check_rows(rows, lambda i: self._rows[i].is_over)
    return [self._step(self._rows[i], text)
            for i, text in zip(rows, actions, strict=True)]

  def close(self) -> None:
    """Forgets the games; harmless when done twice."""
    self._rows = {}
    self._games.close()

  def _game(self, task: Task) -> dict:
    if task.source != types.GENERATED:
      return self._source.game(task)
    if self._pose is None:
      raise EnvError(f'{task.task_id}: a generated task, and no `pose` that '
                     'makes a game of it')
    return self._pose(task)

  def _start(self, data: dict) -> _Row:
    game = self._games.open(data)
    spot = {f[1]: f[2] for f in game.facts if f[0] == 'receptacleatlocation'}
    openable = frozenset(f[1] for f in game.facts if f[0] == 'openable')
    row = _Row(data, game, game.start, spot, openable, set(), [], game.intro,
               alfworld_pages.Page(()))
    if self._observe == 'full':
      row.seen = set(spot)
    row.page = self._page(row)
    return row

  def _step(self, row: _Row, text: str) -> Observation:
    row.steps += 1
    row.is_over = row.steps >= self.max_steps
    row.feedback = alfworld_engine.NOTHING
    try:
      commands = self._read(text, row.page)
    except actions_lib.ActionError:
      commands = []
    command = next((c for c in commands if c in row.node.commands), None)
    if command is None:
      return Observation(states.invalid(str(row.page)), done=row.is_over,
                         is_invalid=True)
    row.feedback, row.node = row.game.step(row.node, command)
    if row.node.won:
      row.is_over = True
      return Observation(states.OVER, 1.0, done=True)
    row.page = self._page(row)
    return Observation(str(row.page), done=row.is_over)

  def _page(self, row: _Row) -> alfworld_pages.Page:
    """The page of where the row is; what is looked into here is seen now."""
    names, facts = row.game.names, row.node.facts
    opened = {f[1] for f in facts if f[0] == 'opened'}
    here_is = next(f[2] for f in facts if f[0] == 'atlocation')
    here = [p for p, at in row.spot.items() if at == here_is]
    row.seen.update(p for p in here if p not in row.openable or p in opened)
    lies = {f[1]: f[2] for f in facts if f[0] == 'inreceptacle'}
    held = {f[2] for f in facts if f[0] == 'holds'}
    known = [t for t, p in lies.items() if p in row.seen]
    row.things += sorted(
        {*known, *held} - set(row.things),
        key=lambda t: alfworld_pages.sort_key(names[t]))
    features: dict[str, list[str]] = {}
    for fact in sorted(facts):
      if fact[0] in _FEATURES:
        features.setdefault(fact[1], []).append(_FEATURES[fact[0]])

    def is_open(place: str) -> tuple[str, ...]:
      if place not in row.openable:
        return ()
      return (alfworld_pages.OPEN if place in opened
              else alfworld_pages.CLOSED,)

    lines = [
        Line(1, alfworld_pages.AT, ', '.join(sorted(
            ' '.join((*is_open(p), names[p])) for p in here))),
        Line(2, alfworld_pages.CARRYING, ''.join(
            ' '.join((*features.get(t, ()), names[t])) for t in held))]
    for place in sorted(row.spot,
                        key=lambda p: alfworld_pages.sort_key(names[p])):
      name, words = names[place], is_open(place)
      if self._observe == 'seen' and place in row.seen and (
          place not in opened):
        words = (alfworld_pages.SEEN, *words)
      lines.append(Line(len(lines) + 1, alfworld_pages.PLACE, name, words))
      tool = alfworld_pages.TOOLS.get(lines[-1].type)
      if tool:
        lines.append(Line(
            len(lines) + 1, alfworld_pages.TOOL, tool, (), name))
    for thing in row.things:
      place = (alfworld_pages.HAND if thing in held
               else names[lies[thing]])
      lines.append(Line(len(lines) + 1, alfworld_pages.THING, names[thing],
                        tuple(features.get(thing, ())), place))
    return alfworld_pages.Page(tuple(lines))
