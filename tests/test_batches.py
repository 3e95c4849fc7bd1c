"""Packing keeps every token and target; the cursor resumes exactly."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax.data import batches

Stream = batches.Stream


def make_streams(lengths, seed=0):
  """Streams whose tokens are unique, so that nothing can be mixed up."""
  rng = np.random.default_rng(seed)
  streams, start = [], 1
  for size in lengths:
    tokens = np.arange(start, start + size, dtype=np.int32)
    start += size
    weight = (rng.random(size) < 0.5) * rng.random(size)
    streams.append(Stream(
        tokens, weight.astype(np.float32),
        logp=-rng.random(size).astype(np.float32),
        adv=rng.normal(size=size).astype(np.float32),
    ))
  return streams


def expected_targets(streams):
  """{target: (the token before it, weight, logp, adv)}."""
  out = {}
  for s in streams:
    for t in range(1, len(s.tokens)):
      if s.weight[t]:
        out[int(s.tokens[t])] = (
            int(s.tokens[t - 1]), s.weight[t], s.logp[t], s.adv[t]
        )
  return out


def packed_targets(packed):
  out = {}
  for b in packed:
    tok = b.tok_BxT.reshape(-1)
    for p in np.flatnonzero(b.weight_P):
      assert int(b.target_P[p]) not in out
      out[int(b.target_P[p])] = (
          int(tok[b.index_P[p]]), b.weight_P[p], b.logp_P[p], b.adv_P[p]
      )
  return out


def segments(packed):
  """The token runs of all segments, and that positions restart."""
  out = []
  for b in packed:
    for row in range(b.tok_BxT.shape[0]):
      for segment in range(1, b.segment_BxT[row].max() + 1):
        at = b.segment_BxT[row] == segment
        out.append(tuple(b.tok_BxT[row][at].tolist()))
        np.testing.assert_array_equal(
            b.pos_BxT[row][at], np.arange(at.sum())
        )
  return sorted(out)


def test_pack_by_hand():
  a = Stream(np.array([5, 6, 7]), np.array([9.0, 0.0, 2.0]))
  b = Stream(np.array([8, 9]), np.array([0.0, 1.0]),
             logp=np.array([0.0, -0.5]), adv=np.array([0.0, 3.0]))
  (got,) = batches.pack([a, b], rows=2, length=6, positions=4)
  zero = [0] * 6
  np.testing.assert_array_equal(got.tok_BxT, [[5, 6, 7, 8, 9, 0], zero])
  np.testing.assert_array_equal(got.pos_BxT, [[0, 1, 2, 0, 1, 0], zero])
  np.testing.assert_array_equal(got.segment_BxT, [[1, 1, 1, 2, 2, 0], zero])
  # Token 7 (column 2) is predicted from column 1, token 9 from column 3;
  # nothing predicts token 5, whatever its weight.
  np.testing.assert_array_equal(got.index_P, [1, 3, 0, 0])
  np.testing.assert_array_equal(got.target_P, [7, 9, 0, 0])
  np.testing.assert_array_equal(got.weight_P, [2, 1, 0, 0])
  np.testing.assert_array_equal(got.logp_P, [0, -0.5, 0, 0])
  np.testing.assert_array_equal(got.adv_P, [0, 3, 0, 0])
  np.testing.assert_array_equal(got.sequence_P, [0, 1, 0, 0])


@pytest.mark.parametrize('packer', [batches.pack, batches.pack_evenly])
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=0, max_size=40),
       st.integers(1, 4), st.integers(20, 40), st.integers(20, 60))
def test_packing_loses_and_invents_nothing(
    packer, lengths, rows, length, positions
):
  streams = make_streams(lengths)
  packed = packer(streams, rows, length, positions)
  assert packed_targets(packed) == expected_targets(streams)
  assert segments(packed) == sorted(tuple(s.tokens.tolist()) for s in streams)
  for b in packed:
    assert b.tok_BxT.shape == (rows, length)
    assert b.weight_P.shape == (positions,)
    assert b.sequence_P.max() < positions
    assert not b.tok_BxT[b.segment_BxT == 0].any()


def test_sequence_ids_separate_streams():
  streams = make_streams([7, 9, 4, 12, 3])
  (b,) = batches.pack(streams, 2, 20, 64)
  owner = {int(t): i for i, s in enumerate(streams) for t in s.tokens}
  used = np.flatnonzero(b.weight_P)
  pairs = {(owner[int(b.target_P[p])], int(b.sequence_P[p])) for p in used}
  assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_pack_evenly_levels_the_batches():
  streams = make_streams([10] * 13)
  streams = [s._replace(weight=np.ones(10, np.float32)) for s in streams]
  for packer, want in (
      (batches.pack, [12 * 9, 9]), (batches.pack_evenly, [7 * 9, 6 * 9])
  ):
    packed = packer(streams, 6, 20, 200)
    assert [(b.weight_P != 0).sum() for b in packed] == want


@pytest.mark.parametrize('streams, match', [
    (make_streams([9]), 'rows have 8'),
    ([Stream(np.arange(8), np.ones(8))], 'room for 6'),
    ([Stream(np.arange(4), np.ones(3))], '3 of weight'),
    ([Stream(np.arange(4), np.ones(4), logp=np.ones(5))], '5 of logp'),
    ([Stream(np.arange(0), np.ones(0))], 'stream 0 is empty'),
])
def test_bad_streams_name_themselves(streams, match):
  with pytest.raises(ValueError, match=match):
    batches.pack(streams, rows=2, length=8, positions=6)


def test_drop_long_counts():
  streams = make_streams([9, 8, 3])
  kept, dropped = batches.drop_long(streams, batches.Shape(2, 8, 6))
  assert (len(kept), dropped) == (2, 1)
  batches.pack(kept, 2, 8, 6)


def take(n, *args, **kwargs):
  stream = batches.epochs(*args, **kwargs)
  return [next(stream) for _ in range(n)]


def test_resumed_epochs_are_the_straight_run():
  streams = make_streams(np.random.default_rng(1).integers(2, 30, 60))
  shape = dict(rows=2, length=32, positions=64)
  straight = take(40, streams, **shape, cursor=batches.Cursor(7))
  assert straight[-1][1].epoch >= 1  # crosses an epoch
  ends = [i for i in range(39) if straight[i + 1][1].index == 1]
  for cut in (0, 3, 11, 25, ends[0]):
    cursor = straight[cut][1]
    resumed = take(10, streams, **shape, cursor=cursor)
    for (a, cursor_a), (b, cursor_b) in zip(
        resumed, straight[cut + 1:], strict=False
    ):
      assert cursor_a == cursor_b
      jax.tree.map(np.testing.assert_array_equal, a, b)


def test_each_epoch_has_all_targets_in_another_order():
  streams = make_streams([5] * 40)
  args = dict(rows=2, length=16, positions=32)
  runs = {}
  for batch, cursor in batches.epochs(
      streams, **args, cursor=batches.Cursor(0), num_epochs=2
  ):
    runs.setdefault(cursor.epoch, []).append(batch)
  assert sorted(runs) == [0, 1]
  assert len(runs[0]) == batches.count_batches(streams, **args, seed=0)
  for packed in runs.values():
    assert packed_targets(packed) == expected_targets(streams)
  assert not np.array_equal(runs[0][0].tok_BxT, runs[1][0].tok_BxT)
  other = take(1, streams, **args, cursor=batches.Cursor(1))[0][0]
  assert not np.array_equal(runs[0][0].tok_BxT, other.tok_BxT)


def test_cursor_of_other_streams_is_refused():
  with pytest.raises(ValueError, match='streams changed'):
    take(1, make_streams([4]), 1, 8, 8, cursor=batches.Cursor(0, 0, 5))
  with pytest.raises(ValueError, match='no streams'):
    take(1, [], 1, 8, 8, cursor=batches.Cursor(0))


def test_episode_like_lengths_pack_tightly():
  lengths = np.random.default_rng(0).gamma(3, 20, 1000).astype(int) + 10
  streams, _ = batches.drop_long(
      make_streams(lengths), batches.Shape(8, 256, 1100)
  )
  packed = [b for b, _ in batches.epochs(
      streams, 8, 256, 1100, batches.Cursor(0), num_epochs=1
  )]
  share = batches.efficiency(packed)
  assert share['tokens'] > 0.95, share
  assert share['positions'] == pytest.approx(
      len(expected_targets(streams)) / (1100 * len(packed))
  )
