"""Models in and out of Hugging Face directories: config.json and safetensors.

`load` reads Llama 3, SmolLM2, Qwen2.5 and Qwen3, whole or sharded files, and
streams them (families.py). `export` writes a directory that `transformers`
loads. Tokenizers are text/pretrained.py's.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from dreamgym_jax.models import families, transformer, weights
from dreamgym_jax.types import Params

_ONE, _INDEX = 'model.safetensors', 'model.safetensors.index.json'
# Classes of transformers, for readers of config.json that go by these.
_CLASSES = {'llama': 'LlamaForCausalLM', 'qwen2': 'Qwen2ForCausalLM',
            'qwen3': 'Qwen3ForCausalLM'}
# Keys of config.json that change the model, and the values we have.
_ONLY = {
    'hidden_act': ('silu',),
    'attention_bias': (False,),
    'mlp_bias': (False,),
    'use_sliding_window': (False,),
    'quantization_config': (None,),
}


def find(name: str | pathlib.Path) -> pathlib.Path:
  """A local directory, or the local copy of a hub's model, fetched if need be.

  Raises WeightsError if there is neither.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_dir():
    return path
  import huggingface_hub  # here: half a second that few runs need

  try:
    return pathlib.Path(huggingface_hub.snapshot_download(
        str(name), allow_patterns=['*.json', '*.safetensors', '*.jinja',
                                   'tokenizer.model']))
  except (OSError, ValueError) as error:
    raise weights.WeightsError(
        f'{name} is neither a directory here nor a model that the hub gives: '
        f'{error}') from error


def load(
    path: str | pathlib.Path, mesh: jax.sharding.Mesh | None = None, *,
    param_dtype: str = 'float32', **changes: Any,
) -> families.Model:
  """Weights and sizes of a directory; `changes` replace keys of the config.

  Args:
    path: holds config.json and safetensors, one file or an index of several.
    mesh: where the shards go (default: all on the default device).
    param_dtype: of the weights in memory; training wants float32.
    **changes: how it is run, e.g. remat='block' or dtype='bfloat16' (of the
      products).

  Raises:
    WeightsError: names the file and what in it does not fit.
  """
  path = pathlib.Path(path)
  cfg = read_config(path / 'config.json', **changes)
  with open_files(path) as files:
    return families.Model(families.load(files, cfg, mesh, param_dtype), cfg)


@contextlib.contextmanager
def open_files(path: pathlib.Path) -> Iterator[families.Source]:
  """The tensors of a directory, while its files are open."""
  with contextlib.ExitStack() as stack:
    yield _Files(path, stack)


