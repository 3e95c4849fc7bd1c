"""Clusters are those of the embeddings, and the groups of Eq. 7."""

import warnings

import numpy as np
import pytest

from dreamgym_jax import clusters, curriculum


def blobs(sizes, seed=0):
  rng = np.random.default_rng(seed)
  centres = np.eye(len(sizes), 8)
  which = np.repeat(np.arange(len(sizes)), sizes)
  return centres[which] + 0.05 * rng.normal(size=(len(which), 8)), which


def is_same_partition(a, b):
  return ((a[:, None] == a) == (b[:, None] == b)).all()


def test_separate_blobs_are_found():
  points, which = blobs([7, 3, 9])
  found = clusters.cluster(points, 3, seed=0)
  assert is_same_partition(found, which)
  assert found.tolist() == which.tolist()    # numbered as they appear
  again = clusters.cluster(points, 3, seed=0)
  np.testing.assert_array_equal(found, again)


def test_equal_rows_share_a_cluster_and_few_are_each_their_own():
  points = np.eye(4)[[2, 0, 2, 1, 0]]
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for k in (3, 4, 99):
      assert clusters.cluster(points, k, 0).tolist() == [0, 1, 0, 2, 1]
    for seed in range(20):     # clusters may run empty; ids stay dense
      few = clusters.cluster(np.repeat(blobs([3, 3])[0], 2, 0), 5, seed)
      assert set(few) == set(range(few.max() + 1)) and few.max() < 5
      assert (few[::2] == few[1::2]).all()
  assert not clusters.cluster(points, 1, 0).any()


@pytest.mark.parametrize('points, k, why', [
    (np.eye(2), 0, 'k must'), (np.full((2, 2), np.nan), 1, 'finite')])
def test_bad_input_is_refused(points, k, why):
  with pytest.raises(ValueError, match=why):
    clusters.cluster(points, k, 0)


def test_peers_make_the_cluster_the_group_of_eq_7():
  reward = np.array([1.0, 0, 1, 1, 0])
  valid = np.array([1, 1, 1, 1, 0])
  rows, mask = clusters.peers(reward, valid, np.array([0, 0, 1, 1, 0]))
  # Cluster 0: rewards 1 and 0 (the third member crashed); 1: both 1.
  np.testing.assert_allclose(
      curriculum.group_reward_entropy(rows, mask), [0.25, 0.25, 0, 0, 0.25])
  pool, slot = curriculum.add(
      curriculum.create(5), np.zeros(5), np.full(5, -1), np.zeros(5, bool))
  pool = curriculum.observe(pool, slot, rows, mask)
  np.testing.assert_allclose(pool.value_M, [0.25, 0.25, 0, 0, 0.25])
  np.testing.assert_allclose(pool.success_M, [0.5, 0.5, 1, 1, 0.5])
