"""One decoder layer as plain functions of its weights and of arrays.

The arithmetic shared by both ways through the layers (see transformer.py).
`w` is one layer's weights, `cfg` a transformer.ModelConfig. Norms, rotary
angles and softmax are float32, products are in the weights' dtype.
"""

import functools

import jax
import jax.numpy as jnp

from dreamgym_jax.models import sharding, splash

# Large enough to vanish in a softmax, small enough to subtract safely.
_MASKED = -1e30
# Training queries are cut into blocks of this size, and a block multiplies only
# with the keys before its own end: causality saves up to half of the work.
_QUERY_BLOCK = 128
# The matrices that may have an adapter (lora.py), with their input axes.
ADAPTED = {'wq': 1, 'wk': 1, 'wv': 1, 'wo': 2, 'gate': 1, 'up': 1, 'down': 1}
# Over the rank, an adapter's scale: learning rates then suit every rank.
ALPHA = 32.0
# Name of the scales, by row, of several adapters side by side (lora.stack).
SCALES = 'adapter_scales'


def rms(x, scale_D, eps):
  x32 = x.astype(jnp.float32)
  x32 *= jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + eps)
  scale = scale_D.reshape((1,) * (x.ndim - 1) + (-1,))
  return (x32 * scale).astype(x.dtype)


def rope_frequencies(cfg):
  """Radians per position of each pair, [d/2] float32.

  With rope_factor > 1, Llama 3.1's longer contexts: waves that fit fewer than
  rope_low times into the old context are stretched by the factor, those that
  fit more than rope_high times are kept, those between are blended.
  """
  freq = cfg.rope_theta ** (-jnp.arange(0, cfg.d, 2) / cfg.d)
  if cfg.rope_factor == 1:
    return freq
  turns = cfg.rope_context * freq / (2 * jnp.pi)
  kept = jnp.clip((turns - cfg.rope_low) / (cfg.rope_high - cfg.rope_low), 0, 1)
  return freq * (kept + (1 - kept) / cfg.rope_factor)


def rope_angles(pos_BxT, cfg):
  """cos and sin of the rotary angles, [B, T, 1, d/2] float32."""
  angle = (pos_BxT[..., None].astype(jnp.float32)
           * rope_frequencies(cfg)[None, None])[:, :, None]
  return jnp.cos(angle), jnp.sin(angle)


def _rotate(x_BxTxHxd, rope):
  """Rotary positions in Hugging Face's half-split layout."""
  cos, sin = rope
  a, b = jnp.split(x_BxTxHxd, 2, -1)
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return out.astype(x_BxTxHxd.dtype)


def project(w, name, x):
  """x times a matrix of the layer, and times its adapter if it has one."""
  n_in = ADAPTED[name]
  y = jnp.tensordot(x, w[name], n_in)
  if f'{name}_a' in w:
    a, b = w[f'{name}_a'], w[f'{name}_b']
    low = jnp.tensordot(x, a, n_in) * w.get(SCALES, ALPHA / a.shape[-1])
    y += jnp.tensordot(low, b, 1)
  return y


def qkv(w, x_BxTxD, rope, cfg):
  """Queries BxTxHxd, keys and values BxTxKxd of one layer."""
  h = rms(x_BxTxD, w['ln1'], cfg.norm_eps)
  q, k, v = (project(w, name, h) for name in ('wq', 'wk', 'wv'))
  if cfg.qkv_bias:
    q, k, v = (x + w[name][None, None]
               for x, name in ((q, 'bq'), (k, 'bk'), (v, 'bv')))
  if cfg.qk_norm:
    q = rms(q, w['q_norm'], cfg.norm_eps)
    k = rms(k, w['k_norm'], cfg.norm_eps)
  return _rotate(q, rope), _rotate(k, rope), v


