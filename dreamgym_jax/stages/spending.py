"""What a training has used, and what it may use: tokens, operations, seconds.

Transitions have a budget of their own (envs/budget). These are checked after
each iteration, so that a training ends with the one in which a limit is passed.
"""

from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from dreamgym_jax import rollouts, sampling
from dreamgym_jax.models import transformer
from dreamgym_jax.planning import roofline

POLICY, EXPERIENCE = 'policy', 'experience'
# What is counted: tokens by role, then operations and seconds.
READ, WRITTEN, TRAINED = 'read', 'written', 'trained'
FLOPS, SECONDS = 'flops', 'seconds'
Spent = dict[str, float]


class Meter:
  """Reads what samplers have done since it was last read."""

  def __init__(self, samplers: Mapping[str, sampling.Sampler]):
    """`samplers` by role."""
    self._samplers = dict(samplers)
    self._last = self._now()

  def read(self) -> dict[str, int]:
    """Tokens by 'role/read' and 'role/written'."""
    now, last = self._now(), self._last
    self._last = now
    return {name: n - last[name] for name, n in now.items()}

  def _now(self) -> dict[str, int]:
    return {f'{role}/{what}': n for role, s in self._samplers.items()
            for what, n in ((READ, s.n_read), (WRITTEN, s.n_written))}


def add(
    spent: Spent, tokens: Mapping[str, int],
    attempts: Sequence[rollouts.Attempt], seconds: float,
    cfg: transformer.ModelConfig,
) -> Spent:
  """With one more iteration.

  Operations are arithmetic: matrix products of both models forward, and three
  times that for what was trained; attention over half a stream on average.
  """
  lengths = np.array([len(a.token_T) for a in attempts])
  n_trained, n_actions = int(lengths.sum()), sum(
      int(a.is_written_T.sum()) for a in attempts)
  seen = float(lengths.mean()) / 2
  n_read = sum(n for name, n in tokens.items() if name.endswith(READ))
  n_written = sum(n for name, n in tokens.items() if name.endswith(WRITTEN))
  flops = sum(roofline.forward_flops(cfg, n_read + n_written, seen, n_written))
  flops += 3 * sum(roofline.forward_flops(cfg, n_trained, seen, n_actions))
  more = {**tokens, f'{POLICY}/{TRAINED}': n_trained, FLOPS: flops,
          SECONDS: seconds}
  return {name: spent.get(name, 0) + more.get(name, 0)
          for name in sorted(spent.keys() | more.keys())}


def tokens(spent: Spent) -> float:
  """All of them: read, written and trained, by whatever role."""
  return sum(n for name, n in spent.items() if '/' in name)


def is_over(spent: Spent, c: ml_collections.ConfigDict) -> bool:
  """Whether a limit of budget.* is reached; 0 is no limit."""
  used = ((tokens(spent), c.budget.tokens),
          (spent.get(FLOPS, 0), c.budget.flops),
          (spent.get(SECONDS, 0), c.budget.seconds))
  return any(0 < limit <= n for n, limit in used)
