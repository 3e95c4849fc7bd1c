"""Hand numbers with their arithmetic, and independent formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax import advantages


def both(fn):
  """Run a test eagerly and under jit."""
  return pytest.mark.parametrize('wrap', [lambda f: f, jax.jit])(fn)


def close(a, b, **kwargs):
  np.testing.assert_allclose(a, b, **({'rtol': 1e-5, 'atol': 1e-6} | kwargs))


# --- groups ----------------------------------------------------------------


# --- advantages ------------------------------------------------------------


@both
def test_group_advantage_by_hand(wrap):
  reward = jnp.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
  # p = 1/4: std = sqrt(3)/4, (3/4) / std = sqrt 3, (-1/4) / std = -1/sqrt 3.
  want = [[3**0.5] + [-(3**-0.5)] * 3, [1, 1, -1, -1]]
  close(wrap(advantages.group_advantage)(reward), want, rtol=1e-4)
  close(wrap(advantages.centred_advantage)(reward),
        [[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5]])


@both
def test_invalid_rollouts_neither_get_nor_give_advantage(wrap):
  reward = jnp.array([[1.0, 0.0, jnp.nan, 5.0]])
  valid = jnp.array([[1.0, 1.0, 0.0, 0.0]])
  close(wrap(advantages.group_advantage)(reward, valid), [[1, -1, 0, 0]],
        rtol=1e-4)
  close(wrap(advantages.centred_advantage)(reward, valid), [[0.5, -0.5, 0, 0]])
  close(wrap(advantages.group_advantage)(reward, 0 * valid), [[0.0] * 4])


@pytest.mark.parametrize('tie', [0.0, 1.0, 0.1, 1 / 3, -0.7])
@pytest.mark.parametrize('G', [3, 7, 8])
def test_ties_give_exactly_zero(tie, G):
  for advantage in (advantages.group_advantage, advantages.centred_advantage):
    adv = advantage(jnp.full((2, G), tie))
    close(adv, np.zeros((2, G)), atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-2, 2, width=16), min_size=6, max_size=6),
                min_size=3, max_size=3),
       st.permutations(range(6)), st.integers(0, 63))
def test_advantage_properties(reward, order, mask):
  reward = np.array(reward, np.float32)
  valid = np.array([[mask >> g & 1 for g in range(6)]] * len(reward))
  order = list(order)
  for advantage in (advantages.group_advantage, advantages.centred_advantage):
    adv = np.asarray(advantage(reward, valid))
    close(adv.sum(-1), np.zeros(len(reward)), atol=2e-4)
    assert not adv[valid == 0].any()
    close(advantage(reward[:, order], valid[:, order]), adv[:, order],
          atol=1e-4)
  shift_scale = advantages.group_advantage(reward * 4 + 1, valid)
  # Scale drops out but for eps; groups with a spread near eps are left out.
  spread = np.ptp(np.where(valid, reward, reward.mean()), -1) > 0.5
  plain = np.asarray(advantages.group_advantage(reward, valid))
  close(shift_scale[spread], plain[spread], atol=1e-3)


# --- anchor states ---------------------------------------------------------

RETURNS = jax.jit(advantages.discounted_returns)
STEP = jax.jit(advantages.step_advantage)
CENTRED = jax.jit(advantages.centred_step_advantage)
GAE = jax.jit(advantages.gae)


def test_discounted_returns_by_hand():
  got = RETURNS(
      jnp.array([0.0, 0.0, 1.0, -0.1, 1.0]), jnp.array([0, 0, 0, 1, 1]), 0.5
  )
  close(got, [0.25, 0.5, 1.0, 0.4, 1.0])  # .4 = -.1 + .5


def test_step_advantage_by_hand():
  returns = jnp.array([1.0, 0.0, 0.0, 0.9, 0.5, 0.5, 7.0])
  task = jnp.array([0, 0, 0, 0, 0, 0, 1])
  state = jnp.array([4, 4, 4, 2, 9, 9, 4])
  # State 4 of task 0: mean 1/3, std sqrt(2)/3. State 2 was seen once, state 9
  # ties, and state 4 of another task is another group.
  close(CENTRED(returns, task, state),
        [2 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0])
  close(STEP(returns, task, state),
        [2**0.5, -(2**-0.5), -(2**-0.5), 0, 0, 0, 0], rtol=1e-4)
  # The others of the group are compared without the invalid one.
  valid = jnp.array([0, 1, 1, 1, 1, 1, 1])
  returns = returns.at[0].set(jnp.nan).at[1].set(3.0)
  close(STEP(returns, task, state, valid),
        [0, 1, -1, 0, 0, 0, 0], rtol=1e-4)


def test_step_advantage_is_group_advantage_of_each_anchor():
  rng = np.random.default_rng(0)
  returns = rng.random(32).astype(np.float32)
  task, state = rng.integers(0, 3, (2, 32))
  # A row for each of the nine anchors, in which only its turns are valid.
  member = 3 * task + state == np.arange(9)[:, None]
  want = jax.jit(advantages.group_advantage)(
      np.tile(returns, (9, 1)), member).sum(0)
  got = STEP(returns, task, state)
  close(got, want, atol=1e-4)
  close(member @ np.asarray(got), np.zeros(9), atol=1e-4)


def test_anchors_of_the_first_state_alone_are_the_group_of_episodes():
  """One turn each, from s_0: GiGPO's two levels are one."""
  reward = jnp.array([[1.0, 0, 0, 1], [0, 1, 0, 0]])
  step = STEP(
      reward.reshape(-1), jnp.repeat(jnp.arange(2), 4), jnp.zeros(8, int)
  )
  close(step.reshape(2, 4), advantages.group_advantage(reward))


