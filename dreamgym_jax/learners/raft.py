"""RAFT's streams: the policy learns from its own wins alone.

Rejection sampling as reinforcement: advantage 1 for what succeeded (Dong et
al., arXiv 2304.06767), with the ratio clipped and groups without a failure or
without a success left out (RAFT++ and Reinforce-Rej; Xiong et al., arXiv
2504.11343). No token is pushed down, so that a small policy does not forget on
the way. The update is `learner.make_grpo_step`.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dreamgym_jax.learners import grpo


def raft_streams(
    tokens: Sequence[np.ndarray],
    is_action: Sequence[np.ndarray],
    logp: Sequence[np.ndarray],
    reward_JxG: np.ndarray,
    success_JxG: np.ndarray,
    valid_JxG: np.ndarray,
) -> grpo.GrpoData:
  """As `grpo.grpo_streams`, of the rollouts with a positive reward alone."""
  data = grpo.grpo_streams(
      tokens, is_action, logp, reward_JxG, success_JxG, valid_JxG, _wins)
  is_won = data.adv_JxG[data.is_used_JxG] > 0
  return data._replace(
      streams=list(itertools.compress(data.streams, is_won)),
      is_used_JxG=data.is_used_JxG & (data.adv_JxG > 0))


def _wins(reward_JxG: np.ndarray, valid_JxG: np.ndarray) -> jax.Array:
  return jnp.where(valid_JxG, jnp.maximum(reward_JxG, 0), 0)
