"""Every learner in every world, on the same pages: one table.

  python -m benchmarks.learners [--iterations=20] [--algorithms=grpo,ppo] ...

For each algorithm one run of main, from the shipped models on the web: the
dream, DreamGym-S2R from there, and the browser alone for as many updates. And
SFT: the shipped base cloned from all the experts' episodes, no reinforcement.
All are judged in the browser on pages none has seen, at evaluate.temperature,
and compared with the warm-up policy that RL began with, page by page.

The runs are in runs/benchmark-learners and go on when the command is given
again. Writes learners.md and learners.json beside the script.
"""

import pathlib
import subprocess
import sys

from absl import app, flags

from benchmarks import rounds
from dreamgym_jax import checkpoint

_ALGORITHMS = flags.DEFINE_list(
    'algorithms', ['grpo', 'ppo', 'gigpo', 'dpo'], 'Of rl.algorithm.')
_ITERATIONS = flags.DEFINE_integer(
    'iterations', 20, 'Of each learner in the dream, and in the browser.',
    lower_bound=1)
_CONFIG = flags.DEFINE_string('config', 'configs/webarena.py:tiny', 'Of all.')
_SET = flags.DEFINE_multi_string('set', [], 'More flags of all runs.')
_RUNS = pathlib.Path('runs/benchmark-learners')
_SFT = 'sft'
_WORLDS = {'DreamGym': 'dream', 'DreamGym-S2R': 'S2R',
           'real GRPO, equal updates': 'real'}
_LABELS = {'gigpo': 'GiGPO'}         # others in capitals
_EVERY_DEMO = 1_000_000


def _main(name: str, *args: str) -> None:
  """One call of main; its output goes to a log beside the workdir."""
  _RUNS.mkdir(parents=True, exist_ok=True)
  with open(_RUNS / f'{name}.log', 'a') as log:
    done = subprocess.run(
        [sys.executable, '-m', 'dreamgym_jax.main',
         f'--config={_CONFIG.value}', f'--workdir={_RUNS / name}',
         '--config.evaluate.greedy=False', *_SET.value, *args],
        stdout=log, stderr=log, check=False)
  if done.returncode:
    raise SystemExit(f'{name} ended with {done.returncode}: see {log.name}')


def run(name: str) -> dict:
  """Trains and judges, or goes on doing so; gives report.json."""
  if name == _SFT:
    more = ('--config.warmup.init=base',
            f'--config.warmup.demos={_EVERY_DEMO}')
    _main(name, *more, '--until=warmup')
    _main(name, *more, '--mode=evaluate')
  else:
    more = (f'--config.rl.algorithm={name}',
            f'--config.dream.iterations={_ITERATIONS.value}',
            '--config.real_grpo.max_ratio=1.0')
    _main(name, *more, '--until=evaluate')
    _main(name, *more, '--mode=report')
  return checkpoint.read_json(_RUNS / name / 'report.json')


def rows_of(name: str, report: dict) -> list[list[str]]:
  """One row for each world that the learner learned in."""
  worlds = {'warm-up': 'demonstrations'} if name == _SFT else _WORLDS
  found = []
  for method, world in worlds.items():
    seeds, tasks = (
        next(r for r in report['results']
             if r['method'] == method and r['split'] == split)
        for split in ('held-out seeds', 'held-out tasks'))
    low, high = seeds['wilson95']
    found.append([
        f'{_LABELS.get(name, name.upper())}, {world}',
        f'{seeds["real_online"]:,}', f'{seeds["real_all"]:,}',
        f'{report["ledger"]["dreamed"] if world != "real" else 0:,}',
        f'{seeds["successes"]}/{seeds["episodes"]} '
        f'[{100 * low:.1f}, {100 * high:.1f}]',
        _against_warmup(report, method),
        f'{tasks["successes"]}/{tasks["episodes"]}'])
  return found


def _against_warmup(report: dict, method: str) -> str:
  for pair in report['comparisons']:
    if pair['label'] == f'{method} against warm-up, held-out seeds':
      low, high = pair['ci95']
      return f'{100 * pair["diff"]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'
  return '-'


def main(argv) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  reports = {}
  for name in (*_ALGORITHMS.value, _SFT):
    print(f'{name}: {_RUNS / name}.log', flush=True)
    reports[name] = run(name)
  head = ['learner, world', 'real online', 'all real', 'dreamed',
          'new pages, % [95 %]', 'points over warm-up [95 %]', 'new tasks']
  body = [row for name, report in reports.items()
          for row in rows_of(name, report)]
  if _ALGORITHMS.value:
    first = reports[_ALGORITHMS.value[0]]
    body.insert(0, ['warm-up', *rows_of(_SFT, first)[0][1:3], '0',
                    *rows_of(_SFT, first)[0][4:]])
  rounds.save(
      __file__, f'Learners on {_CONFIG.value}, {_ITERATIONS.value} iterations, '
      'one seed', [head, *body],
      {'config': _CONFIG.value, 'iterations': _ITERATIONS.value,
       'flags': _SET.value, 'results': {
           name: {key: report[key] for key in (
               'results', 'comparisons', 'ledger', 'seconds', 'commit')}
           for name, report in reports.items()}})


if __name__ == '__main__':
  app.run(main)
