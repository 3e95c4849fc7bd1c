"""Optimiser steps: supervised (Eq. 5) and GRPO (Eq. 3), on packed batches.

`learners/` makes GRPO's streams, and PPO, DPO and GiGPO of the same pieces. Of
adapted weights (lora.split) the state holds the adapters alone, and every step
takes the base they belong to as `frozen`.

`make_*` functions close over what is static and return one jitted function
`(TrainState, Batch, ...) -> (TrainState, metrics)`. The state is donated: use
the returned one. No [B, T, V] logits exist: only the listed positions of a
batch reach the head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamgym_jax import accumulation, losses, types
from dreamgym_jax.data import batches
from dreamgym_jax.models import lora, sharding, transformer

Metrics = dict[str, jax.Array]
# (params, batch, ref_params) -> (loss, metrics)
LossFn = Callable[[types.Params, Any, types.Params], tuple[jax.Array, Metrics]]
# (state, batch, ref_params, frozen=None) -> (state, metrics)
Update = Callable[..., tuple[types.TrainState, Metrics]]


def warmup_cosine(
    lr: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
  """Linear from 0 to lr, then a half cosine down to lr / 10."""
  return optax.warmup_cosine_decay_schedule(
      0.0, lr, warmup_steps, max(total_steps, warmup_steps + 1), lr / 10
  )


def warmup_constant(
    lr: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
  """Linear from 0 to lr, then lr; for RL, whose end nobody knows."""
  del total_steps

  # Not optax's: without warm-up that one stays at 0 for ever.
  def schedule(count):
    warm = count / max(warmup_steps, 1)
    return lr * jnp.where(count < warmup_steps, warm, 1.0)

  return schedule


def make_optimizer(
    lr: float,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    schedule: Callable[[float, int, int], optax.Schedule] = warmup_cosine,
    b1: float = 0.9,
    b2: float = 0.95,
) -> optax.GradientTransformation:
  """AdamW behind a clip of the global gradient norm.

  Matrices decay, norm scales (named ln*) and biases do not. b2 = .95 forgets
  in about 20 steps: runs here are short.
  """
  return optax.chain(
      optax.clip_by_global_norm(max_grad_norm),
      optax.adamw(
          schedule(lr, warmup_steps, total_steps),
          b1=b1, b2=b2, weight_decay=weight_decay, mask=_decays,
      ),
  )


def _decays(params: types.Params) -> types.Params:
  def decays(path, _):
    # By name: scanned layers are stacked, so a scale has two axes as well.
    return not str(path[-1].key).startswith(('ln', 'bias'))

  return jax.tree_util.tree_map_with_path(decays, params)


def init_state(
    params: types.Params, optimizer: optax.GradientTransformation
) -> types.TrainState:
  """Step 0. Copies params: the steps donate theirs, yours stay (reference).

  On a mesh everything lies where the weights of its name lie.
  """

  def start(params):
    return types.TrainState(
        step=jnp.zeros([], jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )

  return jax.jit(start, out_shardings=sharding.alike(
      jax.eval_shape(start, params), params))(params)


def make_score(
    model_cfg: transformer.ModelConfig,
) -> Callable[[types.Params, batches.Batch], jax.Array]:
  """A jitted (params, batch) -> log-probs [P] of the batch's targets, nats."""
  return jax.jit(
      lambda params, batch: logp_entropy(params, batch, model_cfg)[0]
  )


def make_sft_step(
    model_cfg: transformer.ModelConfig,
    optimizer: optax.GradientTransformation,
) -> Callable[..., tuple[types.TrainState, Metrics]]:
  """A step(state, batch, frozen=None) of weighted likelihood (Eq. 5).

  Metrics: loss (nats per unit of weight), entropy, tokens (positions used),
  grad_norm (before clipping), skipped (1 if NaN or Inf: nothing changed).
  """

  def loss_fn(params, batch, ref_params):
    del ref_params
    logp_P, entropy_P = logp_entropy(params, batch, model_cfg)
    return losses.token_nll(logp_P, batch.weight_P), {
        'entropy': losses.masked_mean(entropy_P, batch.weight_P),
        'tokens': jnp.sum(batch.weight_P != 0),
    }

  step = make_update(loss_fn, optimizer)
  return jax.jit(
      lambda state, batch, frozen=None: step(state, batch, None, frozen),
      donate_argnums=0,
  )


