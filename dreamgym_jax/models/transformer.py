"""The decoder both roles share: pure functions over a nested dict of arrays.

Llama's block (RMSNorm, rotary positions, grouped queries, SwiGLU), with Qwen2's
biases or Qwen3's normed queries and keys if asked (families.py knows which).
Linen declares the weights and stays in this file. Two ways through the same
layer: `hidden` scans over the stacked layers (training, packed rows, remat),
and `extend` unrolls them over a cache (sampling; caches.py).

Weights, all under `blocks` with a leading N: wq DxHxd, wk and wv DxKxd,
wo HxdxD, gate and up DxF, down FxD, ln1 and ln2 D, where asked for bq Hxd, bk
and bv Kxd, q_norm and k_norm d; beside them embed VxD, ln_f D and, if not tied,
head VxD.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding

from dreamgym_jax.models import caches, layers, sharding
from dreamgym_jax.types import Params

# What the backward pass of a block keeps, beside its input: everything, the
# products with weights (attention is computed again), or nothing.
REMAT = {
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'block': jax.checkpoint_policies.nothing_saveable,
}
# Scales of norms: float32 whatever the dtype of products.
SCALES = ('ln1', 'ln2', 'q_norm', 'k_norm', 'ln_f')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes of one decoder; hashable, so a static argument of jit."""

  V: int                    # vocabulary
  D: int = 128              # width
  N: int = 4                # layers
  H: int = 4                # query heads
  K: int = 2                # key/value heads; divides H
  d: int = 32               # head width, even; need not be D / H
  F: int = 384              # feed-forward width
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  dtype: str = 'float32'    # of matmuls; weights and softmax are float32
  remat: str = 'none'       # a name in REMAT
  tied: bool = True         # the embedding is also the output head
  unroll: int = 1           # layers per iteration of the training scan
  qkv_bias: bool = False    # Qwen2: biases of queries, keys and values
  qk_norm: bool = False     # Qwen3: RMSNorm of each query and key
  rope_factor: float = 1.0  # Llama 3.1: stretches slow rotary waves; see
  rope_low: float = 1.0     # layers.rope_frequencies
  rope_high: float = 4.0
  rope_context: int = 8192  # context before stretching

  def __post_init__(self):
    if self.H % self.K:
      raise ValueError(f'H={self.H} is not a multiple of K={self.K}')
    if self.d % 2:
      raise ValueError(f'd={self.d} must be even for rotary positions')
    if self.remat not in REMAT:
      raise ValueError(f'remat={self.remat!r}: use one of {", ".join(REMAT)}')


