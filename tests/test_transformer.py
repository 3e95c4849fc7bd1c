"""The decoder: equivalences of its two ways through the layers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamgym_jax.models import caches, layers, splash, transformer

CFG = transformer.ModelConfig(V=37, D=16, N=2, H=4, K=2, d=8, F=24)
pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def params():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)


def tokens(B, T, seed=1):
  return jax.random.randint(jax.random.key(seed), (B, T), 0, CFG.V)


def plain(tok_BxT):
  """Positions and segments of unpacked rows."""
  B, T = tok_BxT.shape
  return jnp.tile(jnp.arange(T), (B, 1)), jnp.ones((B, T), jnp.int32)


_forward = jax.jit(transformer.forward, static_argnames='cfg')
_hidden = jax.jit(transformer.hidden, static_argnames='cfg')


def forward(params, tok_BxT, cfg=CFG):
  return _forward(params, tok_BxT, *plain(tok_BxT), cfg=cfg)


def test_packed_equals_separate(params):
  tok = tokens(1, 12)
  pos = jnp.array([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0, 0]])
  segment = jnp.array([[1] * 5 + [2] * 4 + [0] * 3])
  packed = _forward(params, tok, pos, segment, cfg=CFG)
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
  grad = jax.jit(jax.grad(out))
  for t in (0, 3, 4, 5, 7):
    grad_T = np.abs(grad(rows, t)).sum(-1)
    first = 0 if t < cut else cut
    for j in range(T):
      assert (grad_T[j] > 0) == (first <= j <= t), (t, j)


def test_query_blocks_equal_one_block(params, monkeypatch):
  tok = tokens(2, 11)
  one = forward(params, tok)
  monkeypatch.setattr(layers, '_QUERY_BLOCK', 4)
  blocks = jax.jit(transformer.forward, static_argnames='cfg')(
      params, tok, *plain(tok), cfg=CFG)
  np.testing.assert_allclose(blocks, one, atol=1e-5)


@functools.partial(jax.jit, static_argnames='cfg')
@jax.value_and_grad
def _loss(params, tok_BxT, cfg):
  return jax.nn.log_softmax(forward(params, tok_BxT, cfg))[..., 3].mean()


@pytest.mark.parametrize('change', [
    dict(remat='block'), dict(remat='dots'), dict(unroll=2)])
def test_remat_and_loop_equal_plain_scan(params, change):
  tok = tokens(2, 9)
  cfg = dataclasses.replace(CFG, **change)
  assert cfg != CFG
  want, want_grad = _loss(params, tok, cfg=CFG)
  got, got_grad = _loss(params, tok, cfg=cfg)
  np.testing.assert_allclose(got, want, atol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               got_grad, want_grad)


def test_kernel_of_jax_equals_query_blocks(monkeypatch):
  """What GPUs run, in its portable form; packed rows with padding."""
  monkeypatch.setattr(layers, '_QUERY_BLOCK', 4)
  rng = np.random.default_rng(0)
  q, k, v = (rng.normal(size=(2, 11, n, 8)).astype(np.float32)
             for n in (4, 2, 2))
  segment = np.array([[1] * 5 + [2] * 4 + [0] * 2, [1] * 11], np.int32)
  np.testing.assert_allclose(
      layers.attend_kernel(q, k, v, segment, 'xla'),
      layers.attend_packed(q, k, v, segment), atol=1e-5)


def test_the_tpus_kernel_equals_query_blocks(monkeypatch):
  """Interpreted; packed rows with padding, forward and gradients."""
  monkeypatch.setattr(splash, '_TILES', (128,))   # two by two of them
  rng = np.random.default_rng(0)
  q, k, v = (rng.normal(size=(2, 256, n, 64)).astype(np.float32)
             for n in (4, 2, 2))
  segment = np.zeros((2, 256), np.int32)
  segment[0, :100], segment[0, 100:190], segment[1] = 1, 2, 1
  weight = rng.normal(size=q.shape).astype(np.float32)

  def graded(attend):
    return jax.value_and_grad(
        lambda *qkv: (attend(*qkv, segment) * weight).sum(), (0, 1, 2))(q, k, v)

  got = graded(functools.partial(splash.attend, is_interpreted=True))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
      got, graded(layers.attend_packed))


def test_a_kernel_takes_whole_lanes_alone():
  def takes(T, d):
    return splash.takes(jax.ShapeDtypeStruct((2, T, 4, d), np.float32))

  assert takes(256, 128) and takes(128, 64)
  assert not takes(200, 128) and not takes(256, 32)


def test_products_in_bfloat16_are_near_float32(params):
  tok = tokens(2, 9)
  half = dataclasses.replace(CFG, dtype='bfloat16')
  got, want = forward(params, tok, half), forward(params, tok)
  assert got.dtype == jnp.float32
  assert 0 < float(jnp.abs(got - want).mean()) < .05 * float(want.std())


def test_stretched_rotary_waves_by_hand():
  """theta = 100, d = 8: 1, .316, .1, .0316 radians; context 100 holds
  15.9, 5.03, 1.59 and .503 turns. Kept from 4 up, / 8 below 1, between
  (1.59 - 1) / (4 - 1) = .197 kept."""
  cfg = transformer.ModelConfig(
      V=2, d=8, rope_theta=100.0, rope_factor=8.0, rope_low=1.0,
      rope_high=4.0, rope_context=100)
  np.testing.assert_allclose(
      layers.rope_frequencies(cfg),
      [1, .316228, .1 * (.197183 + .802817 / 8), .0316228 / 8], rtol=1e-5)


@pytest.mark.parametrize('chunk', [4, 64])
def test_chunked_logp_entropy_equals_softmax(params, chunk):
  x = jax.random.normal(jax.random.key(2), (10, CFG.D))
  target = jnp.arange(10) * 3

  def chunked(p, x):
    return transformer.logp_entropy(p, x, target, CFG, chunk=chunk)

  def full(p, x):
    logp = jax.nn.log_softmax(transformer.head(p, x, CFG))
    return logp[jnp.arange(10), target], -(jnp.exp(logp) * logp).sum(-1)

  for got, want in zip(jax.jit(chunked)(params, x), full(params, x),
                       strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)

  def loss(f):
    return lambda p, x: f(p, x)[0].sum() + (f(p, x)[1] ** 2).sum()

  got = jax.jit(jax.grad(loss(chunked), argnums=(0, 1)))(params, x)
  want = jax.jit(jax.grad(loss(full), argnums=(0, 1)))(params, x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
               got, want)


def test_untied_head_is_used():
  cfg = dataclasses.replace(CFG, tied=False)
  p = jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), cfg)
  assert p['head'].shape == (CFG.V, CFG.D)
  x = jnp.ones((2, CFG.D))
  assert float(jnp.abs(transformer.head(p, x, cfg)
                       - transformer.head(p, x, CFG)).max()) > 1e-3


def test_bad_sizes_say_why():
  with pytest.raises(ValueError, match='H=3 is not a multiple of K=2'):
    dataclasses.replace(CFG, H=3)
  with pytest.raises(ValueError, match="remat='all'"):
    dataclasses.replace(CFG, remat='all')


# --- over a cache


extend = jax.jit(transformer.extend, static_argnames=('cfg', 'columns'))


@pytest.mark.parametrize('switches', [
    dict(qkv_bias=True), dict(qk_norm=True, rope_factor=8.0, rope_context=4)])
def test_cached_equals_full_in_every_family(switches):
  cfg = dataclasses.replace(CFG, **switches)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda s: .3 * rng.normal(size=s.shape).astype(np.float32),
      transformer.shapes(cfg))
  tok = tokens(2, 9)
  want = _hidden(params, tok, *plain(tok), cfg=cfg)
  cache, out = caches.empty(cfg, 2, 12), []
  for at in (0, 3, 6):
    x, cache = extend(params, cache, tok[:, at:at + 3], jnp.full(2, 3), cfg)
    out.append(x)
  np.testing.assert_allclose(jnp.concatenate(out, 1), want, atol=1e-5)
  plain_cfg = dataclasses.replace(cfg, rope_factor=1.0)
  if plain_cfg != cfg:
    other = _hidden(params, tok, *plain(tok), cfg=plain_cfg)
    assert float(jnp.abs(other - want).max()) > 1e-3


def test_cached_equals_full(params):
  """One token at a time, a prompt then tokens, and all at once."""
  tok = tokens(2, 9)
  want = _hidden(params, tok, *plain(tok), cfg=CFG)
  for cuts in ([9], [4, 1, 4], [1] * 9):
    cache, out, at = caches.empty(CFG, 2, 12), [], 0
    for n in cuts:
      x, cache = extend(params, cache, tok[:, at:at + n],
                        jnp.full(2, n), CFG)
      out.append(x)
      at += n
    np.testing.assert_allclose(
        jnp.concatenate(out, 1), want, atol=1e-5, err_msg=str(cuts))
    assert cache.fill_B.tolist() == [9, 9]


def test_ragged_extend_equals_each_row_alone(params):
  """Rows of unequal length, one of them idle, in two ragged pieces."""
  tok, first, then = tokens(3, 12), [5, 0, 3], [2, 4, 0]
  want = _hidden(params, tok, *plain(tok), cfg=CFG)
  cache = caches.empty(CFG, 3, 16)
  junk = tokens(3, 12, seed=9)
  pad = jnp.arange(12)[None]
  at = jnp.zeros((3, 1), jnp.int32)
  for lens in (first, then):
    n = jnp.array(lens)
    piece = jnp.take_along_axis(tok, jnp.minimum(at + pad, 11), 1)
    piece = jnp.where(pad < n[:, None], piece, junk)[:, :6]
    before = cache
    x, cache = extend(params, cache, piece, n, CFG)
    for b in range(3):
      if lens[b] == 0:  # untouched, bit for bit
        for new, old in zip(cache.k, before.k, strict=True):
          np.testing.assert_array_equal(new[b], old[b])
      else:
        end = int(at[b, 0]) + lens[b]
        np.testing.assert_allclose(
            x[b, lens[b] - 1], want[b, end - 1], atol=1e-5,
            err_msg=str((lens, b)))
    at = at + n[:, None]
  assert cache.fill_B.tolist() == [7, 4, 3]


def test_extend_of_some_rows_and_columns_equals_all(params):
  tok, n = tokens(4, 6), jnp.array([6, 3, 5, 4])
  cache = caches.empty(CFG, 4, 16)
  _, cache = extend(params, cache, tok, n, CFG)
  tok = tokens(4, 2, seed=3)
  want, after = extend(params, cache, tok, jnp.array([0, 2, 0, 1]), CFG)
  row = jnp.array([3, 1, 4])  # row 4 does not exist: padding
  got, some = extend(params, cache, tok[jnp.array([3, 1, 0])],
                     jnp.array([1, 2, 2]), CFG, row_R=row, columns=8)
  np.testing.assert_allclose(got[0, 0], want[3, 0], atol=1e-5)
  np.testing.assert_allclose(got[1], want[1], atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               some, after)
