"""DPO (arXiv 2305.18290) on pairs made of group outcomes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dreamgym_jax import learner, losses, types
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer


class PairBatch(NamedTuple):
  """A packed batch that holds both streams of each of its pairs."""

  batch: batches.Batch
  pair_P: np.ndarray        # int32, which pair a token belongs to; < P
  is_chosen_P: np.ndarray   # bool, whether it is of the better stream


def select_pairs(
    reward_JxG: np.ndarray, valid_JxG: np.ndarray | None = None
) -> np.ndarray:
  """(chosen, rejected) of each pair: flat indices j * G + g, [n, 2].

  In each group the best is paired with the worst, the second best with the
  second worst and so on, while the rewards differ; a rollout is in at most
  one pair. Among equal rewards the lower index goes first: no randomness.
  """
  reward_JxG = np.asarray(reward_JxG, np.float32)
  if valid_JxG is None:
    valid_JxG = np.ones_like(reward_JxG)
  pairs = []
  G = reward_JxG.shape[1]
  for j, valid_G in enumerate(np.asarray(valid_JxG) > 0):
    reward_G = reward_JxG[j]
    at = np.flatnonzero(valid_G)
    best = at[np.argsort(-reward_G[at], kind='stable')]
    worst = at[np.argsort(reward_G[at], kind='stable')]
    for chosen, rejected in zip(best, worst, strict=True):
      if reward_G[chosen] <= reward_G[rejected]:
        break
      pairs.append((j * G + chosen, j * G + rejected))
  return np.array(pairs, int).reshape(-1, 2)


def pack_pairs(
    chosen: Sequence[batches.Stream], rejected: Sequence[batches.Stream],
    rows: int, length: int, positions: int,
) -> list[PairBatch]:
  """Packs pairs in the given order; none is torn apart.

  Raises:
    ValueError: a pair does not fit into a batch; or as `batches.pack`.
  """
  out: list[PairBatch] = []
  members: list[batches.Stream] = []
  full: batches.Batch | None = None
  for k, pair in enumerate(zip(chosen, rejected, strict=True)):
    while True:
      number = len(members) // 2 + 1
      # adv carries the pair's number, positive for the chosen one: packing
      # moves the rows about, and takes this along.
      signed = [
          s._replace(adv=np.full(len(s.tokens), sign * number, np.float32))
          for s, sign in zip(pair, (1, -1), strict=True)
      ]
      packed = batches.pack([*members, *signed], rows, length, positions)
      if len(packed) == 1:
        members, full = [*members, *signed], packed[0]
        break
      if full is None:
        raise ValueError(
            f'pair {k} has {" + ".join(str(len(s.tokens)) for s in pair)} '
            f'tokens: too many for a batch of {rows} rows of {length} with '
            f'{positions} positions'
        )
      out.append(_pair_batch(full))
      members, full = [], None
  return out if full is None else [*out, _pair_batch(full)]


def _pair_batch(batch: batches.Batch) -> PairBatch:
  pair_P = np.maximum(np.abs(batch.adv_P) - 1, 0).astype(np.int32)
  return PairBatch(
      batch._replace(adv_P=np.sign(batch.adv_P)), pair_P, batch.adv_P > 0
  )


def make_dpo_step(
    model_cfg: transformer.ModelConfig,
    optimizer: optax.GradientTransformation,
    beta: float = 0.1,
) -> Callable[..., tuple[types.TrainState, learner.Metrics]]:
  """One DPO update of a batch made by `pack_pairs`.

  Returns:
    A jitted `step(state, pair_batch, ref_params)`; ref_params must not be the
    donated `state.params` themselves. Metrics: loss (nats per pair), accuracy
    (share of pairs that the policy ranks right against the reference), margin,
    entropy, kl (k3 to the reference, on the pairs' tokens), tokens,
    grad_norm, skipped.
  """

  def loss_fn(params, pairs, ref_params):
    batch = pairs.batch
    weight_P = batch.weight_P
    logp_P, entropy_P = learner.logp_entropy(params, batch, model_cfg)
    ref_logp_P, _ = learner.logp_entropy(
        jax.lax.stop_gradient(ref_params), batch, model_cfg
    )
    got = losses.preference_loss(
        logp_P, ref_logp_P, weight_P, pairs.pair_P, pairs.is_chosen_P, beta
    )
    return got.loss, {
        'accuracy': got.accuracy,
        'margin': got.margin,
        'entropy': losses.masked_mean(entropy_P, weight_P),
        'kl': losses.masked_mean(losses.k3_kl(logp_P, ref_logp_P), weight_P),
        'tokens': jnp.sum(weight_P != 0),
    }

  return jax.jit(learner.make_update(loss_fn, optimizer), donate_argnums=0)
