"""Clusters of tasks: the groups of Eq. 7 where no task is tried twice.

PPO has no groups of attempts at one task. The paper clusters its tasks by a
semantic embedding and takes each cluster as a group. Host only, NumPy.
"""

import warnings

import numpy as np
from scipy.cluster import vq


def cluster(embedding_MxE: np.ndarray, k: int, seed: int) -> np.ndarray:
  """Which of at most k clusters each row is in: ids 0, 1, ..., [M].

  k-means (k-means++ start, SciPy) of the distinct rows; equal rows share a
  cluster, and if there are at most k distinct ones each is its own. The same
  arguments give the same ids, numbered in order of appearance.

  Raises:
    ValueError: k < 1, or an embedding that is not finite.
  """
  embedding_MxE = np.asarray(embedding_MxE, np.float64)
  if k < 1:
    raise ValueError(f'k must be at least 1, got {k}')
  if not np.isfinite(embedding_MxE).all():
    raise ValueError('embeddings must be finite')
  distinct, row_M = np.unique(embedding_MxE, axis=0, return_inverse=True)
  label = np.arange(len(distinct))
  if len(distinct) > k:
    with warnings.catch_warnings():
      # A cluster may end up empty; ids are made dense below.
      warnings.filterwarnings('ignore', 'One of the clusters is empty')
      _, label = vq.kmeans2(
          distinct, k, iter=20, minit='++', rng=np.random.default_rng(seed)
      )
  label_M = label[row_M.reshape(-1)]
  _, first, dense_M = np.unique(
      label_M, return_index=True, return_inverse=True
  )
  return np.argsort(np.argsort(first))[dense_M]


def peers(
    reward_M: np.ndarray, valid_M: np.ndarray, cluster_M: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Each row's cluster as its group: (reward_MxM, valid_MxM).

  Row m holds everybody's reward, and who of them counts: the valid members of
  m's cluster. This is the [J, G] form of `curriculum.observe` with J = G = M,
  so that the V of a task is that of its cluster (Eq. 7).
  """
  cluster_M = np.asarray(cluster_M)
  is_peer_MxM = cluster_M[:, None] == cluster_M[None, :]
  return (np.broadcast_to(np.asarray(reward_M), is_peer_MxM.shape),
          is_peer_MxM & (np.asarray(valid_M)[None, :] > 0))