# --- with a critic ---------------------------------------------------------


def direct_gae(reward, value, sequence, discount, trace):
  """The double sum of the definition, one sequence at a time."""
  adv = np.zeros(len(reward))
  for s in set(sequence):
    at = np.flatnonzero(sequence == s)
    v = np.append(value[at], 0.0)
    error = reward[at] + discount * v[1:] - v[:-1]
    for t in range(len(at)):
      adv[at[t]] = sum(
          (discount * trace) ** (k - t) * error[k] for k in range(t, len(at))
      )
  return adv


SEQUENCE = np.array([0] * 5 + [1] + [2] * 4 + [0] * 3)  # the last are padding
WEIGHT = np.array([1.0] * 10 + [0.0] * 3)


def rewards_values(seed=0):
  rng = np.random.default_rng(seed)
  reward, value = rng.normal(size=(2, 13)).astype(np.float32)
  return np.where(WEIGHT, reward, np.nan), np.where(WEIGHT, value, np.nan)


@pytest.mark.parametrize('discount, trace', [
    (1.0, 1.0), (0.9, 0.95), (0.9, 0.0), (0.0, 0.5), (1.0, 0.3)])
def test_gae_is_the_direct_double_sum(discount, trace):
  reward, value = rewards_values()
  adv, target = GAE(
      reward, value, WEIGHT, SEQUENCE, discount, trace
  )
  want = direct_gae(reward[:10], value[:10], SEQUENCE[:10], discount, trace)
  close(adv, np.append(want, np.zeros(3)), atol=1e-5)
  close(target, np.append(want + value[:10], np.zeros(3)), atol=1e-5)


def test_gae_ends_are_monte_carlo_and_td():
  reward, value = rewards_values()
  _, target = GAE(reward, value, WEIGHT, SEQUENCE, 0.9, 1.0)
  returns = RETURNS(reward[:10], SEQUENCE[:10], 0.9)
  close(target[:10], returns, atol=1e-5)   # whatever the critic says
  _, target = GAE(reward, value, WEIGHT, SEQUENCE, 0.9, 0.0)
  want = np.array(reward[:10])
  for t in (0, 1, 2, 3, 6, 7, 8):          # those that have a next entry
    want[t] += 0.9 * value[t + 1]
  close(target[:10], want, atol=1e-5)


def test_gae_of_a_right_critic_is_zero():
  reward = np.array([0, 0, 1.0, 0, 2.0])
  value = np.array([0.81, 0.9, 1.0, 1.8, 2.0])
  adv, target = GAE(
      reward, value, np.ones(5), np.array([0, 0, 0, 1, 1]), 0.9, 0.95
  )
  close(adv, np.zeros(5))
  close(target, value)


def test_turn_level_by_hand():
  """Turns of 2, 1 and 2 tokens; the last two stand in another stream."""
  nan = np.nan
  got = jax.jit(advantages.turn_level(0.5, 0.5))(
      np.array([0.0, 0.1, 1.0, 0.0, 2.0, nan]),
      np.array([0.2, 9.0, 0.4, 1.0, 9.0, nan]),
      np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
      np.array([3, 4, 8, 9, 10, 0]), np.array([0, 0, 0, 1, 1, 0]),
  )
  # d_2 = 1 - .4 = .6; d_1 = .1 + .5 * .4 - .2 = .1; A_1 = .1 + .25 * .6.
  close(got.adv_P, [0.25, 0.25, 0.6, 1.0, 1.0, 0])
  close(got.return_P, [0.45, 0, 1.0, 2.0, 0, 0])
  close(got.weight_P, [1, 0, 1, 1, 0, 0])


def test_turns_of_one_token_are_tokens():
  reward, value = rewards_values()
  index = 2 * np.arange(13)    # a token of the world between any two
  args = reward, value, WEIGHT, index, SEQUENCE
  by_turn = jax.jit(advantages.turn_level(0.9, 0.8))(*args)
  by_token = jax.jit(advantages.token_level(0.9, 0.8))(*args)
  for a, b in zip(by_turn, by_token, strict=True):
    close(a, b)
