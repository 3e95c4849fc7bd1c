"""The decoder both roles share: pure functions over a nested dict of arrays.

Llama's block (RMSNorm, rotary positions, grouped queries, SwiGLU, no biases).
Linen declares the weights and stays in this file. Two ways through the same
layer: `hidden` scans over the stacked layers (training, packed rows, remat),
and `extend` unrolls them over a KV cache (sampling; unrolled layers decode
faster than scanned ones, and the cache stays read-only until the end).

Weights, all under `blocks` with a leading N: wq DxHxd, wk and wv DxKxd,
wo HxdxD, gate and up DxF, down FxD, ln1 and ln2 D; beside them embed VxD,
ln_f D and, if not tied, head VxD.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamgym_jax.models import sharding
from dreamgym_jax.types import Params

# Large enough to vanish in a softmax, small enough to subtract safely.
_MASKED = -1e30
# Queries are cut into blocks of this size, and a block multiplies only with
# the keys before its own end: causality saves up to half of the work.
_QUERY_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes of one decoder; hashable, so a static argument of jit."""

  V: int                    # vocabulary
  D: int = 128              # width
  N: int = 4                # layers
  H: int = 4                # query heads
  K: int = 2                # key/value heads; divides H
  d: int = 32               # head width, even
  F: int = 384              # feed-forward width
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  dtype: str = 'float32'    # of matmuls; weights and softmax are float32
  remat: str = 'none'       # 'none' | 'block': recompute blocks backward
  tied: bool = True         # the embedding is also the output head
  unroll: int = 1           # layers per iteration of the training scan

  def __post_init__(self):
    if self.H % self.K:
      raise ValueError(f'H={self.H} is not a multiple of K={self.K}')
    if self.d % 2:
      raise ValueError(f'd={self.d} must be even for rotary positions')
    if self.remat not in ('none', 'block'):
      raise ValueError(f"remat={self.remat!r}: use 'none' or 'block'")


class Cache(NamedTuple):
  """Keys and values of B append-only rows, each with its own length."""

  k_NxBxSxKxd: jax.Array
  v_NxBxSxKxd: jax.Array
  fill_B: jax.Array         # int32, next free column of each row


# --- one layer, as plain functions of its weights --------------------------


def _rms(x, scale_D, eps):
  x32 = x.astype(jnp.float32)
  x32 *= jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
  scale = scale_D.reshape((1,) * (x.ndim - 1) + (-1,))
  return (x32 * scale).astype(x.dtype)


def _rope_angles(pos_BxT, cfg):
  """cos and sin of the rotary angles, [B, T, 1, d/2] float32."""
  freq = cfg.rope_theta ** (-jnp.arange(0, cfg.d, 2) / cfg.d)
  angle = (pos_BxT[..., None].astype(jnp.float32)
           * freq[None, None])[:, :, None]
  return jnp.cos(angle), jnp.sin(angle)


def _rotate(x_BxTxHxd, rope):
  """Rotary positions in Hugging Face's half-split layout."""
  cos, sin = rope
  a, b = jnp.split(x_BxTxHxd, 2, -1)
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return out.astype(x_BxTxHxd.dtype)


def _qkv(w, x_BxTxD, rope, cfg):
  """Queries BxTxHxd, keys and values BxTxKxd of one layer."""
  h = _rms(x_BxTxD, w['ln1'], cfg.norm_eps)
  q = _rotate(jnp.einsum('BTD,DHd->BTHd', h, w['wq']), rope)
  k = _rotate(jnp.einsum('BTD,DKd->BTKd', h, w['wk']), rope)
  return q, k, jnp.einsum('BTD,DKd->BTKd', h, w['wv'])


def _out(w, x_BxTxD, att_BxTxHxd, cfg):
  """Output projection and feed-forward, each added to the residual."""
  x = x_BxTxD + jnp.einsum('BTHd,HdD->BTD', att_BxTxHxd, w['wo'])
  h = _rms(x, w['ln2'], cfg.norm_eps)
  h = nn.silu(h @ w['gate']) * (h @ w['up'])
  return x + h @ w['down']


def _heads_first(x_BxTxKxd):
  return x_BxTxKxd.swapaxes(1, 2)


