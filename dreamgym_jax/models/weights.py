"""Parameters in and out of safetensors files, with a card in the metadata.

A key is the path of a leaf in the nested dict, joined by dots, as in
`blocks.wq`. The metadata holds `config` and `card`, both JSON.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from dreamgym_jax.models import sharding, transformer
from dreamgym_jax.types import Params

# How a model is run, not what it is: a file fits whatever these say.
_RUN_ONLY = ('dtype', 'remat', 'unroll')


class WeightsError(ValueError):
  """A file that is damaged or of another model; names file and key."""


def key_of(path: tuple) -> str:
  """The key of a leaf at a path of jax.tree_util."""
  return '.'.join(str(k.key) for k in path)


def flat(params: Params) -> dict[str, Any]:
  """The leaves of a nested dict by key."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {key_of(path): leaf for path, leaf in leaves}


def save(
    path: pathlib.Path, params: Params, cfg: transformer.ModelConfig,
    card: Mapping[str, Any],
) -> None:
  """Writes the file whole or not at all; of several processes the first.

  All of them call this.
  """
  arrays = {k: np.ascontiguousarray(sharding.on_host(v))
            for k, v in flat(params).items()}
  if jax.process_index():
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial')
  safetensors_numpy.save_file(arrays, partial, {
      'config': json.dumps(dataclasses.asdict(cfg)),
      'card': json.dumps(dict(card))})
  partial.replace(path)


def load(
    path: pathlib.Path, cfg: transformer.ModelConfig,
    shapes: Params | None = None,
) -> Params:
  """Reads what `save` wrote; raises WeightsError naming what does not fit.

  `shapes` is the tree that is there (default: a whole model).
  """
  shapes = shapes or transformer.shapes(cfg)
  wanted = flat(shapes)
  _check_config(path, cfg)
  arrays = _read(path)
  for key in sorted(wanted.keys() | arrays.keys()):
    if key not in arrays or key not in wanted:
      raise WeightsError(f'{path}: {key} is '
                         f'{"missing" if key in wanted else "unknown"}')
    for name in ('shape', 'dtype'):
      got, want = getattr(arrays[key], name), getattr(wanted[key], name)
      if got != want:
        raise WeightsError(
            f'{path}: {key} has {name} {got}, the config wants {want}')
  return jax.tree_util.tree_map_with_path(
      lambda p, _: jax.numpy.asarray(arrays[key_of(p)]), shapes)


def metadata(path: pathlib.Path) -> dict[str, Any]:
  """The `config` and `card` that `save` wrote; what is missing is left out."""
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      found = file.metadata() or {}
    return {k: json.loads(found[k]) for k in ('config', 'card') if k in found}
  except (OSError, safetensors.SafetensorError, ValueError) as error:
    raise WeightsError(f'cannot read {path}: {error}') from error


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    return safetensors_numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise WeightsError(f'cannot read {path}: {error}') from error


def _check_config(path: pathlib.Path, cfg: transformer.ModelConfig) -> None:
  """Shapes do not tell everything, e.g. the base of the rotary angles."""
  saved, asked = metadata(path).get('config', {}), dataclasses.asdict(cfg)
  for key in sorted(saved.keys() & asked.keys() - set(_RUN_ONLY)):
    if saved[key] != asked[key]:
      raise WeightsError(f'{path}: was saved with {key}={saved[key]}, the '
                         f'config says {key}={asked[key]}')


def sha256(path: pathlib.Path) -> str:
  """Hex digest of a file, as printed in its card."""
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
