"""Losses and their statistics, on arrays alone.

No parameters, no config, no tokenizer: whatever made the log-probs, these
functions only see numbers. Aggregations are functions of one signature, so
that a caller passes the one it wants. Where a weight is 0 the other arrays
may hold anything, even NaN: neither loss nor gradient sees it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# (value_P, weight_P, sequence_P) -> []: how tokens become one number: a sum
# over what `n_counted` says, so that sums of several batches can be joined.
Aggregate = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# exp(20) is far beyond every clip range, and far below overflow.
_MAX_LOG_RATIO = 20.0


def _used(x: jax.Array, weight: jax.Array) -> jax.Array:
  """x where it has weight; elsewhere 0, which no NaN of x gets past."""
  return jnp.where(weight != 0, x, 0)


def masked_sum(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Sum of weight * x; x may be anything (even NaN) where weight is 0."""
  return jnp.sum(_used(x, weight) * weight)


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
  total_P = _per_sequence(_used(value_P, weight_P) * weight_P, sequence_P)
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


def n_counted(
    aggregate: Aggregate, weight_P: jax.Array, sequence_P: jax.Array
) -> jax.Array:
  """What an aggregate's sum is divided by: tokens' weight, or sequences."""
  if aggregate is token_mean:
    return jnp.sum(weight_P)
  return (_per_sequence(weight_P, sequence_P) > 0).sum().astype(jnp.float32)


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
    weight_P: token weights; they enter the statistics. loss_P does not
      hold them, but is 0, with no gradient, where they are.
    clip_low: how far below 1 the ratio may help, > 0.
    clip_high: how far above.
  """
  adv_P = jax.lax.stop_gradient(_used(adv_P, weight_P))
  log_ratio_P = jnp.clip(
      _used(logp_P - old_logp_P, weight_P), -_MAX_LOG_RATIO, _MAX_LOG_RATIO
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


def truncated_ratio(
    logp_P: jax.Array, sampler_logp_P: jax.Array, weight_P: jax.Array,
    cap: float,
) -> jax.Array:
  """min(pi / pi_sampler, cap) of each token, a constant; 1 without weight.

  Truncated importance sampling (Ionides 2008), where the sampler's numerics
  are not the scorer's: the advantages are multiplied by it, and the ratio of
  the surrogate is of the scorer alone (Yao et al. 2025, "Your Efficient RL
  Framework Secretly Brings You Off-Policy RL Training").
  """
  log_ratio_P = jnp.clip(
      _used(logp_P - sampler_logp_P, weight_P), -_MAX_LOG_RATIO, _MAX_LOG_RATIO
  )
  return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_ratio_P), cap))


def sums_by_turn(
    value_P: jax.Array, weight_P: jax.Array, index_P: jax.Array,
    sequence_P: jax.Array, n_turns: int,
) -> jax.Array:
  """[2, L]: sums of weight * value, and of weight, over equal turns.

  A turn is a run of neighbouring positions; a stream's turns are counted from
  0, and the last of `n_turns` takes all that come later. Without NaN, unlike
  means, and so that those of several batches can be added.
  """
  is_used_P = weight_P != 0
  is_next_P = jnp.pad(
      (sequence_P[1:] == sequence_P[:-1]) & is_used_P[:-1], (1, 0)
  )
  is_first_P = is_used_P & ~(
      is_next_P & (index_P == jnp.pad(index_P[:-1], (1, 0)) + 1)
  )
  count_P = jnp.cumsum(is_first_P)
  # Turns before the stream's own: the count at its first position, less it.
  before_P = jax.lax.cummax(jnp.where(is_first_P & ~is_next_P, count_P, 0))
  turn_P = jnp.clip(count_P - before_P, 0, n_turns - 1)
  both_Px2 = jnp.stack([_used(value_P, weight_P) * weight_P, weight_P], 1)
  return jax.ops.segment_sum(both_Px2, turn_P, n_turns).T


def k3_kl(logp_P: jax.Array, ref_logp_P: jax.Array) -> jax.Array:
  """Per-token estimate of KL(pi || ref): exp(d) - d - 1, d = ref - logp.

  Unbiased for samples of pi, never negative, low variance (Schulman 2020,
  "Approximating KL divergence", k3; GRPO, arXiv 2402.03300, Eq. 4). Nats.
  """
  log_ratio_P = jnp.clip(
      ref_logp_P - logp_P, -_MAX_LOG_RATIO, _MAX_LOG_RATIO
  )
  return jnp.exp(log_ratio_P) - log_ratio_P - 1


class ValueLoss(NamedTuple):
  """The critic's regression per token, and how often it was held back."""

  loss_P: jax.Array
  clip_share: jax.Array   # [] share of weighted tokens that are clipped away


def clipped_value_loss(
    value_P: jax.Array,
    old_value_P: jax.Array,
    return_P: jax.Array,
    weight_P: jax.Array,
    clip: float,
) -> ValueLoss:
  """max((V - R)^2, (V_clip - R)^2) / 2, V_clip within `clip` of V_old.

  The value side of PPO as in the code of OpenAI (described in arXiv
  2005.12729, Sec. 3): once a value has moved by `clip` towards its target,
  this batch pulls it no further.

  Args:
    value_P: of the critic being trained, in units of reward.
    old_value_P: what the targets were computed with.
    return_P: targets, constants of the loss.
    weight_P: as for `clipped_surrogate`.
    clip: > 0; infinity turns it off.
  """
  value_P, old_value_P, return_P = (
      _used(x, weight_P) for x in (value_P, old_value_P, return_P)
  )
  return_P = jax.lax.stop_gradient(return_P)
  near_P = old_value_P + jnp.clip(value_P - old_value_P, -clip, clip)
  plain_P, clipped_P = (value_P - return_P) ** 2, (near_P - return_P) ** 2
  is_clipped_P = (near_P != value_P) & (clipped_P > plain_P)
  return ValueLoss(
      jnp.maximum(plain_P, clipped_P) / 2,
      clip_share=masked_mean(is_clipped_P.astype(jnp.float32), weight_P),
  )


class Preference(NamedTuple):
  """The loss of a batch of pairs, and how far apart they are."""

  loss: jax.Array         # [] nats per pair
  accuracy: jax.Array     # [] share of pairs with a positive margin
  margin: jax.Array       # [] mean margin


def preference_loss(
    logp_P: jax.Array,
    ref_logp_P: jax.Array,
    weight_P: jax.Array,
    pair_P: jax.Array,
    is_chosen_P: jax.Array,
    beta: float,
) -> Preference:
  """-log sigmoid(m), m = beta (log pi/ref of chosen - of rejected).

  DPO (arXiv 2305.18290, Eq. 7); log pi of a stream is the weighted sum over
  its tokens. The mean is over pairs that have tokens on both sides.

  Args:
    logp_P: log-probs under the policy being trained, nats.
    ref_logp_P: log-probs under the reference.
    weight_P: token weights.
    pair_P: which pair a token belongs to, < P.
    is_chosen_P: whether it is of the better stream.
    beta: how much a nat away from the reference counts, > 0.
  """
  sign_P = jnp.where(is_chosen_P, 1.0, -1.0)
  log_ratio_P = _used(logp_P - ref_logp_P, weight_P) * weight_P
  margin_P = beta * _per_sequence(sign_P * log_ratio_P, pair_P)
  chosen_P, rejected_P = (
      _per_sequence(jnp.where(side_P, weight_P, 0), pair_P)
      for side_P in (is_chosen_P, ~is_chosen_P)
  )
  is_pair_P = ((chosen_P > 0) & (rejected_P > 0)).astype(jnp.float32)
  return Preference(
      loss=masked_mean(-jax.nn.log_sigmoid(margin_P), is_pair_P),
      accuracy=masked_mean((margin_P > 0).astype(jnp.float32), is_pair_P),
      margin=masked_mean(margin_P, is_pair_P),
  )
