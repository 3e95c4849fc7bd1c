"""What the host adds to a token: sampling.Sampler around its compiled calls.

  python -m benchmarks.dispatch [--turns=20] [--rounds=5]

Plays the turns of benchmarks/rollout.py, small model, ours alone, and times
each compiled call (extend, copy, decode) by itself until its result is there.
The rest of the wall-clock is the host's: gathering rows, buckets, masks,
cutting answers. Waiting inside the calls forbids what overlap there is, which
makes the share too large; what jit itself does on the host to start a call is
inside the clock, which makes it too small. Writes dispatch.json and .md beside
the script.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax
from absl import app

from benchmarks import rollout, rounds
from dreamgym_jax import sampling
from dreamgym_jax.models import decoding, transformer

_ROWS = (1, 8, 32, 80)
_CALLS = ('extend', 'copy', 'decode')


class _Clock:
  """Seconds inside the compiled calls."""

  def __init__(self):
    self.seconds = 0.0

  def around(self, call: Callable) -> Callable:
    @functools.wraps(call)
    def timed(*args, **kwargs):
      start = time.perf_counter()
      out = jax.block_until_ready(call(*args, **kwargs))
      self.seconds += time.perf_counter() - start
      return out

    return timed


def main(_) -> None:
  cfg = rollout.MODELS['small']
  params = transformer.init(jax.random.key(0), cfg)
  clock = _Clock()
  for name in _CALLS:
    setattr(decoding, name, clock.around(getattr(decoding, name)))
  inside: dict[str, list[float]] = {}

  def make(n: int) -> Callable[[], int]:
    load = rollout.make_workload(cfg.V, rollout.TURNS.value, n)
    sampler = sampling.Sampler(cfg, n, load.longest)

    def play() -> int:
      clock.seconds, sampler_tokens = 0.0, 0
      sampler.start(n)
      for t, pages in enumerate(load.pages):
        turns = sampler.turn(
            params, range(n), pages, key=jax.random.key(t), streams=range(n),
            temperature=1.0, max_new=rollout.MAX_NEW, stop=load.stop)
        sampler_tokens += sum(len(turn.tokens) for turn in turns)
      inside.setdefault(str(n), []).append(clock.seconds)
      return sampler_tokens

    return play

  found = rounds.interleave(
      {str(n): make(n) for n in _ROWS}, rollout.ROUNDS.value)
  rows = [('rows', 'tokens', 'wall s', 'inside calls s', 'host share',
           'host µs/token')]
  for name, m in found.items():
    # Medians of the rounds' own differences: rounds differ in their load.
    host = statistics.median(
        w - s for w, s in zip(m.warm, inside[name][1:], strict=True))
    tokens = statistics.median(m.units)
    rows.append((name, f'{tokens:.0f}', f'{m.seconds:.3f}',
                 f'{statistics.median(inside[name][1:]):.3f}',
                 f'{100 * host / m.seconds:.1f} %',
                 f'{1e6 * host / tokens:.1f}'))
  rounds.save(
      __file__,
      f'Host overhead, small model, {rollout.TURNS.value} turns', rows,
      {'rounds': {name: m._asdict() for name, m in found.items()},
             'seconds_inside_calls': inside})


if __name__ == '__main__':
  app.run(main)