def make_grpo_step(
    model_cfg: transformer.ModelConfig,
    optimizer: optax.GradientTransformation,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    aggregate: losses.Aggregate = losses.token_mean,
    n_turns: int = 0,
    accumulates: bool = False,
    temperature: float = 1.0,
) -> Callable[..., tuple[types.TrainState, Metrics]]:
  """One GRPO update (Eq. 3) of a batch made by `grpo.grpo_streams`.

  With `accumulates` a batch comes in parts (accumulation.py). pi is the policy
  at `temperature`, that of the rollouts: what is not drawn from is not trained.
  loss = aggregate(surrogate + kl_coef k3(pi || ref) - entropy_coef entropy).

  Returns:
    A jitted `step(state, batch, ref_params=None, frozen=None)`. The reference
    runs only if kl_coef > 0; then ref_params must be given, and must not be
    the donated `state.params` themselves.
    Metrics: loss, entropy, kl (to the reference), approx_kl (to the sampling
    policy), ratio_max, clip_share, logp_mismatch (mean |log pi - log
    pi_sampler|; before the first update of an iteration it is the sampler's
    error and should be about 1e-5), mismatch_2xL (the same, with n_turns > 0:
    sums and weights by turn), tokens, grad_norm, skipped.
  """
  step = make_update(
      make_policy_loss(
          model_cfg, clip_low, clip_high, kl_coef, entropy_coef, aggregate,
          n_turns, temperature
      ),
      optimizer,
      count_of(aggregate) if accumulates else None,
  )
  return jax.jit(
      lambda state, batch, ref_params=None, frozen=None: step(
          state, batch, ref_params, frozen
      ),
      donate_argnums=0,
  )


def make_policy_loss(
    model_cfg: transformer.ModelConfig,
    clip_low: float,
    clip_high: float,
    kl_coef: float,
    entropy_coef: float,
    aggregate: losses.Aggregate,
    n_turns: int = 0,
    temperature: float = 1.0,
) -> LossFn:
  """The loss of `make_grpo_step`, for whatever made the advantages."""
  kl_fn = _make_kl(model_cfg, temperature) if kl_coef else _no_kl

  def loss_fn(params, batch, ref_params):
    if kl_coef and ref_params is None:
      raise ValueError(f'kl_coef is {kl_coef}: ref_params must be given')
    logp_P, entropy_P = logp_entropy(params, batch, model_cfg, temperature)
    weight_P = batch.weight_P
    surrogate = losses.clipped_surrogate(
        logp_P, batch.logp_P, batch.adv_P, weight_P, clip_low, clip_high
    )
    kl_P = kl_fn(logp_P, batch, ref_params)
    loss_P = surrogate.loss_P + kl_coef * kl_P - entropy_coef * entropy_P
    return aggregate(loss_P, weight_P, batch.sequence_P), {
        'entropy': losses.masked_mean(entropy_P, weight_P),
        'kl': losses.masked_mean(kl_P, weight_P),
        'approx_kl': surrogate.approx_kl,
        'ratio_max': surrogate.ratio_max,
        'clip_share': surrogate.clip_share,
        'tokens': jnp.sum(weight_P != 0),
    } | mismatch(logp_P, batch, n_turns)

  return loss_fn


def mismatch(logp_P: jax.Array, batch: batches.Batch, n_turns: int) -> Metrics:
  """How far the sampler's log-probs are from these, in all and by turn."""
  gap_P = jnp.abs(logp_P - batch.logp_P)
  found = {'logp_mismatch': losses.masked_mean(gap_P, batch.weight_P)}
  if n_turns:
    found['mismatch_2xL'] = sharding.constrain(losses.sums_by_turn(
        gap_P, batch.weight_P, batch.index_P, batch.sequence_P, n_turns
    ))
  return found


