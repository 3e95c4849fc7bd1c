"""Advantages: how much better than expected an outcome or an action was.

Expected by the group of the same task (GRPO), by the visits to the same state
within it (GiGPO), or by a critic (PPO). On arrays alone, as `losses`; what has
no weight or is not valid may hold anything, even NaN. Estimators with a critic
are functions of one signature, so that a caller passes the one it wants.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


def centred_advantage(
    reward_JxG: jax.Array, valid_JxG: jax.Array | None = None
) -> jax.Array:
  """A = r - mean_G over the valid rollouts of each group; 0 for the others.

  The mean-only form of Eq. 3 (Dr. GRPO, arXiv 2503.20783): hard and easy
  tasks are not weighted up.
  """
  return _centre(reward_JxG, valid_JxG)[0]


def win_advantage(
    reward_JxG: jax.Array, valid_JxG: jax.Array | None = None
) -> jax.Array:
  """A = r of the valid rollouts whose reward is positive; 0 for the others.

  Nothing is compared: RAFT (arXiv 2304.06767) learns from what was won.
  """
  reward_JxG = jnp.asarray(reward_JxG, jnp.float32)
  is_won_JxG = reward_JxG > 0
  if valid_JxG is not None:
    is_won_JxG &= jnp.asarray(valid_JxG) > 0
  return jnp.where(is_won_JxG, reward_JxG, 0)


def group_advantage(
    reward_JxG: jax.Array,
    valid_JxG: jax.Array | None = None,
    eps: float = 1e-6,
) -> jax.Array:
  """A = (r - mean_G) / (std_G + eps) (Eq. 3, GRPO); population std.

  Mean and std are over the valid rollouts of each group; others get 0, and
  so does every rollout of a group whose rewards tie. eps keeps a tie from
  dividing by zero and is far below the least std of 0/1 rewards.
  """
  adv_JxG, valid_JxG = _centre(reward_JxG, valid_JxG)
  count_Jx1 = jnp.maximum(valid_JxG.sum(-1, keepdims=True), 1)
  variance_Jx1 = jnp.sum(adv_JxG**2, -1, keepdims=True) / count_Jx1
  std_Jx1 = jnp.sqrt(variance_Jx1)
  # A mean of equal floats may be off in the last bit; divided by eps that
  # would be an advantage, so a tie is decided on the rewards themselves.
  low_Jx1 = jnp.min(jnp.where(valid_JxG > 0, reward_JxG, jnp.inf), -1,
                    keepdims=True)
  high_Jx1 = jnp.max(jnp.where(valid_JxG > 0, reward_JxG, -jnp.inf), -1,
                     keepdims=True)
  return jnp.where(high_Jx1 > low_Jx1, adv_JxG / (std_Jx1 + eps), 0.0)


def _centre(
    reward_JxG: jax.Array, valid_JxG: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """(rewards less the group's mean, 0 where invalid; validity as float)."""
  reward_JxG = jnp.asarray(reward_JxG, jnp.float32)
  if valid_JxG is None:
    valid_JxG = jnp.ones_like(reward_JxG)
  valid_JxG = jnp.asarray(valid_JxG, jnp.float32)
  reward_JxG = jnp.where(valid_JxG > 0, reward_JxG, 0)
  count_Jx1 = jnp.maximum(valid_JxG.sum(-1, keepdims=True), 1)
  mean_Jx1 = reward_JxG.sum(-1, keepdims=True) / count_Jx1
  return (reward_JxG - mean_Jx1) * valid_JxG, valid_JxG


def discounted_returns(
    reward_L: jax.Array, episode_L: jax.Array, discount: float
) -> jax.Array:
  """R_t = sum_{k >= t} discount^(k - t) r_k within each episode.

  Turns of one episode stand next to each other, in order.
  """
  goes_on_L = _followed_by(episode_L[:-1] == episode_L[1:])
  return _decayed_sum(
      jnp.asarray(reward_L, jnp.float32), discount * goes_on_L
  )


def centred_step_advantage(
    return_L: jax.Array,
    task_L: jax.Array,
    state_L: jax.Array,
    valid_L: jax.Array | None = None,
) -> jax.Array:
  """A = R - mean over the turns of one task that started from one state.

  The mean-only form of `step_advantage`, with the same arguments.
  """
  return _centre_steps(return_L, task_L, state_L, valid_L)[0]


def step_advantage(
    return_L: jax.Array,
    task_L: jax.Array,
    state_L: jax.Array,
    valid_L: jax.Array | None = None,
    eps: float = 1e-6,
) -> jax.Array:
  """A = (R - mean) / (std + eps) in each anchor-state group; population std.

  GiGPO (arXiv 2505.10978, step level): the turns that started from the same
  state, anywhere in the episodes of the same task, tried different actions
  under equal conditions. A state that was seen once has no group to be
  compared with, and gives 0, as does one whose returns tie.

  Args:
    return_L: discounted return from each turn on.
    task_L: which group of episodes (of one task) the turn belongs to.
    state_L: ids of the state before the action; equal ids mean equal states.
    valid_L: false for turns that neither get nor give an advantage.
    eps: as in `group_advantage`.
  """
  adv_L, valid_L, group_L = _centre_steps(return_L, task_L, state_L, valid_L)
  L = return_L.shape[0]
  count_L = jax.ops.segment_sum(valid_L, group_L, L)
  square_L = jax.ops.segment_sum(adv_L**2, group_L, L)
  std_L = jnp.sqrt(square_L / jnp.maximum(count_L, 1))
  # Decided on the returns, as in group_advantage.
  low_L = jax.ops.segment_min(
      jnp.where(valid_L > 0, return_L, jnp.inf), group_L, L
  )
  high_L = jax.ops.segment_max(
      jnp.where(valid_L > 0, return_L, -jnp.inf), group_L, L
  )
  scaled_L = adv_L / (std_L + eps)[group_L]
  return jnp.where((high_L > low_L)[group_L], scaled_L, 0.0)


def _centre_steps(
    return_L, task_L, state_L, valid_L
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(returns less their group's mean, validity as float, group ids)."""
  return_L = jnp.asarray(return_L, jnp.float32)
  if valid_L is None:
    valid_L = jnp.ones_like(return_L)
  valid_L = jnp.asarray(valid_L, jnp.float32)
  L = return_L.shape[0]
  _, group_L = jnp.unique(
      jnp.stack([jnp.asarray(task_L), jnp.asarray(state_L)], -1), axis=0,
      size=L, return_inverse=True,
  )
  group_L = group_L.reshape(L)
  return_L = jnp.where(valid_L > 0, return_L, 0)
  total_L, count_L = (
      jax.ops.segment_sum(x, group_L, L) for x in (return_L, valid_L)
  )
  mean_L = total_L / jnp.maximum(count_L, 1)
  return (return_L - mean_L[group_L]) * valid_L, valid_L, group_L


class Estimate(NamedTuple):
  """What a critic's values make of the rewards of packed tokens."""

  adv_P: jax.Array        # of each token; 0 where its weight is 0
  return_P: jax.Array     # what the critic should have said
  weight_P: jax.Array     # 1 at the tokens whose value was used, else 0


# (reward_P, value_P, weight_P, index_P, sequence_P) -> Estimate; the arrays
# are those of a packed batch: a stream's tokens stand together, in order.
Estimator = Callable[..., Estimate]


def token_level(discount: float, trace: float) -> Estimator:
  """GAE over the tokens that were written; see `gae`."""

  def estimate(reward_P, value_P, weight_P, index_P, sequence_P):
    del index_P
    adv_P, return_P = gae(
        reward_P, value_P, weight_P, sequence_P, discount, trace
    )
    return Estimate(adv_P, return_P, (weight_P != 0).astype(jnp.float32))

  return estimate


def turn_level(discount: float, trace: float) -> Estimator:
  """GAE over the turns of an episode; a turn's tokens share its advantage.

  A turn is a run of written tokens; its value is the one at the last token
  before it, its reward the sum of those of its tokens, and only that value is
  trained. The discount is per turn, whatever the length of a reply.
  """

  def estimate(reward_P, value_P, weight_P, index_P, sequence_P):
    P = weight_P.shape[0]
    is_used_P = weight_P != 0
    goes_on_P = (
        is_used_P[1:] & is_used_P[:-1] & (sequence_P[1:] == sequence_P[:-1])
        & (index_P[1:] == index_P[:-1] + 1)
    )
    is_first_P = is_used_P & ~jnp.pad(goes_on_P, (1, 0))
    turn_P = jnp.maximum(jnp.cumsum(is_first_P) - 1, 0)

    def by_turn(x_P, is_counted_P):
      return jax.ops.segment_sum(jnp.where(is_counted_P, x_P, 0), turn_P, P)

    adv_L, return_L = gae(
        by_turn(reward_P, is_used_P), by_turn(value_P, is_first_P),
        by_turn(1.0, is_first_P), by_turn(sequence_P, is_first_P),
        discount, trace,
    )
    return Estimate(
        jnp.where(is_used_P, adv_L[turn_P], 0),
        jnp.where(is_first_P, return_L[turn_P], 0),
        is_first_P.astype(jnp.float32),
    )

  return estimate


def gae(
    reward_P: jax.Array,
    value_P: jax.Array,
    weight_P: jax.Array,
    sequence_P: jax.Array,
    discount: float,
    trace: float,
) -> tuple[jax.Array, jax.Array]:
  """Generalised advantage estimation (arXiv 1506.02438, Eq. 16).

  A_t = sum_k (discount trace)^k d_{t+k}, d_t = r_t + discount V_{t+1} - V_t,
  within each sequence; V = 0 after its last entry, where every episode is
  over (one that runs out of steps has failed). trace = 1 is Monte Carlo,
  trace = 0 one-step TD.

  Args:
    reward_P: reward for each entry.
    value_P: V before it.
    weight_P: 0 at entries that are not there.
    sequence_P: which sequence; entries of one stand together, in order.
    discount: gamma, in [0, 1].
    trace: lambda, in [0, 1].

  Returns:
    Advantages and the targets of V (advantage + V); 0 where weight is 0.
  """
  is_used_P = weight_P != 0
  reward_P, value_P = (
      jnp.where(is_used_P, x, 0).astype(jnp.float32)
      for x in (reward_P, value_P)
  )
  goes_on_P = _followed_by(
      is_used_P[:-1] & is_used_P[1:] & (sequence_P[:-1] == sequence_P[1:])
  )
  next_P = goes_on_P * jnp.roll(value_P, -1)
  error_P = reward_P + discount * next_P - value_P
  adv_P = _decayed_sum(error_P, discount * trace * goes_on_P)
  return adv_P, adv_P + value_P


def _followed_by(is_next_P: jax.Array) -> jax.Array:
  """1.0 where the next entry continues this one; the last has no next."""
  return jnp.pad(is_next_P.astype(jnp.float32), (0, 1))


def _decayed_sum(x_P: jax.Array, decay_P: jax.Array) -> jax.Array:
  """y_t = x_t + decay_t y_{t+1}, in log P parallel steps."""

  def join(later, earlier):
    decay, x = earlier
    return decay * later[0], x + decay * later[1]

  return jax.lax.associative_scan(join, (decay_P, x_P), reverse=True)[1]
