"""Decoding on the device: jitted functions over a cache and some of its rows.

Each takes the cache's arrays (donated), the host's fill pointers and `row_R`,
gathers these rows, works, and writes the new columns back. A row index past
the cache is padding. Without `row_R` all rows take part where they are. The
host side is sampling.py.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamgym_jax.models import caches, sharding, transformer

CHUNK = 8                   # tokens decoded between compactions


class Draw(NamedTuple):
  """How tokens are drawn; arrays, so that changing them compiles nothing."""

  key_R: jax.Array          # key data, uint32 [R, words]
  stream_R: jax.Array       # int32, what makes a row's luck its own
  temperature: jax.Array    # [] 0 is greedy
  top_k: jax.Array          # [] int32
  top_p: jax.Array          # []
  stop_V: jax.Array         # bool, tokens that end an answer
  barred_V: jax.Array       # bool, tokens that are never drawn
  watch_W: jax.Array        # int32, tokens whose log-probs are reported

  def take(self, index_A: np.ndarray) -> 'Draw':
    """Of some of the rows."""
    return self._replace(
        key_R=self.key_R[index_A], stream_R=self.stream_R[index_A])


def make_draw(
    V: int, key: jax.Array, streams: Sequence[int], temperature: float,
    stop: Sequence[int] = (), watch: Sequence[int] = (), top_k: int = 0,
    top_p: float = 1.0, barred: Sequence[int] = (),
) -> Draw:
  """On the host; see sampling.Sampler.turn. `key` is one, or one a row.

  `watch_W` is padded to fours, so that roles with other flags share
  executables.
  """
  data = np.asarray(jax.random.key_data(key))
  stop_V, barred_V = np.zeros((2, V), bool)
  stop_V[list(stop)] = barred_V[list(barred)] = True
  return Draw(
      np.broadcast_to(data, (len(streams), data.shape[-1])),
      np.asarray(streams, np.int32), np.float32(temperature),
      np.int32(top_k or V), np.float32(top_p), stop_V, barred_V,
      np.pad(np.asarray(watch, np.int32), (0, 3 - (len(watch) - 1) % 4)))


def _inverse_cdf(p_RxV: jax.Array, u_R: jax.Array) -> jax.Array:
  """The token where the cumulative mass passes u * total; never one of mass 0.

  Two levels (block, then token in block): one long cumulative sum costs more
  on CPU than the rest of sampling.
  """
  R, V = p_RxV.shape
  width = 32
  n = -(-V // width)
  p_RxNxW = jnp.pad(p_RxV, ((0, 0), (0, n * width - V))).reshape(R, n, width)

  def first_past(mass_RxX, at_R):
    # The margin keeps the target below the total after rounding.
    cum = jnp.cumsum(mass_RxX, -1)
    at_R = jnp.clip(at_R, 0.0, cum[:, -1] * (1 - 1e-6))
    index_R = (cum <= at_R[:, None]).sum(-1)
    before = jnp.take_along_axis(
        cum - mass_RxX, index_R[:, None], 1)[:, 0]
    return index_R, at_R - before

  block_RxN = p_RxNxW.sum(-1)
  block_R, rest_R = first_past(block_RxN, u_R * block_RxN.sum(-1))
  inside_RxW = jnp.take_along_axis(
      p_RxNxW, block_R[:, None, None], 1)[:, 0]
  index_R, _ = first_past(inside_RxW, rest_R)
  return (block_R * width + index_R).astype(jnp.int32)


def _filtered(z_RxV: jax.Array, draw: Draw) -> jax.Array:
  """Logits outside the top k, or outside the top p mass, become -inf."""
  sorted_RxV = -jnp.sort(-z_RxV, -1)
  p_RxV = jax.nn.softmax(sorted_RxV, -1)
  before_RxV = jnp.cumsum(p_RxV, -1) - p_RxV
  keep = (jnp.arange(z_RxV.shape[1])[None] < draw.top_k) & (
      before_RxV < draw.top_p)
  least_R = jnp.where(keep, sorted_RxV, jnp.inf).min(-1)
  return jnp.where(z_RxV >= least_R[:, None], z_RxV, -jnp.inf)


def luck(draw: Draw, t_RxC: jax.Array) -> jax.Array:
  """Each row's uniform numbers for its tokens t, [R, C].

  All of a chunk at once: on a CPU the generator is loops of small steps, as
  many for one number as for a thousand.
  """
  def uniform(key, t):
    return jax.random.uniform(jax.random.fold_in(key, t))

  key_R = jax.vmap(jax.random.fold_in)(
      jax.random.wrap_key_data(draw.key_R), draw.stream_R)
  return jax.vmap(jax.vmap(uniform, (None, 0)))(key_R, t_RxC)


def choose(
    z_RxV: jax.Array, u_R: jax.Array, draw: Draw, is_filtered: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Each row's token by its `luck`; its log-prob, and [R, W] of the watched.

  The token's at the temperature of the draw, nothing filtered or barred; the
  watched ones' at temperature 1.
  """
  watch_RxW = _logp(z_RxV, draw.watch_W[None])
  scaled = z_RxV / jnp.where(draw.temperature > 0, draw.temperature, 1.0)
  allowed = jnp.where(draw.barred_V, -jnp.inf, scaled)
  kept = _filtered(allowed, draw) if is_filtered else allowed
  drawn_R = _inverse_cdf(jax.nn.softmax(kept, -1), u_R)
  tok_R = jnp.where(draw.temperature > 0, drawn_R,
                    allowed.argmax(-1).astype(jnp.int32))
  return tok_R, _logp(scaled, tok_R[:, None])[:, 0], watch_RxW


