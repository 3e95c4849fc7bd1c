"""Weights on disk: exact there and back, and clear about what does not fit."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from dreamgym_jax.models import transformer, weights

CFG = transformer.ModelConfig(V=11, D=8, N=2, H=2, K=1, d=4, F=12)


@pytest.fixture(scope='module')
def params():
  """Random leaves of the right shapes: nothing to compile."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda s: rng.normal(size=s.shape).astype(s.dtype),
      jax.eval_shape(lambda: transformer.init(jax.random.key(0), CFG)))


@pytest.fixture
def path(tmp_path, params):
  weights.save(tmp_path / 'new' / 'a.safetensors', params, CFG, {'steps': 7})
  return tmp_path / 'new' / 'a.safetensors'


def rewrite(path, **changes):
  """The same file, with some arrays changed, or dropped if None."""
  arrays = safetensors_numpy.load_file(path) | changes
  safetensors_numpy.save_file(
      {k: v for k, v in arrays.items() if v is not None}, path)


def test_there_and_back_is_exact(path, params):
  got = weights.load(path, CFG)
  assert jax.tree.structure(got) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, got, params)
  assert {a.dtype for a in jax.tree.leaves(got)} == {np.dtype('float32')}
  assert [p.name for p in path.parent.iterdir()] == ['a.safetensors']


def test_metadata_and_digest(path):
  found = weights.metadata(path)
  assert found['card'] == {'steps': 7}
  assert transformer.ModelConfig(**found['config']) == CFG
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  assert weights.sha256(path) == digest


def test_how_a_model_is_run_is_not_part_of_the_file(path):
  weights.load(path, dataclasses.replace(CFG, remat='block', unroll=2))


@pytest.mark.parametrize('change,words', [
    ({'ln_f': None}, 'ln_f is missing'),
    ({'extra': np.zeros(2)}, 'extra is unknown'),
    ({'blocks.wq': np.zeros((2, 8, 8), np.float32)},
     r'blocks.wq has shape \(2, 8, 8\), the config wants \(2, 8, 2, 4\)'),
    ({'embed': np.zeros((11, 8), np.float16)},
     'embed has dtype float16, the config wants float32'),
])
def test_what_does_not_fit_is_named(path, change, words):
  rewrite(path, **change)
  with pytest.raises(weights.WeightsError, match=f'a.safetensors: {words}'):
    weights.load(path, CFG)


def test_another_config_is_named_even_where_shapes_agree(path):
  with pytest.raises(weights.WeightsError, match='rope_theta=10000.0, .*=5.0'):
    weights.load(path, dataclasses.replace(CFG, rope_theta=5.0))


def test_a_damaged_or_absent_file_is_named(path):
  with pytest.raises(weights.WeightsError, match='b.safetensors'):
    weights.load(path.with_name('b.safetensors'), CFG)
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(weights.WeightsError, match='cannot read .*a.safetensors'):
    weights.load(path, CFG)
