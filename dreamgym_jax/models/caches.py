"""Keys and values of append-only rows: read once a call, written back once.

A cache is read into the layout that attention wants, new columns gather in a
small buffer, and only these are written back: nothing ever copies a whole
cache. Each layer has arrays of its own, for TPUs copy a layer out of a stack
before they attend to it. The layers that make the columns are transformer.py.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamgym_jax.models import sharding

# Names of the axes of a layer's keys and values.
COLUMNS = ('batch', 'kv')


class Cache(NamedTuple):
  """Keys and values of B append-only rows, each with its own length."""

  k: tuple[jax.Array, ...]  # N of [B, K, S, d]
  v: tuple[jax.Array, ...]  # N of [B, K, S, d]
  fill_B: jax.Array         # int32, next free column of each row

  @property
  def capacity(self) -> int:
    return self.k[0].shape[2]


class Past(NamedTuple):
  """A read-only copy of some rows' first S columns, per layer."""

  k: tuple[jax.Array, ...]  # N of [R, K, d, S]: keys transposed for q @ k
  v: tuple[jax.Array, ...]  # N of [R, K, S, d]
  fill_R: jax.Array


class Recent(NamedTuple):
  """Columns appended since a `Past` was read, per layer."""

  k: tuple[jax.Array, ...]  # N of [R, C, K, d]
  v: tuple[jax.Array, ...]  # N of [R, C, K, d]


def empty(cfg, B: int, S: int) -> Cache:
  """B empty rows with room for S tokens each."""
  shape = (B, cfg.K, S, cfg.d)
  placed = sharding.where(shape, *COLUMNS)
  k, v = (tuple(jnp.zeros(shape, cfg.dtype, device=placed)
                for _ in range(cfg.N)) for _ in 'kv')
  return Cache(k, v, jnp.zeros(B, jnp.int32))


def pick(x_B: jax.Array, row_R: jax.Array | None) -> jax.Array:
  """These rows of an array; without `row_R` all of them, where they are.

  On a mesh only the latter stays on the chip that holds a row.
  """
  return x_B if row_R is None else x_B.at[row_R].get(mode='clip')


def _fill(cache: Cache, row_R: jax.Array | None) -> jax.Array:
  return cache.fill_B if row_R is None else cache.fill_B.at[row_R].get(
      mode='fill', fill_value=0)


def read(cache: Cache, row_R: jax.Array | None, columns: int) -> Past:
  """The first `columns` columns of rows as `pick`; a row >= B is empty."""
  k, v = (tuple(sharding.constrain(pick(x[:, :, :columns], row_R), *COLUMNS)
                for x in layers) for layers in (cache.k, cache.v))
  return Past(tuple(x.swapaxes(2, 3) for x in k), v, _fill(cache, row_R))


def empty_recent(cfg, R: int, C: int) -> Recent:
  """Room for C new columns of R rows."""
  x = jnp.zeros((R, C, cfg.K, cfg.d), cfg.dtype)
  return Recent((x,) * cfg.N, (x,) * cfg.N)


def write(
    cache: Cache, row_R: jax.Array | None, recent: Recent, len_R: jax.Array
) -> Cache:
  """Append the first len_R recent columns at each row's own fill.

  Rows >= B, columns past len_R and columns past the capacity are dropped:
  the caller checks that there is room.
  """
  C, S = recent.k[0].shape[1], cache.capacity
  fill_R = _fill(cache, row_R)
  if row_R is None:
    k, v = (sharding.on_each(
        _write_in_place, (old, new, fill_R, len_R),
        (COLUMNS, ('batch', None, 'kv'), ('batch',), ('batch',)), 0)
            for old, new in ((cache.k, recent.k), (cache.v, recent.v)))
    return Cache(k, v, cache.fill_B + len_R)
  c_C = jnp.arange(C)[None]
  col_RxC = jnp.where(c_C < len_R[:, None], fill_R[:, None] + c_C, S)

  def put(x_BxKxSxd, new_RxCxKxd):
    # The indexed axes come first: [R, C, K, d].
    return sharding.constrain(x_BxKxSxd.at[row_R[:, None], :, col_RxC].set(
        new_RxCxKxd, mode='drop'), *COLUMNS)

  return Cache(tuple(map(put, cache.k, recent.k)),
               tuple(map(put, cache.v, recent.v)),
               cache.fill_B.at[row_R].add(len_R, mode='drop'))


def _write_in_place(old, new, fill_B, len_B):
  """Row by row, of all layers: TPUs copy a cache that is scattered to."""
  B, K, S, d = old[0].shape
  C = min(new[0].shape[1], S)
  start_B = jnp.clip(fill_B, 0, S - C)

  def one(b, layers):
    at, c_C = (b, 0, start_B[b], 0), jnp.arange(C) - fill_B[b] + start_B[b]
    is_new = ((c_C >= 0) & (c_C < len_B[b]))[None, None, :, None]

    def put(x_BxKxSxd, new_BxCxKxd):
      moved = jnp.roll(new_BxCxKxd[b, :C], fill_B[b] - start_B[b], 0)
      return jax.lax.dynamic_update_slice(x_BxKxSxd, jnp.where(
          is_new, moved.swapaxes(0, 1)[None],
          jax.lax.dynamic_slice(x_BxKxSxd, at, (1, K, C, d))), at)

    return tuple(map(put, layers, new))

  return jax.lax.fori_loop(0, B, one, old)
