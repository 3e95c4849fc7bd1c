"""Steps a second of the generated WebShop on one core, warm and cold.

  python benchmarks/webshop.py [--episodes=500] [--rounds=5]

Plays recorded episodes, of the expert and of random visitors, again and again
in one process: the first round is cold (every query is searched, every page
made), the others find both kept. Only the world is timed, not who acts in it.
Writes benchmarks/webshop.json and prints a table.
"""

import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, webshop, webshop_tasks
from dreamgym_jax.report import table

_EPISODES = flags.DEFINE_integer('episodes', 500, 'Episodes of each kind.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Warm rounds.')

Act = Callable[[types.Task, str, np.random.Generator], str]


def _expert(task: types.Task, state: str, rng: np.random.Generator) -> str:
  del rng
  return webshop_tasks.advise(task, state)[1]


def _random(task: types.Task, state: str, rng: np.random.Generator) -> str:
  return behaviours.random_action(state, task.instruction, rng)


def record(
    world: webshop.WebShop, tasks: list[types.Task], act: Act
) -> list[list[str]]:
  """The actions of one episode on every task."""
  live, episodes = world.reset(tasks), []
  for i, task in enumerate(live):
    rng, state, actions = np.random.default_rng(i), task.initial_state, []
    while True:
      actions.append(act(task, state, rng))
      seen = world.step([i], [actions[-1]])[0]
      state = seen.state
      if seen.done:
        break
    episodes.append(actions)
  return episodes


def replay(
    world: webshop.WebShop, tasks: list[types.Task], episodes: list[list[str]]
) -> float:
  """Steps a second over all episodes, side by side, with the resets."""
  start = time.perf_counter()
  world.reset(tasks)
  for n in range(world.max_steps):
    rows = [i for i, actions in enumerate(episodes) if n < len(actions)]
    world.step(rows, [episodes[i][n] for i in rows])
  return sum(map(len, episodes)) / (time.perf_counter() - start)


def main(_) -> None:
  start = time.perf_counter()
  world = webshop.WebShop()
  opening = time.perf_counter() - start
  tasks = [types.Task('shop', s) for s in range(_EPISODES.value)]
  rows = [('visitor', 'steps', 'cold steps/s', 'warm steps/s', 'min', 'max')]
  report = {}
  for name, act in (('expert', _expert), ('random', _random)):
    episodes = record(world, tasks, act)
    world.close()     # forgets what recording has kept
    cold, *warm = (replay(world, tasks, episodes)
                   for _ in range(_ROUNDS.value + 1))
    steps, median = sum(map(len, episodes)), statistics.median(warm)
    report[name] = {'steps': steps, 'cold': cold, 'warm': warm,
                    'median': median}
    rows.append((name, f'{steps}', f'{cold:.0f}', f'{median:.0f}',
                 f'{min(warm):.0f}', f'{max(warm):.0f}'))
  print('\n'.join(table.aligned(rows, range(1, 6))))
  print(f'opening the shop: {opening:.1f} s')
  report |= {'opening_s': opening, 'episodes': _EPISODES.value,
             'machine': platform.processor() or platform.machine(),
             'date': time.strftime('%Y-%m-%d')}
  pathlib.Path(__file__).with_suffix('.json').write_text(
      json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
  app.run(main)
