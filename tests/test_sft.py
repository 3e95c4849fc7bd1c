"""Supervised training: it learns, and a killed run goes on exactly."""

import functools
import time

import jax
import numpy as np
import pytest

from dreamgym_jax import sft
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer

CFG = transformer.ModelConfig(V=23, D=16, N=1, H=2, K=1, d=8, F=16)
SHAPE = batches.Shape(2, 24, 48)


@pytest.fixture(scope='module')
def params():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)


@pytest.fixture(scope='module', autouse=True)
def compiled_once():
  """Equal trainings share their executables: the tests are of `fit`."""
  with pytest.MonkeyPatch.context() as patch:
    for name in ('make_optimizer', 'make_sft_step'):
      patch.setattr(sft.learner, name,
                    functools.cache(getattr(sft.learner, name)))
    yield


def make_streams(n=9, seed=0):
  rng = np.random.default_rng(seed)
  return [batches.Stream(rng.integers(1, 23, size=9 + i % 4),
                         np.ones(9 + i % 4, np.float32)) for i in range(n)]


def fit(params, directory, steps=8, every=100, streams=None, **kw):
  return sft.fit(params, streams or make_streams(), CFG, SHAPE,
                 **{'steps': steps, 'lr': 1e-2, 'seed': 1,
                    'directory': directory, 'checkpoint_every': every, **kw})


class Killed(Exception):
  pass


def test_a_killed_run_ends_with_the_params_of_the_straight_one(
    params, tmp_path, monkeypatch):
  before = jax.tree.map(np.array, params)
  straight = fit(params, tmp_path / 'a')
  jax.tree.map(np.testing.assert_array_equal, before, params)  # not donated
  calls = []
  make = sft.learner.make_sft_step

  def dying(cfg, optimizer):
    step = make(cfg, optimizer)

    def one(state, batch, frozen):
      calls.append(1)
      if len(calls) == 6:
        raise Killed
      return step(state, batch, frozen)
    return one

  monkeypatch.setattr(sft.learner, 'make_sft_step', dying)
  with pytest.raises(Killed):
    fit(params, tmp_path / 'b', every=3)
  while not (tmp_path / 'b' / '3').exists():    # written in the background
    time.sleep(.01)
  resumed = fit(params, tmp_path / 'b', every=3)
  assert len(calls) == 6 + (8 - 3)      # from the checkpoint at step 3
  jax.tree.map(np.testing.assert_array_equal, straight, resumed)
  # What is done is done: nothing is trained again.
  again = fit(params, tmp_path / 'b', every=3)
  assert len(calls) == 6 + (8 - 3)
  jax.tree.map(np.testing.assert_array_equal, resumed, again)


def test_the_loss_falls_on_one_batch(params, tmp_path):
  seen = []
  fit(params, tmp_path, steps=60, streams=make_streams(3),
      on_step=lambda *report: seen.append(report))
  steps, losses, tokens = zip(*seen, strict=True)
  assert steps == (20, 40, 60)
  assert losses[-1] < 0.8 * losses[0] and losses == tuple(
      sorted(losses, reverse=True))
  n = sum(len(s.tokens) for s in make_streams(3))
  assert tokens == (20 * n,) * 3


def test_data_that_do_not_fit_are_left_out_and_the_seed_orders_the_rest(
    params, tmp_path):
  long = batches.Stream(np.ones(25, int), np.ones(25, np.float32))
  one = fit(params, tmp_path / 'a', streams=[*make_streams(), long])
  two = fit(params, tmp_path / 'b')
  jax.tree.map(np.testing.assert_array_equal, one, two)
  other = fit(params, tmp_path / 'c', seed=2)
  assert not all(map(np.array_equal, jax.tree.leaves(two),
                     jax.tree.leaves(other)))
