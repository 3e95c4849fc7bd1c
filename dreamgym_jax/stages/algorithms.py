"""The algorithms that `rl.algorithm` can name: one function and one line each.

An `Algorithm` says how many attempts an iteration needs and what is learned
from them; where they were made, and what is done around that, is `reinforce`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from dreamgym_jax import (
    advantages,
    clusters,
    learner,
    losses,
    rollouts,
    types,
)
from dreamgym_jax.data import batches
from dreamgym_jax.learners import dpo, gigpo, grpo, importance, ppo, raft
from dreamgym_jax.models import encoder, lora, sharding, transformer
from dreamgym_jax.text import states

# What an iteration without an update reports.
_NO_UPDATE = {
    'loss': 0.0, 'entropy': 0.0, 'kl': 0.0, 'approx_kl': 0.0,
    'clip_share': 0.0, 'grad_norm': 0.0, 'ratio_max': 1.0,
    'logp_mismatch': 0.0, 'skipped': 0}
Metrics = dict[str, float]
_FULL = 0.9                 # of a batch, as packing will have it
_LEAST_POSITIONS = 512      # of a batch; fewer gain nothing
_LEAST_LENGTH = 512         # of a row: from here on quarters are whole lanes


class Played(NamedTuple):
  """The attempts of one iteration: G at each of J tasks, row-major."""

  attempts: Sequence[rollouts.Attempt]
  success_JxG: np.ndarray
  valid_JxG: np.ndarray
  reward_JxG: np.ndarray     # success less penalties
  rewards: list[np.ndarray]  # [L] of each attempt; their sum is the reward

  @property
  def tokens(self):
    """(tokens, is_action, logp), as the learners take them."""
    return ([a.token_T for a in self.attempts],
            [a.is_written_T for a in self.attempts],
            [a.logp_T for a in self.attempts])


class Algorithm(NamedTuple):
  """One way to learn from attempts."""

  tasks: int                 # J
  group: int                 # G, attempts at each
  # what is trained of the policy -> state; has `params`, of the policy
  start: Callable[[types.Params], Any]
  # (state, played, reference, frozen) -> (state, metrics); frozen is the base
  # that adapters belong to (lora.split)
  update: Callable[
      [Any, Played, types.Params, types.Params], tuple[Any, Metrics]]
  # played -> (success, valid) of the groups of Eq. 7, one for each task
  groups: Callable[[Played], tuple[np.ndarray, np.ndarray]]


def played(
    attempts: Sequence[rollouts.Attempt], group: int, invalid_penalty: float
) -> Played:
  """The reward is the outcome, less a penalty if any action was invalid."""
  success = np.array([a.episode.success for a in attempts], np.float32)
  valid = np.array([not (a.episode.is_malformed or a.episode.error)
                    for a in attempts])
  rewards = [_turn_rewards(a, invalid_penalty) for a in attempts]
  total = np.array([r.sum() for r in rewards], np.float32)
  shape = (-1, group)
  return Played(attempts, success.reshape(shape), valid.reshape(shape),
                total.reshape(shape), rewards)


def _turn_rewards(
    attempt: rollouts.Attempt, invalid_penalty: float
) -> np.ndarray:
  """The outcome at the last turn; the penalty at the first invalid one."""
  steps = attempt.episode.transitions
  reward_L = np.zeros(len(steps), np.float32)
  reward_L[-1:] += attempt.episode.success
  invalid = [t for t, step in enumerate(steps) if step.is_invalid]
  reward_L[invalid[:1]] -= invalid_penalty
  return reward_L


def make(
    c: ml_collections.ConfigDict, cfg: transformer.ModelConfig
) -> Algorithm:
  """The algorithm that the config names."""
  return _ALGORITHMS[c.rl.algorithm](c, cfg)


def _grpo(c, cfg) -> Algorithm:
  advantage = {'std': advantages.group_advantage,
               'mean': advantages.centred_advantage}[c.rl.advantage]
  return _by_groups(c, cfg, lambda p: grpo.grpo_streams(
      *p.tokens, p.reward_JxG, p.success_JxG, p.valid_JxG, advantage))


def _gigpo(c, cfg) -> Algorithm:
  advantage, step_advantage = {
      'std': (advantages.group_advantage, advantages.step_advantage),
      'mean': (advantages.centred_advantage,
               advantages.centred_step_advantage)}[c.rl.advantage]

  def streams(p: Played) -> grpo.GrpoData:
    anchors = [[states.body(step.state) for step in a.episode.transitions]
               for a in p.attempts]
    return gigpo.gigpo_streams(
        *p.tokens, p.rewards, anchors, p.reward_JxG, p.success_JxG,
        p.valid_JxG, c.rl.step_discount, c.rl.step_weight, advantage,
        step_advantage)

  return _by_groups(c, cfg, streams)


def _raft(c, cfg) -> Algorithm:
  return _by_groups(c, cfg, lambda p: raft.only_wins(grpo.grpo_streams(
      *p.tokens, p.reward_JxG, p.success_JxG, p.valid_JxG,
      advantages.win_advantage)))


def _by_groups(
    c, cfg, make_data: Callable[[Played], grpo.GrpoData]
) -> Algorithm:
  optimizer = _optimizer(c, c.rl.lr)
  step_fn = learner.make_grpo_step(
      cfg, optimizer, c.rl.clip_low, c.rl.clip_high, c.rl.kl_coef,
      c.rl.entropy_coef, _aggregate(c), c.env.max_steps, c.rl.accumulate > 1,
      c.rl.temperature)
  correct = _correction(c, cfg)

  def update(state, p, reference, frozen):
    data = make_data(p)
    packed, corrected = correct(
        lora.join(frozen, state.params), _packed(c, data.streams))
    state, metrics = _steps(
        step_fn, state, packed, reference, frozen, n_parts=c.rl.accumulate)
    return state, metrics | corrected | {
        'zero_variance_share': data.zero_variance_share}

  return _grouped(c, optimizer, update)


def _dpo(c, cfg) -> Algorithm:
  """On the policy's own pairs, iteration by iteration."""
  optimizer = _optimizer(c, c.rl.lr)
  step_fn = dpo.make_dpo_step(cfg, optimizer, c.rl.beta)

  def update(state, p, reference, frozen):
    streams = [learner.make_stream(*x, 0.0)
               for x in zip(*p.tokens, strict=True)]
    chosen, rejected = (
        [streams[i] for i in side]
        for side in dpo.select_pairs(p.success_JxG, p.valid_JxG).T)
    packed = []
    if chosen:
      # Both streams of the longest pair must fit.
      packed = dpo.pack_pairs(chosen, rejected, *shape_of(
          [*chosen, *rejected], c.sampler.capacity, c.rl.updates, least_rows=2))
    return _steps(step_fn, state, packed, reference, frozen)

  return _grouped(c, optimizer, update)