def out(w, x_BxTxD, att_BxTxHxd, cfg):
  """Output projection and feed-forward, each added to the residual."""
  x = x_BxTxD + project(w, 'wo', att_BxTxHxd)
  h = rms(x, w['ln2'], cfg.norm_eps)
  h = jax.nn.silu(project(w, 'gate', h)) * project(w, 'up', h)
  return x + project(w, 'down', h)


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


def attend_kernel(q_BxTxHxd, k_BxTxKxd, v_BxTxKxd, segment_BxT, kernel):
  """As `attend_packed`, by a kernel of jax.nn.dot_product_attention."""
  same = segment_BxT[:, :, None] == segment_BxT[:, None]
  return jax.nn.dot_product_attention(
      q_BxTxHxd, k_BxTxKxd, v_BxTxKxd, mask=same[:, None], is_causal=True,
      implementation=kernel)


def attend_packed(q_BxTxHxd, k_BxTxKxd, v_BxTxKxd, segment_BxT):
  """Causal attention within equal segments of packed rows.

  On GPUs cuDNN's kernel where it can (half precision, d up to 128), on TPUs the
  splash kernel. Elsewhere blocks of queries: on CPU two to three times faster,
  forward and backward, than jax.nn.dot_product_attention. On a mesh each device
  attends for its own rows and heads.
  """
  platform, heads = sharding.platform(), ('batch', None, 'kv')
  d, is_half = q_BxTxHxd.shape[3], q_BxTxHxd.dtype.itemsize == 2
  attend = _attend_blocks
  if platform == 'tpu' and splash.takes(q_BxTxHxd):
    attend = splash.attend
  elif platform == 'gpu' and is_half and d <= 128 and d % 8 == 0:
    attend = functools.partial(attend_kernel, kernel='cudnn')
  return sharding.on_each(
      attend, (q_BxTxHxd, k_BxTxKxd, v_BxTxKxd, segment_BxT),
      (heads, heads, heads, ('batch',)), 0)


def _attend_blocks(q_BxTxHxd, k_BxTxKxd, v_BxTxKxd, segment_BxT):
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


def attend_cached(q_RxTxHxd, k_RxKxdxS, v_RxKxSxd, k_RxCxKxd, v_RxCxKxd,
                  seen_RxTxX):
  """One softmax over past and recent columns (X = S + C of them)."""
  tokens, heads = ('batch', None, 'kv'), ('batch', 'kv')
  return sharding.on_each(
      _attend_cached, (q_RxTxHxd, k_RxKxdxS, v_RxKxSxd, k_RxCxKxd, v_RxCxKxd,
                       seen_RxTxX),
      (tokens, heads, heads, tokens, tokens, ('batch',)), 0)


def _attend_cached(q_RxTxHxd, k_RxKxdxS, v_RxKxSxd, k_RxCxKxd, v_RxCxKxd,
                   seen_RxTxX):
  R, T, H, d = q_RxTxHxd.shape
  C, K = k_RxCxKxd.shape[1:3]
  S, B = v_RxKxSxd.shape[2], R * K
  q = q_RxTxHxd.swapaxes(1, 2).reshape(B, H // K * T, d) * d ** -0.5
  k = _heads_first(k_RxCxKxd).reshape(B, C, d)
  v = _heads_first(v_RxCxKxd).reshape(B, C, d)
  s = jnp.einsum('bqd,bcd->bqc', q, k)
  if S:
    old = jnp.einsum('bqd,bds->bqs', q, k_RxKxdxS.reshape(B, d, S))
    s = jnp.concatenate([old, s], -1)
  s = s.reshape(R, H, T, S + C).astype(jnp.float32)
  p = jax.nn.softmax(jnp.where(seen_RxTxX[:, None], s, _MASKED), -1)
  p = p.astype(v.dtype).reshape(B, H // K * T, S + C)
  out = jnp.einsum('bqc,bcd->bqd', p[..., S:], v)
  if S:
    out += jnp.einsum('bqs,bsd->bqd', p[..., :S], v_RxKxSxd.reshape(B, S, d))
  return out.reshape(R, H, T, d).swapaxes(1, 2)
