"""Strict switches for every test."""

import jax
import pytest


@pytest.fixture(autouse=True, scope='session')
def strict_jax():
  """Broadcasting of unequal ranks is an error: it hides shape bugs."""
  jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='module')
def quick_compilation():
  """For steps so tiny that nearly all of their cost is compiling them."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
