"""A dreamed step with and without drafts, the same answers, interleaved.

  python -m benchmarks.drafting [--config=configs/webarena.py:tiny]

The experience model answers recorded actions of offline episodes, as many rows
at once as --rows says, decoding one token a call, or drafting from its own
stream (models/drafting.py). All contenders must write the same; the first round
is cold and kept apart. Takes the shipped model of the config, or that of a
workdir. Writes drafting.md and drafting.json beside the script.
"""

import functools
import pathlib

from absl import app, flags
from ml_collections import config_flags

from benchmarks import rounds
from dreamgym_jax import corpus, sampling, types
from dreamgym_jax.stages import cast as casts
from dreamgym_jax.stages import run as runs

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Warm rounds of each contender.')
_ROWS = flags.DEFINE_list('rows', ['1', '8', '40'], 'Episodes at once.')
_DRAFTED = flags.DEFINE_list('drafted', ['0', '2', '4', '8'],
                             'Tokens drafted for each that is drawn.')
_WORKDIR = flags.DEFINE_string(
    'workdir', 'runs/benchmark-drafting', 'Of a run.')
_CONFIG = config_flags.DEFINE_config_file(
    'config', 'configs/webarena.py:tiny', 'Of the model.')
_STEPS = 3                   # of each episode


def _play(dream, sampler, episodes: list[types.Episode], said: set) -> int:
  """Answers the episodes' first steps; gives the tokens written."""
  dream.reset([e.task for e in episodes])
  rows, answers, n = list(range(len(episodes))), [], 0
  for t in range(_STEPS):
    rows = [r for r in rows if len(episodes[r].transitions) > t]
    before = sum(map(sampler.fill, rows))
    dream.follow(rows, [episodes[r].transitions[t].state for r in rows])
    seen = dream.step(rows, [episodes[r].transitions[t].action for r in rows])
    n += sum(map(sampler.fill, rows)) - before
    answers += [(o.reasoning, o.state, o.done, o.reward) for o in seen]
    rows = [r for r, o in zip(rows, seen, strict=True) if not o.done]
  said.add(tuple(answers))
  return n


def _measure(run: runs.Run, n_rows: int) -> tuple[list[list[str]], dict]:
  with casts.Cast(run) as cast:
    model = run.params('experience', cast.model_config)
    episodes = [e for e in cast.offline if corpus.is_usable(e)]
    episodes = episodes[::max(1, len(episodes) // n_rows)][:n_rows]
    said: set = set()
    contenders, samplers = {}, {}
    for n_drafted in map(int, _DRAFTED.value):
      sampler = sampling.Sampler(
          cast.model_config, n_rows, run.config.sampler.capacity,
          n_drafted=n_drafted)
      name = f'{n_drafted} drafted'
      samplers[name] = sampler
      contenders[name] = functools.partial(
          _play, cast.dream(model, cast.open_replay(), runs.DREAM, sampler),
          sampler, episodes, said)
    found = rounds.interleave(contenders, _ROUNDS.value)
  if len(said) > 1:
    raise SystemExit(f'{n_rows} rows: {len(said)} different texts')
  plain = found[f'{_DRAFTED.value[0]} drafted'].seconds
  body = [[f'{n_rows}', name, f'{m.cold:.2f}', f'{m.seconds:.3f}',
           f'{plain / m.seconds:.2f}'] for name, m in found.items()]
  return body, {name: {**m._asdict(), 'calls': samplers[name].n_calls}
                for name, m in found.items()}


def main(argv) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  c = _CONFIG.value
  run = runs.open_run(c, pathlib.Path(_WORKDIR.value), '', 'drafting')
  body, report = [], {}
  for n_rows in map(int, _ROWS.value):
    rows, report[n_rows] = _measure(run, n_rows)
    body += rows
  rounds.save(
      __file__, f'Drafts of the experience model of {c.name}, '
      f'median of {_ROUNDS.value} warm rounds',
      [['rows', 'contender', 'cold s', 'warm s', 'times plain'], *body],
      {'config': c.name, 'rounds': report})


if __name__ == '__main__':
  app.run(main)
