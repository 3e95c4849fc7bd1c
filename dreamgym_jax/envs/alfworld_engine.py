"""ALFWorld games on TextWorld's own PDDL engine, each answer asked for once.

The engine (Fast Downward's state registry, TextWorld's grammar) decides every
transition, text and success; this module keeps what it said:

- the translation of a problem (PDDL to SAS) on disk, named by its content;
- the grammar that all games share, and the name of every operator of a game;
- for every state that was visited: its commands, and where each has led.

The registry gives a state one number whichever way it was reached, and takes
the number back, so the games of many rows are one game. GPL: Fast Downward is
imported where it is installed (requirements-alfworld.txt), never copied.
"""

import copy
import dataclasses
import functools
import gzip
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import threading
import types as builtin_types
from collections import OrderedDict
from collections.abc import Mapping

try:
  import fast_downward
  from alfworld.agents.utils import misc
  from textworld import logic as tw_logic
  from textworld.envs.pddl import logic as pddl_logic
  from textworld.envs.pddl import textgen
  from textworld.generator import game as tw_game
except ModuleNotFoundError as error:
  raise ModuleNotFoundError(
      f'ALFWorld needs the package {error.name!r}: '
      'pip install -r requirements-alfworld.txt', name=error.name) from error

NOTHING = 'Nothing happens.'
CACHE_VARIABLE = 'DREAMGYM_CACHE'
_FORMAT = 1       # of the files on disk; another number is another name
_TRANSLATING = threading.Lock()   # it exchanges sys.argv and sys.stdout
Fact = tuple[str, ...]      # (predicate, argument, ...), the engine's ids


def cache_dir() -> pathlib.Path:
  """$DREAMGYM_CACHE, else dreamgym_jax in the user's cache directory."""
  home = os.environ.get(CACHE_VARIABLE)
  if home:
    return pathlib.Path(home) / 'alfworld'
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'dreamgym_jax' / 'alfworld'


@dataclasses.dataclass(eq=False)
class Node:
  """A state of a game, and what has been asked of it."""

  number: int                       # the registry's
  changed: frozenset                # facts that differ from the start's
  facts: frozenset[Fact]            # those that actions change
  commands: dict[str, object]       # admissible command -> engine action
  won: bool
  after: dict[str, tuple[str, 'Node']]    # command -> (feedback, node)


def translate(domain: str, problem: str, directory: pathlib.Path) -> dict:
  """The translation of a problem, from disk or made and kept there.

  A file that cannot be read, or is cut short, is made again.
  """
  text = f'{_FORMAT}\n{domain}\n{problem}'
  key = hashlib.sha256(text.encode()).hexdigest()
  path = directory / key[:2] / f'{key}.json.gz'
  try:
    found = json.loads(gzip.decompress(path.read_bytes()))
    if found['key'] == key:
      return found
  except (OSError, EOFError, ValueError, KeyError, TypeError):
    pass        # not there, or no file of ours: made below
  made = {'key': key, **_translate(domain, problem)}
  path.parent.mkdir(parents=True, exist_ok=True)
  # Renamed when whole: two processes may make the same file at once.
  with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:
    f.write(gzip.compress(json.dumps(made).encode(), 6))
  os.replace(f.name, path)
  return made


def _translate(domain: str, problem: str) -> dict:
  with _TRANSLATING:
    argv = sys.argv
    try:
      task, sas = fast_downward.pddl2sas(domain, problem)
    finally:
      sys.argv = argv
  facts = []
  for atom in task.init:      # as PddlState reads them
    if hasattr(atom, 'predicate'):
      if atom.predicate != '=':
        facts.append([atom.predicate, *atom.args])
    elif atom.fluent.symbol != 'total-cost':
      value = str(atom.expression.value)
      if not value.isdigit():       # distances are left out
        facts.append([value, *atom.fluent.args])
  return {
      'sas': sas, 'facts': facts,
      'objects': {o.name: o.type_name for o in task.objects},
      'types': [[t.name, t.supertype_names] for t in task.types],
      'actions': {a.name: [[p.name, p.type_name] for p in a.parameters]
                  for a in task.actions}}


