"""GRPO's streams (Eq. 3): rollouts whose advantage is their group's.

The update is `learner.make_grpo_step`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from dreamgym_jax import advantages, learner
from dreamgym_jax.data import batches


class GrpoData(NamedTuple):
  """What one iteration's rollouts give the policy to learn from."""

  streams: list[batches.Stream]
  adv_JxG: np.ndarray         # 0 where dropped
  is_kept_J: np.ndarray       # groups whose success varies
  is_used_JxG: np.ndarray     # rollouts that became streams
  zero_variance_share: float  # share of groups (of >= 1 valid) that tie


def grpo_streams(
    tokens: Sequence[np.ndarray],
    is_action: Sequence[np.ndarray],
    logp: Sequence[np.ndarray],
    reward_JxG: np.ndarray,
    success_JxG: np.ndarray,
    valid_JxG: np.ndarray,
    advantage: Callable[..., jax.Array] = advantages.group_advantage,
    bonus: Sequence[np.ndarray] | None = None,
) -> GrpoData:
  """Rollouts of J groups of G, as streams with advantages. Host only.

  Malformed rollouts are left out and do not enter their group's mean. Groups
  that tie on raw success are dropped, whatever penalties did to the rewards:
  there is no signal about the task in them.

  Args:
    tokens: J * G arrays [T], row-major (rollout g of task j at j * G + g).
    is_action: for each, [T] true where the policy wrote the token.
    logp: for each, [T] the sampler's log-prob of the token (where is_action).
    reward_JxG: what is maximised: success less penalties.
    success_JxG: raw success, 0 or 1.
    valid_JxG: false for malformed or crashed episodes.
    advantage: (reward_JxG, valid_JxG) -> advantages of the same shape.
    bonus: for each, [T] what else is added to a token's advantage.

  Raises:
    ValueError: the lengths do not agree.
  """
  if bonus is None:
    bonus = [np.float32(0)] * np.size(reward_JxG)
  reward_JxG = np.asarray(reward_JxG, np.float32)
  success_JxG = np.asarray(success_JxG) > 0
  valid_JxG = np.asarray(valid_JxG, bool)
  for name, value in (('tokens', tokens), ('is_action', is_action),
                      ('logp', logp), ('bonus', bonus)):
    if len(value) != reward_JxG.size:
      raise ValueError(
          f'{len(value)} {name} for {reward_JxG.shape[0]} groups of '
          f'{reward_JxG.shape[1]} rollouts'
      )
  wins_J = (success_JxG & valid_JxG).sum(-1)
  num_valid_J = valid_JxG.sum(-1)
  is_kept_J = (0 < wins_J) & (wins_J < num_valid_J)
  is_used_JxG = valid_JxG & is_kept_J[:, None]
  adv_JxG = np.asarray(advantage(reward_JxG, valid_JxG)) * is_used_JxG
  streams = []
  for i in np.flatnonzero(is_used_JxG):
    streams.append(learner.make_stream(
        tokens[i], is_action[i], logp[i], adv_JxG.flat[i] + bonus[i]
    ))
  return GrpoData(
      streams, adv_JxG, is_kept_J, is_used_JxG,
      zero_variance_share=float(
          1 - is_kept_J.sum() / max((num_valid_J > 0).sum(), 1)
      ),
  )
