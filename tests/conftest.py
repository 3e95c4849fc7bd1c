"""Strict switches for every test."""

import jax
import pytest


@pytest.fixture(autouse=True, scope='session')
def strict_jax():
  """Broadcasting of unequal ranks is an error: it hides shape bugs."""
  jax.config.update('jax_numpy_rank_promotion', 'raise')
