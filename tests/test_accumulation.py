"""A batch in parts has the gradient of the one big batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamgym_jax import learner, losses
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer

CFG = transformer.ModelConfig(V=16, D=16, N=1, H=2, K=1, d=8, F=32)
pytestmark = pytest.mark.usefixtures('quick_compilation')


def streams():
  """Of lengths so unequal that no two parts have as many tokens."""
  rng = np.random.default_rng(0)
  return [batches.Stream(
      rng.integers(1, 16, n), np.r_[0, np.ones(n - 1)],
      -2.7 + .1 * rng.normal(size=n), rng.normal(size=n))
          for n in (20, 3, 4, 5, 11, 6)]


@pytest.mark.parametrize('aggregate', [losses.token_mean, losses.sequence_mean])
def test_parts_are_as_one_batch(aggregate):
  """Parts of 19, 6 and 18 tokens, in one, two and three streams; one empty."""
  (big,) = batches.pack(streams(), 3, 24, 72)
  parts = batches.pack(streams(), 1, 24, 24)
  assert len(parts) == 3
  parts.append(jax.tree.map(np.zeros_like, parts[0]))
  assert len({(p.weight_P > 0).sum() for p in parts}) == 4
  params = jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)
  optimizer = optax.sgd(1.0)
  found = []
  for accumulates, batch in ((False, big), (True, jax.tree.map(
      lambda *xs: np.stack(xs), *parts))):
    step = learner.make_grpo_step(
        CFG, optimizer, aggregate=aggregate, n_turns=3,
        accumulates=accumulates)
    state, metrics = step(learner.init_state(params, optimizer), batch)
    found.append((jax.tree.map(jnp.subtract, params, state.params), metrics))
  (one, m), (joined, n) = found
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(one)) > .01
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               one, joined)
  same = ['loss', 'grad_norm', 'ratio_max', 'tokens', 'mismatch_2xL']
  if aggregate is losses.token_mean:
    same += ['entropy', 'approx_kl', 'clip_share', 'logp_mismatch']
  for name in same:
    np.testing.assert_allclose(m[name], n[name], rtol=1e-5, err_msg=name)
