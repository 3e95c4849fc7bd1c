"""Rows that play in two parts beside rows that play together.

  python -m benchmarks.parts [--rounds=5]

The shipped policy plays 80 gate tasks of the web: in Chromium, and in Chromium
behind a network, for which each call of `reset` and `step` sleeps 300 ms (no
site was asked). With two parts half of the rows are in the world while the
policy writes for the others. Equal episodes are asserted. Writes parts.json and
.md beside the script.
"""

import pathlib
import time
from collections.abc import Sequence

import jax
from absl import app, flags

from benchmarks import rounds
from configs import webarena
from dreamgym_jax import types
from dreamgym_jax.stages import cast as casts
from dreamgym_jax.stages import gating, judge
from dreamgym_jax.stages import run as runs

_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Counted rounds of each.')
_ROWS, _AWAY = 80, 0.3


class _Far:
  """A world behind a network."""

  def __init__(self, world: types.World):
    self._world = world

  def reset(self, tasks: Sequence[types.Task], rows=None):
    time.sleep(_AWAY)
    return self._world.reset(tasks, rows)

  def step(self, rows: Sequence[int], actions: Sequence[str]):
    time.sleep(_AWAY)
    return self._world.step(rows, actions)

  def close(self) -> None:
    """The world is the cast's."""


def main(_) -> None:
  run = runs.open_run(webarena.get_config('tiny'),
                      pathlib.Path('runs/benchmark-parts'), '', 'parts')
  played: dict[str, list[types.Episode]] = {}
  with casts.Cast(run) as cast:
    policy = run.params('warmup', cast.model_config)
    tasks = gating.gate_tasks(run)
    tasks = tasks[::max(1, len(tasks) // _ROWS)][:_ROWS]
    worlds = {'browser': cast.real, 'far browser': _Far(cast.real)}

    def contender(name: str, world: types.World, parts: int):
      def go() -> int:
        attempts = judge.play(
            cast.player._replace(parts=parts), policy, world, tasks,
            jax.random.key(0), 1.0, types.REAL, 'parts', _ROWS)
        played[f'{name}, {parts}'] = [a.episode for a in attempts]
        return sum(len(a.episode.transitions) for a in attempts)
      return go

    found = rounds.interleave(
        {f'{name}, {parts}': contender(name, world, parts)
         for name, world in worlds.items() for parts in (1, 2)}, _ROUNDS.value)
  first, *others = played.values()
  assert all(episodes == first for episodes in others)
  rows = [('world, parts', 'steps/s', 'two parts are', 'cold s', 'warm s')]
  for label, m in found.items():
    name = label.partition(',')[0]
    rows.append((label, f'{m.rate:.0f}',
                 f'{found[f"{name}, 2"].rate / m.rate:.2f}×', f'{m.cold:.2f}',
                 f'{m.seconds:.2f}'))
  rounds.save(__file__, f'{_ROWS} rows in one part or two', rows,
              {'rounds': {k: m._asdict() for k, m in found.items()}})


if __name__ == '__main__':
  app.run(main)
