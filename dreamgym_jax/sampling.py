"""The resident batched sampler: append-only rows over one KV cache.

A turn appends each row's new input tokens and decodes an answer; both stay in
the cache, so the next turn pays for its own tokens only (design: streams).

- Only the given rows take part. They are gathered from the cache once per
  call, as wide as the fullest of them, and new columns are written back once;
  rows that finish leave the batch after each chunk of decoding.
- Inputs are extended a few rows at a time, in order of length, so that little
  is padding; rows that start with the same tokens (a group) are extended once
  and copied.
- Shapes come from short ladders of buckets: `precompile` makes them ahead.
- On a mesh all rows take part in each call, where they are (places.py).
- Token t of a row is drawn with fold_in(fold_in(key, stream), t): the text
  does not depend on batch mates, slot, bucket or compaction.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from dreamgym_jax.models import (
    decoding,
    drafting,
    ladders,
    lora,
    places,
    serving,
    sharding,
    transformer,
)
from dreamgym_jax.types import Params

_EXTEND_ROWS = 16           # rows extended together: enough for the matmuls


class Turn(NamedTuple):
  """What one row wrote in one turn."""

  tokens: np.ndarray        # [n] int32, the stop token included
  logp: np.ndarray          # [n] float32, at the temperature they were drawn at
  stopped: bool             # a stop token came before max_new
  watch: np.ndarray         # [W] log-probs of watched tokens at the last one


class SamplerFull(ValueError):
  """More rows or tokens than the sampler has room for."""


class Sampler:
  """A class because it owns device memory: the cache of `n_rows` streams."""

  def __init__(
      self, cfg: transformer.ModelConfig, n_rows: int, capacity: int, *,
      row_buckets: Sequence[int] = ladders.ROW_BUCKETS,
      token_buckets: Sequence[int] = ladders.TOKEN_BUCKETS,
      column_buckets: Sequence[int] = ladders.COLUMN_BUCKETS,
      n_drafted: int = 0,
  ):
    """Rows of up to `capacity` tokens; the ladders bound compilation.

    With `n_drafted` > 0 that many tokens are drafted from the row's stream for
    each that is drawn (models/drafting): the same text, by fewer and wider
    calls of the model; `n_calls` counts them.
    """
    self.cfg = cfg
    # More than asked, so that the cache's rows divide over the mesh.
    self.n_rows = n_rows = sharding.round_up(n_rows)
    self.capacity = capacity
    is_meshed = sharding.n_batch_shards() > 1
    self._places = places.Places(n_rows, is_meshed)
    self._serve = serving.Serve(cfg)
    self._row_buckets = ladders.up_to(() if is_meshed else row_buckets, n_rows)
    self._token_buckets = ladders.up_to(
        token_buckets, min(capacity, max(token_buckets)))
    self._column_buckets = ladders.up_to(column_buckets, capacity)
    self._extend_rows = n_rows if is_meshed else min(_EXTEND_ROWS, n_rows)
    self._n_drafted = n_drafted
    self.n_calls = self.n_read = self.n_written = 0   # tokens: read, written
    self._tok_BxS = np.zeros((n_rows, capacity), np.int32)
    self._device = None
    self.start(n_rows)

  def start(self, n: int) -> None:
    """Forgets all streams; rows 0 to n - 1 will be used."""
    if n > self.n_rows:
      raise SamplerFull(f'{n} rows asked of a sampler of {self.n_rows}')
    self._device = self._device or decoding.memory(
        self.cfg, self.n_rows, self.capacity)
    self._fill_B = np.zeros(self.n_rows, np.int32)
    # Whether the state after a row's last token is known: not when the row is
    # empty, nor after an undo.
    self._is_ready_B = np.zeros(self.n_rows, bool)
    self._undo: dict[int, tuple[int, int]] = {}

  def forget(self, rows: Sequence[int]) -> None:
    """Empties these rows, for other streams; the others stay."""
    self._fill_B[list(rows)], self._is_ready_B[list(rows)] = 0, False
    for row in rows:
      self._undo.pop(row, None)

  def release(self) -> None:
    """Frees the device's memory until the next `start`."""
    self._device = None
    self._serve.forget()

  def fill(self, row: int) -> int:
    """Tokens in a row's stream."""
    return int(self._fill_B[row])

  def fits(self, row: int, n: int) -> bool:
    """Whether n more tokens fit a row."""
    return self.fill(row) + n <= self.capacity

  def turn(
      self, params: Params, rows: Sequence[int],
      inputs: Sequence[Sequence[int]], *, key: jax.Array,
      streams: Sequence[int], temperature: float, max_new: int,
      stop: Sequence[int], watch: Sequence[int] = (), top_k: int = 0,
      top_p: float = 1.0, barred: Sequence[int] = (),
  ) -> list[Turn]:
    """Appends inputs[i] to rows[i], then decodes until a stop token.

    Args:
      params: weights of `cfg`, with adapters by row if of lora.of_rows.
      rows: distinct indices below n_rows; no other row costs anything.
      inputs: each row's new tokens; may be empty if the row has a stream.
      key: typed, one or one per row; token t of rows[i] depends on (its key,
        streams[i], t) and the row's own stream alone.
      streams: int32, one per row.
      temperature: divides the logits; 0 takes the most probable token.
      max_new: most tokens written per row.
      stop: tokens that end an answer (kept as its last token).
      watch: tokens whose log-probs at each row's last position are reported.
      top_k: keep the k most probable tokens; 0 keeps all. With top_p, costs
        a sort of the vocabulary per token.
      top_p: keep the most probable tokens up to this mass, after temperature.
      barred: tokens that are never written.

    Returns:
      A Turn per row. `logp` and `watch` are of the plain model, nothing
      filtered or barred: `logp` at the given temperature, as a scorer of that
      temperature has it, greedy ones and `watch` at 1.

    Raises:
      SamplerFull: input + max_new exceeds a row's capacity.
      ValueError: repeated rows, or a row with nothing to continue.
    """
    if not len(rows):
      return []
    self._check(rows, inputs, max_new)
    params = self._serve(params)
    self.feed(params, rows, inputs)
    draw = decoding.make_draw(
        self.cfg.V, key, streams, temperature, stop, watch, top_k, top_p,
        barred)
    for row, tokens in zip(rows, inputs, strict=True):
      if len(tokens):
        self._undo[row] = (self.fill(row), int(tokens[-1]))
    n = len(rows)
    parts: list[list] = [[] for _ in rows]
    written = np.zeros(n, np.int32)
    watched = np.zeros((n, len(watch)), np.float32)
    stopped = np.zeros(n, bool)
    active = np.arange(n)
    while len(active):
      tok, logp, watch_AxW, lens = self._decode(
          params, np.asarray(rows, np.int32)[active], written[active],
          max_new - written[active],
          draw.take(active), bool(top_k) or top_p < 1)
      for j, i in enumerate(active):
        parts[i].append((tok[j, :lens[j]], logp[j, :lens[j]]))
        stopped[i] = bool(lens[j]) and bool(draw.stop_V[tok[j, lens[j] - 1]])
      watched[active] = watch_AxW[:, :len(watch)]
      written[active] += lens
      active = active[~stopped[active] & (written[active] < max_new)]
    return [
        Turn(*(np.concatenate(x) for x in zip(*parts[i], strict=True)),
             bool(stopped[i]), watched[i]) for i in range(n)]

  def feed(
      self, params: Params, rows: Sequence[int],
      inputs: Sequence[Sequence[int]],
  ) -> None:
    """Appends inputs[i] to rows[i]; equal beginnings are computed once."""
    self._check(rows, inputs, 0)
    first: dict[tuple[bytes, tuple[int, ...]], int] = {}
    copies, fresh, voice = [], [], lora.voice(params)
    for row, tokens in zip(rows, inputs, strict=True):
      self._undo.pop(row, None)
      tokens = tuple(map(int, tokens))
      same = voice(row), tokens
      if not self._places.is_own and not self._fill_B[row] and same in first:
        copies.append((first[same], row))
      elif tokens:
        if self._fill_B[row] == 0:
          first[same] = row
        fresh.append((row, tokens))
    self._extend_all(params, fresh)
    self._copy(copies)

  def force(
      self, params: Params, rows: Sequence[int],
      inputs: Sequence[Sequence[int]],
  ) -> list[np.ndarray]:
    """Appends given tokens and gives each one's log-prob, as turn would."""
    self._check(rows, inputs, 0)
    for row in rows:
      self._undo.pop(row, None)
      if not self._is_ready_B[row]:
        raise ValueError(f'row {row} is empty or undone: nothing predicts '
                         'its first token; feed it before force')
    out = self._extend_all(params, [
        (r, tuple(t)) for r, t in zip(rows, inputs, strict=True)],
        is_scored=True)
    return [np.concatenate([np.zeros(0, np.float32), *out[r]]) for r in rows]

  def logp_after(
      self, params: Params, rows: Sequence[int],
      tokens: Sequence[int] | None = None,
  ) -> np.ndarray:
    """Log-probs of the next token [rows, tokens]; None = all of them."""
    bad = [r for r in rows if not self._is_ready_B[r]]
    if bad:
      raise ValueError(f'rows {bad} are empty or undone: nothing predicts '
                       'their next token')
    R = ladders.bucket(self._row_buckets, len(rows))
    row_R = self._places.index(rows, R)
    logp = np.asarray(decoding.after(self._serve(
        params), self._device[2], row_R, cfg=self.cfg))[self._places.at(rows)]
    return logp if tokens is None else logp[:, list(tokens)]

  def undo(self, rows: Sequence[int]) -> list[int]:
    """Takes back each row's last answer and the input token before it.

    Gives these tokens: feed them again to continue from where the answer
    began. Only the last turn can be taken back, once.
    """
    taken = []
    for row in rows:
      if row not in self._undo:
        raise ValueError(f'row {row} has no answer to take back')
      fill, token = self._undo.pop(row)
      self._fill_B[row] = fill - 1
      self._is_ready_B[row] = False
      taken.append(token)
    return taken

  def precompile(
      self, params: Params, *, rows: int | None = None,
      tokens: int | None = None, columns: int | None = None,
      n_watch: int = 0,
  ) -> None:
    """Compiles every bucket up to these bounds; forgets all streams.

    Afterwards turns of at most `rows` rows, inputs whose pieces are at most
    `tokens` long and streams within `columns` compile nothing (default: all
    buckets). Only plain sampling and greedy: top_k and top_p compile later.
    """
    def up_to(ladder, bound):
      return ladder if bound is None else [
          b for b in ladder if b <= ladders.bucket(ladder, bound)]

    none = np.zeros(0, np.int32)
    draw = decoding.make_draw(
        self.cfg.V, jax.random.key(0), none, 0.0, watch=[0] * n_watch)
    self.start(self.n_rows)
    params = self._serve(params)
    for S in up_to(self._column_buckets, columns):
      for R in up_to(self._row_buckets, rows):
        if S:
          self._decode(params, none, none, none, draw, False, (R, S))
          self._copy([], (R, S))
      for T in up_to(self._token_buckets, tokens):
        self._extend(params, [], False, (T, S))

  def _check(
      self, rows: Sequence[int], inputs: Sequence[Sequence[int]], max_new: int
  ) -> None:
    """Errors before anything is changed."""
    if len(set(rows)) != len(rows):
      raise ValueError(f'rows are repeated: {list(rows)}')
    for row, tokens in zip(rows, inputs, strict=True):
      if not 0 <= row < self.n_rows:
        raise SamplerFull(f'row {row} of a sampler of {self.n_rows} rows')
      if not self.fits(row, len(tokens) + max_new):
        raise SamplerFull(
            f'row {row} holds {self.fill(row)} tokens; {len(tokens)} more and '
            f'{max_new} to write exceed capacity={self.capacity}')
      if max_new and not len(tokens) and not self._is_ready_B[row]:
        raise ValueError(f'row {row} is empty or undone and has no input')

  def _extend_all(
      self, params: Params, pairs: Sequence[tuple[int, tuple[int, ...]]],
      is_scored: bool = False,
  ) -> dict[int, list[np.ndarray]]:
    """Appends each row's tokens, in pieces of at most the largest bucket."""
    params = self._serve(params)
    size = self._token_buckets[-1]
    scored: dict[int, list] = {row: [] for row, _ in pairs}
    for at in range(0, max((len(t) for _, t in pairs), default=0), size):
      left = sorted(((r, t[at:at + size]) for r, t in pairs if len(t) > at),
                    key=lambda p: (len(p[1]), self._fill_B[p[0]]))
      for i in range(0, len(left), self._extend_rows):
        group = left[i:i + self._extend_rows]
        logp = self._extend(params, group, is_scored)
        at = self._places.at([row for row, _ in group])
        for j, (row, tokens) in zip(at, group, strict=True):
          if is_scored:
            scored[row].append(np.asarray(logp[j, :len(tokens)]))
    return scored

  def _extend(
      self, params: Params, pairs: Sequence[tuple[int, Sequence[int]]],
      is_scored: bool, shape: tuple[int, int] | None = None,
  ) -> jax.Array:
    """One call of `decoding.extend`, padded to its buckets."""
    rows = [r for r, _ in pairs]
    R = self._extend_rows
    T, S = shape or (
        ladders.bucket(self._token_buckets, max(len(t) for _, t in pairs)),
        ladders.bucket(self._column_buckets, self._fill_B[rows].max()))
    tok_RxT, len_R = np.zeros((R, T), np.int32), np.zeros(R, np.int32)
    for i, (row, tokens) in zip(self._places.at(rows), pairs, strict=True):
      tok_RxT[i, :len(tokens)] = tokens
      len_R[i] = len(tokens)
      self._note(row, tokens)
    *self._device, logp = decoding.extend(
        params, *self._device, self._fill_B.copy(), self._places.index(rows, R),
        tok_RxT, len_R, cfg=self.cfg, columns=S, is_scored=is_scored)
    self._fill_B[rows] += len_R[self._places.at(rows)]
    self.n_read += int(len_R.sum())
    self._is_ready_B[rows] = True
    return logp

  def _copy(
      self, pairs: Sequence[tuple[int, int]],
      shape: tuple[int, int] | None = None,
  ) -> None:
    """One call of `decoding.copy`: (from, to) rows."""
    if self._places.is_own or not pairs and not shape:
      return
    source, target = [p[0] for p in pairs], [p[1] for p in pairs]
    R, S = shape or self._shape_of(source)
    self._device = decoding.copy(
        *self._device, self._places.index(source, R),
        self._places.index(target, R), columns=S)
    self._fill_B[target] = self._fill_B[source]
    self._tok_BxS[target] = self._tok_BxS[source]
    self._is_ready_B[target] = True

  def _decode(
      self, params: Params, row_A: np.ndarray, begun_A: np.ndarray,
      left_A: np.ndarray, draw: decoding.Draw, is_filtered: bool,
      shape: tuple[int, int] | None = None,
  ) -> list[np.ndarray]:
    """One chunk of `decoding.decode`: tokens, log-probs, watch, lengths."""
    R, S = shape or self._shape_of(row_A)
    begun_R, left_R, key_R, stream_R = (
        self._places.lay(row_A, x, R)
        for x in (begun_A, left_A, draw.key_R, draw.stream_R))
    args = (params, *self._device, self._fill_B.copy(),
            self._places.index(row_A, R), begun_R, left_R,
            draw._replace(key_R=key_R, stream_R=stream_R))
    how = dict(cfg=self.cfg, columns=S, is_filtered=is_filtered)
    if self._n_drafted:
      *self._device, out, calls = drafting.decode(
          *args, self._past(row_A, R, S), n_drafted=self._n_drafted, **how)
      self.n_calls += int(calls)
    else:
      *self._device, out = decoding.decode(*args, **how)
    out = [x[self._places.at(row_A)] for x in jax.device_get(out)]
    for row, tokens, length in zip(row_A, out[0], out[-1], strict=True):
      self._note(row, tokens[:length])
    self._fill_B[row_A] += out[-1]
    self.n_written += int(out[-1].sum())
    return out

  def _shape_of(self, rows: Sequence[int]) -> tuple[int, int]:
    """The buckets that hold these rows, and the fullest of them."""
    return (ladders.bucket(self._row_buckets, len(rows)),
            ladders.bucket(self._column_buckets, self._fill_B[rows].max()))

  def _note(self, row: int, tokens: Sequence[int]) -> None:
    """Keeps what is appended to a row, for drafts to be looked up in."""
    fill = self._fill_B[row]
    self._tok_BxS[row, fill:fill + len(tokens)] = tokens

  def _past(self, row_A: np.ndarray, R: int, S: int) -> np.ndarray:
    """The rows' tokens [R, S], at the right end; -1 before them."""
    past_RxS = np.full((R, S), -1, np.int32)
    for i, row in zip(self._places.at(row_A), row_A, strict=True):
      fill = self._fill_B[row]
      past_RxS[i, S - fill:] = self._tok_BxS[row, :fill]
    return past_RxS
