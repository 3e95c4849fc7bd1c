"""Streams of tokens in, packed batches of one fixed shape out.

Owns packing, shuffling and the data cursor. An episode is one stream
(DESIGN: append-only, loss on what its role wrote); several streams share a
row, kept apart by segment ids, and only the positions that carry loss are
listed, so that the head never sees the others. NumPy only: the learner's jit
moves a `Batch` to the device.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Batches that may still take a stream while packing: more pack tighter, and
# cost time in proportion.
_OPEN = 8
# Streams that are sorted by length together inside a shuffled epoch.
_WINDOW = 64


class Stream(NamedTuple):
  """The tokens of one episode, as one role sees them."""

  tokens: np.ndarray               # [T] int
  weight: np.ndarray               # [T] loss weight of predicting token t;
  #                                  0 = context. weight[0] has no effect
  logp: np.ndarray | None = None   # [T] behaviour log-prob of token t
  adv: np.ndarray | None = None    # [T] advantage of token t


class Batch(NamedTuple):
  """One fixed-shape batch; padding has segment 0 and weight 0."""

  tok_BxT: np.ndarray
  pos_BxT: np.ndarray       # restarts at 0 in each segment
  segment_BxT: np.ndarray   # 1, 2, ... inside a row; 0 = padding
  index_P: np.ndarray       # flat (row * T + column) position that predicts
  target_P: np.ndarray      # the token it should predict
  weight_P: np.ndarray
  logp_P: np.ndarray        # behaviour log-prob of the target; 0 if none
  adv_P: np.ndarray         # advantage of the target; 0 if none
  sequence_P: np.ndarray    # which stream of this batch, 0, 1, ...; < P


class Cursor(NamedTuple):
  """Where the data are: the next batch is `index` of `epoch` under `seed`."""

  seed: int
  epoch: int = 0
  index: int = 0


class Shape(NamedTuple):
  """The fixed shape of every batch of one stage."""

  rows: int        # B
  length: int      # T
  positions: int   # P, weighted tokens of all rows together


class _Bin:
  """A batch being planned: which stream indices go in which row."""

  def __init__(self, shape: Shape):
    self.members: list[list[int]] = [[] for _ in range(shape.rows)]
    self.room = [shape.length] * shape.rows
    self.positions = shape.positions

  def row_for(self, size: int, count: int) -> int:
    """The first row with room, or -1."""
    if count <= self.positions:
      for row, room in enumerate(self.room):
        if size <= room:
          return row
    return -1

  def place(self, stream: int, row: int, size: int, count: int):
    self.members[row].append(stream)
    self.room[row] -= size
    self.positions -= count


def drop_long(
    streams: Sequence[Stream], shape: Shape
) -> tuple[list[Stream], int]:
  """The streams that fit into `shape`, and how many did not."""
  kept = [
      s for s in streams
      if len(s.tokens) <= shape.length and _count(s) <= shape.positions
  ]
  return kept, len(streams) - len(kept)


def pack(
    streams: Sequence[Stream], rows: int, length: int, positions: int
) -> list[Batch]:
  """First-fit packing in the given order; no stream is cut.

  Args:
    streams: any number of streams; none of them may be empty.
    rows: B, rows per batch.
    length: T, tokens per row.
    positions: P, weighted tokens per batch.

  Returns:
    Batches of one shape; the last ones may be part empty.

  Raises:
    ValueError: a stream is longer than `length`, has more weighted tokens
      than `positions`, or its arrays disagree. (`drop_long` first, to drop.)
  """
  shape = Shape(rows, length, positions)
  size_count = _sizes(streams, shape)
  return [_fill(streams, b, shape) for b in _first_fit(size_count, shape)]


def pack_evenly(
    streams: Sequence[Stream], rows: int, length: int, positions: int
) -> list[Batch]:
  """As `pack`, in as many batches, but each holds about as many positions.

  For policy updates: a nearly empty last batch would take an optimiser step
  as large as the others on the word of a few episodes.
  """
  shape = Shape(rows, length, positions)
  size_count = _sizes(streams, shape)
  least = len(_first_fit(size_count, shape))
  for count in itertools.count(least):
    bins = _level_fit(size_count, shape, count)
    if bins is not None:
      return [_fill(streams, b, shape) for b in bins]


def epochs(
    streams: Sequence[Stream],
    rows: int,
    length: int,
    positions: int,
    cursor: Cursor,
    num_epochs: int | None = None,
) -> Iterator[tuple[Batch, Cursor]]:
  """Shuffled, packed batches for ever (or `num_epochs`), from `cursor` on.

  The order of an epoch is a function of (seed, epoch) alone, so starting at
  the cursor that came with batch n gives batches n + 1, n + 2, ... of the
  straight run.

  Yields:
    (batch, the cursor of the batch after it).

  Raises:
    ValueError: as `pack`; or there are no streams; or the cursor points
      beyond its epoch, which means that the streams are not the same.
  """
  shape = Shape(rows, length, positions)
  size_count = _sizes(streams, shape)
  if not streams:
    raise ValueError('no streams to make batches of')
  seed, start, index = cursor
  for epoch in itertools.count(start):
    if num_epochs is not None and epoch >= num_epochs:
      return
    bins = _plan_epoch(size_count, shape, seed, epoch)
    if index > len(bins):
      raise ValueError(
          f'cursor {cursor} is beyond the {len(bins)} batches of its epoch: '
          'the streams changed since it was saved'
      )
    for i in range(index, len(bins)):
      yield _fill(streams, bins[i], shape), Cursor(seed, epoch, i + 1)
    index = 0


def count_batches(
    streams: Sequence[Stream], rows: int, length: int, positions: int,
    seed: int,
) -> int:
  """Batches in the first epoch; others differ by a few (for schedules)."""
  shape = Shape(rows, length, positions)
  return len(_plan_epoch(_sizes(streams, shape), shape, seed, epoch=0))


def efficiency(batches: Sequence[Batch]) -> dict[str, float]:
  """Shares of tokens and of positions that are not padding."""
  return {
      'tokens': float(np.mean([b.segment_BxT > 0 for b in batches])),
      'positions': float(np.mean([b.weight_P != 0 for b in batches])),
  }


def _count(stream: Stream) -> int:
  return int(np.count_nonzero(stream.weight[1:]))


def _sizes(
    streams: Sequence[Stream], shape: Shape
) -> list[tuple[int, int]]:
  """(tokens, weighted tokens) of each stream, checked against the shape."""
  if min(shape) < 1:
    raise ValueError(f'rows, length and positions must be >= 1, got {shape}')
  sizes = []
  for i, s in enumerate(streams):
    size, count = len(s.tokens), _count(s)
    if not size:
      raise ValueError(f'stream {i} is empty')
    for name in ('weight', 'logp', 'adv'):
      value = getattr(s, name)
      if value is not None and len(value) != size:
        raise ValueError(
            f'stream {i} has {size} tokens but {len(value)} of {name}'
        )
    if size > shape.length:
      raise ValueError(
          f'stream {i} has {size} tokens, rows have {shape.length}: raise '
          'the length, or call drop_long first'
      )
    if count > shape.positions:
      raise ValueError(
          f'stream {i} has {count} weighted tokens, a batch has room for '
          f'{shape.positions}: raise positions, or call drop_long first'
      )
    sizes.append((size, count))
  return sizes


def _first_fit(
    size_count: Sequence[tuple[int, int]],
    shape: Shape,
    order: Sequence[int] | None = None,
) -> list[_Bin]:
  bins: list[_Bin] = []
  for i in range(len(size_count)) if order is None else order:
    size, count = size_count[i]
    for candidate in bins[-_OPEN:]:
      row = candidate.row_for(size, count)
      if row >= 0:
        break
    else:
      candidate, row = _Bin(shape), 0
      bins.append(candidate)
    candidate.place(i, row, size, count)
  return bins


def _level_fit(
    size_count: Sequence[tuple[int, int]], shape: Shape, num_bins: int
) -> list[_Bin] | None:
  """Longest first into the emptiest of `num_bins`; None if they won't fit."""
  bins = [_Bin(shape) for _ in range(num_bins)]
  for i in sorted(range(len(size_count)), key=lambda i: -size_count[i][0]):
    size, count = size_count[i]
    for candidate in sorted(bins, key=lambda b: -b.positions):
      row = candidate.row_for(size, count)
      if row >= 0:
        candidate.place(i, row, size, count)
        break
    else:
      return None
  return bins


