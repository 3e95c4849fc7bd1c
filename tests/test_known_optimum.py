"""Every learner, through its real step, reaches an optimum worked out by hand.

The policy is a decoder of a few thousand weights. Worlds are played by
sampling from it, but where an optimum is a distribution: there each arm is in
the batch once, with its probability as weight, which makes the step's gradient
the exact expectation and the fixed point sharp.
"""

import functools

import jax
import numpy as np
import optax
import pytest

from dreamgym_jax import advantages, learner
from dreamgym_jax.data import batches
from dreamgym_jax.learners import dpo, gigpo, grpo, ppo, raft
from dreamgym_jax.models import transformer

CFG = transformer.ModelConfig(V=16, D=16, N=1, H=2, K=1, d=8, F=32)
ROWS, LENGTH, POSITIONS = 64, 4, 128


pytestmark = pytest.mark.usefixtures('quick_compilation')


@functools.cache
def init_params(seed=0):
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(seed), CFG)


def adam(lr=1e-2):
  return learner.make_optimizer(
      lr, 0, 1, schedule=learner.warmup_constant, b2=0.99)


@functools.cache
def score():
  return learner.make_score(CFG)


@functools.cache
def grpo_step():
  return learner.make_grpo_step(CFG, adam())


@functools.cache
def ppo_step():
  return ppo.make_ppo_step(CFG, adam(), adam(), clip_high=0.28)


# --- worlds ----------------------------------------------------------------


def draw(params, prompts, rng):
  """Prompts (token lists) -> [(token drawn, its log-prob)], via `score`."""
  logp = {p: log_probs(params, p) for p in sorted(set(map(tuple, prompts)))}
  out = []
  for prompt in prompts:
    logp_V = logp[tuple(prompt)]
    p_V = np.exp(logp_V) / np.exp(logp_V).sum()
    token = rng.choice(CFG.V, p=p_V)
    out.append((int(token), logp_V[token]))
  return out


@functools.cache
def arms(prompt):
  """A batch of every token after the prompt, and where each of them is."""
  weight = np.array([0.0] * len(prompt) + [1.0])
  (batch,) = batches.pack(
      [batches.Stream(np.array([*prompt, a]), weight) for a in range(CFG.V)],
      CFG.V, LENGTH, CFG.V)
  order = np.argsort(batch.target_P)
  return batch, order


def log_probs(params, prompt):
  batch, order = arms(tuple(prompt))
  return np.asarray(score()(params, batch), np.float64)[order]


def bandit(params, rows, rng):
  """One turn: arm p + 4 wins at prompt p. The optimum is to always pull it."""
  return [
      ([*p, a], [0, 1], [0.0, logp], [float(a == p[0] + 4)], [p[0]])
      for p, (a, logp) in zip(rows, draw(params, rows, rng), strict=True)]


def two_steps(params, rows, rng):
  """The second token must answer the world's reply to the first, below 6.

  The optimum wins always: its value is 1 before the second token, and the
  discount before the first.
  """
  first = draw(params, rows, rng)
  seen = [[*p, a, 10 + a % 3] for p, (a, _) in zip(rows, first, strict=True)]
  second = draw(params, seen, rng)
  out = []
  for p, (a, la), (b, lb) in zip(seen, first, second, strict=True):
    won = float(a < 6 and b == p[2] - 8)
    out.append(([*p, b], [0, 1, 0, 1], [0.0, la, 0.0, lb], [0.0, won],
                [p[0], (a < 6, p[2])]))
  return out


# --- learners: (state, played, prompts) -> state ---------------------------


def group_rewards(played, n):
  return np.array([sum(r[3]) for r in played]).reshape(n, -1)


def updated(state, packed, step):
  for batch in packed:
    state, m = step(state, batch)
    assert int(m['skipped']) == 0
    assert float(m['logp_mismatch']) < 1e-5   # one batch: the first update
  return state


def use_grpo(advantage, select=lambda data: data):
  def update(state, played, n):
    tokens, is_action, logp, *_ = zip(*played, strict=True)
    won_JxG = group_rewards(played, n)
    data = grpo.grpo_streams(
        tokens, is_action, logp, won_JxG, won_JxG, np.ones_like(won_JxG),
        advantage)
    return updated(state, batches.pack_evenly(
        select(data).streams, ROWS, LENGTH, POSITIONS), grpo_step())

  return learner.init_state(init_params(), adam()), update


def use_raft():
  return use_grpo(advantages.win_advantage, raft.only_wins)


def use_gigpo():
  def update(state, played, n):
    won_JxG = group_rewards(played, n)
    data = gigpo.gigpo_streams(
        *zip(*played, strict=True), won_JxG, won_JxG, np.ones_like(won_JxG))
    return updated(state, batches.pack_evenly(
        data.streams, ROWS, LENGTH, POSITIONS), grpo_step())

  return learner.init_state(init_params(), adam()), update


def use_ppo(estimate):
  targets = ppo.make_targets(CFG, estimate)

  def update(state, played, n):
    del n
    tokens, is_action, logp, rewards, _ = zip(*played, strict=True)
    streams = ppo.ppo_streams(
        tokens, is_action, logp, rewards, np.ones(len(played)))
    packed = [targets(state.critic.params, b) for b in batches.pack_evenly(
        streams, ROWS, LENGTH, POSITIONS)]
    return updated(state, ppo.whiten(packed), ppo_step())

  return ppo.init_state(init_params(), adam(), adam()), update


