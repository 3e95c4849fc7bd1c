"""The shapes that samplers compile: ladders of buckets, by name.

A call is padded up to the next rung of each ladder: more rungs compile longer,
fewer pad more. A large model takes long to compile and is bound by its
weights, so that padding costs it little.
"""

from collections.abc import Sequence

ROW_BUCKETS = (8, 24, 48, 80, 120, 160, 240, 320)
TOKEN_BUCKETS = (16, 32, 48, 64, 128)
COLUMN_BUCKETS = (0, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# Arguments of sampling.Sampler.
LADDERS = {
    'fine': {},
    'coarse': dict(row_buckets=(), token_buckets=(32, 128),
                   column_buckets=(256,)),
}


def up_to(buckets: Sequence[int], top: int) -> list[int]:
  """The buckets below `top`, then `top` itself."""
  return [b for b in sorted(buckets) if b < top] + [top]


def bucket(ladder: Sequence[int], n: int) -> int:
  """The smallest bucket that holds n."""
  return next(b for b in ladder if b >= n)
