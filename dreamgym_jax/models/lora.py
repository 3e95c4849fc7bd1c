"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) over a frozen base.

A matrix W of a layer becomes W + ALPHA / r A B (layers.project). A and B stand
beside it among the weights, `wq_a` and `wq_b` beside `wq`, so that a tree with
adapters goes wherever one without them goes: sampling, scoring, training. Many
trees may share one base. The reference policy is the base alone, or the base
with adapters that nobody trains.

`stack` puts the adapters of several roles side by side, and `of_rows` says
which row of a sampler speaks for which role: one call then serves rows of all
roles over the one base.

`split` takes such a tree apart and `join` puts it together; a tree without
adapters is all trained, and nothing of it frozen.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dreamgym_jax.models import layers, transformer
from dreamgym_jax.types import Params

_PARTS = frozenset(f'{name}_{part}' for name in layers.ADAPTED for part in 'ab')


def init(key: jax.Array, cfg: transformer.ModelConfig, rank: int) -> Params:
  """Adapters of every matrix: random A, zero B, hence no change yet."""
  blocks = {}
  base = transformer.shapes(cfg)['blocks']
  for i, (name, n_in) in enumerate(layers.ADAPTED.items()):
    N, *shape = base[name].shape
    inputs, outputs = shape[:n_in], shape[n_in:]
    a = jax.random.normal(jax.random.fold_in(key, i), (N, *inputs, rank))
    blocks[f'{name}_a'] = a * math.prod(inputs) ** -0.5
    blocks[f'{name}_b'] = jnp.zeros((N, rank, *outputs))
  return {'blocks': blocks}


@functools.cache
def shapes(cfg: transformer.ModelConfig, rank: int) -> Params:
  """The tree of `init`, as jax.ShapeDtypeStruct."""
  return jax.eval_shape(lambda: init(jax.random.key(0), cfg, rank))


def split(params: Params) -> tuple[Params, Params]:
  """(what is frozen, what is trained); ({}, params) without adapters."""
  blocks = params.get('blocks', {})
  own = {k: w for k, w in blocks.items() if k in _PARTS}
  if not own:
    return {}, params
  rest = {k: w for k, w in blocks.items() if k not in _PARTS}
  return {**params, 'blocks': rest}, {'blocks': own}


def join(frozen: Params | None, trained: Params) -> Params:
  """What `split` took apart."""
  if not frozen:
    return trained
  return {**frozen, 'blocks': {**frozen['blocks'], **trained['blocks']}}


def off(params: Params) -> Params:
  """The base alone."""
  return split(params)[0] or params


def stack(roles: Sequence[Params]) -> Params:
  """One tree of several that adapt one base, for a sampler alone.

  Side by side the adapters are one of all their ranks together; a row's scales
  are 0 on those that are not its own. Row i has role i until `of_rows`.
  """
  base, _ = split(roles[0])
  each = [split(params)[1]['blocks'] for params in roles]
  blocks = {name: jnp.concatenate(
      [own[name] for own in each], -1 if name.endswith('_a') else 1)
      for name in each[0]}
  ranks = [own['wq_a'].shape[-1] for own in each]
  scale_BxR = jnp.repeat(
      jnp.diag(layers.ALPHA / jnp.array(ranks)), jnp.array(ranks), 1)
  n_layers = blocks['wq_a'].shape[0]
  blocks[layers.SCALES] = jnp.tile(scale_BxR, (n_layers, 1, 1))
  return join(base, {'blocks': blocks})


def of_rows(stacked: Params, role_B: Sequence[int]) -> Params:
  """A tree of `stack` for a sampler whose row i speaks for roles[role_B[i]]."""
  scales = stacked['blocks'][layers.SCALES][:, jnp.asarray(role_B)]
  return join(stacked, {'blocks': {layers.SCALES: scales}})


def voice(params: Params) -> Callable[[int], bytes]:
  """row -> what is equal for rows that speak for the same role."""
  blocks = params['blocks']
  if isinstance(blocks, tuple):    # serving.cast
    scale_BxR = blocks[0].get(layers.SCALES)
  else:
    scale_BxR = blocks[layers.SCALES][0] if layers.SCALES in blocks else None
  if scale_BxR is None:
    return lambda row: b''
  scale_BxR = np.asarray(scale_BxR)
  return lambda row: scale_BxR[row].tobytes()


def merge(params: Params) -> Params:
  """A plain tree of the same function, e.g. to export it."""
  base, own = split(params)
  if not base:
    return params
  blocks = dict(base['blocks'])
  for name in layers.ADAPTED:
    a, b = (own['blocks'][f'{name}_{part}'] for part in 'ab')
    product = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(a, b)
    blocks[name] = blocks[name] + layers.ALPHA / a.shape[-1] * product
  return {**base, 'blocks': blocks}