def count_of(
    aggregate: losses.Aggregate,
) -> Callable[[batches.Batch], jax.Array]:
  """batch -> what its loss is a mean over; see `make_update`."""
  return lambda batch: losses.n_counted(
      aggregate, batch.weight_P, batch.sequence_P)


def _make_kl(model_cfg: transformer.ModelConfig, temperature: float):
  def kl(logp_P, batch, ref_params):
    ref_logp_P, _ = logp_entropy(
        jax.lax.stop_gradient(ref_params), batch, model_cfg, temperature)
    return losses.k3_kl(logp_P, ref_logp_P)

  return kl


def _no_kl(logp_P, batch, ref_params):
  del batch, ref_params
  return jnp.zeros_like(logp_P)


def features(
    params: types.Params,
    batch: batches.Batch,
    model_cfg: transformer.ModelConfig,
) -> jax.Array:
  """Final states x_PxD of the positions that predict the targets."""
  x_BxTxD = transformer.hidden(
      params, batch.tok_BxT, batch.pos_BxT, batch.segment_BxT, model_cfg
  )
  return x_BxTxD.reshape(-1, x_BxTxD.shape[-1])[batch.index_P]


def logp_entropy(
    params: types.Params,
    batch: batches.Batch,
    model_cfg: transformer.ModelConfig,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Log-prob of each target and entropy there, both [P], float32."""
  if sharding.n_batch_shards() == 1:
    x_PxD = features(params, batch, model_cfg)
    return transformer.logp_entropy(
        params, x_PxD, batch.target_P, model_cfg, temperature=temperature)
  # Listed positions may stand in any row, so that states would go from device
  # to device. All positions are scored, where they are: numbers travel.
  n = batch.tok_BxT.size
  at_P = jnp.where(batch.weight_P != 0, batch.index_P, n)
  target = jnp.zeros(n, jnp.int32).at[at_P].set(batch.target_P, mode='drop')
  x_BxTxD = transformer.hidden(
      params, batch.tok_BxT, batch.pos_BxT, batch.segment_BxT, model_cfg)
  every = transformer.logp_entropy(
      params, x_BxTxD.reshape(n, -1), target, model_cfg,
      temperature=temperature)
  return tuple(x[batch.index_P] for x in every)


def make_update(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    count: Callable[[Any], jax.Array] | None = None,
) -> Update:
  """Gradient, clip, update; an update that is not finite changes nothing.

  Not jitted: the `make_*_step` functions do that. Adds to the metrics of the
  loss: loss, grad_norm, skipped. With `count`, what the loss of a batch is a
  mean over, the step takes batches in parts (accumulation.py).
  """

  def gradient(params, batch, ref_params, frozen):
    def loss_of(params):
      return loss_fn(lora.join(frozen, params), batch, ref_params)

    return jax.value_and_grad(loss_of, has_aux=True)(params)

  if count:
    gradient = accumulation.accumulated(gradient, count)

  def step(state, batch, ref_params, frozen=None):
    (loss, metrics), grads = gradient(
        state.params, batch, ref_params, frozen
    )
    grad_norm = optax.tree.norm(grads)
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params
    )
    updated = types.TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
    )
    state = jax.tree.map(
        lambda new, old: jnp.where(is_finite, new, old), updated, state
    )
    return state, metrics | {
        'loss': loss,
        'grad_norm': grad_norm,
        'skipped': 1 - is_finite.astype(jnp.int32),
    }

  return step


def make_stream(
    tokens: np.ndarray,
    is_action: np.ndarray,
    logp: np.ndarray,
    adv: np.ndarray | float,
) -> batches.Stream:
  """A rollout as a stream; outside its actions logp and adv may be anything."""
  weight_T = np.asarray(is_action, np.float32)
  return batches.Stream(
      tokens=np.asarray(tokens, np.int32),
      weight=weight_T,
      logp=np.where(weight_T > 0, logp, 0).astype(np.float32),
      adv=np.where(weight_T > 0, adv, 0).astype(np.float32),
  )
