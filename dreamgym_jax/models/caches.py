"""Keys and values of append-only rows: read once a call, written back once.

A cache is read into the layout that attention wants, new columns gather in a
small buffer, and only these are written back: nothing ever copies a whole
cache. The layers that make the columns are transformer.py.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamgym_jax.models import sharding

# Names of the axes of a cache's keys and values.
COLUMNS = (None, 'batch', 'kv')


class Cache(NamedTuple):
  """Keys and values of B append-only rows, each with its own length."""

  k_NxBxKxSxd: jax.Array
  v_NxBxKxSxd: jax.Array
  fill_B: jax.Array         # int32, next free column of each row


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
  shape = (cfg.N, B, cfg.K, S, cfg.d)
  placed = sharding.where(shape, *COLUMNS)
  return Cache(*(jnp.zeros(shape, cfg.dtype, device=placed) for _ in 'kv'),
               jnp.zeros(B, jnp.int32))


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
  N, fill_R = cache.k_NxBxKxSxd.shape[0], _fill(cache, row_R)

  def rows(x_NxBxKxSxd):
    return [pick(x_NxBxKxSxd[i, :, :, :columns], row_R) for i in range(N)]

  k, v = ([sharding.constrain(x, *COLUMNS[1:]) for x in rows(kv)]
          for kv in (cache.k_NxBxKxSxd, cache.v_NxBxKxSxd))
  return Past(tuple(x.swapaxes(2, 3) for x in k), tuple(v), fill_R)


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
  C, S = recent.k[0].shape[1], cache.k_NxBxKxSxd.shape[3]
  fill_R = _fill(cache, row_R)
  c_C = jnp.arange(C)[None]
  col_RxC = jnp.where(c_C < len_R[:, None], fill_R[:, None] + c_C, S)

  def put(x, new):
    if row_R is None:
      return sharding.on_each(
          _write_in_place, (x, jnp.stack(new, 0)[:, :, :S], fill_R, len_R),
          (COLUMNS, (None, 'batch', None, 'kv'), ('batch',), ('batch',)), 0)
    # The indexed axes come first: [R, C, N, K, d].
    return sharding.constrain(x.at[:, row_R[:, None], :, col_RxC].set(
        jnp.stack(new, 2), mode='drop'), *COLUMNS)

  return Cache(put(cache.k_NxBxKxSxd, recent.k),
               put(cache.v_NxBxKxSxd, recent.v),
               cache.fill_B + len_R if row_R is None else
               cache.fill_B.at[row_R].add(len_R, mode='drop'))


def _write_in_place(x_NxBxKxSxd, new_NxBxCxKxd, fill_B, len_B):
  """Row by row: TPUs copy a cache that is scattered to."""
  N, B, K, S, d = x_NxBxKxSxd.shape
  C = new_NxBxCxKxd.shape[2]
  start_B = jnp.clip(fill_B, 0, S - C)

  def one(b, x):
    at, c_C = (0, b, 0, start_B[b], 0), jnp.arange(C) - fill_B[b] + start_B[b]
    old = jax.lax.dynamic_slice(x, at, (N, 1, K, C, d))
    new = jnp.roll(new_NxBxCxKxd[:, b], fill_B[b] - start_B[b], 1)
    is_new = ((c_C >= 0) & (c_C < len_B[b]))[None, None, None, :, None]
    return jax.lax.dynamic_update_slice(
        x, jnp.where(is_new, new.swapaxes(1, 2)[:, None], old), at)

  return jax.lax.fori_loop(0, B, one, x_NxBxKxSxd)