def _logp(z_RxV: jax.Array, tok_RxN: jax.Array) -> jax.Array:
  """Log-probs of some tokens of each row."""
  tok_RxN = jnp.broadcast_to(tok_RxN, (len(z_RxV), tok_RxN.shape[1]))
  return jnp.take_along_axis(z_RxV, tok_RxN, 1) - jax.nn.logsumexp(
      z_RxV, -1, keepdims=True)


def put_last(
    last_BxD: jax.Array, row_R: jax.Array | None, x_RxD: jax.Array
) -> jax.Array:
  """The states after the rows' last tokens, with those of some rows new."""
  return sharding.constrain(x_RxD if row_R is None else last_BxD.at[row_R].set(
      x_RxD, mode='drop'), 'batch')


def memory(
    cfg: transformer.ModelConfig, B: int, S: int
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], jax.Array]:
  """What the functions here take and give back: keys, values, last states."""
  cache = caches.empty(cfg, B, S)
  return cache.k, cache.v, jnp.zeros(
      (B, cfg.D), cfg.dtype, device=sharding.where((B,), 'batch'))


class _State(NamedTuple):
  """The carry of the decode loop."""

  t: jax.Array              # [] tokens decoded in this chunk
  x_RxD: jax.Array          # state after the last token
  recent: caches.Recent
  tok_RxC: jax.Array
  logp_RxC: jax.Array
  watch_RxW: jax.Array
  len_R: jax.Array          # tokens of this chunk that count
  open_R: jax.Array         # bool, still writing


@functools.partial(
    jax.jit, donate_argnames=('k', 'v', 'last_BxD'),
    static_argnames=('cfg', 'columns', 'is_filtered'))
