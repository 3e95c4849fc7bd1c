"""ALFWorld as a world: the stock engine's transcripts, pages, bad input."""

import functools
import gzip
import importlib
import json
import os
import random
import subprocess
import sys

import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import (
    alfworld,
    alfworld_engine,
    alfworld_experts,
    alfworld_files,
    alfworld_games,
    alfworld_pages,
    checks,
    pool,
)
from dreamgym_jax.text import states

SMALL = alfworld_games.Generated(6, 6)
TASKS = [types.Task('alfworld-heat', 1), types.Task('alfworld-look-unseen', 2)]
# Plays command lists with TextWorld's own PddlEnv, wrapped as in AlfredTWEnv.
STOCK = """
import json, sys
import textworld
from alfworld.agents.environment import alfred_tw_env
from textworld.envs import PddlEnv
infos = textworld.EnvInfos(won=True, admissible_commands=True)
env = alfred_tw_env.AlfredDemangler(PddlEnv(infos), shuffle=False)
told = []
for data, lists in json.load(sys.stdin):
  env.load(data)
  for commands in lists:
    state = env.reset()
    said = [[state.feedback, state['admissible_commands'], state['won']]]
    for command in commands:
      state, score, done = env.step(command)
      said.append([state.feedback, state['admissible_commands'], done])
      assert score == done == state['won']
    told.append(said)
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return str(tmp_path_factory.mktemp('alfworld'))


@pytest.fixture
def make(cache):
  return functools.partial(alfworld.AlfWorld, SMALL, cache=cache)


def told(node, feedback):
  return [feedback, sorted(node.commands), node.won]


def play(game, rng, n):
  """(commands, transcript) of n steps at random, some not admissible."""
  node, commands = game.start, []
  said = [told(node, game.intro)]
  while len(commands) < n:
    names = sorted(node.commands)
    command = rng.choice(names)
    if rng.random() < .2:       # admissible somewhere, or nowhere
      command = rng.choice(['open drawer 9', 'fly', names[0].upper(),
                            command.replace('1', '2')])
    feedback, node = game.step(node, command)
    commands.append(command)
    said.append(told(node, feedback))
    yield commands, said


def test_transcripts_are_the_stock_engines(make, cache):
  """Random and expert play; two episodes of one game take turns."""
  games = alfworld_engine.Games(4, make()._games._directory)
  whole = alfworld_games.Generated().game(
      types.Task('alfworld-clean-unseen', 1))      # a bathroom
  jobs, ours = [], []
  for data in (SMALL.game(TASKS[0]), SMALL.game(TASKS[1]), whole):
    game = games.open(data)
    episodes = [play(game, random.Random(seed), 12) for seed in (0, 1)]
    *_, both = zip(*episodes, strict=True)
    jobs.append((data, [commands for commands, _ in both]))
    ours += [said for _, said in both]
  for task in TASKS:
    commands, said = expert_transcript(make(observe='full'), task)
    jobs.append((SMALL.game(task), [commands]))
    ours.append(said)
  stock = subprocess.run(
      [sys.executable, '-c', STOCK], input=json.dumps(jobs), text=True,
      capture_output=True, check=True)
  theirs = json.loads(stock.stdout)
  assert [len(t) for t in theirs] == [len(t) for t in ours]
  for mine, other in zip(ours, theirs, strict=True):
    assert mine == other
  assert [t[-1][2] for t in theirs[-2:]] == [True, True]


def expert_transcript(world, task):
  live, = world.reset([task])
  row, commands = world._rows[0], []
  said, state = [told(row.node, row.feedback)], live.initial_state
  while not row.is_over:
    action = alfworld_experts.advise(live, state)[1]
    command = next(c for c in alfworld_pages.commands(action, row.page)
                   if c in row.node.commands)
    state = world.step([0], [action])[0].state
    commands.append(command)
    said.append(told(row.node, row.feedback))
  return commands, said


def test_a_task_is_the_same_game_always(make):
  again = make().reset(TASKS)
  assert again == make().reset(TASKS)
  assert again[0].instruction and again[0] != again[1]
  other, = make().reset([types.Task('alfworld-heat', 3)])
  assert other.initial_state != again[0].initial_state
  # Whatever the interpreter's hashes are.
  code = (
      'from dreamgym_jax import types\n'
      'from dreamgym_jax.envs import alfworld_games as games\n'
      'source, task = games.Generated(6, 6), types.Task("alfworld-heat", 1)\n'
      'print(source.game(task)["pddl_problem"])')
  seen = subprocess.run(
      [sys.executable, '-c', code], text=True, capture_output=True,
      check=True, env=os.environ | {'PYTHONHASHSEED': '7'})
  assert seen.stdout.strip() == SMALL.game(TASKS[0])['pddl_problem'].strip()


def test_pages_show_what_was_seen(make):
  world = make()
  live, = world.reset(TASKS[:1])
  page = alfworld_pages.read(live.initial_state)
  assert not page.of_kind(alfworld_pages.THING)
  rng, found = random.Random(0), set()
  for _ in range(29):
    places = alfworld_pages.read(page_text(world)).of_kind(
        alfworld_pages.PLACE)
    o = world.step([0], [f'click [{rng.choice(places).id}]'])[0]
    _, _, told_of = world.feedback[0].partition('you see ')
    found |= {name.strip(' .').removeprefix('and ').removeprefix('a ')
              for name in told_of.split(',')
              if name.strip(' .') not in ('', 'nothing')}
    things = alfworld_pages.read(states.body(o.state)).of_kind(
        alfworld_pages.THING)
    assert {t.name for t in things} == found
  assert len(found) > 3
  full, = make(observe='full').reset(TASKS[:1])
  shown = alfworld_pages.read(full.initial_state)
  assert found <= {t.name for t in shown.of_kind(alfworld_pages.THING)}
  assert len(shown.of_kind(alfworld_pages.THING)) == 6
  assert len(shown.of_kind(alfworld_pages.PLACE)) == 6


def page_text(world):
  return str(world._rows[0].page)


@pytest.mark.parametrize('action', [
    '', 'click', 'go to drawer 1', 'click [99]', 'click [1]', 'click [2]',
    'fill [3] x', 'dblclick [3]', 'hover [1]'])
def test_what_is_no_command_here_changes_nothing(make, action):
  world = make(observe='full')
  live, = world.reset(TASKS[:1])
  o = world.step([0], [action])[0]
  assert o.is_invalid and not o.done and o.reward == 0
  assert o.state == states.invalid(live.initial_state)
  assert world.feedback == [alfworld_engine.NOTHING]


def test_what_the_engine_refuses_is_invalid(make):
  world = make(observe='full')
  live, = world.reset(TASKS[:1])
  page = alfworld_pages.read(live.initial_state)
  thing = page.of_kind(alfworld_pages.THING)[0]
  place = page.find(alfworld_pages.PLACE, thing.place)
  assert world.step([0], [f'click [{thing.id}]'])[0].is_invalid   # not there
  assert not world.step([0], [f'click [{place.id}]'])[0].is_invalid
  if alfworld_pages.CLOSED in place.words:
    assert world.step([0], [f'click [{thing.id}]'])[0].is_invalid
    world.step([0], [f'click [{place.id}]'])
  o = world.step([0], [f'click [{thing.id}]'])[0]
  assert not o.is_invalid and f'carrying = {thing.name}' in o.state
  assert world.feedback[0].startswith(f'You pick up the {thing.name}')


def test_official_commands_and_the_step_limit(make):
  world = make(read=alfworld.read_command, max_steps=3)
  world.reset(TASKS[:1])
  place = alfworld_pages.read(page_text(world)).of_kind(
      alfworld_pages.PLACE)[0].name
  seen = [world.step([0], [c])[0] for c in (
      f'go to {place}', 'click [3]', 'look')]
  assert [o.is_invalid for o in seen] == [False, True, False]
  assert [o.done for o in seen] == [False, False, True]
  assert [o.reward for o in seen] == [0, 0, 0]
  assert world.feedback[0].startswith('You are facing')
  with pytest.raises(ValueError, match='over'):
    world.step([0], ['look'])


def test_forgotten_games_come_back_as_they_were(make, cache):
  data = [SMALL.game(types.Task('alfworld-pick', s)) for s in range(3)]
  few, many = (alfworld_engine.Games(n, make()._games._directory)
               for n in (1, 3))
  for _ in range(2):
    for d in data:
      a, b = few.open(d), many.open(d)
      *_, one = play(a, random.Random(3), 8)
      *_, other = play(b, random.Random(3), 8)
      assert one == other
  assert len(few._free) + len(few._open) == 1      # one copy of the engine


def test_broken_translations_are_made_again(tmp_path):
  data = SMALL.game(TASKS[0])
  args = data['pddl_domain'], data['pddl_problem'], tmp_path
  argv = list(sys.argv)
  good = alfworld_engine.translate(*args)
  assert sys.argv == argv
  path, = tmp_path.glob('*/*')
  whole = path.read_bytes()
  for broken in (b'', whole[:-9], b'junk', gzip.compress(b'{"key": 1}')):
    path.write_bytes(broken)
    assert alfworld_engine.translate(*args) == good
    assert gzip.decompress(path.read_bytes()) == gzip.decompress(whole)
  assert list(tmp_path.glob('*/*')) == [path]


def test_official_games_are_read_where_they_lie(make, tmp_path, cache):
  data = SMALL.game(TASKS[0])
  folder = tmp_path / 'json_2.1.1' / 'valid_seen'
  for name, solvable in (('a', True), ('b', False), ('c', True)):
    trial = folder / f'{alfworld_games.KINDS["heat"]}-Mug-None-7' / name
    trial.mkdir(parents=True)
    (trial / 'game.tw-pddl').write_text(
        json.dumps(data | {'solvable': solvable}))
  source = alfworld_files.Official(str(tmp_path))
  world = alfworld.AlfWorld(source, cache=cache)
  live, = world.reset([types.Task('alfworld-heat-seen', 1)])
  assert live.initial_state == make().reset(TASKS[:1])[0].initial_state
  with pytest.raises(checks.EnvError, match='has 2 games'):
    world.reset([types.Task('alfworld-heat-seen', 2)])
  with pytest.raises(checks.EnvError, match='alfworld-download'):
    world.reset([types.Task('alfworld-heat', 0)])
  path = trial / 'game.tw-pddl'
  path.write_text(path.read_text()[:-40])
  with pytest.raises(checks.EnvError, match='c/game.tw-pddl'):
    world.reset([types.Task('alfworld-heat-seen', 1)])


@pytest.mark.parametrize('task, message', [
    (types.Task('alfworld-heet', 0), 'did you mean alfworld-heat'),
    (types.Task('alfworld-heat-seen', 0), 'generated games'),
    (types.Task('alfworld-heat', -1), '0 or more'),
    (types.Task('alfworld-heat', 0, source=types.GENERATED), 'pose')])
def test_unknown_tasks(make, task, message):
  with pytest.raises(checks.EnvError, match=message):
    make().reset([task])


def test_a_row_begins_anew_and_games_in_play_are_kept(make):
  """Two games are in play, or were; the one that goes on was opened first."""
  world, alone = make(max_games=2), make()
  third = types.Task('alfworld-cool', 1)
  first, _ = world.reset(TASKS)
  assert alone.reset(TASKS[:1]) == [first]
  go = f'click [{place(first.initial_state)}]'
  assert world.step([0], [go]) == alone.step([0], [go])
  assert world.reset([third], [1]) == make().reset([third])
  assert world.step([0], ['click [4]']) == alone.step([0], ['click [4]'])
  with pytest.raises(checks.EnvError, match='3 games at once'):
    world.reset(TASKS[1:], [2])
  assert world.step([0], ['click [5]']) == alone.step([0], ['click [5]'])


def place(state):
  """The [id] of the last place of a page."""
  return alfworld_pages.read(state).of_kind(alfworld_pages.PLACE)[-1].id


def test_limits_that_cannot_be(make):
  with pytest.raises(checks.EnvError, match='2 games at once'):
    make(max_games=1).reset(TASKS)
  with pytest.raises(checks.EnvError, match='two receptacles'):
    alfworld_games.Generated(1).game(TASKS[0])
  with pytest.raises(checks.EnvError, match='no room'):
    alfworld_games.Generated(0, 1).game(types.Task('alfworld-pick-two', 0))
  with pytest.raises(ValueError, match='observe'):
    make(observe='all')


@pytest.mark.parametrize('missing, module', [
    ('textworld', 'alfworld_engine'), ('fast_downward', 'alfworld_engine'),
    ('alfworld', 'alfworld_games')])
def test_missing_packages_are_named(monkeypatch, missing, module):
  monkeypatch.setitem(sys.modules, missing, None)
  monkeypatch.delitem(sys.modules, f'dreamgym_jax.envs.{module}')
  with pytest.raises(ModuleNotFoundError,
                     match='install -r requirements-alfworld.txt') as error:
    importlib.import_module(f'dreamgym_jax.envs.{module}')
  assert missing in str(error.value)


def test_rooms_are_held_out():
  train, unseen = (alfworld_games._rooms('pick', u) for u in (False, True))
  assert len(train) == 96 and len(unseen) == 24
  assert not set(train) & set(unseen)


def test_worker_processes_play_the_same(make):
  real = pool.Pool(functools.partial(
      alfworld.AlfWorld, SMALL, cache=str(make()._games._directory)), 1)
  try:
    mine = make()
    assert real.reset(TASKS) == mine.reset(TASKS)
    for action in ('click [3]', 'click [3]', 'click [4]', 'click [77]'):
      assert real.step([0, 1], [action] * 2) == mine.step([0, 1], [action] * 2)
  finally:
    real.close()
