"""The real steps, compiled for a TPU that is not there.

`jax.experimental.topologies` describes the chips and libtpu compiles for them
(requirements-plan.txt), so bytes and collectives are those of the program that
would run. Nothing is executed, and no weights exist.
"""

import functools
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
from dreamgym_jax.planning import collectives


class NoCompilerError(config.ConfigError):
  """The TPU compiler is not installed, or does not know the topology."""


class Compiled(NamedTuple):
  """What the compiler says of one step, per chip."""

  arguments: int            # bytes
  total: int                # bytes at the fullest moment, arguments included
  sent: list[collectives.Sent]

  @property
  def link_bytes(self) -> float:
    return sum(s.bytes for s in self.sent)


def devices(topology: str) -> Sequence[Any]:
  """The chips of e.g. 'v5p:4x4x4'; raises NoCompilerError."""
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
    cfg: transformer.ModelConfig, mesh: jax.sharding.Mesh, rows: int,
    length: int, optimizer: optax.GradientTransformation,
    step: Callable[..., Any],
) -> Compiled:
  """`learner.make_grpo_step` with a reference, on full rows."""
  where = transformer.shardings(cfg, mesh)
  params = _like(transformer.shapes(cfg), where)
  state = jax.eval_shape(
      functools.partial(learner.init_state, optimizer=optimizer), params)
  state = types.TrainState(
      step=_whole(state.step, mesh), params=params,
      opt_state=_like(state.opt_state, sharding.alike(
          state.opt_state, params, mesh)))
  return _compile(step, mesh, state, abstract_batch(mesh, rows, length), params)


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
  piece: int                # tokens appended at once


def extend_step(
    cfg: transformer.ModelConfig, mesh: jax.sharding.Mesh, shape: Sampling
) -> Compiled:
  """`decoding.extend` of every row: a prefill, or the world's next answer."""
  state = _sampler_state(cfg, mesh, shape)
  vector = functools.partial(_array, (shape.rows,), jnp.int32, mesh, 'batch')
  tokens = _array((shape.rows, shape.piece), jnp.int32, mesh, 'batch', None)
  return _compile(
      decoding.extend, mesh, *state, vector(), None, tokens, vector(),
      cfg=cfg, columns=shape.capacity, is_scored=False)


def decode_step(
    cfg: transformer.ModelConfig, mesh: jax.sharding.Mesh, shape: Sampling
) -> Compiled:
  """`decoding.decode` of every row: up to CHUNK tokens."""
  state = _sampler_state(cfg, mesh, shape)
  vector = functools.partial(_array, (shape.rows,), jnp.int32, mesh, 'batch')
  number = functools.partial(_array, mesh=mesh)
  draw = decoding.Draw(
      key=number((2,), jnp.uint32), stream_R=vector(),
      temperature=number((), jnp.float32), top_k=number((), jnp.int32),
      top_p=number((), jnp.float32), stop_V=number((cfg.V,), jnp.bool_),
      barred_V=number((cfg.V,), jnp.bool_), watch_W=number((4,), jnp.int32))
  return _compile(
      decoding.decode, mesh, *state, vector(), None, vector(), vector(),
      draw, cfg=cfg, columns=shape.capacity, is_filtered=False)


def _sampler_state(cfg, mesh, shape):
  """Weights, keys, values and last states of a sampler."""
  params = jax.eval_shape(
      functools.partial(serving.cast, cfg=cfg), transformer.shapes(cfg))
  params = _like(params, serving.where(params, cfg, mesh))
  cache = _array((cfg.N, shape.rows, cfg.K, shape.capacity, cfg.d), cfg.dtype,
                 mesh, None, 'batch', 'kv', None, None)
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


def _compile(step, mesh, *args, **static) -> Compiled:
  with jax.set_mesh(mesh):
    done = step.lower(*args, **static).compile()
  memory = done.memory_analysis()
  total = (memory.argument_size_in_bytes + memory.output_size_in_bytes
           - memory.alias_size_in_bytes + memory.temp_size_in_bytes)
  return Compiled(memory.argument_size_in_bytes, total,
                  collectives.sent(done.as_text(), decoding.CHUNK))
