"""Where arrays live: the mesh, and the one table of logical axis names.

Weights and activations are annotated with logical names in transformer.py;
only this table says which mesh axis each name is split over. A mesh of one
device runs the same code.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dreamgym_jax.types import Params

AXES = ('data', 'fsdp', 'tensor')

# Logical name -> mesh axis or axes. Weights are split over `fsdp` along the
# model width and over `tensor` along heads, feed-forward and vocabulary; a
# batch is split over all data-parallel axes.
RULES = (
    ('batch', ('data', 'fsdp')),
    ('embed', 'fsdp'),
    ('heads', 'tensor'),
    ('kv', 'tensor'),
    ('mlp', 'tensor'),
    ('vocab', 'tensor'),
    ('act', None),
    ('layers', None),
)


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Mesh:
  """A (data, fsdp, tensor) mesh; -1 for one axis means "all that is left".

  Raises ValueError if the sizes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) > 1:
    raise ValueError(f'mesh {dict(zip(AXES, sizes, strict=True))}: only one '
                     'axis may be -1')
  if -1 in sizes:
    known = math.prod(s for s in sizes if s != -1)
    sizes[sizes.index(-1)] = max(len(devices) // known, 1)
  if math.prod(sizes) != len(devices):
    raise ValueError(
        f'mesh {dict(zip(AXES, sizes, strict=True))} needs '
        f'{math.prod(sizes)} devices, there are {len(devices)}')
  # Auto: make_mesh defaults to Explicit axes, under which linen's logical
  # constraints raise.
  return jax.make_mesh(
      sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def spec(*names: str | None) -> PartitionSpec:
  """The PartitionSpec of an array whose axes have these logical names."""
  rules = dict(RULES)
  return PartitionSpec(*(None if n is None else rules[n] for n in names))


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows over the data-parallel axes, everything else whole."""
  return NamedSharding(mesh, spec('batch'))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def n_batch_shards(mesh: jax.sharding.Mesh) -> int:
  """How many parts a batch is cut into; its rows must divide by this."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def shard_batch(batch: Params, mesh: jax.sharding.Mesh) -> Params:
  """Put a pytree of [B, ...] host arrays on the mesh, split by rows.

  Raises ValueError if a leading axis does not divide over the mesh.
  """
  n, sharding = n_batch_shards(mesh), batch_sharding(mesh)

  def put(path, x):
    rows = np.shape(x)[0] if np.ndim(x) else 0
    if rows == 0 or rows % n:
      raise ValueError(
          f'batch{jax.tree_util.keystr(path)} of shape {np.shape(x)} does not '
          f'divide by rows over {n} devices')
    return jax.device_put(x, sharding)

  return jax.tree_util.tree_map_with_path(put, batch)