class _State(pddl_logic.PddlState):
  """TextWorld's state, begun from a translation that is given."""

  def __init__(self, library, translation: Mapping, logic):
    # What PddlState.__init__ does, in its order, but for the translation
    # itself and the one for planning, which is never asked for.
    tw_logic.State.__init__(self, _NO_LOGIC)
    self._logic, self.downward_lib = logic, library
    self._actions = {
        name: builtin_types.SimpleNamespace(parameters=[
            builtin_types.SimpleNamespace(name=p, type_name=t)
            for p, t in parameters])
        for name, parameters in translation['actions'].items()}
    for name, supertypes in translation['types']:
      try:
        logic.types.add(tw_logic.Type(name, supertypes))
      except ValueError:
        pass          # known from another game
    library.load_sas(translation['sas'].encode())
    self.name2type = translation['objects']
    self.add_facts(
        tw_logic.Proposition(
            name, [tw_logic.Variable(a, self.name2type[a]) for a in args])
        for name, *args in translation['facts'])
    atoms = (pddl_logic.Atom * library.get_state_size())()
    library.get_state(atoms)
    found = [atom.get_fact(self.name2type) for atom in atoms]
    self.add_facts(f for f in found if not f.is_negation)
    self._n_effects: dict[int, int] = {}      # by operator

  def all_applicable_actions(self) -> list:
    actions = super().all_applicable_actions()
    # A kilobyte each, of which only this is needed, and later than expected.
    self._n_effects |= {
        o.id: o.nb_effect_atoms for o in self._operators.values()}
    self._operators = {}
    return actions

  def apply(self, action) -> list:
    """As PddlState's, in any state where the action was applicable once."""
    self._operators = {action.id: fast_downward.Operator(
        action.id, b'', self._n_effects[action.id])}
    return super().apply(action)

  def put(self, changed: frozenset, wanted: frozenset) -> None:
    """From facts that differ by `changed` from the start's to by `wanted`."""
    for fact in changed ^ wanted:
      known = self._facts[fact.signature]
      known.symmetric_difference_update([fact])


_NO_LOGIC = tw_logic.GameLogic()


class _Grammar(textgen.ContextSensitiveGrammar):
  """TextWorld's grammar, with one rule that differs from game to game."""

  def __init__(self, shared: textgen.ContextSensitiveGrammar):
    super().__init__()
    self._rules = shared._rules.copy()

  def say(self, name: str, text: str) -> None:
    one = textgen.ContextSensitiveGrammar.parse(
        json.dumps({name: [{'rhs': text}]}))
    self._rules[name] = one._rules[name]


_TASK = '"rhs": "Your task is to: '


@functools.lru_cache(4)
def _shared_logic(domain: str, grammar: str):
  return pddl_logic.GameLogic(domain, grammar)


def _logic(domain: str, grammar: str):
  """A GameLogic; the grammar is parsed once for all that differ in the task."""
  head, mark, tail = grammar.partition(_TASK)
  task, _, rest = tail.partition('"')
  if not mark or '\\' in task:
    return _shared_logic(domain, grammar)
  shared = _shared_logic(domain, f'{head}{mark}?"{rest}')
  logic = object.__new__(pddl_logic.GameLogic)
  logic.domain, logic.actions, logic.types = (
      domain, shared.actions, shared.types)
  logic.grammar = _Grammar(shared.grammar)
  logic.grammar.say('task', f'Your task is to: {task}')
  return logic


