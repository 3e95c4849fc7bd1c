"""The steps learn what they should, skip what they must, and resume."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamgym_jax import advantages, learner, losses
from dreamgym_jax.data import batches
from dreamgym_jax.learners import grpo
from dreamgym_jax.models import transformer

CFG = transformer.ModelConfig(V=16, D=16, N=1, H=2, K=1, d=8, F=32)
SHAPE = dict(rows=2, length=40, positions=64)  # one shape, few compilations


@functools.cache
def init_params(seed=0):
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(seed), CFG)


@functools.cache
def sft():
  """(optimizer, step) of the supervised tests."""
  optimizer = learner.make_optimizer(1e-2, 5, 150)
  return optimizer, learner.make_sft_step(CFG, optimizer)


@functools.cache
def kl_sgd():
  """(optimizer, step) of the tests with a reference."""
  optimizer = optax.sgd(0.3)
  return optimizer, learner.make_grpo_step(CFG, optimizer, kl_coef=1.0)


@functools.cache
def score():
  return learner.make_score(CFG)


def random_streams(n, seed=0, low=3, high=9):
  rng = np.random.default_rng(seed)
  out = []
  for size in rng.integers(low, high, n):
    out.append(batches.Stream(
        tokens=rng.integers(1, CFG.V, size),
        weight=(rng.random(size) < 0.7).astype(np.float32),
        logp=-3 * rng.random(size),
        adv=rng.normal(size=size),
    ))
  return out


def assert_close(a, b, atol=1e-6):
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=atol, rtol=1e-5), a, b
  )


def test_sft_overfits_one_small_batch():
  (batch,) = batches.pack(random_streams(4), **SHAPE)
  optimizer, step = sft()
  state = learner.init_state(init_params(), optimizer)
  first = None
  for _ in range(150):
    state, metrics = step(state, batch)
    first = first or float(metrics['loss'])
  assert first > 2.0
  assert float(metrics['loss']) < 0.5 < first
  assert int(state.step) == 150
  assert step._cache_size() == 1
  # The scorer and the loss are one path.
  logp_P = score()(state.params, batch)
  loss = losses.token_nll(logp_P, jnp.asarray(batch.weight_P))
  _, metrics = step(state, batch)
  assert_close(loss, metrics['loss'])


def test_score_is_the_full_softmax():
  (batch,) = batches.pack(random_streams(5), **SHAPE)
  logits_BxTxV = transformer.forward(
      init_params(), batch.tok_BxT, batch.pos_BxT, batch.segment_BxT, CFG
  )
  logp_NxV = jax.nn.log_softmax(logits_BxTxV).reshape(-1, CFG.V)
  want_P = logp_NxV[batch.index_P, batch.target_P]
  got_P = score()(init_params(), batch)
  used = batch.weight_P != 0
  assert_close(np.asarray(got_P)[used], np.asarray(want_P)[used], 1e-5)


def one_sgd_step(make_step, packed, **kwargs):
  """The parameters after one plain gradient step, summed over batches."""
  optimizer = optax.sgd(1.0)
  step = make_step(CFG, optimizer, **kwargs)
  start = init_params()
  total = jax.tree.map(jnp.zeros_like, start)
  for batch in packed:
    state, metrics = step(learner.init_state(start, optimizer), batch)
    share = float(metrics['tokens'])
    total = jax.tree.map(
        lambda t, new, old, share=share: t + share * (new - old),
        total, state.params, start,
    )
  return total


@pytest.mark.parametrize(
    'make_step', [learner.make_sft_step, learner.make_grpo_step]
)
def test_packed_gradient_is_the_separate_one(make_step):
  # A token mean times its token count is a sum, which adds over batches.
  streams = random_streams(6)
  together = one_sgd_step(make_step, batches.pack(streams, **SHAPE))
  apart = one_sgd_step(
      make_step, [batches.pack([s], **SHAPE)[0] for s in streams]
  )
  assert_close(together, apart, 1e-4)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(apart)) > 0.1


def test_padding_changes_nothing():
  streams = random_streams(4)
  step = functools.partial(
      learner.make_grpo_step, aggregate=losses.sequence_mean
  )
  tight = one_sgd_step(step, batches.pack(streams, 2, 24, 30))
  loose = one_sgd_step(step, batches.pack(streams, 5, 40, 99))
  assert_close(tight, loose, 1e-4)


@pytest.mark.parametrize('poison', [np.nan, np.inf])
def test_update_that_is_not_finite_is_skipped_and_counted(poison):
  (batch,) = batches.pack(random_streams(4), **SHAPE)
  optimizer, step = sft()
  state, _ = step(learner.init_state(init_params(), optimizer), batch)
  before = jax.tree.map(np.array, state)
  bad = batch._replace(weight_P=np.full_like(batch.weight_P, poison))
  state, metrics = step(state, bad)
  assert int(metrics['skipped']) == 1
  jax.tree.map(np.testing.assert_array_equal, before, state)
  state, metrics = step(state, batch)
  assert int(metrics['skipped']) == 0 and int(state.step) == 2
  assert np.isfinite(float(metrics['loss']))


def test_init_state_leaves_the_callers_params_alive():
  (batch,) = batches.pack(random_streams(2), **SHAPE)
  params = jax.tree.map(jnp.copy, init_params())
  optimizer, step = sft()
  state = learner.init_state(params, optimizer)
  for _ in range(3):
    state, _ = step(state, batch)
  assert_close(params, init_params())
  assert not np.allclose(state.params['embed'], params['embed'])


def test_norm_scales_do_not_decay():
  optimizer = learner.make_optimizer(
      0.1, 0, 1, weight_decay=0.5, schedule=learner.warmup_constant
  )
  params = init_params()
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = jax.jit(optimizer.update)(
      zeros, jax.jit(optimizer.init)(params), params
  )
  # Zero gradient: what is left is the decay, -lr * .5 * w.
  assert_close(updates['embed'], -0.05 * params['embed'])
  assert_close(updates['blocks']['wq'], -0.05 * params['blocks']['wq'])
  assert not updates['ln_f'].any()
  assert not updates['blocks']['ln1'].any()


def test_schedules_by_hand():
  cosine = learner.warmup_cosine(1.0, 10, 110)
  assert_close([cosine(0), cosine(5), cosine(10)], [0.0, 0.5, 1.0])
  assert_close([cosine(60), cosine(110)], [0.55, 0.1])  # (1 + .1) / 2
  assert_close(learner.warmup_cosine(1.0, 0, 9)(0), 1.0)
  constant = learner.warmup_constant(1.0, 10, 110)
  assert_close([constant(5), constant(10), constant(999)], [0.5, 1.0, 1.0])
  assert_close(learner.warmup_constant(1.0, 0, 9)(0), 1.0)


def test_resumed_training_is_the_straight_run():
  streams = random_streams(80)
  optimizer, step = sft()

  def run(state, cursor, n):
    for _, (batch, after) in zip(
        range(n), batches.epochs(streams, **SHAPE, cursor=cursor), strict=False
    ):
      state, _ = step(state, batch)
      cursor = after
    return state, cursor

  straight, _ = run(
      learner.init_state(init_params(), optimizer), batches.Cursor(3), 12
  )
  half, cursor = run(
      learner.init_state(init_params(), optimizer), batches.Cursor(3), 7
  )
  saved = jax.tree.map(np.array, half)  # as through a checkpoint
  resumed, _ = run(jax.tree.map(jnp.asarray, saved), cursor, 5)
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)


def test_grpo_metrics_on_policy():
  """Old log-probs from the scorer itself: ratio 1, no KL, no mismatch."""
  (batch,) = batches.pack(random_streams(5), **SHAPE)
  params = init_params()
  batch = batch._replace(logp_P=np.asarray(score()(params, batch)))
  optimizer, step = kl_sgd()
  _, m = step(learner.init_state(params, optimizer), batch, params)
  assert_close(
      [m['ratio_max'], m['clip_share'], m['kl'], m['logp_mismatch']],
      [1.0, 0.0, 0.0, 0.0],
  )
  # r = 1 everywhere: the loss is minus the mean advantage.
  assert_close(m['loss'], -np.average(batch.adv_P, weights=batch.weight_P))
  # A gradient step on another reference sees its KL.
  other = init_params(seed=1)
  _, m = step(learner.init_state(params, optimizer), batch, other)
  ref_P = score()(other, batch)
  d_P = np.asarray(ref_P) - batch.logp_P
  kl = np.average(np.exp(d_P) - d_P - 1, weights=batch.weight_P)
  assert kl > 0.01
  assert_close(m['kl'], kl, 1e-5)


def test_kl_needs_a_reference():
  (batch,) = batches.pack(random_streams(2), **SHAPE)
  optimizer, step = kl_sgd()
  with pytest.raises(ValueError, match='ref_params'):
    step(learner.init_state(init_params(), optimizer), batch)


def test_entropy_bonus_and_kl_pull_the_right_way():
  streams = [s._replace(adv=0 * s.adv) for s in random_streams(5)]
  (batch,) = batches.pack(streams, **SHAPE)

  def run(metric, optimizer, step, n=30):
    state = learner.init_state(init_params(), optimizer)
    values = []
    for _ in range(n):
      state, metrics = step(state, batch, init_params(seed=1))
      values.append(float(metrics[metric]))
    return values[0], values[-1]

  optimizer = optax.sgd(0.3)
  first, last = run('entropy', optimizer, learner.make_grpo_step(
      CFG, optimizer, entropy_coef=1.0))
  assert last > first + 0.05
  first, last = run('kl', *kl_sgd())
  assert last < 0.7 * first


@pytest.mark.parametrize('hot', [0.4, 1.0, 2.5])
def test_the_gradient_is_that_of_what_was_drawn_from(hot):
  """A bandit of V arms, each as often as a policy at this temperature pulls it.

  The gradient of the loss is minus that of the expected reward under that
  policy; under the one of temperature 1 it would be another.
  """
  rng = np.random.default_rng(0)
  reward_V = rng.normal(size=CFG.V).astype(np.float32)
  params = init_params()

  def logp_of(params):
    z_V = transformer.forward(
        params, jnp.ones((1, 1), int), jnp.zeros((1, 1), int),
        jnp.ones((1, 1), int), CFG)[0, 0]
    return jax.nn.log_softmax(z_V / hot)

  logp_V = logp_of(params)
  p_V = np.asarray(jnp.exp(logp_V))
  adv_V = reward_V - p_V @ reward_V
  packed, = batches.pack(
      [batches.Stream(np.array([1, arm]), np.float32([0, p_V[arm]]),
                      np.float32([0, logp_V[arm]]), np.float32([0, adv_V[arm]]))
       for arm in range(CFG.V)], **SHAPE)
  loss_fn = learner.make_policy_loss(
      CFG, 0.2, 0.2, 0.0, 0.0, losses.token_mean, temperature=hot)
  got = jax.grad(lambda p: loss_fn(p, packed, None)[0])(params)
  want = jax.grad(lambda p: -jnp.exp(logp_of(p)) @ reward_V)(params)
  assert_close(got, want, atol=1e-5)


def make_streams_args(J, G, T=4):
  rng = np.random.default_rng(0)
  tokens = [rng.integers(1, 9, T) for _ in range(J * G)]
  is_action = [np.array([0, 1, 0, 1])] * (J * G)
  logp = [np.array([np.nan, -1.0, np.nan, -2.0])] * (J * G)
  return tokens, is_action, logp


def test_grpo_streams_by_hand():
  success = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]])
  valid = np.ones((4, 4), bool)
  valid[0, 3] = False  # a win that M_exp garbled
  valid[3, 0] = False  # the only win of its group
  reward = success - 0.1 * np.array([[0, 0, 0, 0], [0, 1, 0, 0],
                                     [0, 0, 1, 0], [0, 0, 0, 0]])
  data = grpo.grpo_streams(
      *make_streams_args(4, 4), reward, success, valid,
      advantage=advantages.centred_advantage,
  )
  # Group 1 ties on success (its penalty does not save it), group 3 ties once
  # the malformed win is out.
  assert data.is_kept_J.tolist() == [True, False, True, False]
  assert data.zero_variance_share == 0.5
  want = np.zeros((4, 4))
  want[0] = [2 / 3, -1 / 3, -1 / 3, 0]    # mean 1/3 of the three valid
  want[2] = [0.775, -0.225, -0.325, -0.225]  # mean (1 - .1) / 4 = .225
  np.testing.assert_allclose(data.adv_JxG, want, atol=1e-6)
  assert len(data.streams) == data.is_used_JxG.sum() == 7
  first = data.streams[0]
  np.testing.assert_allclose(first.weight, [0, 1, 0, 1])
  np.testing.assert_allclose(first.logp, [0, -1, 0, -2])
  np.testing.assert_allclose(first.adv, [0, 2 / 3, 0, 2 / 3], rtol=1e-6)
  np.testing.assert_array_equal(
      data.streams[3].tokens, make_streams_args(4, 4)[0][8]
  )


def test_bonus_is_added_to_the_tokens_of_its_rollout():
  success = np.array([[1, 0], [1, 1]])
  bonus = [np.array([9.0, 0.5, 9.0, -0.5])] * 4
  data = grpo.grpo_streams(
      *make_streams_args(2, 2), success, success, np.ones((2, 2)),
      advantage=advantages.centred_advantage, bonus=bonus,
  )
  assert len(data.streams) == 2     # the second group ties, bonus or not
  np.testing.assert_allclose(data.streams[0].adv, [0, 1, 0, 0])
  np.testing.assert_allclose(data.streams[1].adv, [0, 0, 0, -1])


def test_no_advantage_no_gradient_and_nan_in_padding_is_not_seen():
  streams = [s._replace(adv=0 * s.adv) for s in random_streams(5)]
  (batch,) = batches.pack(streams, **SHAPE)
  padding = batch.weight_P == 0
  assert padding.sum() > 9
  batch = batch._replace(adv_P=np.where(padding, np.nan, batch.adv_P),
                         logp_P=np.where(padding, np.nan, batch.logp_P))
  optimizer, step = kl_sgd()
  # With the policy as its own reference the KL has no gradient either.
  _, m = step(learner.init_state(init_params(), optimizer), batch,
              init_params())
  assert int(m['skipped']) == 0
  assert_close([m['grad_norm'], m['loss']], [0.0, 0.0])


def test_grpo_streams_refuses_other_lengths():
  with pytest.raises(ValueError, match='8 tokens for 3 groups of 4'):
    grpo.grpo_streams(
        *make_streams_args(2, 4), *[np.ones((3, 4))] * 3
    )


def test_all_tied_gives_no_streams():
  ones = np.ones((2, 4))
  data = grpo.grpo_streams(*make_streams_args(2, 4), ones, ones, ones)
  assert data.streams == [] and data.zero_variance_share == 1.0
  assert batches.pack_evenly(data.streams, 2, 8, 8) == []