def _grouped(c, optimizer, update) -> Algorithm:
  return Algorithm(
      c.rl.tasks, c.rl.group,
      lambda params: learner.init_state(params, optimizer), update,
      lambda p: (p.success_JxG, p.valid_JxG))


def _ppo(c, cfg) -> Algorithm:
  """One attempt at each of J G tasks; clusters of about G are the groups."""
  policy, critic = _optimizer(c, c.rl.lr), _optimizer(c, c.rl.critic_lr)
  level = {'token': advantages.token_level,
           'turn': advantages.turn_level}[c.rl.level]
  targets = ppo.make_targets(cfg, level(c.rl.discount, c.rl.trace))
  step_fn = ppo.make_ppo_step(
      cfg, policy, critic, c.rl.clip_low, c.rl.clip_high, c.rl.value_clip,
      c.rl.kl_coef, c.rl.entropy_coef, _aggregate(c), c.env.max_steps,
      c.rl.accumulate > 1, c.rl.temperature)
  correct = _correction(c, cfg)
  encode = encoder.make_hash_encoder(c.replay.embedding)

  def update(state, p, reference, frozen):
    del frozen    # config.validate: the critic has no adapters
    streams = ppo.ppo_streams(*p.tokens, p.rewards, p.valid_JxG.reshape(-1))
    packed = ppo.whiten([targets(state.critic.params, _on_mesh(b))
                         for b in _packed(c, streams)])
    inner, corrected = correct(state.params, [p.batch for p in packed])
    packed = [p._replace(batch=b) for p, b in zip(packed, inner, strict=True)]
    state, metrics = _steps(
        step_fn, state, packed, reference, n_parts=c.rl.accumulate)
    return state, metrics | corrected

  def groups(p):
    tasks = [a.episode.task for a in p.attempts]
    # The instruction is to the page what an action is.
    embedding = encode([encoder.key_text(t.initial_state, t.instruction)
                        for t in tasks])
    cluster_M = clusters.cluster(embedding, c.rl.tasks, c.seed)
    return clusters.peers(
        p.success_JxG.reshape(-1), p.valid_JxG.reshape(-1), cluster_M)

  return Algorithm(
      c.rl.tasks * c.rl.group, 1,
      lambda params: ppo.init_state(params, policy, critic), update, groups)


_ALGORITHMS = {'grpo': _grpo, 'gigpo': _gigpo, 'raft': _raft, 'ppo': _ppo,
               'dpo': _dpo}


