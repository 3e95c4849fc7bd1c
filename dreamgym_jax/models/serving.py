"""Weights as decoding reads them: cast, unstacked, whole over `fsdp`.

Training keeps float32 weights, stacked over layers, in as many parts as there
are chips. Read so, each call would cast them and cut them into layers, and each
token gather them over the links; a copy that is made once an iteration is split
over `tensor` alone. No number changes: the layers cast their matrices to the
same type, and norms stay float32.
"""

import functools
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from dreamgym_jax.models import sharding, transformer
from dreamgym_jax.types import Params


def freeze(params: Params, cfg: transformer.ModelConfig) -> Params:
  """Weights that nobody trains, in the compute type, where they are."""
  def cast(path, w):
    name = path[-1].key
    return w if name in transformer.SCALES else w.astype(cfg.dtype)

  return jax.tree_util.tree_map_with_path(cast, params)


def cast(params: Params, cfg: transformer.ModelConfig) -> Params:
  """In the compute type, the blocks a tuple of N dicts."""
  return freeze({n: w for n, w in params.items() if n != 'blocks'}, cfg) | {
      'blocks': _unstack(params, cfg)}


_unstack = jax.jit(transformer.unstack, static_argnames='cfg')


def where(
    tree: Any, cfg: transformer.ModelConfig, mesh: jax.sharding.Mesh
) -> Any:
  """Of each leaf of what `cast` gives (shapes do): split over `tensor`."""
  known = dict(jax.tree_util.tree_leaves_with_path(
      transformer.shardings(cfg, mesh)))

  def find(path, _):
    layer = 'blocks' in jax.tree_util.keystr(path[:1])
    name = (path[0], *path[2:]) if layer else path
    spec = known[name].spec if name in known else PartitionSpec()
    kept = [None if axis == 'fsdp' else axis for axis in spec]
    return NamedSharding(mesh, PartitionSpec(*kept[1 if layer else 0:]))

  return jax.tree_util.tree_map_with_path(find, tree)


class Serve:
  """A class because it keeps the copy for as long as the weights are these."""

  def __init__(self, cfg: transformer.ModelConfig):
    self._cfg = cfg
    self.forget()

  def __call__(self, params: Params) -> Params:
    """A copy to decode with; of a copy itself: the copy."""
    if params is self._copy:
      return params
    if params is not self._source:
      self._copy = None   # before another is made
      self._source = params
      self._copy = _make(self._cfg, sharding.in_use())(params)
    return self._copy

  def forget(self) -> None:
    """Frees the copy."""
    self._source = self._copy = None


@functools.cache
def _make(cfg, mesh):
  if mesh is None:    # not within jit: what is of the type already is shared
    return functools.partial(cast, cfg=cfg)

  def make(params):
    tree = cast(params, cfg)
    return jax.lax.with_sharding_constraint(tree, where(tree, cfg, mesh))

  return jax.jit(make)
