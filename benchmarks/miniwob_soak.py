"""Whether MiniWoB++ lasts: memory over many episodes, and a browser that dies.

  python benchmarks/miniwob_soak.py [--episodes=500] [--kills=5] [--rows=10]

(`PYTHONPATH=.` where the package is not installed; --help lists all flags.)

Plays every family in turn in one process: first `warm_up` rounds, which load
each page, then `episodes` episodes, with the memory of this process and of
Chromium (all its processes, resident) read along the way. Then again, with
Chromium killed at random moments: every episode must end in a win, a loss, at
the step limit or with its browser, and each kill be one restart.
Writes benchmarks/miniwob_soak.json and prints a table.
"""

import collections
import itertools
import json
import os
import pathlib
import platform
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import app, flags

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, miniwob, miniwob_tasks
from dreamgym_jax.report import table
from dreamgym_jax.text import states

_EPISODES = flags.DEFINE_integer('episodes', 500, 'Episodes after warm-up.')
_WARM_UP = flags.DEFINE_integer('warm_up', 2, 'Rounds over all families.')
_KILLS = flags.DEFINE_integer('kills', 5, 'How often Chromium is killed.')
_ROWS = flags.DEFINE_integer('rows', 10, 'Episodes at once.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of all that is drawn.')
_LIMIT = .10      # growth of memory that is too much


def _descendants(pid: int) -> list[int]:
  """The process and all below it."""
  parents = collections.defaultdict(list)
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      fields = path.read_text().rpartition(')')[2].split()
    except OSError:       # it has ended by now
      continue
    parents[int(fields[1])].append(int(path.parent.name))
  found = [pid]
  for parent in found:
    found += parents[parent]
  return found


def _resident(pids: list[int]) -> float:
  """MB of memory that the processes hold."""
  total = 0
  for pid in pids:
    try:
      pages = pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1]
    except OSError:
      continue
    total += int(pages) * os.sysconf('SC_PAGE_SIZE')
  return total / 2**20


def play(
    world: miniwob.MiniWob, tasks: list[types.Task], rng: np.random.Generator,
    before_step: Callable[[], None] = lambda: None,
) -> collections.Counter:
  """One episode of each task, half by the expert; how they ended."""
  live, ends = world.reset(tasks), collections.Counter()
  state = [t.initial_state for t in live]
  is_expert = rng.random(len(tasks)) < .5
  active = list(range(len(tasks)))

  def act(i: int) -> str:
    if is_expert[i] and miniwob_tasks.accepts(live[i]):
      return miniwob_tasks.advise(live[i], state[i])[1]
    return behaviours.random_action(state[i], live[i].instruction, rng)

  while active:
    before_step()
    seen = world.step(active, [act(i) for i in active])
    going = []
    for i, answer in zip(active, seen, strict=True):
      state[i] = answer.state
      if answer.error:
        ends['died with the browser'] += 1
      elif answer.done:
        ends['won' if answer.reward else 'lost' if answer.state == states.OVER
             else 'step limit'] += 1
      else:
        going.append(i)
    active = going
  return ends


def batches(n_episodes: int, first: int) -> Iterator[list[types.Task]]:
  """Families in turn, each time round with the next seed."""
  names = sorted(miniwob_tasks.FAMILIES)
  tasks = (types.Task(name, seed) for seed in itertools.count(first)
           for name in names)
  for start in range(0, n_episodes, _ROWS.value):
    yield list(itertools.islice(tasks, min(_ROWS.value, n_episodes - start)))


def soak(world: miniwob.MiniWob, rng: np.random.Generator) -> dict:
  """Memory in MB after warm-up and along the way."""
  n_families = len(miniwob_tasks.FAMILIES)
  ends, marks, played = collections.Counter(), [], 0

  def read() -> None:
    world._browser.evaluate('window.gc && window.gc()')
    browser = _descendants(world._browser.pid)
    marks.append((played, _resident([os.getpid()]), _resident(browser)))

  for tasks in batches(_WARM_UP.value * n_families, 0):
    play(world, tasks, rng)
  read()
  for tasks in batches(_EPISODES.value, _WARM_UP.value):
    ends += play(world, tasks, rng)
    played += len(tasks)
    if played % 100 < _ROWS.value or played == _EPISODES.value:
      read()
  growth = [marks[-1][i] / marks[0][i] - 1 for i in (1, 2)]
  return {'ends': dict(ends), 'marks': marks, 'growth': growth,
          'restarts': world.restarts}


def crash(world: miniwob.MiniWob, rng: np.random.Generator) -> dict:
  """How episodes end while Chromium is killed now and then."""
  per_kill = 4 * _ROWS.value
  total = per_kill * _KILLS.value
  ends, steps = collections.Counter(), 0
  due: set[int] = set()

  def kill() -> None:
    nonlocal steps
    steps += 1
    if steps in due:
      os.kill(world._browser.pid, signal.SIGKILL)

  before, kills = world.restarts, 0
  for n, tasks in enumerate(batches(total, 1000)):
    # One batch in four is hit, at its first, second or third step.
    if n % 4 == 2:
      due.add(steps + int(rng.integers(1, 4)))
    planned = len(due)
    ends += play(world, tasks, rng, kill)
    due = {d for d in due if d > steps}
    kills += planned - len(due)
  return {'episodes': total, 'ends': dict(ends), 'kills': kills,
          'restarts': world.restarts - before}


def main(_) -> None:
  rng = np.random.default_rng(_SEED.value)
  world, start = miniwob.MiniWob(), time.perf_counter()
  try:
    lasting, dying = soak(world, rng), crash(world, rng)
  finally:
    world.close()
  rows = [('episodes', 'process MB', 'Chromium MB')]
  rows += [(f'{n}', f'{a:.0f}', f'{b:.0f}') for n, a, b in lasting['marks']]
  print('\n'.join(table.aligned(rows, range(3))))
  is_small = max(lasting['growth']) < _LIMIT
  is_whole = (sum(dying['ends'].values()) == dying['episodes']
              and dying['kills'] == dying['restarts'])
  print('growth: process {:+.1%}, Chromium {:+.1%}; '.format(
      *lasting['growth']) + ('fine' if is_small else 'TOO MUCH'))
  print(f'ends: {lasting["ends"]}')
  print(f'{dying["kills"]} kills, {dying["restarts"]} restarts, '
        f'{dying["episodes"]} episodes: {dying["ends"]}; '
        + ('all counted' if is_whole else 'NOT ALL COUNTED'))
  report = {'families': len(miniwob_tasks.FAMILIES), 'soak': lasting,
            'crash': dying, 'seconds': time.perf_counter() - start,
            'machine': platform.processor() or platform.machine(),
            'date': time.strftime('%Y-%m-%d')}
  pathlib.Path(__file__).with_suffix('.json').write_text(
      json.dumps(report, indent=1) + '\n')
  if not (is_small and is_whole):
    raise SystemExit(1)


if __name__ == '__main__':
  app.run(main)
