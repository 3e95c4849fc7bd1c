"""The copy of the weights that decoding reads gives what the weights give."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamgym_jax.models import caches, places, serving, transformer

CFG = transformer.ModelConfig(
    V=24, D=16, N=2, H=4, K=2, d=4, F=20, tied=False, dtype='bfloat16')


@pytest.fixture(scope='module')
def params():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)


@pytest.mark.parametrize('held', [serving.freeze, serving.cast])
def test_no_number_changes(params, held):
  tok = jax.random.randint(jax.random.key(1), (2, 5), 1, CFG.V)
  copy = held(params, CFG)
  assert copy['head'].dtype == jnp.bfloat16
  assert copy['ln_f'].dtype == jnp.float32
  want, got = (transformer.extend(
      p, caches.empty(CFG, 2, 8), tok, jnp.full(2, 5), CFG)
      for p in (params, copy))
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_copy_is_made_once_and_shares_what_does_not_change(params):
  serve = serving.Serve(CFG)
  copy = serve(params)
  assert copy is not params
  assert serve(params) is copy and serve(copy) is copy
  other = dict(params)
  assert serve(other) is not copy
  serve.forget()
  assert serve(params) is not copy
  full = serving.Serve(dataclasses.replace(CFG, dtype='float32'))(params)
  assert full['embed'] is params['embed']
  assert [w['gate'].shape for w in full['blocks']] == [(CFG.D, CFG.F)] * CFG.N


def test_rows_stand_in_their_places_or_one_by_one():
  own, packed = places.Places(5, True), places.Places(5, False)
  x = np.array([7, 8])
  assert own.lay([3, 1], x, 5).tolist() == [0, 8, 0, 7, 0]
  assert packed.lay([3, 1], x, 4).tolist() == [7, 8, 0, 0]
  assert own.index([3, 1], 5) is None
  assert packed.index([3, 1], 4).tolist() == [3, 1, 5, 5]
  for some in (own, packed):
    assert some.lay([3, 1], x, 5)[some.at([3, 1])].tolist() == [7, 8]
