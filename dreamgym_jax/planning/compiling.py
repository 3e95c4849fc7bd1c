"""The real steps, compiled for a TPU that is not there.

`jax.experimental.topologies` describes the chips and libtpu compiles for them
(requirements-plan.txt), so bytes and collectives are those of the program that
would run. Nothing is executed, and no weights exist.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import NamedSharding

from dreamgym_jax import config, learner, types
from dreamgym_jax.data import batches
from dreamgym_jax.models import decoding, serving, sharding, transformer
from dreamgym_jax.planning import collectives, program, roofline, traffic


class NoCompilerError(config.ConfigError):
  """The TPU compiler is not installed, or does not know the topology."""


class Compiled(NamedTuple):
  """What the compiler says of one step, per chip."""

  arguments: float          # bytes
  total: float              # bytes at the fullest moment, arguments included
  hbm_bytes: float          # read and written
  link_bytes: float
  link_seconds: float       # one collective after the other


class Target(NamedTuple):
  """What is compiled for."""

  mesh: jax.sharding.Mesh
  chip: roofline.Chip
  sides: Sequence[int]      # of the torus


def devices(topology: str) -> Sequence[Any]:
  """The chips of e.g. 'v5p:4x4x4'; raises NoCompilerError."""
  # Without a TPU nothing is to be asked of one, nor kept for one process.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  try:
    return topologies.get_topology_desc(
        platform='tpu', topology_name=topology).devices
  except (RuntimeError, ValueError, NotImplementedError) as error:
    first = (str(error).splitlines() or [''])[0]
    raise NoCompilerError(
        f'no TPU compiler for plan.topology={topology!r} ({first}): pip '
        'install -r requirements-plan.txt, or plan.compile=False for the '
        'arithmetic alone') from error


def train_step(
    cfg: transformer.ModelConfig, target: Target, rows: int, length: int,
    optimizer: optax.GradientTransformation, step: Callable[..., Any],
) -> Compiled:
  """`learner.make_grpo_step` with a reference, on full rows."""
  mesh = target.mesh
  where = transformer.shardings(cfg, mesh)
  params = _like(transformer.shapes(cfg), where)
  state = jax.eval_shape(
      functools.partial(learner.init_state, optimizer=optimizer), params)
  state = types.TrainState(
      step=_whole(state.step, mesh), params=params,
      opt_state=_like(state.opt_state, sharding.alike(
          state.opt_state, params, mesh)))
  reference = _like(jax.eval_shape(
      functools.partial(serving.freeze, cfg=cfg), params), where)
  return _compile(
      step, target, state, abstract_batch(mesh, rows, length), reference)


def abstract_batch(
    mesh: jax.sharding.Mesh, rows: int, length: int
) -> batches.Batch:
  """Shapes of a packed batch, split by rows."""
  def of(shape, dtype):
    return _array(shape, dtype, mesh, 'batch', *[None] * (len(shape) - 1))

  row, flat = (rows, length), (rows * length,)
  return batches.Batch(
      *[of(row, jnp.int32)] * 3, of(flat, jnp.int32), of(flat, jnp.int32),
      *[of(flat, jnp.float32)] * 3, of(flat, jnp.int32))


class Sampling(NamedTuple):
  """Shapes of the sampler's calls."""

  rows: int                 # streams
  capacity: int             # tokens of a stream
  columns: int              # of it that may be full
  piece: int                # tokens appended at once


def carried_on(
    step: Callable[..., Compiled], cfg: transformer.ModelConfig,
    layers: Sequence[int], *args: Any,
) -> Compiled:
  """A step that unrolls its layers, from two smaller numbers of them.

  All its layers are alike, so that everything grows by the same with each.
  With fewer than two numbers all layers are compiled.
  """
  if len(layers) < 2 or cfg.N <= max(layers):
    return step(cfg, *args)
  n, m = sorted(layers)[:2]
  a, b = (step(dataclasses.replace(cfg, N=k), *args) for k in (n, m))
  return Compiled(*(
      x + (y - x) / (m - n) * (cfg.N - n) for x, y in zip(a, b, strict=True)))


