"""Attention of packed rows by JAX's splash kernel, for TPUs.

The kernel (Pallas) keeps a tile of scores on the chip, so that no scores lie
in HBM, and skips the tiles that causality empties.
"""

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)

_LANES = 128
# Queries and keys of a tile: the larger, the fewer times keys are read.
_TILES = (1024, 512, 256, _LANES)


def takes(q_BxTxHxd: jax.Array) -> bool:
  """Whether the kernel can: whole lanes of tokens, half lanes of width."""
  T, d = q_BxTxHxd.shape[1], q_BxTxHxd.shape[3]
  return T % _LANES == 0 and d % (_LANES // 2) == 0


def attend(
    q_BxTxHxd: jax.Array, k_BxTxKxd: jax.Array, v_BxTxKxd: jax.Array,
    segment_BxT: jax.Array, is_interpreted: bool = False,
) -> jax.Array:
  """As layers.attend_packed, on one device; on the CPU only if interpreted."""
  B, T, H, d = q_BxTxHxd.shape
  K = k_BxTxKxd.shape[2]
  kernel = kernels.make_splash_mqa_single_device(
      masks.MultiHeadMask([masks.CausalMask((T, T))] * (H // K)),
      block_sizes=_tiles(T), interpret=is_interpreted)
  q = (q_BxTxHxd * d ** -0.5).swapaxes(1, 2).reshape(B, K, H // K, T, d)
  k, v = (x.swapaxes(1, 2) for x in (k_BxTxKxd, v_BxTxKxd))

  def row(q_KxGxTxd, k_KxTxd, v_KxTxd, segment_T):
    ids = kernels.SegmentIds(q=segment_T, kv=segment_T)
    # A key/value head with its group of query heads.
    return jax.vmap(kernel, (0, 0, 0, None))(q_KxGxTxd, k_KxTxd, v_KxTxd, ids)

  out = jax.vmap(row)(q, k, v, segment_BxT)
  return out.reshape(B, H, T, d).swapaxes(1, 2)


def _tiles(T: int) -> kernels.BlockSizes:
  n = next(n for n in _TILES if T % n == 0)
  return kernels.BlockSizes(
      block_q=n, block_kv=n, block_q_dkv=n, block_kv_dkv=n,
      use_fused_bwd_kernel=True)