def _optimizer(c, lr: float) -> optax.GradientTransformation:
  return learner.make_optimizer(
      lr, total_steps=1, warmup_steps=c.rl.warmup,
      max_grad_norm=c.rl.max_grad_norm, schedule=learner.warmup_constant)


def _aggregate(c) -> losses.Aggregate:
  return {
      'token': losses.token_mean, 'sequence': losses.sequence_mean,
      # The longest response there can be.
      'constant': losses.constant_length(c.rl.max_new * c.env.max_steps),
  }[c.rl.aggregate]


def _packed(
    c, streams: Sequence[batches.Stream]
) -> list[batches.Batch]:
  """A pass over the streams in about `rl.updates` batches."""
  if not streams:
    return []
  return batches.pack_evenly(streams, *shape_of(
      streams, c.sampler.capacity, c.rl.updates * c.rl.accumulate))


def shape_of(
    streams: Sequence[batches.Stream], length: int, n_updates: int,
    least_rows: int = 1,
) -> batches.Shape:
  """Of batches that hold the streams in about n_updates of them.

  Rows and positions are of few sizes, so that little compiles. What a policy
  wrote is a small part of its streams: with a position for every token the head
  would be most of an update; and attention costs a token as much as its row is
  long, so rows are no longer than the longest stream needs. The mesh has no say
  (sharding.fill_up adds what it lacks): a run packs alike on any number of
  devices.
  """
  def up(least):
    """To the next quarter between two powers of two: a quarter more at most."""
    step = 2 ** max(0, int(np.log2(least)) - 2)
    return int(np.ceil(least / step)) * step

  counts = [np.count_nonzero(s.weight[1:]) for s in streams]
  sizes = [len(s.tokens) for s in streams]
  length = min(length, up(max(_LEAST_LENGTH, *sizes)))
  rows = up(max(least_rows, sum(sizes) / (_FULL * length * n_updates)))
  positions = up(max(    # a pair of the longest must fit (DPO)
      _LEAST_POSITIONS, 2 * max(counts), sum(counts) / (_FULL * n_updates)))
  return batches.Shape(rows, length, min(positions, rows * length))


def _correction(c, cfg):
  """(params, packed) -> (packed, metrics): the sampler's errors put right.

  Nothing is done, and nothing reported, without `rl.importance_cap`.
  """
  if not c.rl.importance_cap:
    return lambda params, packed: (packed, {})
  one = importance.make_correction(
      cfg, c.rl.importance_cap, c.env.max_steps, c.rl.temperature)

  def correct(params, packed):
    both = [one(params, _on_mesh(batch)) for batch in packed]
    return [batch for batch, _ in both], _combined([m for _, m in both])

  return correct


def _in_parts(packed: Sequence, n: int) -> Iterator:
  """The batches of the steps; with n > 1, so many as parts of one.

  Every group is of n: empty parts fill up those that have fewer.
  """
  for group in np.array_split(np.arange(len(packed)), -(-len(packed) // n)):
    parts = [_on_mesh(packed[i]) for i in group]
    if n == 1:
      yield parts[0]
      continue
    parts += [jax.tree.map(jnp.zeros_like, parts[0])] * (n - len(parts))
    yield jax.tree.map(lambda *xs: jnp.stack(xs), *parts)


def _on_mesh(batch: types.Params) -> types.Params:
  """By rows over the mesh; how many there are is chosen by what was played."""
  return sharding.shard_batch(sharding.fill_up(batch))


def _steps(
    step_fn, state, packed: Sequence, *weights: types.Params, n_parts: int = 1
) -> tuple[Any, Metrics]:
  """A step on each n_parts batches, and the mean of the steps' metrics."""
  every = []
  for batch in _in_parts(packed, n_parts) if packed else ():
    state, metrics = step_fn(state, batch, *weights)
    every.append(metrics)
  return state, _NO_UPDATE | _combined(every)


def _combined(every: Sequence[Metrics]) -> Metrics:
  """The metrics of several batches as one."""
  every = jax.device_get(list(every))
  if not every:
    return {}
  combine = {
      'ratio_max': max, 'skipped': sum, 'tokens': sum,
      # Before the first update sampler and scorer must agree.
      'logp_mismatch': lambda values: values[0]}
  gap_L, weight_L = every[0].get('mismatch_2xL', np.zeros((2, 0)))
  return {
      name: float(combine.get(name, np.mean)([m[name] for m in every]))
      for name in every[0] if name != 'mismatch_2xL'} | {
          f'logp_mismatch/turn_{t}': float(gap_L[t] / weight_L[t])
          for t in np.flatnonzero(weight_L)}