def read_config(
    path: pathlib.Path, **changes: Any
) -> transformer.ModelConfig:
  """The sizes that a config.json gives; WeightsError for what we lack."""
  found = _read_json(path)
  family = found.get('model_type', '')
  switches = families.switches(family, str(path))
  for key, known in _ONLY.items():
    if found.get(key, known[0]) not in known:
      raise weights.WeightsError(
          f'{path}: {key}={found[key]!r} is not supported')
  try:
    D, H = found['hidden_size'], found['num_attention_heads']
    # What transformers takes where the file is silent.
    d = found.get('head_dim') or (128 if family == 'qwen3' else D // H)
    sizes = dict(
        V=found['vocab_size'], D=D, N=found['num_hidden_layers'], H=H,
        K=found.get('num_key_value_heads') or H, d=d,
        F=found['intermediate_size'],
        norm_eps=found.get('rms_norm_eps', 1e-6),
        tied=found.get('tie_word_embeddings', False))
    return transformer.ModelConfig(
        **sizes | switches | _rope(found, path) | changes)
  except KeyError as error:
    raise weights.WeightsError(f'{path}: {error} is missing') from error
  except weights.WeightsError:
    raise
  except (TypeError, ValueError) as error:
    raise weights.WeightsError(f'{path}: {error}') from error


def _rope(found: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """Either style: flat keys, or all of them in `rope_parameters`."""
  rope = found.get('rope_parameters') or {
      'rope_theta': found.get('rope_theta', 10_000.0),
      **(found.get('rope_scaling') or {})}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  base = {'rope_theta': float(rope['rope_theta'])}
  if kind == 'default':
    return base
  if kind != 'llama3':
    raise weights.WeightsError(
        f"{path}: rope_type={kind!r} is not supported; 'default' and 'llama3' "
        'are')
  return base | dict(
      rope_factor=float(rope['factor']),
      rope_low=float(rope['low_freq_factor']),
      rope_high=float(rope['high_freq_factor']),
      rope_context=int(rope['original_max_position_embeddings']))


class _Files:
  """A families.Source; a class because it holds files open."""

  def __init__(self, path: pathlib.Path, stack: contextlib.ExitStack):
    self.where = str(path)
    self._slices, self._shapes = {}, {}
    files = {_ONE: None}
    if (path / _INDEX).exists():
      files = {}
      for key, file in _read_json(path / _INDEX)['weight_map'].items():
        files.setdefault(file, []).append(key)
    for file, keys in sorted(files.items()):
      try:
        opened = stack.enter_context(
            safetensors.safe_open(path / file, framework='numpy'))
        for key in opened.keys() if keys is None else keys:
          self._slices[key] = opened.get_slice(key)
          self._shapes[key] = tuple(self._slices[key].get_shape())
      except (OSError, safetensors.SafetensorError) as error:
        raise weights.WeightsError(
            f'cannot read {path / file}: {error}') from error

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    return self._shapes

  def read(self, name: str, start: int, stop: int) -> np.ndarray:
    return self._slices[name][start:stop]

  def own_name(self, name: str) -> str:
    return name


def export(
    path: pathlib.Path, params: Params, cfg: transformer.ModelConfig, *,
    save_tokenizer: Callable[[pathlib.Path], None] | None = None,
    eos: Sequence[int] = (), bos: int | None = None, pad: int | None = None,
    max_length: int = 8192, dtype: str = 'float32',
    file_bytes: int = 2 << 30,
) -> None:
  """Writes a directory that `transformers` loads, whole or not at all.

  Args:
    path: must not exist yet.
    params: weights of `cfg`.
    cfg: sizes.
    save_tokenizer: writes the tokenizer's files into a directory.
    eos: tokens that end an answer, for generation_config.json.
    bos: the token that begins a text, if there is one.
    pad: the token that fills rows up, if there is one.
    max_length: context that config.json states.
    dtype: of the file: float32, bfloat16 or float16.
    file_bytes: a file is no larger, unless one tensor is; one is held in
      memory at a time.

  Raises:
    WeightsError: there is something at `path` already.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise weights.WeightsError(f'{path} exists: give another, or remove it')
  partial = path.with_name(f'.{path.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  ids = {'bos_token_id': bos, 'eos_token_id': _one(eos), 'pad_token_id': pad}
  ids = {k: v for k, v in ids.items() if v is not None}
  _write_json(partial / 'config.json',
              config_json(cfg, max_length) | {'dtype': dtype} | ids)
  _write_json(partial / 'generation_config.json', ids)
  _write_tensors(partial, params, cfg, np.dtype(jnp.dtype(dtype)), file_bytes)
  if save_tokenizer:
    save_tokenizer(partial)
  partial.replace(path)


def config_json(
    cfg: transformer.ModelConfig, max_length: int
) -> dict[str, Any]:
  """What config.json says of a model; transformers 4 reads it, too."""
  family = families.family(cfg)
  rope = None if cfg.rope_factor == 1 else {
      'rope_type': 'llama3', 'factor': cfg.rope_factor,
      'low_freq_factor': cfg.rope_low, 'high_freq_factor': cfg.rope_high,
      'original_max_position_embeddings': cfg.rope_context}
  return {
      'architectures': [_CLASSES[family]], 'model_type': family,
      'vocab_size': cfg.V, 'hidden_size': cfg.D, 'num_hidden_layers': cfg.N,
      'num_attention_heads': cfg.H, 'num_key_value_heads': cfg.K,
      'head_dim': cfg.d, 'intermediate_size': cfg.F, 'hidden_act': 'silu',
      'rms_norm_eps': cfg.norm_eps, 'rope_theta': cfg.rope_theta,
      'rope_scaling': rope, 'tie_word_embeddings': cfg.tied,
      'max_position_embeddings': max_length, 'attention_dropout': 0.0}


def _write_tensors(
    path: pathlib.Path, params: Params, cfg: transformer.ModelConfig,
    dtype: np.dtype, file_bytes: int,
) -> None:
  shapes = families.shapes(cfg)
  groups: list[list[str]] = [[]]
  total = filled = 0
  for name, shape in shapes.items():
    size = int(np.prod(shape)) * dtype.itemsize
    if groups[-1] and filled + size > file_bytes:
      groups.append([])
      filled = 0
    groups[-1].append(name)
    filled, total = filled + size, total + size
  files = [_ONE] if len(groups) == 1 else [
      f'model-{i + 1:05d}-of-{len(groups):05d}.safetensors'
      for i in range(len(groups))]
  for file, names in zip(files, groups, strict=True):
    tensors = {n: np.ascontiguousarray(
        families.tensor(params, n, cfg).astype(dtype)) for n in names}
    safetensors_numpy.save_file(tensors, path / file, {'format': 'pt'})
  if len(files) > 1:
    _write_json(path / _INDEX, {
        'metadata': {'total_size': total},
        'weight_map': {n: file for file, names in zip(
            files, groups, strict=True) for n in names}})


def _one(ids: Sequence[int]) -> int | list[int] | None:
  return (list(ids) if len(ids) > 1 else ids[0]) if ids else None


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise weights.WeightsError(f'cannot read {path}: {error}') from error


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')