class _Block(nn.Module):
  """Declares one layer's weights and applies it to packed rows."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, x_BxTxD, rope, segment_BxT):
    c = self.cfg
    # Residual outputs start small, so that depth does not grow the stream.
    small = (2 * c.N) ** -0.5

    def weight(name, shape, axes, fan_in, gain=1.0):
      init_fn = nn.with_logical_partitioning(
          nn.initializers.normal(gain * fan_in ** -0.5), axes)
      return self.param(name, init_fn, shape).astype(c.dtype)

    def scale(name, width):
      return self.param(name, nn.with_logical_partitioning(
          nn.initializers.ones, (None,)), (width,))

    w = dict(
        wq=weight('wq', (c.D, c.H, c.d), ('embed', 'heads', None), c.D),
        wk=weight('wk', (c.D, c.K, c.d), ('embed', 'kv', None), c.D),
        wv=weight('wv', (c.D, c.K, c.d), ('embed', 'kv', None), c.D),
        wo=weight('wo', (c.H, c.d, c.D), ('heads', None, 'embed'),
                  c.H * c.d, small),
        gate=weight('gate', (c.D, c.F), ('embed', 'mlp'), c.D),
        up=weight('up', (c.D, c.F), ('embed', 'mlp'), c.D),
        down=weight('down', (c.F, c.D), ('mlp', 'embed'), c.F, small),
        ln1=scale('ln1', c.D), ln2=scale('ln2', c.D))
    if c.qkv_bias:
      w |= dict(bq=weight('bq', (c.H, c.d), ('heads', None), 1, 0.0),
                bk=weight('bk', (c.K, c.d), ('kv', None), 1, 0.0),
                bv=weight('bv', (c.K, c.d), ('kv', None), 1, 0.0))
    if c.qk_norm:
      w |= dict(q_norm=scale('q_norm', c.d), k_norm=scale('k_norm', c.d))
    for name in layers.ADAPTED:   # declared by nobody: lora.py adds them
      for part in (f'{name}_a', f'{name}_b'):
        if self.has_variable('params', part):
          w[part] = self.get_variable('params', part).astype(c.dtype)
    q, k, v = layers.qkv(w, x_BxTxD, rope, c)
    att = layers.attend_packed(q, k, v, segment_BxT)
    x_BxTxD = layers.out(w, x_BxTxD, att, c)
    return sharding.constrain(x_BxTxD, 'batch'), None


class _Transformer(nn.Module):
  cfg: ModelConfig

  @nn.compact
  def __call__(self, tok_BxT, pos_BxT, segment_BxT):
    c = self.cfg
    table = nn.with_logical_partitioning(
        nn.initializers.normal(c.D ** -0.5), ('vocab', 'embed'))
    embed_VxD = self.param('embed', table, (c.V, c.D))
    if not c.tied:
      self.param('head', table, (c.V, c.D))
    ln_f = self.param('ln_f', nn.with_logical_partitioning(
        nn.initializers.ones, (None,)), (c.D,))
    block = _Block
    if c.remat != 'none':
      block = nn.remat(_Block, prevent_cse=False, policy=REMAT[c.remat])
    stack = nn.scan(
        block, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(nn.broadcast, nn.broadcast), length=c.N, unroll=c.unroll,
        metadata_params={nn.PARTITION_NAME: 'layers'})
    x, _ = stack(c, name='blocks')(
        sharding.constrain(embed_VxD, 'vocab', None)[tok_BxT].astype(
            c.dtype), layers.rope_angles(pos_BxT, c),
        segment_BxT)
    return layers.rms(x, ln_f, c.norm_eps)


# --- public, pure ----------------------------------------------------------


def _boxed_init(key, cfg):
  one = jnp.zeros((1, 1), jnp.int32)
  return _Transformer(cfg).init(key, one, one, one)


def init(key: jax.Array, cfg: ModelConfig) -> Params:
  """Random float32 weights; jit it (`cfg` static), eager linen is slow."""
  return nn.unbox(_boxed_init(key, cfg))['params']


@functools.cache
def shapes(cfg: ModelConfig) -> Params:
  """The tree of `init`, as jax.ShapeDtypeStruct: nothing is computed."""
  return jax.eval_shape(lambda: init(jax.random.key(0), cfg))


@functools.cache
def shardings(cfg: ModelConfig, mesh: jax.sharding.Mesh) -> Params:
  """A NamedSharding for every weight of `init`."""
  boxed = jax.eval_shape(lambda: _boxed_init(jax.random.key(0), cfg))
  return jax.tree.map(
      lambda leaf, names: NamedSharding(
          mesh, sharding.fitting(leaf.shape, names, mesh)),
      shapes(cfg), nn.get_partition_spec(boxed)['params'])


def place(params: Params, cfg: ModelConfig) -> Params:
  """Weights on the mesh in use, by the rules; adapters whole on each device.

  As they are outside of a mesh. Takes a whole tree or a part of one.
  """
  mesh = sharding.in_use()
  if mesh is None:
    return params
  known = dict(jax.tree_util.tree_leaves_with_path(shardings(cfg, mesh)))
  return jax.tree_util.tree_map_with_path(
      lambda path, w: jax.device_put(
          w, known.get(path, sharding.replicated(mesh))), params)


def n_params(params: Params) -> int:
  """How many numbers the tree holds."""
  return sum(int(x.size) for x in jax.tree.leaves(params))


def hidden(
    params: Params, tok_BxT: jax.Array, pos_BxT: jax.Array,
    segment_BxT: jax.Array, cfg: ModelConfig,
) -> jax.Array:
  """Final normed states x_BxTxD of packed rows.

  A token sees earlier tokens of its row with the same segment id; segment 0
  is padding (finite, meaningless). `pos_BxT` counts within a segment.
  """
  return _Transformer(cfg).apply(
      {'params': params}, tok_BxT, pos_BxT, segment_BxT)


def head(params: Params, x: jax.Array, cfg: ModelConfig) -> jax.Array:
  """Logits [..., V] in float32 of states [..., D]."""
  table_VxD = params['embed' if cfg.tied else 'head'].astype(cfg.dtype)
  return jax.lax.dot_general(
      x, table_VxD, (((x.ndim - 1,), (1,)), ((), ()))).astype(jnp.float32)


def forward(
    params: Params, tok_BxT: jax.Array, pos_BxT: jax.Array,
    segment_BxT: jax.Array, cfg: ModelConfig,
) -> jax.Array:
  """Logits BxTxV; for tests and short texts, training uses logp_entropy."""
  return head(params, hidden(params, tok_BxT, pos_BxT, segment_BxT, cfg), cfg)


def logp_entropy(
    params: Params, x_PxD: jax.Array, target_P: jax.Array, cfg: ModelConfig,
    chunk: int = 512, temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each target and entropy (nats) of its distribution.

  logp = z[target] - lse(z), entropy = lse(z) - sum(softmax(z) z), both [P]
  float32, z the logits divided by `temperature`. Head and softmax run over
  `chunk` positions at a time and are recomputed backward, so no [P, V] array
  ever exists.
  """
  P, D = x_PxD.shape
  parts = sharding.n_batch_shards()   # each device takes of its own positions
  chunk = min(chunk, -(-P // parts))
  n = -(-P // (parts * chunk))
  more = parts * n * chunk - P
  x = jnp.pad(x_PxD, ((0, more), (0, 0))).reshape(parts, n, chunk, D)
  target = jnp.pad(target_P, (0, more)).reshape(parts, n, chunk)
  x, target = (sharding.constrain(y.swapaxes(0, 1), None, 'batch')
               for y in (x, target))
  name = 'embed' if cfg.tied else 'head'
  # Gathered over `fsdp` once, and not for each chunk.
  params = {name: sharding.constrain(params[name], 'vocab', None)}

  @jax.checkpoint
  def one(args):
    x_SxCxD, target_SxC = args
    z = head(params, x_SxCxD, cfg) / temperature
    # One exponential for both sums: the entropy then costs next to nothing.
    top = jax.lax.stop_gradient(z.max(-1, keepdims=True))
    e = jnp.exp(z - top)
    sum_SxC = e.sum(-1)
    lse_SxC = jnp.log(sum_SxC) + top[..., 0]
    at_SxC = jnp.take_along_axis(z, target_SxC[..., None], -1)[..., 0]
    return at_SxC - lse_SxC, lse_SxC - (e * z).sum(-1) / sum_SxC

  logp, entropy = (y.swapaxes(0, 1).reshape(-1)[:P] for y in (
      [y[None] for y in one((x[0], target[0]))] if n == 1
      else jax.lax.map(one, (x, target))))
  return logp, entropy


# --- over a cache ----------------------------------------------------------


def unstack(params: Params, cfg: ModelConfig) -> tuple[Params, ...]:
  """The blocks' weights as N dicts; do it once, outside a decode loop.

  As they are if they are such dicts (serving.cast).
  """
  if isinstance(params['blocks'], tuple):
    return params['blocks']
  cast = jax.tree.map(lambda w: w.astype(cfg.dtype), params['blocks'])
  cast |= {n: w for n, w in params['blocks'].items() if n in SCALES}
  return tuple(jax.tree.map(lambda w, i=i: w[i], cast) for i in range(cfg.N))


def of_rows(
    params: Params, cfg: ModelConfig, row_R: jax.Array | None
) -> tuple[Params, ...]:
  """`unstack`, for these rows of a cache (None: all of them).

  Where the blocks hold adapters of several roles, each row gets its own
  (lora.stack).
  """
  weights = unstack(params, cfg)
  if layers.SCALES not in weights[0]:
    return weights
  return tuple(
      w | {layers.SCALES: caches.pick(w[layers.SCALES], row_R)[:, None]}
      for w in weights)


def append(
    params: Params, weights: tuple[Params, ...], past: caches.Past,
    recent: caches.Recent, tok_RxT: jax.Array, at: jax.Array | int,
    cfg: ModelConfig,
) -> tuple[jax.Array, caches.Recent]:
  """Run T tokens of each row as recent columns `at` to `at + T`.

  A token sees its own row only: the past up to its fill, and the recent
  columns up to itself. `at` is one number, or [R]: rows then stand at columns
  of their own. Gives final normed states x_RxTxD.
  """
  R, T = tok_RxT.shape
  C, S = recent.k[0].shape[1], past.v[0].shape[2]
  t_RxT = jnp.broadcast_to(at, (R,))[:, None] + jnp.arange(T)[None]
  rope = layers.rope_angles(past.fill_R[:, None] + t_RxT, cfg)
  old = jnp.arange(S)[None] < past.fill_R[:, None]
  seen_RxTxX = jnp.concatenate([
      jnp.broadcast_to(old[:, None], (R, T, S)),
      jnp.arange(C)[None, None] <= t_RxT[:, :, None]], -1)

  def put(columns, new):
    if T == C:
      return new
    if jnp.ndim(at):
      return columns.at[jnp.arange(R)[:, None], t_RxT].set(new)
    return jax.lax.dynamic_update_slice(columns, new, (0, at, 0, 0))

  x = sharding.constrain(params['embed'].astype(cfg.dtype)[tok_RxT], 'batch')
  ks, vs = [], []
  for i, w in enumerate(weights):
    q, k, v = layers.qkv(w, x, rope, cfg)
    ks.append(put(recent.k[i], k))
    vs.append(put(recent.v[i], v))
    att = layers.attend_cached(
        q, past.k[i], past.v[i], ks[-1], vs[-1], seen_RxTxX)
    x = layers.out(w, x, att, cfg)
  x = layers.rms(x, params['ln_f'], cfg.norm_eps)
  return x, caches.Recent(tuple(ks), tuple(vs))


def extend(
    params: Params, cache: caches.Cache, tok_RxT: jax.Array, len_R: jax.Array,
    cfg: ModelConfig, *, row_R: jax.Array | None = None,
    columns: int | None = None,
) -> tuple[jax.Array, caches.Cache]:
  """Append the first len_R tokens of each row; gives states x_RxTxD.

  `row_R` names the cache rows that take part (default: all, in order) and
  `columns` bounds their fill (default: the capacity). States past len_R are
  meaningless, rows of length 0 are untouched, and what a row gives does not
  depend on the other rows.
  """
  S = cache.capacity if columns is None else columns
  recent = caches.empty_recent(cfg, *tok_RxT.shape)

  def work():
    return append(params, of_rows(params, cfg, row_R),
                  caches.read(cache, row_R, S), recent, tok_RxT, 0, cfg)

  def rest():
    return jnp.zeros((*tok_RxT.shape, cfg.D), cfg.dtype), recent

  # Not to save work: of a branch XLA knows that it ends before the cache is
  # written. Else a layer's columns might be written before the past is read,
  # and so the CPU's compiler copies the whole cache, twice.
  x, recent = jax.lax.cond(len_R.any(), work, rest)
  return x, caches.write(cache, row_R, recent, len_R)
