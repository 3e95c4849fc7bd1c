"""A dreamed step beside a real one, in one process, interleaved.

  python benchmarks/worlds.py [--rounds=5] [--rows=80]

The shipped policy plays the same tasks in the dream and in Chromium (script
input), round after round; the first round of each is reported apart (cold:
compiling, page loads). Later rounds may still meet a new shape: their seconds
leave compiling out, as it is paid once per machine. Seconds include the
policy's own decoding in both worlds. Writes benchmarks/worlds.json and prints
a table, with the wall-clock of the same steps under the published cost of a
WebArena deployment.
"""

import json
import pathlib
import platform
import statistics
import time

import jax
from absl import app, flags

from configs import webarena
from dreamgym_jax import cost, types
from dreamgym_jax.report import table
from dreamgym_jax.stages import cast as casts
from dreamgym_jax.stages import gating, judge
from dreamgym_jax.stages import run as runs

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Counted rounds of each world.')
_ROWS = flags.DEFINE_integer('rows', 80, 'Episodes at once.')
_CLIENTS = 16


def _round(
    cast, policy, world, tasks, source, seed, compiling
) -> dict[str, float]:
  start, compiled = time.perf_counter(), compiling.seconds
  attempts = judge.play(cast.player, policy, world, tasks,
                        jax.random.key(seed), 1.0, source, 'bench',
                        _ROWS.value)
  seconds = time.perf_counter() - start
  steps = sum(len(a.episode.transitions) for a in attempts)
  warm = seconds - (compiling.seconds - compiled)
  return {'steps': steps, 'cold_ms': 1000 * seconds / steps,
          'ms': 1000 * warm / steps}


def main(_) -> None:
  c = webarena.get_config('tiny')
  workdir = pathlib.Path('runs/benchmark')
  run = runs.open_run(c, workdir, '', 'benchmarks/worlds.py')
  compiling = cost.CompileClock()
  with casts.Cast(run) as cast:
    policy = run.params('warmup', cast.model_config)
    model = run.params('experience', cast.model_config)
    dream = cast.dream(model, cast.open_replay(), runs.DREAM)
    tasks = gating.gate_tasks(run)
    tasks = tasks[::max(1, len(tasks) // _ROWS.value)][:_ROWS.value]
    pages = cast.real.reset(tasks)
    worlds = {'dreamed': (dream, types.DREAMED), 'real': (cast.real,
                                                          types.REAL)}
    rounds: dict[str, list] = {name: [] for name in worlds}
    for i in range(_ROUNDS.value + 1):
      for name, (world, source) in worlds.items():
        rounds[name].append(_round(
            cast, policy, world, pages, source, i, compiling))
  rows, report = [('world', 'cold ms/step', 'warm ms/step', 'min', 'max',
                   'steps/s')], {}
  for name, measured in rounds.items():
    cold, *warm = measured
    ms = [m['ms'] for m in warm]
    median = statistics.median(ms)
    report[name] = {'cold_ms': cold['cold_ms'], 'warm_ms': ms,
                    'median_ms': median, 'steps': [m['steps'] for m in warm]}
    rows.append((name, f'{cold["cold_ms"]:.1f}', f'{median:.1f}',
                 f'{min(ms):.1f}', f'{max(ms):.1f}', f'{1000 / median:.0f}'))
  steps = statistics.median(report['real']['steps'])
  webarena_ms = 1000 * cost.cost_model(steps, len(pages), _CLIENTS) / steps
  report |= {'rows': _ROWS.value, 'webarena_cost_model_ms': webarena_ms,
             'machine': platform.processor() or platform.machine(),
             'date': time.strftime('%Y-%m-%d')}
  print('\n'.join(table.aligned(rows, range(1, 6))))
  print(f'WebArena at its published cost (14.8 s a step, 17.1 s a reset, '
        f'{_CLIENTS} clients): {webarena_ms:.0f} ms per step')
  pathlib.Path(__file__).with_suffix('.json').write_text(
      json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
  app.run(main)
