"""Where arrays live: the mesh, and the one table of logical axis names.

Weights and activations are annotated with logical names in transformer.py;
only this table says which mesh axis each name is split over. A mesh of one
device runs the same code.

The mesh in use is that of `jax.set_mesh`, which train.py enters once. Weights
(transformer.place), caches and batches are put on it where they enter, and jit
carries on from there. Outside of a mesh nothing is put anywhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
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
  # Not jax.make_mesh, which refuses an axis that is part of one of a torus,
  # e.g. two of 4x4x4. Auto: under Explicit axes linen's constraints raise.
  return jax.sharding.Mesh(
      mesh_utils.create_device_mesh(
          sizes, devices, allow_split_physical_axes=True),
      AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec(*names: str | None) -> PartitionSpec:
  """The PartitionSpec of an array whose axes have these logical names."""
  rules = dict(RULES)
  return PartitionSpec(*(None if n is None else rules[n] for n in names))


def fitting(
    shape: Sequence[int], names: Sequence[str | None],
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
) -> PartitionSpec:
  """As `spec`, for as many of the axes of `shape` as have names.

  An axis that its devices do not divide stays whole, e.g. two key/value heads
  on four devices, or a vocabulary of an odd number. In the shortest form, as
  jit gives them back: else it would take equal ones for others.
  """
  entries = []
  for n, entry in zip(shape, spec(*names), strict=False):
    axes = (entry,) if isinstance(entry, str) else entry or ()
    axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
    is_whole = n % math.prod(mesh.shape[axis] for axis in axes)
    entries.append(None if is_whole or not axes else
                   axes if len(axes) > 1 else axes[0])
  while entries and entries[-1] is None:
    entries.pop()
  return PartitionSpec(*entries)


def in_use() -> jax.sharding.Mesh | None:
  """The mesh of `jax.set_mesh`, if there is one."""
  is_set = not jax.sharding.get_abstract_mesh().empty
  return jax.sharding.get_mesh() if is_set else None


def platform() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh in use, which need not be here."""
  chip = jax.sharding.get_abstract_mesh().abstract_device
  return chip.platform if chip else jax.default_backend()


def where(
    shape: Sequence[int], *names: str | None
) -> NamedSharding | None:
  """Where an array with these logical names goes; None outside of a mesh."""
  mesh = in_use()
  return mesh and NamedSharding(mesh, fitting(shape, names, mesh))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Inside jit: splits x by its logical names over the mesh in use."""
  mesh = jax.sharding.get_abstract_mesh()
  return x if mesh.empty else jax.lax.with_sharding_constraint(
      x, fitting(x.shape, names, mesh))


def whole(*arrays: jax.Array) -> list[jax.Array]:
  """Inside jit: a copy on every device, so that any process can read them."""
  return [constrain(x, *[None] * x.ndim) for x in arrays]


def on_each(
    fn: Callable[..., Any], args: Sequence[Any],
    names: Sequence[Sequence[str | None]], out: int,
) -> Any:
  """fn(*args) by each device on its part; the result lies as args[out] does.

  An argument is an array, or a tuple of arrays that are alike.

  For what XLA would not split, a kernel, or would split badly: a product over
  axes that were merged. An axis is split only if it can be wherever it is
  named, e.g. query heads only with their key/value heads.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return fn(*args)
  shapes = [jax.tree.leaves(x)[0].shape for x in args]
  specs = [fitting(x, n, mesh) for x, n in zip(shapes, names, strict=True)]
  kept = {n for given, s in zip(names, specs, strict=True)
          for n, entry, full in zip(
              given, (*s, *[None] * len(given)), spec(*given), strict=False)
          if n and not entry and _n_parts(mesh, full) > 1}
  specs = tuple(
      fitting(x, [None if n in kept else n for n in given], mesh)
      for x, given in zip(shapes, names, strict=True))
  return jax.shard_map(
      fn, in_specs=specs, out_specs=specs[out], check_vma=False)(*args)


