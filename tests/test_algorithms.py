"""What the algorithms are given, and that every name makes one."""

import jax
import numpy as np
import pytest

from dreamgym_jax import config, rollouts, types
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer
from dreamgym_jax.stages import algorithms

CFG = transformer.ModelConfig(V=32, D=16, N=1, H=2, K=1, d=8, F=32)
LENGTH = 64


pytestmark = pytest.mark.usefixtures('quick_compilation')


def attempt(goal, wins, invalid=(), n_turns=3, seed=0, error=''):
  rng = np.random.default_rng(seed)
  steps = tuple(types.Transition(
      f'[1] button: {t}', 'click [1]', f'[1] button: {t + 1}',
      float(wins and t == n_turns - 1), t == n_turns - 1, t in invalid)
      for t in range(n_turns))
  task = types.Task('f', 0, goal, '[1] button: 0')
  written = np.tile([False, True, True], n_turns)
  return rollouts.Attempt(
      types.Episode(task, steps, types.REAL, 'policy', 'e', error=error),
      rng.integers(1, 32, len(written)), written,
      np.where(written, -3.4, 0).astype(np.float32), len(invalid))


def some(group):
  return algorithms.played(
      [attempt('a', True, seed=0), attempt('a', False, (1, 2), seed=1),
       attempt('b', True, (0,), seed=2), attempt('b', True, seed=3, error='x')],
      group, 0.1)


def test_rewards_are_the_outcome_less_one_penalty_where_it_was_earned():
  p = some(2)
  np.testing.assert_allclose(
      p.rewards, [[0, 0, 1], [0, -0.1, 0], [-0.1, 0, 1], [0, 0, 1]])
  np.testing.assert_allclose(p.reward_JxG, [[1, -0.1], [0.9, 1]])
  assert p.success_JxG.tolist() == [[1, 0], [1, 1]]
  assert p.valid_JxG.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize('name, group, n_parts, cap', [
    ('grpo', 2, 1, 0), ('gigpo', 2, 1, 0), ('dpo', 2, 1, 0), ('ppo', 1, 1, 0),
    ('raft', 2, 1, 0), ('grpo', 2, 2, 1.5), ('ppo', 1, 2, 1.5)])
def test_every_algorithm_learns_from_attempts(name, group, n_parts, cap):
  c = config.defaults()
  c.rl.accumulate, c.rl.importance_cap = n_parts, float(cap)
  c.rl.algorithm, c.rl.tasks, c.rl.group, c.rl.updates = name, 2, 2, 1
  # What was played may be longer than the rows of SFT.
  c.batch.length, c.sampler.capacity = 4, LENGTH
  algorithm = algorithms.make(c, CFG)
  assert (algorithm.tasks, algorithm.group) == (4 // group, group)
  params = transformer_params()
  state = algorithm.start(params)
  for _ in range(3):     # the first step of the warm-up has no rate
    state, metrics = algorithm.update(
        state, some(group), params, {})
  assert metrics['skipped'] == 0 and metrics['grad_norm'] > 0
  assert not np.array_equal(state.params['embed'], params['embed'])
  if name != 'dpo':     # three turns of sampled tokens at -3.4
    by_turn = [metrics[f'logp_mismatch/turn_{t}'] for t in range(3)]
    assert 0 < min(by_turn) <= metrics['logp_mismatch'] <= max(by_turn)
  assert ('importance' in metrics) == bool(cap)
  won, valid = algorithm.groups(some(group))
  # The group of task b has one valid attempt, of two.
  assert (valid.sum(-1) == ([2, 2, 1, 1] if group == 1 else [2, 1])).all()
  assert ((won * valid).sum(-1) == 1).all()


@pytest.mark.parametrize('name, group', [('gigpo', 2), ('ppo', 1)])
def test_the_rate_rises_over_as_many_updates_as_asked(name, group):
  params, moved = transformer_params(), []
  for warmup in (2, 200):
    c = config.defaults()
    c.rl.algorithm, c.rl.tasks, c.rl.group, c.rl.updates = name, 2, 2, 1
    c.rl.warmup, c.sampler.capacity = warmup, LENGTH
    algorithm = algorithms.make(c, CFG)
    state = algorithm.start(params)
    for _ in range(2):
      state, _ = algorithm.update(state, some(group), params, {})
    moved.append(np.abs(state.params['embed'] - params['embed']).max())
  # The second update has half of the rate, or a two-hundredth.
  np.testing.assert_allclose(moved[0], 100 * moved[1], rtol=0.05)


def transformer_params():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)


@pytest.mark.parametrize('n_updates', [1, 4])
def test_batches_hold_what_was_written_and_little_more(n_updates):
  rng = np.random.default_rng(0)
  streams = []
  for size in rng.integers(200, 400, 160):
    weight = np.zeros(size, np.float32)
    weight[rng.choice(size - 1, size // 10, replace=False) + 1] = 1
    streams.append(batches.Stream(np.ones(size, np.int32), weight))
  shape = algorithms.shape_of(streams, 512, n_updates)
  packed = batches.pack_evenly(streams, *shape)
  assert sum(np.count_nonzero(b.weight_P) for b in packed) == sum(
      np.count_nonzero(s.weight) for s in streams)
  # The head sees hardly more positions than were written.
  assert shape.positions < 1.5 * sum(
      np.count_nonzero(s.weight) for s in streams) / n_updates
  assert shape.positions < shape.rows * shape.length / 4
  assert n_updates <= len(packed) <= n_updates + 1


@pytest.mark.parametrize(('longest', 'length'), [
    (90, 512), (520, 640), (1_000, 1_024), (1_300, 1_536), (1_536, 1_536)])
def test_rows_are_as_long_as_the_longest_stream_needs(longest, length):
  streams = [batches.Stream(np.ones(n, np.int32), np.ones(n, np.float32))
             for n in (50, longest, 60)]
  assert algorithms.shape_of(streams, 1_536, 4).length == length
  # But never longer than a batch may be.
  assert algorithms.shape_of(streams[:1], 256, 4).length == 256


def test_a_batch_has_room_for_its_longest_stream_and_a_pair():
  weight = np.ones(700, np.float32)
  stream = batches.Stream(np.ones(700, np.int32), weight)
  shape = algorithms.shape_of([stream], 1_024, 4, least_rows=2)
  assert shape.rows == 2 and 2 * 699 <= shape.positions <= 2_048
  # Never more positions than tokens.
  assert algorithms.shape_of([stream], 700, 4).positions == 700
