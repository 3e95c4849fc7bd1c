"""What ALFWorld costs: loading, resetting and stepping its games.

  python benchmarks/alfworld_speed.py [--games=24] [--max_places=8] [--soak=500]

Plays generated games of all families in one process: loads each with nothing
on disk, loads it again from its translation, then plays an episode at random
whose steps are all new to it, and the same once more. CPU seconds, for the
engine has one thread. With --soak it plays so many random episodes over 100
games and prints the memory at every tenth of them. Adds to
benchmarks/alfworld_speed.json and prints a table.

Not alfworld.py: that would hide the package of this name.
"""

import json
import pathlib
import platform
import resource
import statistics
import tempfile
import time

import numpy as np
from absl import app, flags

from dreamgym_jax import types
from dreamgym_jax.envs import alfworld, alfworld_games, behaviours
from dreamgym_jax.report import table

_GAMES = flags.DEFINE_integer('games', 24, 'Games.')
_MAX_PLACES = flags.DEFINE_integer(
    'max_places', 8, 'Receptacles, and objects, of a room; 0 for all.')
_STEPS = flags.DEFINE_integer('steps', 50, 'Steps of an episode.')
_SOAK = flags.DEFINE_integer('soak', 0, 'Episodes of the soak; 0 for none.')
_SOAK_GAMES = 100


def tasks(n: int) -> list[types.Task]:
  families = [alfworld_games.family_of(k, s) for k in alfworld_games.KINDS
              for s in ('', alfworld_games.UNSEEN)]
  return [types.Task(families[i % len(families)], i // len(families))
          for i in range(n)]


def open_world(cache: str, max_games: int) -> alfworld.AlfWorld:
  limit = _MAX_PLACES.value
  return alfworld.AlfWorld(
      alfworld_games.Generated(limit, limit), max_steps=_STEPS.value,
      cache=cache, max_games=max_games)


def play(world: alfworld.AlfWorld, task: types.Task, seed: int) -> int:
  """Steps of one random episode."""
  live, = world.reset([task])
  rng, state, n = np.random.default_rng(seed), live.initial_state, 0
  while True:
    action = behaviours.random_action(state, live.instruction, rng)
    seen = world.step([0], [action])[0]
    state, n = seen.state, n + 1
    if seen.done:
      return n


def rss_mb() -> float:
  """Resident memory of this process (Linux)."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * resource.getpagesize() / 2**20


def timed(f, *args):
  start = time.process_time()
  answer = f(*args)
  return answer, time.process_time() - start


def soak(cache: str) -> dict:
  """Memory in MB along --soak episodes, at every tenth of them."""
  world, some = open_world(cache, 32), tasks(_SOAK_GAMES)
  sizes, n = [], 0
  for i in range(_SOAK.value):
    n += play(world, some[i % len(some)], i)
    if (i + 1) % max(_SOAK.value // 10, 1) == 0:
      sizes.append(round(rss_mb(), 1))
  return {'episodes': _SOAK.value, 'games': len(some), 'steps': n,
          'rss_mb': sizes}


def main(_) -> None:
  with tempfile.TemporaryDirectory() as cache:
    some = tasks(_GAMES.value)
    world = open_world(cache, len(some))
    before = rss_mb()
    # The first game also parses the grammar that all share.
    _, first = timed(world.reset, some[:1])
    new = [timed(world.reset, [t])[1] for t in some[1:]]
    size = (rss_mb() - before) / len(some)
    world.close()
    kept = [timed(world.reset, [t])[1] for t in some]
    again = [timed(world.reset, [t])[1] for t in some]
    rates = []
    for _ in range(2):
      n, seconds = zip(*(timed(play, world, t, i)
                         for i, t in enumerate(some)), strict=True)
      rates.append(sum(n) / sum(seconds))
    report = {
        'first_game_s': first, 'new_game_s': statistics.mean(new),
        'kept_game_s': statistics.mean(kept),
        'loaded_game_s': statistics.mean(again), 'game_mb': size,
        'steps_per_s_new': rates[0], 'steps_per_s_known': rates[1],
        'games': len(some), 'max_places': _MAX_PLACES.value,
        'machine': platform.processor() or platform.machine(),
        'date': time.strftime('%Y-%m-%d')}
    if _SOAK.value:
      world.close()
      report['soak'] = soak(cache)
  rows = [(k, f'{v:.3g}' if isinstance(v, float) else str(v))
          for k, v in report.items()]
  print('\n'.join(table.aligned(rows, [1])))
  path = pathlib.Path(__file__).with_suffix('.json')
  known = json.loads(path.read_text()) if path.exists() else {}
  path.write_text(json.dumps(
      known | {f'max_places={_MAX_PLACES.value}': report}, indent=1) + '\n')


if __name__ == '__main__':
  app.run(main)
