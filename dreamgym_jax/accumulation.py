"""Gradients of one big batch, taken part by part.

A loss that is a mean over n things (tokens, sequences) has, over all parts,
the gradient sum_m (n_m / n) g_m: exactly that of the one batch, whatever the
parts hold, with the memory of one of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (params, batch, *more) -> ((loss, metrics), gradients), of jax.value_and_grad
Gradient = Callable[..., tuple[tuple[jax.Array, dict], Any]]
# How metrics of the parts are joined, where not by their weighted mean.
_JOINED = {'ratio_max': jnp.max, 'tokens': jnp.sum,
           'mismatch_2xL': lambda x_Mx2xL: x_Mx2xL.sum(0)}


def accumulated(
    gradient: Gradient, count: Callable[[Any], jax.Array]
) -> Gradient:
  """`gradient` for batches whose arrays have an axis of parts in front.

  `count` gives what the loss of a part is a mean over; parts of which that is
  0, which fill up a group, add nothing.
  """

  def total(params, batch, *more):
    n_M = jax.vmap(count)(batch)
    share_M = n_M / jnp.maximum(n_M.sum(), 1e-9)

    def add(sums, part_share):
      part, share = part_share
      (loss, metrics), grads = gradient(params, part, *more)
      return jax.tree.map(lambda s, g: s + share * g, sums, grads), (
          share * loss, metrics)

    grads, (loss_M, metrics) = jax.lax.scan(
        add, jax.tree.map(jnp.zeros_like, params), (batch, share_M))
    joined = {name: _JOINED.get(name, lambda x_M: x_M @ share_M)(x)
              for name, x in metrics.items()}
    return (loss_M.sum(), joined), grads

  return total
