"""Losses and their statistics, on arrays alone.

No parameters, no config, no tokenizer: whatever made the log-probs, these
functions only see numbers. Aggregations and advantages are functions with one
signature each, so that a caller passes the one it wants.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# (value_P, weight_P, sequence_P) -> []: how tokens become one number.
Aggregate = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# exp(20) is far beyond every clip range, and far below overflow.
_MAX_LOG_RATIO = 20.0


def masked_sum(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Sum of weight * x; x may be anything (even NaN) where weight is 0."""
  return jnp.sum(jnp.where(weight != 0, x, 0) * weight)


def masked_mean(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Weighted mean of x; 0 if all weights are 0."""
  total = jnp.sum(weight)
  return masked_sum(x, weight) / jnp.where(total > 0, total, 1)


def masked_std(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Population standard deviation of x under the weights; 0 if they are."""
  mean = masked_mean(x, weight)
  return jnp.sqrt(masked_mean(jnp.square(x - mean), weight))


def token_mean(
    value_P: jax.Array, weight_P: jax.Array, sequence_P: jax.Array
) -> jax.Array:
  """Each token counts the same: sum w v / sum w (DAPO, arXiv 2503.14476)."""
  del sequence_P
  return masked_mean(value_P, weight_P)


def sequence_mean(
    value_P: jax.Array, weight_P: jax.Array, sequence_P: jax.Array
) -> jax.Array:
  """Each sequence counts the same: mean_i (sum_t w v / sum_t w).

  The 1/|o_i| of GRPO (DeepSeekMath, arXiv 2402.03300, Eq. 3); sequences
  without weight are not counted.
  """
  total_P = _per_sequence(jnp.where(weight_P != 0, value_P, 0) * weight_P,
                          sequence_P)
  tokens_P = _per_sequence(weight_P, sequence_P)
  is_used_P = tokens_P > 0
  mean_P = total_P / jnp.where(is_used_P, tokens_P, 1)
  return masked_mean(mean_P, is_used_P.astype(jnp.float32))


def constant_length(length: float) -> Aggregate:
  """Sequence sums over a constant: mean_i (sum_t w v / length).

  Dr. GRPO (arXiv 2503.20783): no bias towards short right or long wrong
  answers. `length` is usually the longest response allowed, in tokens.
  """

  def aggregate(value_P, weight_P, sequence_P):
    is_used_P = _per_sequence(weight_P, sequence_P) > 0
    num_sequences = jnp.maximum(is_used_P.sum(), 1)
    return masked_sum(value_P, weight_P) / (length * num_sequences)

  return aggregate


def _per_sequence(value_P: jax.Array, sequence_P: jax.Array) -> jax.Array:
  """Sums by sequence; there are at most as many sequences as positions."""
  return jax.ops.segment_sum(
      value_P, sequence_P, num_segments=value_P.shape[0]
  )


def token_nll(logp_P: jax.Array, weight_P: jax.Array) -> jax.Array:
  """Negative log-likelihood in nats per unit of weight (Eq. 5).

  L = - sum_P w_P log P(target_P | before) / sum_P w_P. Reasoning R* and next
  state s' are tokens of one stream, so equal weights give the paper's
  `-log P(R*|...) - log P(s'|..., R*)` up to the length normalisation.
  """
  return -masked_mean(logp_P, weight_P)


def centred_advantage(
    reward_JxG: jax.Array, valid_JxG: jax.Array | None = None
) -> jax.Array:
  """A = r - mean_G over the valid rollouts of each group; 0 for the others.

  The mean-only form of Eq. 3 (Dr. GRPO, arXiv 2503.20783): hard and easy
  tasks are not weighted up.
  """
  return _centre(reward_JxG, valid_JxG)[0]


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


class Surrogate(NamedTuple):
  """The policy-gradient loss per token, and what warns early."""

  loss_P: jax.Array
  clip_share: jax.Array   # [] share of tokens whose gradient is clipped away
  approx_kl: jax.Array    # [] k3 estimate of KL(old || new)
  ratio_max: jax.Array    # [] largest pi_new / pi_old


def clipped_surrogate(
    logp_P: jax.Array,
    old_logp_P: jax.Array,
    adv_P: jax.Array,
    weight_P: jax.Array,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
  """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = pi / pi_old.

  PPO (arXiv 1707.06347, Eq. 7), shared by GRPO; clip_high > clip_low is the
  clip-higher of DAPO (arXiv 2503.14476), which keeps rare tokens learnable.

  Args:
    logp_P: log-probs under the policy being trained, nats.
    old_logp_P: log-probs under the policy that acted.
    adv_P: advantages, constants of the loss.
    weight_P: token weights; they enter the statistics, not loss_P.
    clip_low: how far below 1 the ratio may help, > 0.
    clip_high: how far above.
  """
  adv_P = jax.lax.stop_gradient(adv_P)
  log_ratio_P = jnp.clip(
      logp_P - old_logp_P, -_MAX_LOG_RATIO, _MAX_LOG_RATIO
  )
  ratio_P = jnp.exp(log_ratio_P)
  clipped_P = jnp.clip(ratio_P, 1 - clip_low, 1 + clip_high)
  loss_P = -jnp.minimum(ratio_P * adv_P, clipped_P * adv_P)
  is_clipped_P = ((adv_P > 0) & (ratio_P > 1 + clip_high)) | (
      (adv_P < 0) & (ratio_P < 1 - clip_low)
  )
  return Surrogate(
      loss_P,
      clip_share=masked_mean(is_clipped_P.astype(jnp.float32), weight_P),
      approx_kl=masked_mean(ratio_P - 1 - log_ratio_P, weight_P),
      ratio_max=jnp.max(jnp.where(weight_P != 0, ratio_P, 0)),
  )


def k3_kl(logp_P: jax.Array, ref_logp_P: jax.Array) -> jax.Array:
  """Per-token estimate of KL(pi || ref): exp(d) - d - 1, d = ref - logp.

  Unbiased for samples of pi, never negative, low variance (Schulman 2020,
  "Approximating KL divergence", k3; GRPO, arXiv 2402.03300, Eq. 4). Nats.
  """
  log_ratio_P = jnp.clip(
      ref_logp_P - logp_P, -_MAX_LOG_RATIO, _MAX_LOG_RATIO
  )
  return jnp.exp(log_ratio_P) - log_ratio_P - 1
