"""Parameters in and out of safetensors files, with a card in the metadata."""

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

from dreamgym_jax.models import transformer
from dreamgym_jax.types import Params


class WeightsError(ValueError):
  """A file that is damaged or of another model; names file and key."""


def _flat(params: Params) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {'.'.join(str(k.key) for k in path): leaf for path, leaf in leaves}


def save(
    path: pathlib.Path, params: Params, cfg: transformer.ModelConfig,
    card: Mapping[str, Any],
) -> None:
  """Writes the file whole or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial')
  arrays = {k: np.ascontiguousarray(v) for k, v in _flat(params).items()}
  safetensors_numpy.save_file(arrays, partial, {
      'config': json.dumps(dataclasses.asdict(cfg)),
      'card': json.dumps(dict(card))})
  partial.replace(path)


def load(path: pathlib.Path, cfg: transformer.ModelConfig) -> Params:
  """Reads what `save` wrote; raises WeightsError naming what does not fit."""
  shapes = jax.eval_shape(
      lambda: transformer.init(jax.random.key(0), cfg))
  try:
    arrays = safetensors_numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise WeightsError(f'cannot read {path}: {error}') from error
  wanted = _flat(shapes)
  for key in sorted(wanted.keys() | arrays.keys()):
    if key not in arrays or key not in wanted:
      raise WeightsError(f'{path}: {key} is '
                         f'{"missing" if key in wanted else "unknown"}')
    if arrays[key].shape != wanted[key].shape:
      raise WeightsError(f'{path}: {key} has shape {arrays[key].shape}, the '
                         f'config wants {wanted[key].shape}')
  return jax.tree_util.tree_map_with_path(
      lambda p, _: jax.numpy.asarray(arrays['.'.join(str(k.key) for k in p)]),
      shapes)


def sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