def train(world, n_prompts, learner_, iterations):
  """Success by iteration, and the final state."""
  state, update = learner_
  rng, rates = np.random.default_rng(0), []
  rows = [[p] for p in range(1, n_prompts + 1)
          for _ in range(ROWS // n_prompts)]
  for _ in range(iterations):
    played = world(state.params, rows, rng)
    rates.append(group_rewards(played, 1).mean())
    state = update(state, played, n_prompts)
  return rates, state


# --- they win --------------------------------------------------------------


@pytest.mark.parametrize('make', [
    lambda: use_grpo(advantages.group_advantage),
    lambda: use_grpo(advantages.centred_advantage),
    use_raft, lambda: use_ppo(advantages.token_level(1.0, 1.0)),
], ids=['grpo', 'mean-only', 'raft', 'ppo'])
def test_bandit(make):
  rates, _ = train(bandit, 4, make(), iterations=60)
  assert np.mean(rates[:3]) < 0.3
  assert np.mean(rates[-5:]) > 0.95, rates


@pytest.mark.parametrize('make', [
    lambda: use_grpo(advantages.group_advantage), use_gigpo, use_raft,
], ids=['grpo', 'gigpo', 'raft'])
def test_two_step_world(make):
  rates, _ = train(two_steps, 2, make(), iterations=60)
  assert np.mean(rates[:3]) < 0.15
  assert np.mean(rates[-5:]) > 0.9, rates


def test_two_step_world_with_a_critic():
  learner_ = use_ppo(advantages.turn_level(0.9, 0.95))
  rates, state = train(two_steps, 2, learner_, iterations=80)
  assert np.mean(rates[:3]) < 0.15
  assert np.mean(rates[-5:]) > 0.9, rates
  # V of the optimum along what it plays, first and second token.
  played = two_steps(state.params, [[1], [2]] * 8, np.random.default_rng(1))
  streams = [batches.Stream(np.array(r[0]), np.array([0.0, 1, 0, 1]))
             for r in played if r[3][-1]]
  (batch,) = batches.pack(streams, ROWS, LENGTH, POSITIONS)
  value_P = np.asarray(ppo.make_values(CFG)(state.critic.params, batch))
  mean = value_P[batch.weight_P != 0].reshape(-1, 2).mean(0)
  np.testing.assert_allclose(mean, [0.9, 1.0], atol=0.1)


# --- they stop where they should -------------------------------------------


def test_grpo_with_kl_ends_at_the_closed_form():
  """max E[r] - b KL(ref || pi): pi_a = b ref_a / (mu - r_a), sum 1.

  On-policy, the gradient of k3 is that of KL(ref || pi): E_pi[(1 - ref / pi)
  grad log pi] = - sum ref grad log pi. mu is the Lagrange multiplier.
  """
  b, prompt = 0.5, [1]
  reward_V = np.zeros(CFG.V)
  reward_V[[5, 9]] = 1.0, 0.5
  reference = init_params()
  ref_V = np.exp(log_probs(reference, prompt))
  low, high = 1.0, 1.0 + b     # at mu = max r + b the sum is at most 1
  for _ in range(60):
    mu = (low + high) / 2
    total = (b * ref_V / (mu - reward_V)).sum()
    low, high = (mu, high) if total > 1 else (low, mu)
  want_V = b * ref_V / (mu - reward_V)
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 400))
  step = learner.make_grpo_step(CFG, optimizer, kl_coef=b)
  state = learner.init_state(reference, optimizer)
  batch, _ = arms(tuple(prompt))
  for _ in range(400):
    logp_P = np.asarray(score()(state.params, batch))
    p_P = np.exp(logp_P)
    reward_P = reward_V[batch.target_P]
    state, _ = step(state, batch._replace(
        weight_P=p_P, logp_P=logp_P, adv_P=reward_P - p_P @ reward_P),
        reference)
  got_V = np.exp(log_probs(state.params, prompt))
  assert np.abs(want_V - ref_V).max() > 0.05
  np.testing.assert_allclose(got_V, want_V, atol=5e-3)


def test_dpo_ends_at_the_odds_of_its_pairs():
  """3 pairs of 4 prefer a: sigmoid(m) = 3/4, so m = ln 3 = b log odds."""
  b, optimizer = 0.5, optax.adam(optax.cosine_decay_schedule(1e-2, 150))
  side = {a: batches.Stream(np.array([1, a]), np.array([0.0, 1.0]))
          for a in (5, 9)}
  (pairs,) = dpo.pack_pairs(
      [side[a] for a in (5, 5, 5, 9)], [side[a] for a in (9, 9, 9, 5)],
      8, LENGTH, 16)
  step = dpo.make_dpo_step(CFG, optimizer, beta=b)
  reference = init_params()
  state = learner.init_state(reference, optimizer)
  for _ in range(150):
    state, m = step(state, pairs, reference)
  shift_V = log_probs(state.params, [1]) - log_probs(reference, [1])
  np.testing.assert_allclose(shift_V[5] - shift_V[9], np.log(3) / b, atol=0.02)
  entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
  np.testing.assert_allclose(m['loss'], entropy, atol=1e-3)
