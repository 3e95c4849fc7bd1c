"""The decoder: equivalences of its two ways through the layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamgym_jax.models import transformer

CFG = transformer.ModelConfig(V=37, D=16, N=3, H=4, K=2, d=8, F=24)


@pytest.fixture(scope='module')
def params():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)


def tokens(B, T, seed=1):
  return jax.random.randint(jax.random.key(seed), (B, T), 0, CFG.V)


def plain(tok_BxT):
  """Positions and segments of unpacked rows."""
  B, T = tok_BxT.shape
  return jnp.tile(jnp.arange(T), (B, 1)), jnp.ones((B, T), jnp.int32)


def forward(params, tok_BxT, cfg=CFG):
  return transformer.forward(params, tok_BxT, *plain(tok_BxT), cfg)


def test_packed_equals_separate(params):
  tok = tokens(1, 12)
  pos = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]])
  segment = jnp.array([[1] * 5 + [2] * 4 + [0] * 3])
  packed = transformer.forward(params, tok, pos, segment, CFG)
  np.testing.assert_allclose(
      packed[:, :5], forward(params, tok[:, :5]), atol=1e-5)
  np.testing.assert_allclose(
      packed[:, 5:9], forward(params, tok[:, 5:9]), atol=1e-5)
  assert np.isfinite(packed).all()


def test_causal_and_within_segment_by_gradient(params):
  """d out[t] / d in[j] is exactly 0 unless j <= t in the same segment."""
  tok, T, cut = tokens(1, 8), 8, 5
  pos = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2]])
  segment = jnp.where(jnp.arange(T)[None] < cut, 1, 2)

  def out(rows_TxD, t):  # every position reads its own row of a table
    cfg = dataclasses.replace(CFG, V=T)
    p = {**params, 'embed': rows_TxD}
    x = transformer.hidden(p, jnp.arange(T)[None], pos, segment, cfg)
    return (x[0, t] * jnp.arange(1, CFG.D + 1)).sum()

  rows = params['embed'][tok[0]]
  for t in (0, 3, 4, 5, 7):
    grad_T = np.abs(jax.grad(out)(rows, t)).sum(-1)
    first = 0 if t < cut else cut
    for j in range(T):
      assert (grad_T[j] > 0) == (first <= j <= t), (t, j)


def test_query_blocks_equal_one_block(params, monkeypatch):
  tok = tokens(2, 11)
  one = forward(params, tok)
  monkeypatch.setattr(transformer, '_QUERY_BLOCK', 4)
  np.testing.assert_allclose(forward(params, tok), one, atol=1e-5)


@pytest.mark.parametrize('change', [dict(remat='block'), dict(unroll=3)])
def test_remat_and_loop_equal_plain_scan(params, change):
  tok = tokens(2, 9)

  def loss(p, cfg):
    return jax.nn.log_softmax(forward(p, tok, cfg))[..., 3].mean()

  cfg = dataclasses.replace(CFG, **change)
  assert cfg != CFG
  want, want_grad = jax.value_and_grad(loss)(params, CFG)
  got, got_grad = jax.value_and_grad(loss)(params, cfg)
  np.testing.assert_allclose(got, want, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               got_grad, want_grad)


@pytest.mark.parametrize('chunk', [4, 10, 64])
def test_chunked_logp_entropy_equals_softmax(params, chunk):
  x = jax.random.normal(jax.random.key(2), (10, CFG.D))
  target = jnp.arange(10) * 3

  def chunked(p, x):
    return transformer.logp_entropy(p, x, target, CFG, chunk=chunk)

  def full(p, x):
    logp = jax.nn.log_softmax(transformer.head(p, x, CFG))
    return logp[jnp.arange(10), target], -(jnp.exp(logp) * logp).sum(-1)

  for got, want in zip(chunked(params, x), full(params, x), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)

  def loss(f):
    return lambda p, x: f(p, x)[0].sum() + (f(p, x)[1] ** 2).sum()

  got = jax.grad(loss(chunked), argnums=(0, 1))(params, x)
  want = jax.grad(loss(full), argnums=(0, 1))(params, x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
               got, want)


def test_untied_head_is_used():
  cfg = dataclasses.replace(CFG, tied=False)
  p = transformer.init(jax.random.key(0), cfg)
  assert p['head'].shape == (CFG.V, CFG.D)
  x = jnp.ones((2, CFG.D))
  assert float(jnp.abs(transformer.head(p, x, cfg)
                       - transformer.head(p, x, CFG)).max()) > 1e-3


def test_bad_sizes_say_why():
  with pytest.raises(ValueError, match='H=3 is not a multiple of K=2'):
    dataclasses.replace(CFG, H=3)
  with pytest.raises(ValueError, match="remat='all'"):
    dataclasses.replace(CFG, remat='all')