def _attend(q_BxTxHxd, kv, mask_BxTxS):
  """Attention of grouped queries over keys and values BxKxSxd.

  Written as plain [B*K, G*T, d] batched products: einsums over five axes
  are two to three times slower on CPU.
  """
  k, v = kv
  B, T, H, d = q_BxTxHxd.shape
  K, S = k.shape[1:3]
  G = H // K
  q = q_BxTxHxd.swapaxes(1, 2).reshape(B * K, G * T, d) * d ** -0.5
  s = jnp.einsum('bqd,bsd->bqs', q, k.reshape(B * K, S, d))
  s = s.reshape(B, H, T, S).astype(jnp.float32)
  p = jax.nn.softmax(jnp.where(mask_BxTxS[:, None], s, _MASKED), -1)
  p = p.astype(v.dtype).reshape(B * K, G * T, S)
  out = jnp.einsum('bqs,bsd->bqd', p, v.reshape(B * K, S, d))
  return out.reshape(B, H, T, d).swapaxes(1, 2)


def _attend_packed(q_BxTxHxd, k_BxTxKxd, v_BxTxKxd, segment_BxT):
  """Causal attention within equal segments of packed rows."""
  T = q_BxTxHxd.shape[1]
  k, v = _heads_first(k_BxTxKxd), _heads_first(v_BxTxKxd)
  out = []
  for a in range(0, T, _QUERY_BLOCK):
    b = min(a + _QUERY_BLOCK, T)
    same = segment_BxT[:, a:b, None] == segment_BxT[:, None, :b]
    causal = jnp.arange(a, b)[:, None] >= jnp.arange(b)[None]
    out.append(_attend(
        q_BxTxHxd[:, a:b], (k[:, :, :b], v[:, :, :b]), same & causal[None]))
  return jnp.concatenate(out, 1) if len(out) > 1 else out[0]


