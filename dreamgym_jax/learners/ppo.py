"""PPO (Eq. 2): the policy's step of GRPO, with advantages from a critic.

The critic is a decoder of its own with one linear value head, started from the
policy's weights and a head of zeros (the first advantages are plain returns).
Apart from the policy's, because then neither loss bends the other's features
and there is no weight between the two to tune: each has its optimiser, its
clip and its skip, and the policy's step is GRPO's, unchanged. It costs a
second decoder; with adapters that is a second set of adapters.

One iteration: `ppo_streams` -> pack -> `make_targets` -> `whiten` ->
`make_ppo_step` on each batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from dreamgym_jax import advantages, learner, losses, types
from dreamgym_jax.data import batches
from dreamgym_jax.models import sharding, transformer


@struct.dataclass
class PpoState:
  """What PPO changes."""

  policy: types.TrainState
  critic: types.TrainState  # params: {'decoder': Params, 'value': [D]}

  @property
  def params(self) -> types.Params:
    """The policy's weights, as in any TrainState."""
    return self.policy.params


class PpoBatch(NamedTuple):
  """A packed batch with what the critic said of it before the updates."""

  batch: batches.Batch      # adv_P holds the advantages
  value_P: jax.Array        # V of the critic that made them
  return_P: jax.Array       # the critic's targets
  value_weight_P: jax.Array  # tokens whose value is trained


# (critic's params, batch whose adv_P holds rewards) -> PpoBatch
Targets = Callable[[types.Params, batches.Batch], PpoBatch]


def init_state(
    params: types.Params,
    policy_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
) -> PpoState:
  """Step 0 of both; copies params."""
  critic = {
      'decoder': params,
      'value': jnp.zeros(params['ln_f'].shape, jnp.float32),
  }
  return PpoState(
      learner.init_state(params, policy_optimizer),
      learner.init_state(critic, critic_optimizer),
  )


def ppo_streams(
    tokens: Sequence[np.ndarray],
    is_action: Sequence[np.ndarray],
    logp: Sequence[np.ndarray],
    rewards: Sequence[np.ndarray],
    valid: np.ndarray,
) -> list[batches.Stream]:
  """Rollouts as streams whose `adv` is the reward of each token. Host only.

  Every valid rollout becomes a stream; there need be no groups.

  Args:
    tokens: of each rollout, [T].
    is_action: for each, [T] true where the policy wrote the token.
    logp: for each, [T] the sampler's log-prob of the token (where is_action).
    rewards: for each, [L] the reward of each turn; its last token carries it.
    valid: for each, false if it was malformed or crashed.

  Raises:
    ValueError: as many rewards as turns are needed.
  """
  streams = []
  for i in np.flatnonzero(np.asarray(valid)):
    turn_T = turns(is_action[i])
    n = int(turn_T.max(initial=-1)) + 1
    if len(rewards[i]) != n:
      raise ValueError(
          f'rollout {i} has {n} turns but {len(rewards[i])} rewards'
      )
    is_last_T = (turn_T >= 0) & (np.append(turn_T[1:], -1) != turn_T)
    reward_T = np.zeros(len(turn_T), np.float32)
    reward_T[is_last_T] = rewards[i]
    streams.append(
        learner.make_stream(tokens[i], is_action[i], logp[i], reward_T)
    )
  return streams


def turns(is_action: np.ndarray) -> np.ndarray:
  """[T] which turn, 0, 1, ..., wrote each token; -1 where none did."""
  is_action = np.asarray(is_action, bool)
  is_first = is_action & ~np.insert(is_action[:-1], 0, False)
  return np.where(is_action, np.cumsum(is_first) - 1, -1)


def make_values(
    model_cfg: transformer.ModelConfig,
) -> Callable[[types.Params, batches.Batch], jax.Array]:
  """A jitted (critic's params, batch) -> V [P] before each target, float32."""
  return jax.jit(lambda critic, batch: _values(critic, batch, model_cfg))


def make_targets(
    model_cfg: transformer.ModelConfig, estimate: advantages.Estimator
) -> Targets:
  """A jitted function that turns a batch's rewards into advantages.

  Args:
    model_cfg: of policy and critic.
    estimate: `advantages.token_level(...)` or `advantages.turn_level(...)`.
  """

  def targets(critic, batch):
    value_P = _values(critic, batch, model_cfg)
    adv_P, return_P, value_weight_P = estimate(
        batch.adv_P, value_P, batch.weight_P, batch.index_P, batch.sequence_P
    )
    return PpoBatch(
        batch._replace(adv_P=adv_P), value_P, return_P, value_weight_P
    )

  return jax.jit(targets)


