"""Hugging Face directories: what fits is streamed, what does not is named."""

import dataclasses
import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from dreamgym_jax.models import families, huggingface, transformer, weights

CFG = transformer.ModelConfig(
    V=11, D=8, N=2, H=2, K=1, d=6, F=12, tied=False, qkv_bias=True,
    norm_eps=1e-6)


def random_params(cfg):
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda s: jnp.asarray(rng.normal(size=s.shape).astype(s.dtype)),
      transformer.shapes(cfg))


@pytest.fixture
def path(tmp_path):
  huggingface.export(tmp_path / 'm', random_params(CFG), CFG, eos=[2])
  return tmp_path / 'm'


def change_config(path, **changes):
  file = path / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize('changes', [
    {},
    dict(qkv_bias=False, qk_norm=True, tied=True),
    dict(qkv_bias=False, rope_theta=5e5, rope_factor=8.0, rope_low=1.0,
         rope_high=4.0, rope_context=64),
])
@pytest.mark.parametrize('file_bytes', [1 << 30, 1000])
def test_there_and_back_is_exact(tmp_path, changes, file_bytes):
  cfg = dataclasses.replace(CFG, **changes)
  params = random_params(cfg)
  huggingface.export(tmp_path / 'm', params, cfg, file_bytes=file_bytes)
  files = list((tmp_path / 'm').glob('*.safetensors'))
  assert (len(files) > 2) == (file_bytes == 1000)
  got = huggingface.load(tmp_path / 'm')
  assert got.cfg == cfg
  assert jax.tree.structure(got.params) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, got.params, params)
  # Nothing half-written, and nothing overwritten.
  assert [p.name for p in tmp_path.iterdir()] == ['m']
  with pytest.raises(weights.WeightsError, match='m exists'):
    huggingface.export(tmp_path / 'm', params, cfg)


def test_half_precision_is_asked_for(path, tmp_path):
  huggingface.export(tmp_path / 'half', random_params(CFG), CFG,
                     dtype='bfloat16')
  got = huggingface.load(tmp_path / 'half')
  same = huggingface.load(
      path, param_dtype='bfloat16', dtype='bfloat16', remat='dots')
  assert same.cfg == dataclasses.replace(CFG, dtype='bfloat16', remat='dots')
  assert {x.dtype for x in jax.tree.leaves(got.params)} == {np.dtype('f4')}
  assert {x.dtype for x in jax.tree.leaves(same.params)} == {
      jnp.dtype('bfloat16')}
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(
      a, np.asarray(b, np.float32)), got.params, same.params)


def test_the_newer_style_of_rope(path):
  change_config(path, rope_theta=None, rope_parameters=dict(
      rope_type='llama3', rope_theta=5e5, factor=32.0, low_freq_factor=1.0,
      high_freq_factor=4.0, original_max_position_embeddings=8192))
  cfg = huggingface.read_config(path / 'config.json')
  assert (cfg.rope_theta, cfg.rope_factor, cfg.rope_context) == (5e5, 32, 8192)


@pytest.mark.parametrize('changes, words', [
    ({'model_type': 'mamba'}, "unknown architecture 'mamba'"),
    ({'model_type': None}, 'unknown architecture None'),
    ({'attention_bias': True}, 'attention_bias=True is not supported'),
    ({'hidden_act': 'gelu'}, "hidden_act='gelu'"),
    ({'use_sliding_window': True}, 'use_sliding_window=True'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config'),
    ({'rope_scaling': {'rope_type': 'yarn'}}, "rope_type='yarn'"),
    ({'rope_scaling': {'type': 'llama3'}}, "'factor' is missing"),
    ({'num_key_value_heads': 3}, 'H=2 is not a multiple of K=3'),
])
def test_a_config_we_lack_is_refused(path, changes, words):
  change_config(path, **changes)
  with pytest.raises(weights.WeightsError, match=f'config.json: .*{words}'):
    huggingface.load(path)


def test_a_missing_key_of_the_config_is_named(path):
  (path / 'config.json').write_text('{"model_type": "llama"}')
  with pytest.raises(weights.WeightsError, match="'hidden_size' is missing"):
    huggingface.load(path)


NAME = 'model.layers.1.self_attn.k_proj.weight'


@pytest.mark.parametrize('changes, words', [
    ({NAME: None}, f'{NAME} is missing'),
    ({NAME: np.zeros((6, 9), np.float32)},
     rf'{NAME} has shape \(6, 9\), the config wants \(6, 8\)'),
    ({'model.norm.bias': np.zeros(8, np.float32)},
     'model.norm.bias is unknown'),
])
def test_a_tensor_that_does_not_fit_is_named(path, changes, words):
  file = path / 'model.safetensors'
  arrays = safetensors_numpy.load_file(file) | changes
  safetensors_numpy.save_file(
      {k: v for k, v in arrays.items() if v is not None}, file)
  with pytest.raises(weights.WeightsError, match=f'm: {words}'):
    huggingface.load(path)


def test_files_that_are_damaged_or_absent_are_named(path, tmp_path,
                                                    monkeypatch):
  (path / 'model.safetensors').write_bytes(b'no')
  with pytest.raises(weights.WeightsError, match='m/model.safetensors'):
    huggingface.load(path)
  (path / 'model.safetensors.index.json').write_text(
      '{"weight_map": {"a": "b.safetensors"}}')
  with pytest.raises(weights.WeightsError, match='m/b.safetensors'):
    huggingface.load(path)
  with pytest.raises(weights.WeightsError, match='nowhere/config.json'):
    huggingface.load(tmp_path / 'nowhere')
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  with pytest.raises(weights.WeightsError, match='no/such-model'):
    huggingface.find('no/such-model')
  assert huggingface.find(str(path)) == path


def test_a_tied_model_may_repeat_its_embedding(tmp_path):
  cfg = dataclasses.replace(CFG, tied=True)
  huggingface.export(tmp_path / 'm', random_params(cfg), cfg)
  file = tmp_path / 'm' / 'model.safetensors'
  arrays = safetensors_numpy.load_file(file)
  arrays['lm_head.weight'] = arrays['model.embed_tokens.weight'].copy()
  safetensors_numpy.save_file(arrays, file)
  assert 'head' not in huggingface.load(tmp_path / 'm').params


def test_the_host_never_holds_the_model_beside_its_shards(
    tmp_path, monkeypatch):
  """Peak < the shards + 0.3 x the largest tensor; the bound stated is 1.3."""
  cfg = transformer.ModelConfig(V=1024, D=256, N=8, H=4, K=2, d=64, F=1024)
  huggingface.export(tmp_path / 'm', random_params(cfg), cfg,
                     dtype='bfloat16', file_bytes=4 << 20)
  monkeypatch.setattr(families, '_PIECE', 64 << 10)
  huggingface.load(tmp_path / 'm')   # what is cached and imported
  tracemalloc.start()
  try:
    params = huggingface.load(tmp_path / 'm').params
    now, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  leaves = jax.tree.leaves(params)
  shards = sum(x.nbytes for x in leaves)
  largest = cfg.V * cfg.D * 4
  assert shards > 20 * largest
  # What was read into is what JAX holds: it copied nothing.
  assert shards <= now <= peak < shards + .3 * largest