class _Block(nn.Module):
  """Declares one layer's weights and applies it to packed rows."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, x_BxTxD, rope, segment_BxT):
    c = self.cfg
    # Residual outputs start small, so that depth does not grow the stream.
    small = (2 * c.N) ** -0.5

    def weight(name, shape, axes, fan_in, gain=1.0):
      init_fn = nn.with_logical_partitioning(
          nn.initializers.normal(gain * fan_in ** -0.5), axes)
      return self.param(name, init_fn, shape).astype(c.dtype)

    def scale(name):
      return self.param(name, nn.with_logical_partitioning(
          nn.initializers.ones, (None,)), (c.D,))

    w = dict(
        wq=weight('wq', (c.D, c.H, c.d), ('embed', 'heads', None), c.D),
        wk=weight('wk', (c.D, c.K, c.d), ('embed', 'kv', None), c.D),
        wv=weight('wv', (c.D, c.K, c.d), ('embed', 'kv', None), c.D),
        wo=weight('wo', (c.H, c.d, c.D), ('heads', None, 'embed'),
                  c.H * c.d, small),
        gate=weight('gate', (c.D, c.F), ('embed', 'mlp'), c.D),
        up=weight('up', (c.D, c.F), ('embed', 'mlp'), c.D),
        down=weight('down', (c.F, c.D), ('mlp', 'embed'), c.F, small),
        ln1=scale('ln1'), ln2=scale('ln2'))
    q, k, v = _qkv(w, x_BxTxD, rope, c)
    x_BxTxD = _out(w, x_BxTxD, _attend_packed(q, k, v, segment_BxT), c)
    return nn.with_logical_constraint(x_BxTxD, ('batch', None, 'act')), None


class _Transformer(nn.Module):
  cfg: ModelConfig

  @nn.compact
  def __call__(self, tok_BxT, pos_BxT, segment_BxT):
    c = self.cfg
    table = nn.with_logical_partitioning(
        nn.initializers.normal(c.D ** -0.5), ('vocab', 'embed'))
    embed_VxD = self.param('embed', table, (c.V, c.D))
    if not c.tied:
      self.param('head', table, (c.V, c.D))
    ln_f = self.param('ln_f', nn.with_logical_partitioning(
        nn.initializers.ones, (None,)), (c.D,))
    block = _Block
    if c.remat == 'block':
      block = nn.remat(_Block, prevent_cse=False)
    stack = nn.scan(
        block, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(nn.broadcast, nn.broadcast), length=c.N, unroll=c.unroll,
        metadata_params={nn.PARTITION_NAME: 'layers'})
    x, _ = stack(c, name='blocks')(
        embed_VxD[tok_BxT].astype(c.dtype), _rope_angles(pos_BxT, c),
        segment_BxT)
    return _rms(x, ln_f, c.norm_eps)


# --- public, pure ----------------------------------------------------------


def _boxed_init(key, cfg):
  one = jnp.zeros((1, 1), jnp.int32)
  return _Transformer(cfg).init(key, one, one, one)


def init(key: jax.Array, cfg: ModelConfig) -> Params:
  """Random float32 weights; jit it (`cfg` static), eager linen is slow."""
  return nn.unbox(_boxed_init(key, cfg))['params']


def shardings(cfg: ModelConfig, mesh: jax.sharding.Mesh) -> Params:
  """A NamedSharding for every weight of `init`."""
  boxed = jax.eval_shape(lambda: _boxed_init(jax.random.key(0), cfg))
  return nn.logical_to_mesh_sharding(
      nn.get_partition_spec(boxed), mesh, sharding.RULES)['params']


def n_params(params: Params) -> int:
  """How many numbers the tree holds."""
  return sum(int(x.size) for x in jax.tree.leaves(params))


def hidden(
    params: Params, tok_BxT: jax.Array, pos_BxT: jax.Array,
    segment_BxT: jax.Array, cfg: ModelConfig,
) -> jax.Array:
  """Final normed states x_BxTxD of packed rows.

  A token sees earlier tokens of its row with the same segment id; segment 0
  is padding (finite, meaningless). `pos_BxT` counts within a segment.
  """
  with nn.logical_axis_rules(sharding.RULES):
    return _Transformer(cfg).apply(
        {'params': params}, tok_BxT, pos_BxT, segment_BxT)


def head(params: Params, x: jax.Array, cfg: ModelConfig) -> jax.Array:
  """Logits [..., V] in float32 of states [..., D]."""
  table_VxD = params['embed' if cfg.tied else 'head'].astype(cfg.dtype)
  return jax.lax.dot_general(
      x, table_VxD, (((x.ndim - 1,), (1,)), ((), ()))).astype(jnp.float32)


def forward(
    params: Params, tok_BxT: jax.Array, pos_BxT: jax.Array,
    segment_BxT: jax.Array, cfg: ModelConfig,
) -> jax.Array:
  """Logits BxTxV; for tests and short texts, training uses logp_entropy."""
  return head(params, hidden(params, tok_BxT, pos_BxT, segment_BxT, cfg), cfg)


def logp_entropy(
    params: Params, x_PxD: jax.Array, target_P: jax.Array, cfg: ModelConfig,
    chunk: int = 512,
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each target and entropy (nats) of its distribution.

  logp = z[target] - lse(z), entropy = lse(z) - sum(softmax(z) z), both [P]
  float32. Head and softmax run over `chunk` positions at a time and are
  recomputed backward, so no [P, V] array ever exists.
  """
  P, D = x_PxD.shape
  chunk = min(chunk, P)
  n = -(-P // chunk)
  x = jnp.pad(x_PxD, ((0, n * chunk - P), (0, 0))).reshape(n, chunk, D)
  target = jnp.pad(target_P, (0, n * chunk - P)).reshape(n, chunk)

  @jax.checkpoint
  def one(args):
    x_CxD, target_C = args
    z_CxV = head(params, x_CxD, cfg)
    lse_C = jax.nn.logsumexp(z_CxV, -1)
    at_C = jnp.take_along_axis(z_CxV, target_C[:, None], 1)[:, 0]
    p_CxV = jnp.exp(z_CxV - lse_C[:, None])
    return at_C - lse_C, lse_C - (p_CxV * z_CxV).sum(-1)

  logp, entropy = (one((x[0], target[0])) if n == 1
                   else jax.lax.map(one, (x, target)))
  return logp.reshape(-1)[:P], entropy.reshape(-1)[:P]
