"""MiniLM's arithmetic against Hugging Face's, and the weights of its package.

PyTorch is a requirement of these tests alone.
"""

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from dreamgym_jax.models import minilm, weights

WORDS = 'click fill button link okay cancel submit search next the a'.split()
TEXTS = ['click button: okay', 'fill the search', 'a', 'click ' * 50]
pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
  """A small random BERT, and its directory."""
  torch.manual_seed(0)
  torch.set_num_threads(1)
  path = tmp_path_factory.mktemp('bert')
  vocab = {t: i for i, t in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]',
                                       *WORDS])}
  model = transformers.BertModel(transformers.BertConfig(
      vocab_size=len(vocab), hidden_size=16, num_hidden_layers=2,
      num_attention_heads=4, intermediate_size=24, layer_norm_eps=1e-12,
      max_position_embeddings=128)).eval()
  with torch.no_grad():   # biases too, or they would not be seen
    for p in model.parameters():
      p.add_(.2 * torch.randn_like(p))
  model.save_pretrained(path)
  text = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, '[UNK]'))
  text.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  text.post_processor = tokenizers.processors.TemplateProcessing(
      single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
  text.save(str(path / 'tokenizer.json'))
  return model, path


def test_vectors_are_the_means_of_hugging_faces_states(bert):
  model, path = bert
  text = tokenizers.Tokenizer.from_file(str(path / 'tokenizer.json'))
  want = []
  for t in TEXTS:
    with torch.no_grad():
      x = model(torch.tensor([text.encode(t).ids])).last_hidden_state
    mean = x[0].mean(0).numpy()
    want.append(mean / np.linalg.norm(mean))
  got = minilm.make_encoder(path)(TEXTS)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.abs(got @ got.T - np.eye(4)).max() > .01   # not all apart


def test_a_vector_does_not_depend_on_batch_mates_or_cache(bert):
  one, other = (minilm.make_encoder(bert[1], cache=n) for n in (2, 65536))
  together = other(TEXTS * 12)     # several batches, repeats among them
  for i in range(48):
    np.testing.assert_allclose(one([TEXTS[i % 4]])[0], together[i], atol=1e-6)
  assert one([]).shape == (0, 16)


def test_a_directory_without_a_model_is_named(bert, tmp_path):
  with pytest.raises(weights.WeightsError, match=str(tmp_path)):
    minilm.make_encoder(tmp_path)
  (tmp_path / 'config.json').write_text('{"num_hidden_layers": 3}')
  (tmp_path / 'model.safetensors').write_bytes(
      (bert[1] / 'model.safetensors').read_bytes())
  with pytest.raises(weights.WeightsError, match='encoder.layer.2'):
    minilm.make_encoder(tmp_path)


def test_the_packages_model_knows_what_is_alike():
  encode = minilm.make_encoder(minilm.find())
  a, b, c = encode(['click button: Submit', 'press the submit button',
                    'a long-haired cat asleep'])
  assert a.shape == (384,)
  assert a @ b > .6 > .2 > a @ c
