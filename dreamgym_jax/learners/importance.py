"""Truncated importance weights, where sampler and scorer differ.

What acts is the sampler: other kernels, another precision, another machine
than what is trained. Its log-probs of the tokens it drew are then not those
of the weights that are updated, and the surrogate's ratio is not 1 before the
first update. One scoring pass before that puts the old policy's log-probs
right, and counts a token by how much likelier it is under that policy than
it was to be drawn, up to a cap (losses.truncated_ratio).
"""

from collections.abc import Callable

import jax

from dreamgym_jax import learner, losses
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer


def make_correction(
    model_cfg: transformer.ModelConfig, cap: float, n_turns: int = 0,
    temperature: float = 1.0,
) -> Callable[..., tuple[batches.Batch, learner.Metrics]]:
  """A jitted (params, batch) -> (batch, metrics), before the first update.

  The batch's log-probs become the scorer's, its advantages are multiplied by
  the truncated ratio. Metrics: importance (the mean ratio), and of the sampler
  logp_mismatch and mismatch_2xL, as in `learner.make_grpo_step`.
  """

  def correct(params, batch):
    logp_P, _ = learner.logp_entropy(params, batch, model_cfg, temperature)
    ratio_P = losses.truncated_ratio(
        logp_P, batch.logp_P, batch.weight_P, cap)
    metrics = learner.mismatch(logp_P, batch, n_turns) | {
        'importance': losses.masked_mean(ratio_P, batch.weight_P)}
    return batch._replace(
        logp_P=logp_P, adv_P=batch.adv_P * ratio_P), metrics

  return jax.jit(correct)
