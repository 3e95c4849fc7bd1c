"""GGUF files: a small one of each type made here, and the real SmolLM2."""

import dataclasses

import gguf as format
import jax
import numpy as np
import pytest

from dreamgym_jax import sampling
from dreamgym_jax.models import families, gguf, layers, transformer, weights
from dreamgym_jax.text import pretrained, tokenizer

LLAMA = transformer.ModelConfig(
    V=32, D=64, N=2, H=2, K=1, d=32, F=96, rope_theta=5e5, rope_factor=8.0,
    rope_low=1.0, rope_high=4.0, rope_context=8192)
QWEN3 = transformer.ModelConfig(
    V=32, D=64, N=1, H=4, K=2, d=32, F=96, tied=False, qk_norm=True)
QWEN2 = dataclasses.replace(QWEN3, d=16, qk_norm=False, qkv_bias=True)
Type = format.GGMLQuantizationType


def random_params(cfg):
  rng = np.random.default_rng(0)
  return jax.tree.map(   # exact in half precision
      lambda s: rng.normal(size=s.shape).astype('f2').astype('f4'),
      transformer.shapes(cfg))


def write(path, cfg, params, kind, *, drop='', arch=None):
  """As llama.cpp's converter does it, from Hugging Face's tensors."""
  family = families.family(cfg)
  out = format.GGUFWriter(path, arch or family)
  out.add_block_count(cfg.N)
  out.add_embedding_length(cfg.D)
  out.add_feed_forward_length(cfg.F)
  out.add_head_count(cfg.H)
  out.add_head_count_kv(cfg.K)
  out.add_key_length(cfg.d)
  out.add_layer_norm_rms_eps(cfg.norm_eps)
  out.add_rope_freq_base(cfg.rope_theta)
  for leaf in families.LEAVES.values():
    for i in range(cfg.N if '{}' in leaf.gguf else 1):
      name = leaf.huggingface.format(i)
      if name not in families.shapes(cfg) or leaf.gguf.format(i) == drop:
        continue
      x = np.ascontiguousarray(families.tensor(params, name, cfg))
      heads = {'attn_q': cfg.H, 'attn_k': cfg.K}.get(leaf.gguf.split('.')[-2])
      if family == 'llama' and heads:
        x = x.reshape(heads, 2, cfg.d // 2, -1).swapaxes(1, 2).reshape(x.shape)
      to = kind if x.ndim == 2 else Type.F32   # as llama.cpp has it
      out.add_tensor(leaf.gguf.format(i), format.quantize(x, to),
                     raw_dtype=to)
  if cfg.rope_factor != 1:
    plain = layers.rope_frequencies(dataclasses.replace(cfg, rope_factor=1.0))
    out.add_tensor('rope_freqs.weight',
                   np.asarray(plain / layers.rope_frequencies(cfg)))
  out.write_header_to_file()
  out.write_kv_data_to_file()
  out.write_tensors_to_file()
  out.close()


@pytest.mark.parametrize('cfg, kind, atol', [
    (LLAMA, Type.F32, 0), (QWEN2, Type.F16, 0), (QWEN3, Type.F32, 0),
    (LLAMA, Type.Q8_0, .02), (LLAMA, Type.Q4_1, .25)])
def test_every_type_and_family(tmp_path, monkeypatch, cfg, kind, atol):
  monkeypatch.setattr(families, '_PIECE', 4 * 64 * 7)   # cuts heads apart
  params = random_params(cfg)
  write(tmp_path / 'm.gguf', cfg, params, kind)
  got = gguf.load(tmp_path / 'm.gguf', remat='block')
  assert got.cfg == dataclasses.replace(cfg, remat='block')
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol),
               got.params, params)


def test_what_does_not_fit_is_named(tmp_path):
  path, params = tmp_path / 'm.gguf', random_params(QWEN3)
  for changes, words in (
      (dict(drop='blk.0.ffn_up.weight'), 'blk.0.ffn_up.weight is missing'),
      (dict(arch='mamba'), "unknown architecture 'mamba'"),
      (dict(arch='llama'), 'blk.0.attn_k_norm.weight is unknown')):
    write(path, QWEN3, params, Type.F32, **changes)
    with pytest.raises(weights.WeightsError, match=f'm.gguf: .*{words}'):
      gguf.load(path)
  path.write_bytes(b'no')
  with pytest.raises(weights.WeightsError, match='cannot read .*m.gguf'):
    gguf.load(path)
  with pytest.raises(tokenizer.TokenizerError, match='cannot read .*m.gguf'):
    pretrained.load(path)


def test_a_rope_table_we_lack_is_refused(tmp_path):
  cfg = dataclasses.replace(LLAMA, rope_low=2.0)
  write(tmp_path / 'm.gguf', cfg, random_params(cfg), Type.F32)
  with pytest.raises(weights.WeightsError, match='not the table of Llama 3'):
    gguf.load(tmp_path / 'm.gguf')


def test_smollm2_knows_the_capital_of_france(quick_compilation):
  """The pretrained model that comes with a package, by our own sampler."""
  path = gguf.smollm2()
  tok = pretrained.load(path)
  model = gguf.load(path)
  assert tok.vocab_size == model.cfg.V == 49152
  # Ids that transformers' own tokenizer gives.
  assert tok.encode('Hello  world 123') == [
      19556, 216, 905, 216, 33, 34, 35]
  text = 'naïve 日本\n[7] button: "Ok" <|im_end|>'
  assert tok.decode(tok.encode(text)) == text
  assert tok.eos[0] not in tok.encode(text)
  chat = tok.chat([
      {'role': 'user', 'content': 'What is the capital of France?'}])
  assert tok.fast.decode(chat).endswith(
      'France?<|im_end|>\n<|im_start|>assistant\n')
  sampler = sampling.Sampler(model.cfg, 1, 64, row_buckets=(),
                             token_buckets=(48,), column_buckets=())
  [turn] = sampler.turn(
      model.params, [0], [chat], key=jax.random.key(0), streams=[0],
      temperature=0, max_new=16, stop=tok.eos)
  assert turn.stopped
  assert tok.decode(turn.tokens) == 'The capital of France is Paris.'
