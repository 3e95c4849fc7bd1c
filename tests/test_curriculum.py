"""The pool: Eq. 7, the share lambda, who is sampled and who must go."""

import collections

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax import curriculum

ALL = np.ones(3, bool)


def close(a, b):
  np.testing.assert_allclose(a, b, atol=1e-6)


def make_pool(num_real, num_generated, capacity=None):
  """Real tasks first; families 0, 1, 2 in turn."""
  n = num_real + num_generated
  pool = curriculum.create(capacity or max(n, 1))
  pool, slot_K = curriculum.add(
      pool, np.arange(n) % 3, np.full(n, -1), np.arange(n) >= num_real
  )
  assert slot_K.tolist() == list(range(n))
  return pool


def with_values(pool, value_M):
  """As if each task had been visited once with this V."""
  return pool.replace(
      value_M=np.asarray(value_M, np.float32),
      visits_M=np.ones(len(value_M), np.int32),
  )


# --- Eq. 7 -----------------------------------------------------------------


def test_group_reward_entropy_by_hand():
  reward = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
  close(curriculum.group_reward_entropy(reward), [3 / 16, 1 / 4, 0, 0])
  # (0, .5, 1): mean .5, variance (.25 + 0 + .25) / 3.
  close(curriculum.group_reward_entropy([[0.0, 0.5, 1.0]]), [1 / 6])
  valid = np.array([[1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
  close(curriculum.group_reward_entropy(reward, valid), [2 / 9, 1 / 4, 0, 0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=8, max_size=8), st.permutations(
    range(8)))
def test_group_reward_entropy_properties(wins, order):
  reward = np.array([wins], np.float32)
  p = reward.mean()
  value = curriculum.group_reward_entropy(reward)
  close(value, [p * (1 - p)])
  close(value, curriculum.group_reward_entropy(reward[:, list(order)]))
  close(value, curriculum.group_reward_entropy(1 - reward))
  assert float(value[0]) <= curriculum.MAX_VALUE + 1e-7
  assert (float(value[0]) > curriculum.MAX_VALUE - 1e-6) == (p == 0.5)


# --- observing -------------------------------------------------------------


def test_observe_by_hand():
  pool = make_pool(3, 0)
  half, quarter, none = [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]
  pool = curriculum.observe(pool, [0, 1], [half, quarter], keep=0.75)
  close(pool.value_M, [0.25, 0.1875, 0.0])    # the first stands alone
  close(pool.success_M, [0.5, 0.25, 0.0])
  assert pool.visits_M.tolist() == [1, 1, 0]
  pool = curriculum.observe(pool, [0], [none], keep=0.75)
  close(pool.value_M, [0.1875, 0.1875, 0.0])  # .75 * .25
  close(pool.success_M, [0.375, 0.25, 0.0])
  # Twice in one batch: first .75 * .1875 + .25 * .25, then .75 of that.
  pool = curriculum.observe(pool, [1, 1], [half, none], keep=0.75)
  close(pool.value_M, [0.1875, 0.75 * (0.140625 + 0.0625), 0.0])
  assert pool.visits_M.tolist() == [2, 3, 0]


def test_observe_ignores_what_says_nothing():
  pool = make_pool(2, 0)
  reward = [[1, 0, 0, 0]] * 3
  valid = [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
  got = curriculum.observe(pool, [-1, 0, 1], reward, valid)
  jax.tree.map(np.testing.assert_array_equal, pool, got)
  assert pool.visits_M.tolist() == [0, 0]


# --- sampling --------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    num_real=st.integers(1, 6), num_generated=st.integers(0, 12),
    n=st.integers(0, 12), max_synthetic=st.floats(0, 1), seed=st.integers(0, 9),
    generated_value=st.sampled_from([0.0, 0.25]),
)
def test_lambda_is_never_exceeded(
    num_real, num_generated, n, max_synthetic, seed, generated_value
):
  pool = make_pool(num_real, num_generated, capacity=18)
  value_M = np.where(pool.is_generated_M, generated_value, 0.1)
  got = curriculum.sample(
      with_values(pool, value_M), jax.random.key(seed), n, max_synthetic, ALL
  )
  assert len(got) == n
  is_generated = np.asarray(pool.is_generated_M)[got]
  assert is_generated.sum() <= max_synthetic * n + 1e-6
  assert np.asarray(pool.is_alive_M)[got].all()
  # Generated ones are never repeated, real ones only when they run out.
  assert len(set(got[is_generated])) == is_generated.sum()
  real = collections.Counter(got[~is_generated].tolist())
  if real and max(real.values()) > 1:
    assert len(real) == num_real


def test_lambda_count_is_not_off_by_a_float():
  # .29 * 100 is 28.999999999999996 in floats.
  assert curriculum.max_synthetic_count(100, 0.29) == 29
  assert curriculum.max_synthetic_count(10, 0.25) == 2
  assert curriculum.max_synthetic_count(10, 1.0) == 10
  for bad in (-0.1, 1.1):
    with pytest.raises(ValueError, match='lambda'):
      curriculum.max_synthetic_count(10, bad)


def draw_many(pool, n=4, draws=200, max_synthetic=1.0, **kwargs):
  """How often each slot came, over independent draws."""
  count_M = np.zeros(pool.capacity)
  for i in range(draws):
    got = curriculum.sample(
        pool, jax.random.key(i), n, max_synthetic, ALL, **kwargs
    )
    np.add.at(count_M, got, 1)
  return count_M / draws


def test_probability_is_the_stated_one():
  value_M = [0.0, 0.05, 0.15, 0.25]
  rate_M = draw_many(
      with_values(make_pool(4, 0), value_M), n=1, draws=1500,
      temperature=0.1, exploration=0.2,
  )
  soft = np.exp(np.array(value_M) / 0.1)
  want_M = 0.8 * soft / soft.sum() + 0.2 / 4
  np.testing.assert_allclose(rate_M, want_M, atol=0.05)


def test_high_entropy_comes_first():
  pool = with_values(make_pool(12, 0), [0.0] * 8 + [0.25] * 4)
  rate_M = draw_many(pool, temperature=0.02, exploration=0.0)
  np.testing.assert_allclose(rate_M[8:], 1, atol=0.05)
  assert draw_many(pool, exploration=1.0)[:8].min() > 0.15  # uniform: 1/3


def test_an_untried_task_is_worth_what_its_like_is():
  # Families 0, 1, 2 in turn; of 0 and 1 two are known each, of 2 none.
  pool = with_values(make_pool(6, 3, capacity=12),
                     [0.2, 0.1, 0, 0, 0.1, 0, 0, 0, 0, 9, 9, 9])
  pool = pool.replace(
      visits_M=np.array([3, 1, 0, 1, 1, 0, 0, 0, 0, 9, 9, 9], np.int32),
      parent_M=np.array([-1, -1, -1, -1, -1, -1, 0, 2, 7, -1, -1, -1]))
  close(curriculum.expected_value(pool)[:9], [
      0.2, 0.1, 0.25, 0, 0.1, 0.25,      # known as they are; nothing of 2
      0.2,     # its seed's
      0.1,     # its seed is not tried either: its family's mean
      0.25])   # so is its seed's, and nothing of its family is known
  assert (curriculum.expected_value(curriculum.create(3)) == 0.25).all()


def test_untried_tasks_hide_neither_frontier_nor_variations():
  """Of 300 real tasks five were tried; one of them teaches, as do its own."""
  pool = make_pool(300, 0, capacity=310)
  pool, slots = curriculum.add(
      pool, np.zeros(6, int), np.zeros(6, int), np.ones(6, bool))
  pool = curriculum.observe(
      pool, np.array([0, 3, 6, 1, 2]),
      np.array([[1, 0]] + [[1, 1]] * 4, np.float32))
  rate_M = draw_many(pool, n=20, max_synthetic=0.25)
  assert rate_M[0] > 0.5                       # 20 of 300 by chance: .07
  assert rate_M[slots].sum() > 3.5             # of five that lambda allows
  assert rate_M[1:300].max() < 0.2             # others still have a chance
  assert (rate_M[1:300] > 0).mean() > 0.99


def test_without_replacement_and_only_allowed_families():
  pool = make_pool(9, 3)
  for i in range(20):
    got = curriculum.sample(
        pool, jax.random.key(i), 6, 0.5, np.array([True, False, True])
    )
    assert len(set(got.tolist())) == 6
    assert set(np.asarray(pool.family_M)[got]) <= {0, 2}


def test_same_key_same_tasks():
  pool = make_pool(9, 3)
  a, b, c = (
      curriculum.sample(pool, jax.random.key(k), 6, 0.5, ALL).tolist()
      for k in (0, 0, 1)
  )
  assert a == b != c


def test_nothing_to_sample_says_so():
  none = np.zeros(3, bool)
  with pytest.raises(ValueError, match='no real task'):
    curriculum.sample(make_pool(5, 5), jax.random.key(0), 4, 1.0, none)
  with pytest.raises(ValueError, match='at most 2 of 5 generated'):
    curriculum.sample(make_pool(0, 5), jax.random.key(0), 4, 0.5, ALL)
  with pytest.raises(ValueError, match='family 2, but only 2'):
    curriculum.sample(make_pool(5, 0), jax.random.key(0), 4, 0, ALL[:2])
  # lambda = 1 may repeat generated tasks.
  got = curriculum.sample(make_pool(0, 2), jax.random.key(0), 4, 1.0, ALL)
  assert sorted(got.tolist()) == [0, 0, 1, 1]


# --- seeds, room -----------------------------------------------------------


def test_seeds_are_visited_and_challenging():
  pool = with_values(make_pool(8, 0), [0, 0, 0.25, 0.25, 0.01, 0.24, 0, 0])
  pool = pool.replace(visits_M=pool.visits_M.copy())
  pool.visits_M[3] = 0  # unvisited: nothing is known, so not a seed
  drawn = [
      curriculum.seeds_for_generation(
          pool, jax.random.key(i), 2, ALL, temperature=0.02
      ) for i in range(40)
  ]
  assert all(len(set(d.tolist())) == 2 for d in drawn)
  count = collections.Counter(np.concatenate(drawn).tolist())
  assert set(count) <= {2, 4, 5} and count[2] > 35 and count[5] > 35
  # There are three; families 1 and 2 hold slots 4 and 2, 5.
  args = pool, jax.random.key(0), 9
  assert sorted(curriculum.seeds_for_generation(*args, ALL)) == [2, 4, 5]
  only = np.array([False, True, False])
  assert curriculum.seeds_for_generation(*args, only).tolist() == [4]
  assert curriculum.seeds_for_generation(*args, ~ALL).tolist() == []


def test_add_takes_free_slots_then_the_least_valuable_generated():
  pool = make_pool(2, 3, capacity=6)  # slots 2, 3, 4 generated, 5 free
  pool = pool.replace(
      value_M=np.array([0, 0, 0.2, 0.1, 0.0, 0], np.float32),
      visits_M=np.array([5, 5, 1, 1, 0, 0], np.int32),
      parent_M=np.array([-1, -1, 0, 1, 3, -1], np.int32),
  )
  pool, slot_K = curriculum.add(
      pool, [2, 2, 2], [0, 3, 1], np.ones(3, bool)
  )
  # Free 5, then V = .1, then .2; the unvisited slot 4 keeps its chance.
  assert slot_K.tolist() == [5, 3, 2]
  assert pool.visits_M.tolist() == [5, 5, 0, 0, 0, 0]
  # Slot 4's parent was evicted, and so was that of the second new task.
  assert pool.parent_M.tolist() == [-1, -1, 1, -1, -1, 0]
  assert pool.family_M.tolist() == [0, 1, 2, 2, 1, 2]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=8),
       st.integers(0, 5))
def test_generated_tasks_never_evict_real_ones(additions, num_real):
  pool = make_pool(num_real, 0, capacity=6)
  real = num_real
  for count, is_generated in additions:
    pool, slot_K = curriculum.add(
        pool, [0] * count, [-1] * count, [is_generated] * count
    )
    placed = slot_K[slot_K >= 0]
    assert len(set(placed.tolist())) == len(placed)
    room = 6 - real
    assert len(placed) == min(count, room)  # real ones may take any but real
    real += 0 if is_generated else len(placed)
    alive_real_M = pool.is_alive_M & ~pool.is_generated_M
    assert int(alive_real_M.sum()) == real
    assert alive_real_M[:num_real].all()


def test_retire_frees_mastered_and_hopeless_generated_tasks():
  pool = with_values(make_pool(1, 4), [0.0, 0.0, 0.01, 0.2, 0.0])
  pool = pool.replace(
      visits_M=np.array([9, 9, 9, 9, 1], np.int32),
      parent_M=np.array([-1, 0, 1, 1, 0], np.int32),
  )
  pool, retired_M = curriculum.retire(pool, min_value=0.05, min_visits=3)
  assert retired_M.tolist() == [False, True, True, False, False]
  assert pool.is_alive_M.tolist() == [True, False, False, True, True]
  assert pool.parent_M.tolist() == [-1, 0, -1, -1, 0]
  got = curriculum.sample(pool, jax.random.key(0), 9, 1.0, ALL)
  assert set(got.tolist()) == {0, 3, 4}
  _, slot_K = curriculum.add(pool, [0, 0], [-1, -1], [True, True])
  assert slot_K.tolist() == [1, 2]


def test_functions_do_not_write_into_the_pool_they_got():
  pool = make_pool(2, 2, capacity=6)
  saved = jax.tree.map(np.array, pool)
  curriculum.observe(pool, [0], [[1, 0]])
  curriculum.add(pool, [1], [0], [True])
  curriculum.retire(with_values(pool, [0.0] * 6), 0.1, 1)
  curriculum.sample(pool, jax.random.key(0), 3, 1.0, ALL)
  jax.tree.map(np.testing.assert_array_equal, saved, pool)


def test_a_restored_pool_goes_on_the_same():
  """Checkpoints may give device arrays back."""

  def run(pool):
    pool = curriculum.observe(pool, [0, 3], [[1, 0], [0, 0]])
    pool, _ = curriculum.retire(pool, 0.1, 1)
    pool, slot_K = curriculum.add(pool, [1, 2], [0, 3], [True, False])
    got = curriculum.sample(pool, jax.random.key(0), 4, 0.5, ALL)
    seeds = curriculum.seeds_for_generation(pool, jax.random.key(0), 2, ALL)
    return pool, slot_K, got, seeds

  pool = make_pool(2, 2, capacity=6)
  jax.tree.map(
      np.testing.assert_array_equal,
      run(pool), run(jax.tree.map(jax.numpy.asarray, pool)),
  )


def test_pool_is_a_fixed_shape_pytree():
  before = jax.tree.map(lambda x: (x.shape, x.dtype), make_pool(3, 2))
  pool = curriculum.observe(make_pool(3, 2), [0], [[1, 0]])
  pool, _ = curriculum.add(pool, [1], [0], [True])
  pool, _ = curriculum.retire(pool, 0.1, 1)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), pool) == before