def decode(params, k, v, last_BxD, fill_B, row_R, begun_R, left_R, draw, *,
            cfg, columns, is_filtered):
  """Up to CHUNK tokens of each row that has `left_R` > 0."""
  cache = caches.Cache(k, v, fill_B)
  R, C = begun_R.shape[0], CHUNK
  weights = transformer.of_rows(params, cfg, row_R)
  past = caches.read(cache, row_R, columns)
  u_RxC = luck(draw, begun_R[:, None] + jnp.arange(C)[None])

  def body(s):
    z_RxV = transformer.head(params, s.x_RxD, cfg)
    tok_R, logp_R, watch_RxW = choose(
        z_RxV, u_RxC[:, s.t], draw, is_filtered)
    watch = jnp.where(s.open_R[:, None], watch_RxW, s.watch_RxW)
    x, recent = transformer.append(
        params, weights, past, s.recent, tok_R[:, None], s.t, cfg)
    len_R = s.len_R + s.open_R
    return _State(
        s.t + 1, jnp.where(s.open_R[:, None], x[:, 0], s.x_RxD), recent,
        s.tok_RxC.at[:, s.t].set(tok_R), s.logp_RxC.at[:, s.t].set(logp_R),
        watch, len_R, s.open_R & ~draw.stop_V[tok_R] & (len_R < left_R))

  s = jax.lax.while_loop(
      lambda s: (s.t < C) & s.open_R.any(), body, _State(
          jnp.int32(0), caches.pick(last_BxD, row_R),
          caches.empty_recent(cfg, R, C), jnp.zeros((R, C), jnp.int32),
          jnp.zeros((R, C)), jnp.zeros((R, draw.watch_W.shape[0])),
          jnp.zeros(R, jnp.int32), left_R > 0))
  cache = caches.write(cache, row_R, s.recent, s.len_R)
  last_BxD = put_last(last_BxD, row_R, s.x_RxD)
  return (cache.k, cache.v, last_BxD,
          sharding.whole(s.tok_RxC, s.logp_RxC, s.watch_RxW, s.len_R))


@functools.partial(
    jax.jit, donate_argnames=('k', 'v', 'last_BxD'),
    static_argnames=('cfg', 'columns', 'is_scored'))
def extend(params, k, v, last_BxD, fill_B, row_R, tok_RxT, len_R, *, cfg,
            columns, is_scored):
  """Appends given tokens; their log-probs [R, T] too, if `is_scored`."""
  cache = caches.Cache(k, v, fill_B)
  x_RxTxD, cache = transformer.extend(
      params, cache, tok_RxT, len_R, cfg, row_R=row_R, columns=columns)
  logp_RxT, last_RxD = jnp.zeros(()), caches.pick(last_BxD, row_R)
  if is_scored:
    before = jnp.concatenate([last_RxD[:, None], x_RxTxD[:, :-1]], 1)
    logp_RxT, _ = transformer.logp_entropy(
        params, before.reshape(-1, cfg.D), tok_RxT.reshape(-1), cfg)
    logp_RxT, = sharding.whole(logp_RxT.reshape(tok_RxT.shape))
  end = jnp.maximum(len_R - 1, 0)[:, None, None]
  x_RxD = jnp.where(len_R[:, None] > 0, jnp.take_along_axis(
      x_RxTxD, end, 1)[:, 0], last_RxD)
  last_BxD = put_last(last_BxD, row_R, x_RxD)
  return cache.k, cache.v, last_BxD, logp_RxT


@functools.partial(
    jax.jit, donate_argnames=('k', 'v', 'last_BxD'),
    static_argnames=('columns',))
def copy(k, v, last_BxD, from_R, to_R, *, columns):
  """Rows `to_R` become copies of rows `from_R`, up to `columns`."""
  def put(x):
    rows = x[:, :, :columns].at[from_R].get(mode='clip')
    return sharding.constrain(
        x.at[to_R, :, :columns].set(rows, mode='drop'), *caches.COLUMNS)

  return tuple(map(put, k)), tuple(map(put, v)), put_last(
      last_BxD, to_R, last_BxD.at[from_R].get(mode='clip'))


@functools.partial(jax.jit, static_argnames=('cfg',))
def after(params, last_BxD, row_R, *, cfg):
  """Log-probs of the next token [R, V]."""
  x_RxD = caches.pick(last_BxD, row_R)
  logp_RxV, = sharding.whole(
      jax.nn.log_softmax(transformer.head(params, x_RxD, cfg), -1))
  return logp_RxV


def n_compiles() -> int:
  """Executables that samplers have made so far in this process."""
  return sum(f._cache_size() for f in (decode, extend, copy, after))
