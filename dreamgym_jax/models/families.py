"""What the model families are called elsewhere, and their weights read in.

Llama 3, SmolLM2, Qwen2.5 and Qwen3 are one decoder with three switches. Here
stand the names and layouts of their tensors, and `load`, which streams them
from a `Source` (a Hugging Face directory or a GGUF file) into the shards of
this host's devices, a piece of one tensor at a time.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dreamgym_jax.models import transformer, weights
from dreamgym_jax.types import Params

# model_type of Hugging Face and architecture of GGUF, to the switches.
FAMILIES = {
    'llama': {'qkv_bias': False, 'qk_norm': False},
    'qwen2': {'qkv_bias': True, 'qk_norm': False},
    'qwen3': {'qkv_bias': False, 'qk_norm': True},
}
_PIECE = 8 << 20            # bytes read at once
_APART = 0.1                # of the rows' deviation, between new ones
_ALIGN = 64                 # bytes; JAX on CPU adopts such arrays uncopied


class Source(Protocol):
  """Tensors by name, as Hugging Face lays them out."""

  where: str                # for messages

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    """All tensors."""

  def read(self, name: str, start: int, stop: int) -> np.ndarray:
    """Rows start to stop of a tensor."""

  def own_name(self, name: str) -> str:
    """What a tensor is called in the file, for messages."""


class Model(NamedTuple):
  """What loading gives."""

  params: Params
  cfg: transformer.ModelConfig


class Leaf(NamedTuple):
  """Where one of our arrays stands elsewhere; {} is the layer.

  Theirs is a matrix of outputs x inputs. Ours, of one layer, has its inputs
  first, as `n_in` axes (a bias has none), and its outputs after them. None says
  that ours is theirs as it is.
  """

  huggingface: str
  gguf: str
  n_in: int | None = None


_LAYER, _BLK = 'model.layers.{}.', 'blk.{}.'
LEAVES = {
    'embed': Leaf('model.embed_tokens.weight', 'token_embd.weight'),
    'head': Leaf('lm_head.weight', 'output.weight'),
    'ln_f': Leaf('model.norm.weight', 'output_norm.weight'),
} | {
    f'blocks.{ours}': Leaf(_LAYER + hf, _BLK + gguf, n_in)
    for ours, hf, gguf, n_in in (
        ('wq', 'self_attn.q_proj.weight', 'attn_q.weight', 1),
        ('wk', 'self_attn.k_proj.weight', 'attn_k.weight', 1),
        ('wv', 'self_attn.v_proj.weight', 'attn_v.weight', 1),
        ('wo', 'self_attn.o_proj.weight', 'attn_output.weight', 2),
        ('bq', 'self_attn.q_proj.bias', 'attn_q.bias', 0),
        ('bk', 'self_attn.k_proj.bias', 'attn_k.bias', 0),
        ('bv', 'self_attn.v_proj.bias', 'attn_v.bias', 0),
        ('q_norm', 'self_attn.q_norm.weight', 'attn_q_norm.weight', None),
        ('k_norm', 'self_attn.k_norm.weight', 'attn_k_norm.weight', None),
        ('gate', 'mlp.gate_proj.weight', 'ffn_gate.weight', 1),
        ('up', 'mlp.up_proj.weight', 'ffn_up.weight', 1),
        ('down', 'mlp.down_proj.weight', 'ffn_down.weight', 1),
        ('ln1', 'input_layernorm.weight', 'attn_norm.weight', None),
        ('ln2', 'post_attention_layernorm.weight', 'ffn_norm.weight', None))}


def family(cfg: transformer.ModelConfig) -> str:
  """The family whose block this is; ValueError if none has it."""
  for name, switches in FAMILIES.items():
    if all(getattr(cfg, k) == v for k, v in switches.items()):
      return name
  raise ValueError(
      f'no family has qkv_bias={cfg.qkv_bias} and qk_norm={cfg.qk_norm}')


def switches(name: str, where: str) -> dict[str, bool]:
  """What a family's block has beside Llama's; WeightsError if unknown."""
  if name not in FAMILIES:
    raise weights.WeightsError(
        f'{where}: unknown architecture {name!r}; known are '
        f'{", ".join(FAMILIES)}')
  return FAMILIES[name]


def shapes(cfg: transformer.ModelConfig) -> dict[str, tuple[int, ...]]:
  """Every tensor that Hugging Face has of such a model."""
  return {name: _theirs(np.broadcast_to(np.int8(0), shape), leaf).shape
          for name, (_, _, shape, leaf) in _tensors(cfg).items()}


def tensor(
    params: Params, name: str, cfg: transformer.ModelConfig
) -> np.ndarray:
  """One tensor as Hugging Face has it."""
  key, layer, _, leaf = _tensors(cfg)[name]
  array = weights.flat(params)[key]
  return _theirs(np.asarray(array if layer is None else array[layer]), leaf)


@functools.cache
def _tensors(
    cfg: transformer.ModelConfig
) -> dict[str, tuple[str, int | None, tuple[int, ...], Leaf]]:
  """Their name -> our key, the layer, the shape of ours there, the leaf."""
  found = {}
  for key, (shape, leaf) in _wanted(cfg).items():
    if key.startswith('blocks.'):
      found |= {leaf.huggingface.format(i): (key, i, shape[1:], leaf)
                for i in range(cfg.N)}
    else:
      found[leaf.huggingface] = (key, None, shape, leaf)
  return found


def _theirs(array: np.ndarray, leaf: Leaf) -> np.ndarray:
  """One layer of ours as the matrix or vector that they keep."""
  if leaf.n_in is None:
    return array
  matrix = array.reshape(math.prod(array.shape[:leaf.n_in]), -1).T
  return matrix if leaf.n_in else matrix[:, 0]


def load(
    source: Source, cfg: transformer.ModelConfig,
    mesh: jax.sharding.Mesh | None = None, param_dtype: str = 'float32',
) -> Params:
  """Streams a model into its shards on the mesh.

  Without a mesh it goes whole to the default device, uncommitted, as what
  `init` gives: what is committed would compile callers' functions again.
  A host never holds more than the shards of its own devices and a piece of
  one tensor (on CPU, where the shards are the arrays read into; elsewhere
  those of one array are on the host while they are copied).

  Raises:
    WeightsError: a tensor is missing, unknown or of another shape.
  """
  _check(source, cfg)

  def whole(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    read = reader(source, weights.key_of(path), cfg, param_dtype)
    return jax.device_put(read((slice(None),) * len(leaf.shape)))

  def shards(path: tuple, placed: jax.sharding.Sharding) -> jax.Array:
    key = weights.key_of(path)
    return jax.make_array_from_callback(
        _wanted(cfg)[key][0], placed, reader(source, key, cfg, param_dtype))

  if mesh is None:
    return jax.tree_util.tree_map_with_path(whole, transformer.shapes(cfg))
  return jax.tree_util.tree_map_with_path(
      shards, transformer.shardings(cfg, mesh))


@functools.cache
def _wanted(
    cfg: transformer.ModelConfig
) -> dict[str, tuple[tuple[int, ...], Leaf]]:
  leaves = weights.flat(transformer.shapes(cfg))
  return {key: (leaf.shape, LEAVES[key]) for key, leaf in leaves.items()}


def _check(source: Source, cfg: transformer.ModelConfig) -> None:
  there = dict(source.shapes())
  if cfg.tied:   # some files repeat the embedding
    there.pop(LEAVES['head'].huggingface, None)
  for name, shape in shapes(cfg).items():
    got = there.pop(name, None)
    if got is None:
      raise weights.WeightsError(
          f'{source.where}: {source.own_name(name)} is missing')
    if tuple(got) != shape:
      raise weights.WeightsError(
          f'{source.where}: {source.own_name(name)} has shape {tuple(got)}, '
          f'the config wants {shape}')
  if there:
    raise weights.WeightsError(
        f'{source.where}: {source.own_name(min(there))} is unknown'
        + (f', and {len(there) - 1} more' if len(there) > 1 else ''))


def reader(
    source: Source, key: str, cfg: transformer.ModelConfig,
    param_dtype: str = 'float32',
) -> Callable[[tuple[slice, ...]], np.ndarray]:
  """A function from an index to that part of one of our arrays."""
  shape, leaf = _wanted(cfg)[key]
  dtype = jnp.dtype(param_dtype)
  done: dict[tuple, np.ndarray] = {}   # replicas of a shard are read once

  def read(index: tuple[slice, ...]) -> np.ndarray:
    spans = tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    if spans not in done:
      done[spans] = out = _aligned([b - a for a, b in spans], dtype)
      if key.startswith('blocks.'):
        for i in range(*spans[0]):
          _fill(out[i - spans[0][0]], source, leaf.huggingface.format(i),
                shape[1:], spans[1:], leaf.n_in)
      else:
        _fill(out, source, leaf.huggingface, shape, spans, leaf.n_in)
    return done[spans]

  return read


def _fill(
    out: np.ndarray, source: Source, name: str, shape: tuple[int, ...],
    spans: tuple[tuple[int, int], ...], n_in: int | None,
) -> None:
  """Writes ours[spans] of one layer, of the given shape, into `out`."""
  # Their rows are our outputs, of which only the first axis is ever split.
  at = n_in or 0
  rows, columns = (
      (shape[:1], shape[1:]) if n_in is None else (shape[at:], shape[:at]))
  part = tuple(slice(*s) for s in (spans[1:] if n_in is None else spans[:at]))
  inner = math.prod(rows[1:])
  first, last = (x * inner for x in spans[at])
  step = max(1, _PIECE // (4 * math.prod(columns)))
  for a in range(first, last, step):
    b = min(a + step, last)
    piece = source.read(name, a, b).reshape(b - a, *columns)
    piece = piece[(slice(None), *part)]
    if n_in is None:
      out[a - first:b - first] = piece
    else:
      flat = out.reshape(*out.shape[:at], -1)
      flat[..., a - first:b - first] = np.moveaxis(piece, 0, -1)


def _aligned(shape: list[int], dtype: np.dtype) -> np.ndarray:
  size = math.prod(shape) * dtype.itemsize
  raw = np.empty(size + _ALIGN, np.uint8)
  start = -raw.ctypes.data % _ALIGN
  return raw[start:start + size].view(dtype).reshape(shape)


def grow(
    params: Params, cfg: transformer.ModelConfig, V: int
) -> Model:
  """Rows for new tokens near the mean of the old ones; V >= cfg.V.

  Not equal to it: under adapters the rows stay as they are, and tokens with
  one row between them could never be told apart.
  """
  if V < cfg.V:
    raise ValueError(f'the vocabulary cannot shrink from {cfg.V} to {V}')

  def more(table_VxD):
    noise = jax.random.normal(
        jax.random.key(0), (V - cfg.V, table_VxD.shape[1]), table_VxD.dtype)
    new = table_VxD.mean(0, keepdims=True) + _APART * (
        noise * table_VxD.std(0, keepdims=True))
    return jnp.concatenate([table_VxD, new])

  grown = {k: more(params[k]) for k in ('embed', 'head') if k in params}
  return Model({**params, **grown}, dataclasses.replace(cfg, V=V))
