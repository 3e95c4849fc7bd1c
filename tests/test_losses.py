"""Hand numbers with their arithmetic, properties, and numpy.ma."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax import losses


def both(fn):
  """Run a test eagerly and under jit."""
  return pytest.mark.parametrize('wrap', [lambda f: f, jax.jit])(fn)


def close(a, b, **kwargs):
  np.testing.assert_allclose(a, b, **({'rtol': 1e-5, 'atol': 1e-6} | kwargs))


AGGREGATES = [
    losses.token_mean, losses.sequence_mean, losses.constant_length(8.0)
]


# --- masked statistics -----------------------------------------------------


@both
def test_masked_statistics_are_those_of_numpy_ma(wrap):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, 7)).astype(np.float32)
  mask = (rng.random((5, 7)) < 0.4).astype(np.float32)
  reference = np.ma.array(x, mask=mask == 0)
  close(wrap(losses.masked_sum)(x, mask), reference.sum())
  close(wrap(losses.masked_mean)(x, mask), reference.mean())
  close(wrap(losses.masked_std)(x, mask), reference.std())


@both
def test_masked_out_values_may_be_anything(wrap):
  x = jnp.array([1.0, jnp.nan, 3.0, jnp.inf])
  mask = jnp.array([1.0, 0.0, 1.0, 0.0])
  close(wrap(losses.masked_mean)(x, mask), 2.0)
  close(wrap(losses.masked_std)(x, mask), 1.0)


def test_all_masked_is_zero_and_weights_may_be_small():
  x = jnp.array([1.0, 2.0])
  for statistic in (losses.masked_sum, losses.masked_mean, losses.masked_std):
    close(statistic(x, jnp.zeros(2)), 0.0)
  # Weights that sum to less than 1 still give a mean: (.1 + .6) / .4.
  close(losses.masked_mean(x, jnp.array([0.1, 0.3])), 1.75)


# --- aggregation -----------------------------------------------------------


def test_aggregates_by_hand():
  value = jnp.array([1.0, 2.0, 3.0, 10.0, 99.0])
  weight = jnp.array([1.0, 1.0, 1.0, 2.0, 0.0])
  sequence = jnp.array([0, 0, 0, 1, 0])
  # Tokens: (1 + 2 + 3 + 20) / 5.
  close(losses.token_mean(value, weight, sequence), 5.2)
  # Sequences: (6 / 3 + 20 / 2) / 2.
  close(losses.sequence_mean(value, weight, sequence), 6.0)
  # Constant 8: (6 + 20) / 8 / 2 sequences.
  close(losses.constant_length(8.0)(value, weight, sequence), 1.625)


@pytest.mark.parametrize('aggregate', AGGREGATES)
@both
def test_aggregates_ignore_order_padding_and_names(wrap, aggregate):
  rng = np.random.default_rng(0)
  value = rng.normal(size=12).astype(np.float32)
  weight = (rng.random(12) < 0.8).astype(np.float32)
  sequence = rng.integers(0, 4, 12)
  want = aggregate(value, weight, sequence)
  order = rng.permutation(12)
  close(wrap(aggregate)(value[order], weight[order], sequence[order]), want)
  close(wrap(aggregate)(value, weight, 3 - sequence), want)
  padded = [np.pad(x, (0, 5)) for x in (value, weight, sequence)]
  padded[0][12:] = np.nan
  close(wrap(aggregate)(*padded), want)
  close(aggregate(value, 0 * weight, sequence), 0.0)


def test_equal_lengths_make_the_means_agree():
  value = jnp.arange(6.0)
  sequence = jnp.array([0, 0, 1, 1, 2, 2])
  close(losses.token_mean(value, jnp.ones(6), sequence), 2.5)
  close(losses.sequence_mean(value, jnp.ones(6), sequence), 2.5)
  close(losses.constant_length(2)(value, jnp.ones(6), sequence), 2.5)


# --- likelihood ------------------------------------------------------------


@both
def test_token_nll_by_hand(wrap):
  logp = jnp.log(jnp.array([0.5, 0.25, 0.9]))
  weight = jnp.array([1.0, 3.0, 0.0])
  # (ln 2 + 3 ln 4) / 4 = 7 ln 2 / 4.
  close(wrap(losses.token_nll)(logp, weight), 7 * np.log(2) / 4)


# --- surrogate and KL ------------------------------------------------------


def surrogate(ratio, adv, weight=None, clip_low=0.2, clip_high=0.3):
  ratio, adv = jnp.asarray(ratio), jnp.asarray(adv)
  weight = jnp.ones_like(ratio) if weight is None else jnp.asarray(weight)
  return losses.clipped_surrogate(
      jnp.log(ratio), jnp.zeros_like(ratio), adv, weight, clip_low, clip_high
  )


def test_surrogate_by_hand():
  got = surrogate([1.0, 2.0, 2.0, 0.5, 0.5, 1.25], [2.0, 1, -1, 1, -1, 1.0])
  # r=2, A=1: clipped to 1.3. r=2, A=-1: not clipped, min(-2, -1.3).
  # r=.5, A=1: not clipped. r=.5, A=-1: min(-.5, -.8), clipped to .8.
  # r=1.25 is inside because clip_high is .3 and not .2.
  close(got.loss_P, [-2.0, -1.3, 2.0, -0.5, 0.8, -1.25])
  close(got.clip_share, 2 / 6)
  close(got.ratio_max, 2.0)
  # mean(r - 1 - ln r): 0, 2 (1 - ln 2), 2 (ln 2 - .5), .25 - ln 1.25.
  close(got.approx_kl, (2 * (1 - np.log(2)) + 2 * (np.log(2) - 0.5)
                        + 0.25 - np.log(1.25)) / 6)


def test_surrogate_statistics_see_weighted_tokens_only():
  got = surrogate([1.0, 9.0], [1.0, 1.0], weight=[1.0, 0.0])
  close([got.ratio_max, got.clip_share, got.approx_kl], [1.0, 0.0, 0.0])


def test_surrogate_gradient_is_zero_exactly_where_it_is_clipped():
  ratio = jnp.array([1.0, 2.0, 2.0, 0.5, 0.5])
  adv = jnp.array([3.0, 1.0, -1.0, 1.0, -1.0])

  def loss(logp, adv):
    return losses.clipped_surrogate(
        logp, jnp.zeros(5), adv, jnp.ones(5), 0.2, 0.3
    ).loss_P.sum()

  by_logp, by_adv = jax.grad(loss, (0, 1))(jnp.log(ratio), adv)
  # d(-r A)/d log pi = -r A; at r = 1 it is the policy gradient -A.
  close(by_logp, [-3.0, 0.0, 2.0, -0.5, 0.0])
  close(by_adv, np.zeros(5))


def test_surrogate_survives_absurd_ratios():
  got = losses.clipped_surrogate(
      jnp.array([0.0, -500.0]), jnp.array([-500.0, 0.0]), jnp.ones(2),
      jnp.ones(2), 0.2, 0.3,
  )
  assert all(np.isfinite(x).all() for x in got)


@both
def test_k3_by_hand_and_its_gradient(wrap):
  logp, ref = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.5, 0.25]))
  # ref / pi = 1/2: .5 + ln 2 - 1.
  close(wrap(losses.k3_kl)(logp, ref), [0.0, np.log(2) - 0.5])
  grad = jax.grad(lambda x: losses.k3_kl(x, ref).sum())(logp)
  close(grad, [0.0, 0.5])  # 1 - ref / pi


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_k3_is_an_unbiased_nonnegative_kl(seed):
  rng = np.random.default_rng(seed)
  p, q = rng.dirichlet(np.ones(5), 2) * 0.95 + 0.01
  k3 = losses.k3_kl(jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q)))
  assert (np.asarray(k3) >= -1e-6).all()
  # The expectation under p is the true KL(p || q).
  close((p * k3).sum(), (p * np.log(p / q)).sum(), rtol=1e-3, atol=1e-4)


# --- value -----------------------------------------------------------------

VALUE = jax.jit(losses.clipped_value_loss)
PREFERENCE = jax.jit(losses.preference_loss)


def test_value_loss_by_hand():
  value = jnp.array([0.5, 0.9, 0.1, 0.9])
  old = jnp.array([0.4, 0.4, 0.4, 0.4])
  target = jnp.array([1.0, 1.0, 1.0, 0.0])
  got = VALUE(value, old, target, jnp.ones(4), 0.2)
  # .5 is near .4: .5^2 / 2. .9 went too far towards 1: (.6 - 1)^2 / 2. .1 and
  # the last went away from their targets: not clipped, .9^2 / 2.
  close(got.loss_P, [0.125, 0.08, 0.405, 0.405])
  close(got.clip_share, 0.25)
  free = VALUE(
      value, old, target, jnp.ones(4), float('inf')
  )
  close(free.loss_P, (value - target) ** 2 / 2)
  close(free.clip_share, 0.0)


def test_value_gradient_is_the_error_and_zero_where_clipped():
  def loss(value, target):
    return losses.clipped_value_loss(
        value, jnp.full(3, 0.4), target, jnp.ones(3), 0.2
    ).loss_P.sum()

  by_value, by_target = jax.jit(jax.grad(loss, (0, 1)))(
      jnp.array([0.5, 0.9, 0.1]), jnp.ones(3)
  )
  close(by_value, [-0.5, 0.0, -0.9])
  close(by_target, np.zeros(3))


# --- preferences -----------------------------------------------------------


def pairs(logp, ref, weight=None, beta=0.5):
  """Two pairs: tokens 0, 1 against 2, and 3 against 4."""
  weight = jnp.ones(5) if weight is None else jnp.asarray(weight)
  return PREFERENCE(
      jnp.asarray(logp), jnp.asarray(ref), weight,
      jnp.array([0, 0, 0, 1, 1]),
      jnp.array([True, True, False, True, False]), beta,
  )


def test_preference_loss_by_hand():
  # Margins / .5: (-1 - 1 + 4) - (-3 + 2) = 3, and (-2 + 1) - (-1 + 1) = -1.
  logp, ref = [-1.0, -1, -3, -2, -1], [-2.0, -2, -2, -1, -1]
  got = pairs(logp, ref)
  close(got.loss, (np.log1p(np.exp(-1.5)) + np.log1p(np.exp(0.5))) / 2)
  close(got.margin, (1.5 - 0.5) / 2)
  close(got.accuracy, 0.5)
  close(pairs(ref, ref).loss, np.log(2))
  # Without its chosen side the second pair is none; padding joins pair 0.
  close(pairs(logp, ref, [1, 1, 1, 0, 1]).loss, np.log1p(np.exp(-1.5)))


def test_preference_gradient_is_the_closed_form():
  logp = jnp.array([-1.0, -1, -3, -2, -1])
  ref = jnp.array([-2.0, -2, -2, -1, -1])
  got = jax.jit(jax.grad(lambda x: pairs(x, ref).loss))(logp)
  # -beta sigmoid(-m) (grad of chosen - of rejected), over two pairs.
  pull = 0.5 / (1 + np.exp([1.5, -0.5])) / 2
  close(got, [-pull[0], -pull[0], pull[0], -pull[1], pull[1]])


# --- what has no weight ----------------------------------------------------


@pytest.mark.parametrize('loss', [
    lambda x, w: losses.clipped_surrogate(
        x, 0.5 * x, 2 * x, w, 0.2, 0.3).loss_P,
    lambda x, w: losses.clipped_value_loss(x, 0.5 * x, x + 1, w, 0.2).loss_P,
    lambda x, w: losses.preference_loss(
        x, 0.5 * x, w, jnp.array([0, 0, 1, 1, 0]),
        jnp.array([True, False, True, False, True]), 0.1).loss * jnp.ones(5),
])
def test_nan_without_weight_reaches_neither_loss_nor_gradient(loss):
  weight = jnp.array([1.0, 1, 1, 1, 0])

  def total(x):
    return losses.masked_sum(loss(x, weight), weight)

  slopes = jax.jit(jax.value_and_grad(total))
  clean = jnp.array([-0.5, -1.0, -0.2, -0.9, 0.0])
  want, slope = slopes(clean)
  got, same = slopes(clean.at[4].set(jnp.nan))
  close(got, want)
  close(same, slope)
  assert np.abs(slope[:4]).max() > 0.01 and slope[4] == 0


def test_what_a_mean_is_over():
  weight = jnp.array([1.0, 0.5, 2.0, 0.0])
  sequence = jnp.array([0, 0, 2, 3])
  close(losses.n_counted(losses.token_mean, weight, sequence), 3.5)
  close(losses.n_counted(losses.sequence_mean, weight, sequence), 2.0)
  close(losses.n_counted(losses.constant_length(9.0), weight, sequence), 2.0)


def test_the_truncated_ratio_by_hand():
  """1.2, capped at 2, 0.5; and whatever stands where there is no weight."""
  ratio = np.array([1.2, 5.0, 0.5, np.nan])
  got = losses.truncated_ratio(
      jnp.log(ratio) - 3.0, jnp.full(4, -3.0), jnp.array([1.0, 1, 1, 0]), 2.0)
  close(got, [1.2, 2.0, 0.5, 1.0], rtol=1e-5)
  grad = jax.grad(lambda x: losses.truncated_ratio(
      x, jnp.zeros(4), jnp.ones(4), 2.0).sum())(jnp.zeros(4))
  assert not grad.any()


def test_sums_by_turn_by_hand():
  """Stream 0 has turns of 2 and 1 tokens, stream 1 of 1, 1 and 2; padding."""
  sequence = jnp.array([0, 0, 0, 1, 1, 1, 1, 0, 0])
  index = jnp.array([3, 4, 7, 8, 11, 20, 21, 0, 0])
  value = jnp.array([1.0, 2, 3, 4, 5, 6, 7, np.nan, 9])
  weight = jnp.array([1.0, 1, 1, 1, 1, 1, 2, 0, 0])
  got = losses.sums_by_turn(value, weight, index, sequence, 4)
  close(got, [[1 + 2 + 4, 3 + 5, 6 + 14, 0], [3, 2, 3, 0]])
  # What comes after the last turn that is asked for is of that turn.
  got = losses.sums_by_turn(value, weight, index, sequence, 2)
  close(got, [[7, 28], [3, 5]])