def _values(critic, batch, model_cfg) -> jax.Array:
  x_PxD = learner.features(critic['decoder'], batch, model_cfg)
  return x_PxD.astype(jnp.float32) @ critic['value']


def whiten(packed: Sequence[PpoBatch]) -> list[PpoBatch]:
  """Advantages less their mean over all tokens, over their std. Host only.

  Over the whole iteration, so that its batches keep their proportions; 0 if
  all of them tie.
  """
  advs, weights = (
      [sharding.on_host(x) for x in xs]
      for xs in ([p.batch.adv_P for p in packed],
                 [p.batch.weight_P for p in packed])
  )
  adv_P, weight_P = (
      np.concatenate(xs or [np.zeros(0)]) for xs in (advs, weights)
  )
  used = adv_P[weight_P != 0]
  # Decided on the values: the std of equal floats may be off in the last bit.
  scale = 1 / used.std() if len(used) and np.ptp(used) > 0 else 0.0
  mean = used.mean() if len(used) else 0.0

  def white(p: PpoBatch, adv_P, weight_P) -> PpoBatch:
    adv_P = np.where(weight_P != 0, (adv_P - mean) * scale, 0)
    return p._replace(batch=p.batch._replace(adv_P=adv_P.astype(np.float32)))

  return [white(*x) for x in zip(packed, advs, weights, strict=True)]


def make_ppo_step(
    model_cfg: transformer.ModelConfig,
    policy_optimizer: optax.GradientTransformation,
    critic_optimizer: optax.GradientTransformation,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    value_clip: float = 0.2,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    aggregate: losses.Aggregate = losses.token_mean,
    n_turns: int = 0,
    accumulates: bool = False,
    temperature: float = 1.0,
) -> Callable[..., tuple[PpoState, learner.Metrics]]:
  """One PPO update of policy and critic on a batch of `make_targets`.

  Returns:
    A jitted `step(state, ppo_batch, ref_params=None)`; the state is donated.
    Metrics: the policy's as in `learner.make_grpo_step`; value_loss (mean
    over valued tokens), value_clip_share, explained_variance (1 - Var(R -
    V_old) / Var(R); 0 if the returns tie), value_grad_norm; skipped is 1 if
    either update was not finite (that one changed nothing).
  """
  policy_step = learner.make_update(
      learner.make_policy_loss(
          model_cfg, clip_low, clip_high, kl_coef, entropy_coef, aggregate,
          n_turns, temperature
      ),
      policy_optimizer,
      learner.count_of(aggregate) if accumulates else None,
  )
  critic_step = learner.make_update(
      _make_critic_loss(model_cfg, value_clip), critic_optimizer,
      (lambda p: jnp.sum(p.value_weight_P)) if accumulates else None,
  )

  def ppo_step(state, batch, ref_params=None):
    policy, metrics = policy_step(state.policy, batch.batch, ref_params)
    critic, value = critic_step(state.critic, batch, None)
    return PpoState(policy, critic), metrics | {
        'value_loss': value['loss'],
        'value_grad_norm': value['grad_norm'],
        'value_clip_share': value['clip_share'],
        'explained_variance': value['explained_variance'],
        'skipped': jnp.maximum(metrics['skipped'], value['skipped']),
    }

  return jax.jit(ppo_step, donate_argnums=0)


def _make_critic_loss(model_cfg, value_clip) -> learner.LossFn:
  def loss_fn(critic, batch, ref_params):
    del ref_params
    weight_P = batch.value_weight_P
    value_P = _values(critic, batch.batch, model_cfg)
    loss_P, clip_share = losses.clipped_value_loss(
        value_P, batch.value_P, batch.return_P, weight_P, value_clip
    )
    spread = losses.masked_std(batch.return_P, weight_P)
    error = losses.masked_std(batch.return_P - batch.value_P, weight_P)
    share = error**2 / jnp.where(spread > 0, spread**2, 1)
    return losses.masked_mean(loss_P, weight_P), {
        'clip_share': clip_share,
        'explained_variance': jnp.where(spread > 0, 1 - share, 0),
    }

  return loss_fn
