"""Every family against Hugging Face's own model, on small random weights.

PyTorch is a requirement of these tests alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from dreamgym_jax.models import (
    caches,
    families,
    huggingface,
    sharding,
    transformer,
    weights,
)

_SIZES = dict(
    vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, intermediate_size=48, max_position_embeddings=512,
    bos_token_id=None, eos_token_id=None, pad_token_id=None)
_LLAMA3 = dict(rope_type='llama3', rope_theta=10_000.0, factor=8.0,
               low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=16)
MODELS = {
    'llama3': transformers.LlamaConfig(
        **_SIZES, rope_parameters=_LLAMA3, tie_word_embeddings=False),
    'smollm2': transformers.LlamaConfig(
        **_SIZES | dict(num_attention_heads=6, num_key_value_heads=3,
                        hidden_size=48),
        tie_word_embeddings=True, rms_norm_eps=1e-5),
    'qwen2': transformers.Qwen2Config(**_SIZES, tie_word_embeddings=False),
    'qwen3': transformers.Qwen3Config(
        **_SIZES, head_dim=12, tie_word_embeddings=True),
}


@pytest.fixture(scope='module', params=MODELS)
def both(request, tmp_path_factory):
  """Hugging Face's model, its directory, and ours loaded from it."""
  torch.manual_seed(0)
  torch.set_num_threads(1)   # for such sizes, threads are all overhead
  model = transformers.AutoModelForCausalLM.from_config(MODELS[request.param])
  with torch.no_grad():   # biases and norms too, or they would not be seen
    for name, p in model.named_parameters():
      noise = torch.randn_like(p)
      p.copy_(1 + .3 * noise if 'norm' in name else .25 * noise)
  path = tmp_path_factory.mktemp(request.param) / 'model'
  model.eval().save_pretrained(path, max_shard_size='20KB')
  return model, path, huggingface.load(path)


forward = jax.jit(transformer.forward, static_argnames='cfg')


def logits(ours, tok_BxT):
  B, T = tok_BxT.shape
  pos = np.tile(np.arange(T, dtype=np.int32), (B, 1))
  return forward(ours.params, tok_BxT, pos, np.ones((B, T), np.int32),
                 cfg=ours.cfg)


def torch_logits(model, tok_BxT):
  with torch.no_grad():
    return model(torch.tensor(tok_BxT, dtype=torch.long)).logits.numpy()


TOK = np.random.default_rng(0).integers(0, 61, (2, 48)).astype(np.int32)
pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_logits_equal_hugging_face(both):
  model, path, ours = both
  assert (path / 'model.safetensors.index.json').exists()   # several files
  want = torch_logits(model, TOK)
  assert want.std() > .3
  np.testing.assert_allclose(logits(ours, TOK), want, atol=1e-4)


@functools.partial(jax.jit, static_argnames='cfg', donate_argnames='cache')
def next_token(params, cache, tok_B, cfg):
  x_BxTxD, cache = transformer.extend(
      params, cache, tok_B[:, None], jnp.ones_like(tok_B), cfg)
  z_BxV = transformer.head(params, x_BxTxD[:, 0], cfg)
  return z_BxV.argmax(-1).astype(jnp.int32), cache


def test_64_greedy_tokens_equal_hugging_face(both):
  """Through the cache; ties and prompts as short as a token would not do."""
  model, _, ours = both
  B, start, n = 2, 7, 64
  with torch.no_grad():
    want = model.generate(
        torch.tensor(TOK[:, :start]), do_sample=False, max_new_tokens=n,
        min_new_tokens=n, attention_mask=torch.ones(B, start), pad_token_id=0)
  cache = caches.empty(ours.cfg, B, start + n)
  tokens = list(TOK[:, :start].T)
  for t in range(start + n - 1):
    tok_B, cache = next_token(ours.params, cache, tokens[t], ours.cfg)
    if t + 1 >= start:
      tokens.append(np.asarray(tok_B))
  np.testing.assert_array_equal(np.stack(tokens, 1), want)
  assert len(set(want[0, start:].tolist())) > 3   # not one token, repeated


def test_export_gives_hugging_face_the_same_model(both, tmp_path):
  model, _, ours = both
  huggingface.export(tmp_path / 'out', ours.params, ours.cfg, eos=[2, 3],
                     bos=1, file_bytes=30_000)
  again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out')
  assert type(again) is type(model)
  assert again.generation_config.eos_token_id == [2, 3]
  np.testing.assert_array_equal(
      torch_logits(again.eval(), TOK), torch_logits(model, TOK))
  back = huggingface.load(tmp_path / 'out')
  assert back.cfg == ours.cfg
  jax.tree.map(np.testing.assert_array_equal, back.params, ours.params)


def test_a_shard_reads_its_own_part(both, monkeypatch):
  """Every array in halves, along each axis that the mesh may split."""
  _, path, ours = both
  monkeypatch.setattr(families, '_PIECE', 256)   # several pieces per tensor
  mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.AXES)
  specs = weights.flat(transformer.shardings(ours.cfg, mesh))
  seen = 0
  with huggingface.open_files(path) as files:
    for key, array in weights.flat(ours.params).items():
      read = families.reader(files, key, ours.cfg)
      for axis, name in enumerate(specs[key].spec):
        if name is not None:
          index = [slice(None)] * array.ndim
          index[axis] = slice(array.shape[axis] // 2, None)
          np.testing.assert_array_equal(
              read(tuple(index)), array[tuple(index)], err_msg=f'{key} {axis}')
          seen += 1
  # Two axes of seven matrices and of the embedding; one model's key/value heads
  # and vocabulary are odd, and not split.
  assert seen >= 13


@pytest.mark.parametrize('tied', [True, False])
def test_new_rows_are_near_the_mean_of_the_old_and_differ(tied):
  cfg = transformer.ModelConfig(V=600, D=4, tied=tied)
  rng = np.random.default_rng(0)
  params = {'embed': 3 + rng.normal(size=(600, 4)).astype('f'), 'ln_f': 1}
  if not tied:
    params['head'] = 2 * params['embed']
  more = families.grow(params, cfg, 1000)
  assert more.cfg.V == 1000
  for name in {'embed', 'head'} & params.keys():
    old, new = np.split(np.asarray(more.params[name]), [600])
    np.testing.assert_array_equal(old, params[name])
    np.testing.assert_allclose(new.mean(0), old.mean(0), rtol=.02)
    np.testing.assert_allclose(new.std(0), .1 * old.std(0), rtol=.2)
    assert len(np.unique(new, axis=0)) == 400
  with pytest.raises(ValueError, match='from 600 to 5'):
    families.grow(params, cfg, 5)


def test_unknown_families_are_named():
  with pytest.raises(weights.WeightsError, match="a.json: .*'gpt2'.*qwen3"):
    families.switches('gpt2', 'a.json')
  cfg = transformer.ModelConfig(V=8, qkv_bias=True, qk_norm=True)
  with pytest.raises(ValueError, match='no family'):
    families.family(cfg)