def extend_step(
    cfg: transformer.ModelConfig, target: Target, shape: Sampling,
) -> Compiled:
  """`decoding.extend` of every row; with columns 0 the start of a prefill."""
  mesh = target.mesh
  state = _sampler_state(cfg, mesh, shape)
  vector = functools.partial(_array, (shape.rows,), jnp.int32, mesh, 'batch')
  tokens = _array((shape.rows, shape.piece), jnp.int32, mesh, 'batch', None)
  return _compile(
      decoding.extend, target, *state, vector(), None, tokens, vector(),
      cfg=cfg, columns=shape.columns, is_scored=False)


def decode_step(
    cfg: transformer.ModelConfig, target: Target, shape: Sampling,
) -> Compiled:
  """`decoding.decode` of every row: up to CHUNK tokens."""
  mesh = target.mesh
  state = _sampler_state(cfg, mesh, shape)
  vector = functools.partial(_array, (shape.rows,), jnp.int32, mesh, 'batch')
  number = functools.partial(_array, mesh=mesh)
  draw = decoding.Draw(
      key_R=_array((shape.rows, 2), jnp.uint32, mesh, 'batch', None),
      stream_R=vector(),
      temperature=number((), jnp.float32), top_k=number((), jnp.int32),
      top_p=number((), jnp.float32), stop_V=number((cfg.V,), jnp.bool_),
      barred_V=number((cfg.V,), jnp.bool_), watch_W=number((4,), jnp.int32))
  return _compile(
      decoding.decode, target, *state, vector(), None, vector(), vector(),
      draw, cfg=cfg, columns=shape.columns, is_filtered=False)


def _sampler_state(cfg, mesh, shape):
  """Weights, keys, values and last states of a sampler."""
  params = jax.eval_shape(
      functools.partial(serving.cast, cfg=cfg), transformer.shapes(cfg))
  params = _like(params, serving.where(params, cfg, mesh))
  cache = (_array((shape.rows, cfg.K, shape.capacity, cfg.d), cfg.dtype, mesh,
                  'batch', 'kv', None, None),) * cfg.N
  last = _array((shape.rows, cfg.D), cfg.dtype, mesh, 'batch', None)
  return params, cache, cache, last


def _array(shape, dtype, mesh, *names: str | None) -> jax.ShapeDtypeStruct:
  """An abstract array; whole on each chip without names."""
  return jax.ShapeDtypeStruct(
      shape, dtype, sharding=NamedSharding(mesh, sharding.spec(*names)))


def _whole(x, mesh) -> jax.ShapeDtypeStruct:
  return _array(x.shape, x.dtype, mesh)


def _like(tree, where):
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree, where)


class Built(NamedTuple):
  """An executable for chips that are not here."""

  arguments: int            # bytes a chip
  total: int
  hlo: str


def build(step: Any, mesh: jax.sharding.Mesh, args: Any, static: Any) -> Built:
  """Compiles a jitted step for abstract arguments."""
  with jax.set_mesh(mesh):
    done = step.lower(*args, **static).compile()
  memory = done.memory_analysis()
  total = (memory.argument_size_in_bytes + memory.output_size_in_bytes
           - memory.alias_size_in_bytes + memory.temp_size_in_bytes)
  return Built(memory.argument_size_in_bytes, total, done.as_text())


def _compile(step, target, *args, **static) -> Compiled:
  built = build(step, target.mesh, args, static)
  parsed = program.parse(built.hlo, decoding.CHUNK)
  sent = list(collectives.sent(parsed))
  place = [getattr(d, 'coords', (0,)) for d in target.mesh.devices.flat]
  return Compiled(
      built.arguments, built.total, traffic.touched(parsed),
      sum(s.bytes for s in sent),
      collectives.seconds(target.chip, sent, place, target.sides))