class Game:
  """One loaded game: its start, and where each command leads."""

  def __init__(self, library, data: Mapping, directory: pathlib.Path):
    self._library = library
    translation = translate(
        data['pddl_domain'], data['pddl_problem'], directory)
    logic = _logic(data['pddl_domain'], data['grammar'])
    self._grammar = logic.grammar
    self._state = _State(library, translation, logic)
    # As AlfredTWEnv names things: "mug 1", "sinkbasin 1".
    self._infos = {
        v.name: tw_game.EntityInfo(v.name, v.type)
        for fact in self._state.facts for v in fact.arguments}
    names = misc.Demangler(game_infos=self._infos)
    for info in self._infos.values():
      info.name = names.demangle_alfred_name(info.id)
      info.definite, info.indefinite = 'the', 'a'
    self.names = {i: info.name.strip() for i, info in self._infos.items()}
    self._said: dict[tuple[str, ...], str] = {}     # operator -> command
    self._begun = frozenset(self._state.facts)
    self._nodes: dict[tuple[int, frozenset], Node] = {}
    self.facts = frozenset(
        (f.name, *f.names) for f in self._begun)     # at the start, all
    self.start = self._here = self._look()
    self.intro = self._derive('#intro#', {})

  def step(self, node: Node, command: str) -> tuple[str, Node]:
    """(feedback, node) after a command; NOTHING where it is not admissible."""
    if command in node.after:
      return node.after[command]
    action = node.commands.get(command)
    if action is None:
      return NOTHING, node
    self._go(node)
    self._state.apply(action)
    self._here = self._look()
    answer = self._derive(action.feedback_rule, action.mapping), self._here
    node.after[command] = answer
    return answer

  def _go(self, node: Node) -> None:
    """Puts the engine into a state that it has been in."""
    if node is not self._here:
      self._library.set_state_id(node.number)
      self._state.put(self._here.changed, node.changed)
      self._here = node

  def _look(self) -> Node:
    """The node of the engine's present state, made where it is new."""
    facts = frozenset(self._state.facts)
    key = self._library.get_state_id(), facts ^ self._begun
    if key not in self._nodes:
      commands: dict[str, object] = {}
      for action in self._state.all_applicable_actions():
        commands.setdefault(self._command(action), action)
      moving = frozenset(
          (f.name, *f.names) for f in facts if f.name in _CHANGING)
      self._nodes[key] = Node(
          *key, moving, commands, self._state.check_goal(), {})
    return self._nodes[key]

  def _command(self, action) -> str:
    key = action.name, *(v.name for v in action.mapping.values())
    if key not in self._said:
      action.command_template = self._derive(
          action.command_template, action.mapping)
      self._said[key] = action.format_command(
          {i: info.name for i, info in self._infos.items()}).strip()
    return self._said[key]

  def _derive(self, rule: str, mapping: Mapping) -> str:
    return self._grammar.derive(rule, {
        'state': self._state, 'facts': [], 'mapping': mapping,
        'variables': {p.name: self._infos[v.name]
                      for p, v in mapping.items()},
        'entity_infos': self._infos})


_CHANGING = frozenset({
    'atlocation', 'inreceptacle', 'holds', 'opened', 'isclean', 'ishot',
    'iscool', 'istoggled', 'issliced'})


@functools.cache
def _remember_parsing() -> None:
  """Has textgen parse each text once, and copy no more than it changes.

  It parses the grammar's sentences and queries anew whenever one is said, by
  far the most of a step. What it is given back is a copy, as it was.
  """
  parse = functools.lru_cache(4096)(textgen._parse_and_convert)
  query = functools.lru_cache(4096)(tw_logic.Rule.parse_conjunctive_query)

  def parse_and_convert(text: str, rule_name: str, trace: bool = False):
    del trace
    return copy.deepcopy(parse(text, rule_name=rule_name))

  def copy_context(context: Mapping) -> dict:
    # The entries of the two that are copied are themselves never changed.
    return {**context, 'variables': dict(context['variables']),
            'mapping': dict(context['mapping'])}

  textgen._parse_and_convert = parse_and_convert
  textgen.copy_context = copy_context
  textgen.Rule = builtin_types.SimpleNamespace(parse_conjunctive_query=query)


class Games:
  """The games in play, of which those not used for longest are forgotten.

  A game needs a copy of the engine to itself, for its state is global there.
  Copies are used again and never unloaded, which would not free them.
  """

  def __init__(self, capacity: int, directory: pathlib.Path | None = None):
    if capacity < 1:
      raise ValueError(f'capacity must be at least 1, got {capacity}')
    _remember_parsing()
    self._capacity = capacity
    self._directory = directory or cache_dir()
    self._open: OrderedDict[str, tuple[object, Game]] = OrderedDict()
    self._free: list[object] = []

  def open(self, data: Mapping) -> Game:
    """The game of this content, loaded if it is not; at most `capacity`.

    A Game that was given out before stays usable until `capacity` others
    have been opened after its last opening.
    """
    text = '\n'.join(data[k] for k in ('pddl_domain', 'pddl_problem',
                                       'grammar'))
    key = hashlib.sha256(text.encode()).hexdigest()
    if key not in self._open:
      if len(self._open) >= self._capacity:
        _, (library, _) = self._open.popitem(last=False)
        self._free.append(library)
      library = self._free.pop() if self._free else fast_downward.load_lib()
      try:
        self._open[key] = library, Game(library, data, self._directory)
      except BaseException:
        self._free.append(library)
        raise
    self._open.move_to_end(key)
    return self._open[key][1]

  def close(self) -> None:
    """Forgets the games and keeps the copies of the engine for others."""
    for library, _ in self._open.values():
      library.cleanup()
      self._free.append(library)
    self._open.clear()