def _plan_epoch(
    size_count: Sequence[tuple[int, int]], shape: Shape, seed: int, epoch: int
) -> list[_Bin]:
  """Shuffle, pack the longest of each window first, shuffle the batches."""
  rng = np.random.default_rng((seed, epoch))
  order = rng.permutation(len(size_count)).tolist()
  for start in range(0, len(order), _WINDOW):
    order[start:start + _WINDOW] = sorted(
        order[start:start + _WINDOW], key=lambda i: -size_count[i][0]
    )
  bins = _first_fit(size_count, shape, order)
  # Sorting put like with like; without this, lengths would come in waves.
  return [bins[i] for i in rng.permutation(len(bins))]


def _fill(streams: Sequence[Stream], plan: _Bin, shape: Shape) -> Batch:
  """The arrays of one planned batch."""
  rows, length, positions = shape
  tok_BxT = np.zeros((rows, length), np.int32)
  pos_BxT = np.zeros((rows, length), np.int32)
  segment_BxT = np.zeros((rows, length), np.int32)
  index_P, target_P, sequence_P = np.zeros((3, positions), np.int32)
  weight_P, logp_P, adv_P = np.zeros((3, positions), np.float32)
  used = sequence = 0
  for row, members in enumerate(plan.members):
    start = 0
    for segment, i in enumerate(members, start=1):
      s = streams[i]
      size = len(s.tokens)
      tok_BxT[row, start:start + size] = s.tokens
      pos_BxT[row, start:start + size] = np.arange(size)
      segment_BxT[row, start:start + size] = segment
      at = np.flatnonzero(s.weight[1:]) + 1
      here = slice(used, used + len(at))
      index_P[here] = row * length + start + at - 1
      target_P[here] = s.tokens[at]
      weight_P[here] = s.weight[at]
      if s.logp is not None:
        logp_P[here] = s.logp[at]
      if s.adv is not None:
        adv_P[here] = s.adv[at]
      sequence_P[here] = sequence
      used += len(at)
      # Only streams with weight are numbered: never more numbers than P.
      sequence += len(at) > 0
      start += size
  return Batch(
      tok_BxT, pos_BxT, segment_BxT, index_P, target_P, weight_P, logp_P,
      adv_P, sequence_P,
  )
