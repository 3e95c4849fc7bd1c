"""Decoding with drafts looked up in the row's own stream.

What an experience model writes often stands in its stream already: names, ids,
the last page. After each token the longest recent match of the last few tokens
is looked up, and what followed it there is run through the model together with
the token (prompt-lookup drafting; speculative decoding without a second model:
Leviathan et al., arXiv 2211.17192). A drafted token is kept if it is the token
that would have been drawn at its place: token t of a row has its luck from
(key, stream, t), drafted or not, so that the text is the same token for token,
and not in distribution alone.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamgym_jax.models import caches, decoding, sharding, transformer

COLUMNS = 32                # tokens decoded between compactions, at most
_MATCHED = 3                # tokens compared: the more agree, the better


class _State(NamedTuple):
  """The carry of the loop; rows stand at places of their own."""

  calls: jax.Array          # [] of the model
  tok_R: jax.Array          # drawn, not run yet
  logp_R: jax.Array
  next_watch_RxW: jax.Array  # where tok_R was drawn
  x_RxD: jax.Array          # after the last token that was run
  recent: caches.Recent
  tok_RxC: jax.Array
  logp_RxC: jax.Array
  watch_RxW: jax.Array
  len_R: jax.Array          # tokens of this chunk that count
  open_R: jax.Array         # bool, still writing


def look_up(seen_RxX: jax.Array, end_R: jax.Array, n: int) -> jax.Array:
  """The n tokens that followed the best match of each row's last tokens.

  Args:
    seen_RxX: int32, the row's stream; below 0 where there is no token.
    end_R: int32, where the stream ends: its last token is at end_R - 1.
    n: tokens to draft.

  Returns:
    int32 [R, n], below 0 where nothing follows. Of the earlier places where
    the last token stands, that with the most of the tokens before it (three
    are compared) is taken, and of those the latest.
  """
  X = seen_RxX.shape[1]
  at_X = jnp.arange(X)
  agree = at_X[None] < end_R[:, None] - 1
  score_RxX = jnp.zeros(seen_RxX.shape, jnp.int32)
  for back in range(_MATCHED):
    here = jnp.roll(seen_RxX, back, 1)
    last_Rx1 = jnp.take_along_axis(
        seen_RxX, jnp.maximum(end_R - 1 - back, 0)[:, None], 1)
    agree &= (here == last_Rx1) & (here >= 0) & (at_X[None] >= back)
    score_RxX += agree
  best_R = jnp.argmax(score_RxX * X + at_X[None], 1)
  is_found_R = jnp.take_along_axis(score_RxX, best_R[:, None], 1) > 0
  from_RxN = best_R[:, None] + 1 + jnp.arange(n)[None]
  tok_RxN = jnp.take_along_axis(seen_RxX, jnp.minimum(from_RxN, X - 1), 1)
  return jnp.where(is_found_R & (from_RxN < end_R[:, None]), tok_RxN, -1)


@functools.partial(
    jax.jit, donate_argnames=('k', 'v', 'last_BxD'),
    static_argnames=('cfg', 'columns', 'is_filtered', 'n_drafted'))
def decode(params, k, v, last_BxD, fill_B, row_R, begun_R, left_R, draw,
           past_RxS, *, cfg, columns, is_filtered, n_drafted):
  """As decoding.decode, up to COLUMNS tokens, with drafts of `n_drafted`.

  `past_RxS` are the rows' tokens so far, at the right end, -1 before them. One
  more result: how often the model was called.
  """
  cache = caches.Cache(k, v, fill_B)
  R, C, T = begun_R.shape[0], COLUMNS, 1 + n_drafted
  S, W = past_RxS.shape[1], draw.watch_W.shape[0]
  weights = transformer.of_rows(params, cfg, row_R)
  past = caches.read(cache, row_R, columns)
  i_1xT = jnp.arange(T)[None]
  u_RxX = decoding.luck(draw, begun_R[:, None] + jnp.arange(C + T + 1)[None])

  def body(s):
    seen_RxX = jnp.concatenate([past_RxS, s.tok_RxC], 1)
    row = jnp.arange(R)
    seen_RxX = seen_RxX.at[row, S + s.len_R].set(s.tok_R)
    draft_RxN = look_up(seen_RxX, S + s.len_R + 1, n_drafted)
    run_RxT = jnp.concatenate([s.tok_R[:, None], draft_RxN], 1)
    x_RxTxD, recent = transformer.append(
        params, weights, past, s.recent, jnp.maximum(run_RxT, 0), s.len_R, cfg)
    z_RTxV = transformer.head(params, x_RxTxD.reshape(R * T, -1), cfg)
    u_RxT = jnp.take_along_axis(u_RxX, s.len_R[:, None] + 1 + i_1xT, 1)
    next_RT, next_logp_RT, watch_RTxW = decoding.choose(
        z_RTxV, u_RxT.reshape(-1), draw, is_filtered)
    # Place i of `next` is what comes after place i of `run`.
    next_RxT = next_RT.reshape(R, T)
    next_logp_RxT = next_logp_RT.reshape(R, T)
    watch_RxTxW = watch_RTxW.reshape(R, T, W)
    # A place counts if the one before it does, foretold it, and did not end.
    stops_RxT = draw.stop_V[jnp.maximum(run_RxT, 0)]
    foretold = (next_RxT[:, :-1] == draft_RxN) & ~stops_RxT[:, :-1]
    counts_RxT = jnp.concatenate(
        [s.open_R[:, None] & (s.len_R < C)[:, None], foretold], 1)
    room_R = jnp.minimum(left_R, C) - s.len_R
    counts_RxT = jnp.cumprod(counts_RxT, 1).astype(bool) & (
        i_1xT < room_R[:, None])
    n_R = counts_RxT.sum(1)
    end_R = jnp.maximum(n_R - 1, 0)[:, None]

    def at_end(x_RxT):
      index = end_R.reshape(end_R.shape + (1,) * (x_RxT.ndim - 2))
      return jnp.take_along_axis(x_RxT, index, 1)[:, 0]

    def before(first_R, x_RxT):
      return jnp.concatenate([first_R[:, None], x_RxT[:, :-1]], 1)

    def pick(new, old):
      shape = (R,) + (1,) * (old.ndim - 1)
      return jnp.where((n_R > 0).reshape(shape), new, old)

    column_RxT = jnp.where(counts_RxT, s.len_R[:, None] + i_1xT, C + 1)

    def put(x_RxC, x_RxT):
      return x_RxC.at[row[:, None], column_RxT].set(x_RxT, mode='drop')

    len_R = s.len_R + n_R
    return _State(
        s.calls + 1, pick(at_end(next_RxT), s.tok_R),
        pick(at_end(next_logp_RxT), s.logp_R),
        pick(at_end(watch_RxTxW), s.next_watch_RxW),
        pick(at_end(x_RxTxD), s.x_RxD), recent, put(s.tok_RxC, run_RxT),
        put(s.logp_RxC, before(s.logp_R, next_logp_RxT)),
        pick(at_end(before(s.next_watch_RxW, watch_RxTxW)), s.watch_RxW),
        len_R, s.open_R & ~(at_end(stops_RxT) & (n_R > 0)) & (len_R < left_R))

  x_RxD = caches.pick(last_BxD, row_R)
  first = decoding.choose(
      transformer.head(params, x_RxD, cfg), u_RxX[:, 0], draw, is_filtered)
  s = jax.lax.while_loop(
      lambda s: (s.open_R & (s.len_R < C)).any(), body, _State(
          jnp.int32(0), *first, x_RxD,
          caches.empty_recent(cfg, R, C + T),
          jnp.full((R, C + 1), -1, jnp.int32), jnp.zeros((R, C + 1)),
          jnp.zeros((R, W)), jnp.zeros(R, jnp.int32), left_R > 0))
  cache = caches.write(cache, row_R, s.recent, s.len_R)
  last_BxD = decoding.put_last(last_BxD, row_R, s.x_RxD)
  return (cache.k, cache.v, last_BxD,
          sharding.whole(s.tok_RxC, s.logp_RxC, s.watch_RxW, s.len_R),
          s.calls)
