"""PPO, GiGPO and DPO: the data they make and the steps they take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax import advantages, learner
from dreamgym_jax.data import batches
from dreamgym_jax.learners import dpo, gigpo, grpo, importance, ppo, raft
from dreamgym_jax.models import transformer

CFG = transformer.ModelConfig(V=16, D=16, N=1, H=2, K=1, d=8, F=32)
SHAPE = dict(rows=2, length=40, positions=64)
SGD = optax.sgd(1.0)


pytestmark = pytest.mark.usefixtures('quick_compilation')


@functools.cache
def init_params(seed=0):
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(seed), CFG)


@functools.cache
def ppo_step():
  return ppo.make_ppo_step(CFG, SGD, SGD)


@functools.cache
def dpo_step():
  return dpo.make_dpo_step(CFG, SGD, beta=0.5)


@functools.cache
def monte_carlo():
  return ppo.make_targets(CFG, advantages.token_level(1.0, 1.0))


def rollouts(n, seed=0, n_turns=2):
  """(tokens, is_action, logp): a context, then turns of one to three."""
  rng = np.random.default_rng(seed)
  tokens, is_action, logp = [], [], []
  for _ in range(n):
    mask = [0]
    for _ in range(n_turns):
      mask += [0] + [1] * rng.integers(1, 4)
    mask = np.array(mask, bool)
    tokens.append(rng.integers(1, CFG.V, len(mask)))
    is_action.append(mask)
    logp.append(np.where(mask, -3 * rng.random(len(mask)), np.nan))
  return tokens, is_action, logp


def used(batch, x_P):
  return np.asarray(x_P)[np.asarray(batch.weight_P) != 0]


def close(a, b, **kwargs):
  np.testing.assert_allclose(a, b, **({'rtol': 1e-5, 'atol': 1e-6} | kwargs))


# --- PPO -------------------------------------------------------------------


def test_turns_are_runs_of_written_tokens():
  assert ppo.turns([0, 1, 1, 0, 0, 1, 0]).tolist() == [-1, 0, 0, -1, -1, 1, -1]
  assert ppo.turns([1, 1]).tolist() == [0, 0]
  assert ppo.turns([0, 0]).tolist() == [-1, -1]


def test_the_last_token_of_a_turn_carries_its_reward():
  is_action = [np.array([0, 1, 1, 0, 1]), np.array([0, 0, 1]), np.zeros(2)]
  args = [np.arange(5), np.arange(3), np.arange(2)], is_action, [0.0] * 3
  rewards = [np.array([0.5, 1.0]), np.array([2.0]), np.array([])]
  streams = ppo.ppo_streams(*args, rewards, valid=[1, 0, 1])
  assert len(streams) == 2     # the second crashed
  close(streams[0].adv, [0, 0, 0.5, 0, 1.0])
  close(streams[1].adv, [0, 0])
  with pytest.raises(ValueError, match='rollout 0 has 2 turns but 1 rewards'):
    ppo.ppo_streams(*args, rewards[1:2] * 3, valid=[1, 0, 0])


def reinforce(params, streams):
  """mean over tokens of A log pi, a row for each stream, full softmax."""
  T = max(len(s.tokens) for s in streams)
  tok, weight, adv = (
      np.stack([np.pad(x, (0, T - len(x))) for x in xs])
      for xs in zip(*[(s.tokens, s.weight, s.adv) for s in streams],
                    strict=True))
  row = np.broadcast_to(np.arange(T), tok.shape)
  # Causal: what pads the end of a row is not seen.
  logits = transformer.forward(params, tok, row, np.ones_like(tok), CFG)
  logp = jax.nn.log_softmax(logits)[:, :-1]
  at = jnp.take_along_axis(logp, tok[:, 1:, None], 2)[..., 0]
  return (weight * adv)[:, 1:].ravel() @ at.ravel() / weight[:, 1:].sum()


def test_ppo_with_a_zero_critic_is_reinforce_with_the_groups_baseline():
  params = init_params()
  tokens, is_action, logp = rollouts(6)
  reward_JxG = np.array([[1.0, 0, 0], [1, 1, 0]])
  adv_JxG = np.asarray(advantages.centred_advantage(reward_JxG))
  streams = ppo.ppo_streams(
      tokens, is_action, logp, [[0.0, a] for a in adv_JxG.flat], np.ones(6)
  )
  (batch,) = batches.pack(streams, **SHAPE)
  # On-policy: the sampler's log-probs are the scorer's.
  batch = batch._replace(
      logp_P=np.asarray(learner.make_score(CFG)(params, batch)))
  state = ppo.init_state(params, SGD, SGD)
  target = monte_carlo()(state.critic.params, batch)
  # The rewards come at the end, and every token gets all of them.
  whole = [s._replace(adv=s.weight * a)
           for s, a in zip(streams, adv_JxG.flat, strict=True)]
  close(used(batch, target.batch.adv_P),
        used(batch, batches.pack(whole, **SHAPE)[0].adv_P))
  x_PxD = jax.jit(lambda b: learner.features(params, b, CFG))(batch)
  # Padding may hold anything.
  padding = batch.weight_P == 0
  dirty = monte_carlo()(state.critic.params, batch._replace(
      adv_P=np.where(padding, np.nan, batch.adv_P),
      logp_P=np.where(padding, np.nan, batch.logp_P)))
  state, m = ppo_step()(state, dirty)
  want = jax.jit(jax.grad(lambda p: reinforce(p, whole)))(params)
  got = jax.tree.map(lambda new, old: new - old, state.params, params)
  jax.tree.map(functools.partial(close, atol=1e-5), got, want)
  assert optax.tree.norm(want) > 0.1
  close([m['ratio_max'], m['clip_share'], m['approx_kl'], m['logp_mismatch']],
        [1, 0, 0, 0], atol=1e-5)
  # The critic: d/dv of mean (x v - R)^2 / 2 at v = 0 is - mean R x.
  weighted_P = batch.weight_P * np.asarray(target.return_P)
  close(state.critic.params['value'],
        weighted_P @ np.asarray(x_PxD) / batch.weight_P.sum(), atol=1e-5)
  close(m['explained_variance'], 0.0)


def some_critic():
  return {'decoder': init_params(1), 'value': 0.3 * jnp.ones(CFG.D)}


@pytest.mark.parametrize(
    'level', [advantages.token_level, advantages.turn_level])
def test_packing_does_not_change_the_targets(level):
  rewards = [np.array([0.0, -0.1, r]) for r in (1.0, 0.0, 1.0, 0.5)]
  streams = ppo.ppo_streams(
      *rollouts(4, n_turns=3), rewards, np.ones(4))
  targets = ppo.make_targets(CFG, level(0.9, 0.8))
  (together,) = batches.pack(streams, **SHAPE)
  apart = [batches.pack([s], **SHAPE)[0] for s in streams]
  got = targets(some_critic(), together)
  want = [targets(some_critic(), b) for b in apart]
  order = np.argsort(used(together, together.sequence_P), kind='stable')
  for pick in (lambda t: t.batch.adv_P, lambda t: t.return_P,
               lambda t: t.value_P, lambda t: t.value_weight_P):
    every = [used(b, pick(t)) for b, t in zip(apart, want, strict=True)]
    # First-fit kept the order of the streams within the rows.
    rows = [every[i] for i in _packed_order(together, streams)]
    close(used(together, pick(got))[order], np.concatenate(rows), atol=1e-5)


def _packed_order(batch, streams):
  """Which stream is sequence 0, 1, ... of the batch, by its targets."""
  out = []
  for sequence in range(len(streams)):
    here = (batch.sequence_P == sequence) & (batch.weight_P != 0)
    out.extend(i for i, s in enumerate(streams) if np.array_equal(
        s.tokens[1:][s.weight[1:] != 0], batch.target_P[here]))
  assert sorted(out) == list(range(len(streams)))
  return out


def test_whitened_advantages_have_mean_0_and_std_1_over_all_batches():
  rng = np.random.default_rng(0)

  def packed(weight_P, adv_P):
    (batch,) = batches.pack([batches.Stream(np.ones(2), np.ones(2))], 1, 4, 6)
    batch = batch._replace(weight_P=weight_P, adv_P=adv_P)
    return ppo.PpoBatch(batch, adv_P, adv_P, weight_P)

  weights = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], np.float32)
  adv = np.where(weights, 3 + 2 * rng.normal(size=(2, 6)), np.nan)
  got = np.stack([p.batch.adv_P for p in ppo.whiten(
      [packed(w, a) for w, a in zip(weights, adv, strict=True)])])
  close([got[weights != 0].mean(), got[weights != 0].std()], [0, 1])
  assert not got[weights == 0].any()
  # Three times .1 is not quite their mean: a tie must still be 0.
  (tied,) = ppo.whiten([packed(weights[0], np.full(6, 0.1, np.float32))])
  assert not tied.batch.adv_P.any()
  assert ppo.whiten([]) == []


def test_a_broken_critic_update_leaves_the_policy_its_own():
  tokens, is_action, logp = rollouts(2)
  streams = ppo.ppo_streams(
      tokens, is_action, logp, [[0.0, 1.0], [0.0, 0.0]], np.ones(2))
  (batch,) = batches.pack(streams, **SHAPE)
  state = ppo.init_state(init_params(), SGD, SGD)
  target = monte_carlo()(state.critic.params, batch)
  target = target._replace(return_P=np.full(64, np.inf, np.float32))
  before = jax.tree.map(np.array, state)
  state, m = ppo_step()(state, target)
  assert int(m['skipped']) == 1
  jax.tree.map(np.testing.assert_array_equal, before.critic, state.critic)
  assert int(state.policy.step) == 1
  assert not np.array_equal(before.params['embed'], state.params['embed'])


# --- GiGPO -----------------------------------------------------------------


def test_a_sampler_that_errs_is_put_right_once_by_the_cap():
  params, (batch,) = init_params(), batches.pack(
      [learner.make_stream(*x, 1.0) for x in zip(*rollouts(3)[:3], strict=True)
       ], 2, 40, 64)
  true_P = np.asarray(learner.make_score(CFG)(params, batch))
  used = batch.weight_P > 0
  error_P = np.where(np.arange(len(true_P)) % 2, 0.5, 2.0) * used
  wrong = batch._replace(logp_P=true_P - error_P.astype(np.float32))
  right, m = importance.make_correction(CFG, 3.0, n_turns=2)(params, wrong)
  close(right.logp_P[used], true_P[used])
  ratio_P = np.minimum(np.exp(error_P), 3.0)     # e^2 = 7.4 is capped
  close(right.adv_P[used], (batch.adv_P * ratio_P)[used], rtol=1e-5)
  close(m['importance'], ratio_P[used].mean(), rtol=1e-5)
  close(m['logp_mismatch'], error_P[used].mean(), rtol=1e-5)
  close(m['mismatch_2xL'].sum(-1), [error_P.sum(), used.sum()], rtol=1e-5)
  assert (m['mismatch_2xL'][1] > 0).all()


def test_raft_streams_are_the_wins_of_groups_that_vary():
  tokens = [np.array([1, 2 + i]) for i in range(9)]
  written, logp = [np.array([False, True])] * 9, [np.zeros(2)] * 9
  reward = np.array([[1, 0.9, -0.1], [1, 1, 1], [1, 0, 1]])
  success = reward > 0
  valid = np.ones_like(success)
  valid[2, 2] = False        # a malformed win is none
  data = raft.only_wins(grpo.grpo_streams(
      tokens, written, logp, reward, success, valid, advantages.win_advantage))
  assert [s.tokens.tolist() for s in data.streams] == [[1, 2], [1, 3], [1, 8]]
  close([s.adv[1] for s in data.streams], [1, 0.9, 1])
  assert data.is_used_JxG.tolist() == [
      [True, True, False], [False] * 3, [True, False, False]]
  assert data.zero_variance_share == pytest.approx(1 / 3)


def test_gigpo_streams_by_hand():
  is_action = [np.array([0, 1, 1, 0, 1])] * 2 + [np.array([0, 1])] * 2
  tokens = [np.arange(len(a)) for a in is_action]
  logp = [np.zeros(len(a)) for a in is_action]
  success = np.array([[1, 0, 0, 0]])
  data = gigpo.gigpo_streams(
      tokens, is_action, logp, [[0, 1.0], [0, 0], [0], [0.0]],
      [['a', 'b'], ['a', 'b'], ['a'], ['a']], success, success,
      np.array([[1, 1, 1, 0]]), discount=0.5, step_weight=2.0,
      advantage=advantages.centred_advantage,
      step_advantage=advantages.centred_step_advantage,
  )
  # Episodes: mean 1/3 of the valid three. From a: returns .5, 0, 0, mean 1/6;
  # from b: 1, 0, mean 1/2. The last one crashed and counts nowhere.
  first, second = 2 / 3 + 2 / 3, 2 / 3 + 1
  close(data.streams[0].adv, [0, first, first, 0, second])
  close(data.streams[1].adv, [0, -2 / 3, -2 / 3, 0, -4 / 3])
  close(data.streams[2].adv, [0, -2 / 3])
  assert len(data.streams) == 3
  with pytest.raises(ValueError, match='rollout 2 has 1 turns, 2 rewards and'):
    gigpo.gigpo_streams(
        tokens, is_action, logp, [[0, 0]] * 4, [['a', 'b']] * 4, success,
        success, success)


def test_gigpo_without_its_step_term_is_grpo():
  args = rollouts(6)
  success = np.array([[1, 0, 0], [0, 1, 1]])
  rewards = [[0.0, r] for r in success.flat]
  plain = grpo.grpo_streams(*args, success, success, np.ones((2, 3)))
  same = gigpo.gigpo_streams(
      *args, rewards, [['s', i % 2] for i in range(6)], success, success,
      np.ones((2, 3)), step_weight=0.0)
  for a, b in zip(plain.streams, same.streams, strict=True):
    jax.tree.map(close, a, b)


# --- DPO -------------------------------------------------------------------


def test_select_pairs_by_hand():
  reward = np.array([[0, 1.0, 0, 1], [1, 1, 1, 1], [0.5, 0, 1, 9]])
  valid = np.ones((3, 4))
  valid[2, 3] = 0
  # Group 0: 1 beats 0, 3 beats 2. Group 1 ties. Group 2: 1 beats 0, and .5
  # is left alone.
  assert dpo.select_pairs(reward, valid).tolist() == [[1, 0], [3, 2], [10, 9]]
  assert dpo.select_pairs(np.ones((2, 4))).shape == (0, 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=8, max_size=8),
       st.integers(0, 255))
def test_pairs_are_of_one_group_disjoint_valid_and_in_order(reward, mask):
  reward = np.array(reward).reshape(2, 4)
  valid = np.array([mask >> i & 1 for i in range(8)]).reshape(2, 4)
  pairs = dpo.select_pairs(reward, valid)
  assert len(set(pairs.flat)) == pairs.size
  assert valid.reshape(-1)[pairs].all()
  for chosen, rejected in pairs:
    assert chosen // 4 == rejected // 4
    assert reward.flat[chosen] > reward.flat[rejected]


def pair_streams(n, seed=0):
  tokens, is_action, _ = rollouts(2 * n, seed)
  streams = [batches.Stream(t, a.astype(np.float32))
             for t, a in zip(tokens, is_action, strict=True)]
  return streams[:n], streams[n:]


def test_packed_pairs_stay_together():
  chosen, rejected = pair_streams(9)
  packed = dpo.pack_pairs(chosen, rejected, 2, 24, 30)
  assert len(packed) > 1
  seen = []
  for p in packed:
    n = p.pair_P.max() + 1
    for k in range(n):
      for side in (True, False):
        at = ((p.pair_P == k) & (p.is_chosen_P == side)
              & (p.batch.weight_P != 0))
        seen.append(p.batch.target_P[at].tolist())
  want = [s.tokens[1:][s.weight[1:] != 0].tolist()
          for pair in zip(chosen, rejected, strict=True) for s in pair]
  assert seen == want
  assert dpo.pack_pairs([], [], 2, 24, 30) == []
  with pytest.raises(ValueError, match='pair 0 has .* too many'):
    dpo.pack_pairs(chosen, rejected, 2, 24, 6)  # 5 and >= 2


def test_dpo_starts_at_ln_2_and_learns_its_pairs():
  (batch,) = dpo.pack_pairs(*pair_streams(3), **SHAPE)
  reference = init_params()
  state = learner.init_state(reference, SGD)
  every = []
  for _ in range(20):
    state, m = dpo_step()(state, batch, reference)
    every.append(jax.device_get(m))
  close([every[0]['loss'], every[0]['margin'], every[0]['kl']],
        [np.log(2), 0, 0])
  assert every[-1]['accuracy'] == 1 and every[-1]['margin'] > 1
  assert every[-1]['kl'] > 0.01 and every[-1]['skipped'] == 0