def _n_parts(mesh, entry) -> int:
  axes = (entry,) if isinstance(entry, str) else entry or ()
  return math.prod(mesh.shape[axis] for axis in axes)


def alike(
    tree: Params, placed: Params, mesh: jax.sharding.Mesh | None = None
) -> Params | None:
  """A sharding for each leaf of `tree`: that of its name in `placed`.

  An optimiser's moments so lie where the weights of their name lie; what has
  no such name is whole on each device of the mesh (default: the one in use).
  None outside of a mesh: wherever jit puts it.
  """
  mesh = mesh or in_use()
  if mesh is None:
    return None
  by_path = {
      jax.tree_util.keystr(path): x.sharding
      for path, x in jax.tree_util.tree_leaves_with_path(placed)
      if isinstance(x.sharding, NamedSharding)}

  def find(path, _):
    name = jax.tree_util.keystr(path)
    return next((s for p, s in by_path.items() if name.endswith(p)),
                replicated(mesh))

  return jax.tree_util.tree_map_with_path(find, tree)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Rows over the data-parallel axes, everything else whole."""
  return NamedSharding(mesh, spec('batch'))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """A whole copy on each device."""
  return NamedSharding(mesh, PartitionSpec())


def n_batch_shards(mesh: jax.sharding.Mesh | None = None) -> int:
  """How many parts a batch is cut into; its rows must divide by this.

  Of the mesh in use if none is given, inside jit too; 1 outside of one.
  """
  mesh = mesh or jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.shape['data'] * mesh.shape['fsdp']


def round_up(rows: int) -> int:
  """The next number of rows that divides over the mesh in use."""
  n = n_batch_shards()
  return -(-rows // n) * n


def fill_up(batch: Params) -> Params:
  """Zeros at the end of a batch's axes, until they divide over the mesh.

  Zeros are padding in every field of data.batches.Batch.
  """
  def fill(x):
    room = round_up(len(x)) - len(x)
    return np.pad(x, [(0, room)] + [(0, 0)] * (np.ndim(x) - 1)) if room else x

  return jax.tree.map(fill, batch)


def on_host(x: jax.Array | np.ndarray) -> np.ndarray:
  """The whole of an array; where processes share it, all must call this."""
  if getattr(x, 'is_fully_addressable', True) or x.is_fully_replicated:
    return np.asarray(x)
  return multihost_utils.process_allgather(x, tiled=True)


def shard_batch(
    batch: Params, mesh: jax.sharding.Mesh | None = None
) -> Params:
  """Puts a pytree of [B, ...] host arrays on the mesh, split by rows.

  On the mesh in use if none is given; as it is outside of one. Raises
  ValueError if a leading axis does not divide over the mesh.
  """
  mesh = mesh or in_use()
  if mesh is None:
    return batch
  n, sharding = n_batch_shards(mesh), batch_sharding(mesh)

  def put(path, x):
    rows = np.shape(x)[0] if np.ndim(x) else 0
    if rows == 0 or rows % n:
      raise ValueError(
          f'batch{jax.tree_util.keystr(path)} of shape {np.shape(x)} does not '
          f'divide by rows over {n} devices')
    return put_parts(np.asarray(x), sharding)

  return jax.tree_util.tree_map_with_path(put, batch)


def put_rows(x: np.ndarray) -> jax.Array:
  """A copy of a host array, by rows over the mesh in use if there is one.

  A copy, for on CPU a jax array may share the host's memory.
  """
  placed, x = where(x.shape, 'batch'), x.copy()
  return put_parts(x, placed) if placed else jax.device_put(x)


def put_parts(x: np.ndarray, where: NamedSharding) -> jax.Array:
  """A host array on a mesh: each process feeds its own devices."""
  return jax.make_array_from_callback(x.shape, where, lambda index: x[index])
