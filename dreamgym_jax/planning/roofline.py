"""What a step costs, by arithmetic: floating-point operations, bytes, seconds.

Works on sizes alone, so it knows nothing of padding, of what the compiler
saves or wastes, or of overlap. Times are lower bounds: every unit at its peak.
A product of [m, k] and [k, n] counts 2 m k n; norms, rotary angles and softmax
are left out, as is usual for MFU.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dreamgym_jax.models import transformer

_F32, _BF16 = 4, 2


class Chip(NamedTuple):
  """One accelerator; rates per second."""

  flops: float              # bfloat16, dense
  hbm: float                # bytes
  hbm_rate: float           # bytes
  link_rate: float          # bytes out, over all links to other chips
  price: float              # $ an hour, list price on demand; 0 = unknown
  axes: int = 0             # of its torus, with two links each; 0: a switch
  ring: int = 1             # least side of a torus whose ends are linked


_G = 2.0 ** 30
_HOP = 1e-6                 # seconds; jax-ml.github.io/scaling-book
# cloud.google.com/tpu/docs/{v5e,v5p,v6e}; nvidia.com data sheets. Prices: US,
# on demand, 2025; `plan.price` takes yours.
CHIPS = {
    'v5e': Chip(197e12, 16 * _G, 819e9, 200e9, 1.20, 2, 16),
    'v5p': Chip(459e12, 95 * _G, 2765e9, 600e9, 4.20, 3, 4),
    'v6e': Chip(918e12, 32 * _G, 1640e9, 400e9, 2.70, 2, 16),
    'a100': Chip(312e12, 80e9, 2039e9, 300e9, 0.0),
    'h100': Chip(989e12, 80e9, 3350e9, 450e9, 0.0),
}
TPUS = ('v5e', 'v5p', 'v6e')


class Layout(NamedTuple):
  """How a training step is laid over the chips."""

  data: int
  fsdp: int
  tensor: int
  rows: int                 # of a batch, on all chips together
  remat: str                # as transformer.ModelConfig

  @property
  def chips(self) -> int:
    return self.data * self.fsdp * self.tensor

  @property
  def shards(self) -> int:
    """Parts that a batch is cut into."""
    return self.data * self.fsdp


def block_params(cfg: transformer.ModelConfig) -> int:
  """Weights of all layers that stand in products."""
  attention = cfg.D * cfg.d * (2 * cfg.H + 2 * cfg.K)
  return cfg.N * (attention + 3 * cfg.D * cfg.F)


def n_params(cfg: transformer.ModelConfig) -> int:
  """All weights of `transformer.init`."""
  tables = (1 if cfg.tied else 2) * cfg.V * cfg.D
  return block_params(cfg) + tables + (2 * cfg.N + 1) * cfg.D


def forward_flops(
    cfg: transformer.ModelConfig, tokens: float, seen: float, heads: float
) -> tuple[float, float]:
  """(layers, output head) of `tokens`, each seeing `seen` tokens on average.

  `heads` of the tokens reach the output head.
  """
  attention = 4 * cfg.N * cfg.H * cfg.d * seen
  return (tokens * (2 * block_params(cfg) + attention),
          heads * 2 * cfg.V * cfg.D)


class Work(NamedTuple):
  """Of one step, on all chips together."""

  model_flops: float        # what MFU counts
  flops: float              # with what is computed twice
  tokens: float


def train_work(
    cfg: transformer.ModelConfig, rows: int, length: int, remat: str,
    with_reference: bool,
) -> Work:
  """One GRPO update of full rows whose every token is an action.

  Backward costs twice the forward pass. The head is always recomputed
  (`transformer.logp_entropy`), the layers with remat='block', their attention
  with 'dots'.
  """
  tokens = rows * length
  attention = tokens * 4 * cfg.N * cfg.H * cfg.d * length / 2
  layers, head = forward_flops(cfg, tokens, length / 2, tokens)
  model = 3 * (layers + head)
  if with_reference:
    model += layers + head
  again = head + {'none': 0, 'dots': attention, 'block': layers}[remat]
  return Work(model, model + again, tokens)


def state_bytes(cfg: transformer.ModelConfig, layout: Layout) -> float:
  """Per chip: float32 weights and the two moments of Adam."""
  return 3 * weight_bytes(cfg, layout)


def weight_bytes(cfg: transformer.ModelConfig, layout: Layout) -> float:
  """Per chip: one copy of the float32 weights."""
  return _F32 * n_params(cfg) / (layout.fsdp * layout.tensor)


def cache_bytes(
    cfg: transformer.ModelConfig, rows: int, capacity: int, layout: Layout
) -> float:
  """Per chip: keys and values of `rows` streams."""
  per_token = 2 * cfg.N * cfg.K * cfg.d * _width(cfg)
  return per_token * rows * capacity / layout.chips


def activation_bytes(
    cfg: transformer.ModelConfig, length: int, layout: Layout
) -> float:
  """Per chip, at the turn from forward to backward; gradients included.

  Kept: of each layer its input, with remat='dots' the products with weights
  too, without remat what every operation needs again. One layer is always held
  whole, two are gathered, and so is the table of the output head with its
  gradient (float32).
  """
  width, layer = _width(cfg), _layer_bytes(cfg, length, layout)
  tokens = layout.rows * length / layout.shards
  stream = tokens * width * cfg.D
  inner = ((cfg.H + 2 * cfg.K) * cfg.d + 2 * cfg.F) / layout.tensor
  kept = {'none': layer, 'dots': 3 * stream + tokens * width * inner,
          'block': stream}[layout.remat]
  gathered = width * block_params(cfg) / cfg.N / layout.tensor
  table = _F32 * cfg.V * cfg.D / layout.tensor
  return (cfg.N * kept + layer + 2 * gathered + 2 * table
          + weight_bytes(cfg, layout))


def _layer_bytes(
    cfg: transformer.ModelConfig, length: int, layout: Layout
) -> float:
  """Per chip: what one layer makes of its rows and its gradient needs.

  Among it in float32 the input of both norms; scores are the kernel's own.
  """
  tokens, width = layout.rows * length / layout.shards, _width(cfg)
  heads = (3 * cfg.H + 4 * cfg.K) * cfg.d / layout.tensor
  return tokens * width * (8 * cfg.D + heads + 5 * cfg.F / layout.tensor)


def train_link_bytes(
    cfg: transformer.ModelConfig, length: int, layout: Layout,
    with_reference: bool,
) -> dict[str, float]:
  """Per chip, sent in one update along each axis of the mesh.

  Weights gathered over `fsdp` forward and backward (and again with remat),
  gradients scattered over it, in the compute type and float32; gradients
  summed over `data`; two sums of activations a layer and pass over `tensor`.
  """
  width, passes = _width(cfg), 3 if layout.remat == 'block' else 2
  passes += with_reference
  mine = n_params(cfg) / layout.tensor
  activation = layout.rows * length / layout.shards * cfg.D * width
  return {
      'data': 2 * _F32 * mine / layout.fsdp * _others(layout.data),
      'fsdp': mine * (passes * width + _F32) * _others(layout.fsdp),
      'tensor': 2 * passes * cfg.N * 2 * activation * _others(layout.tensor)}


def train_hbm_bytes(
    cfg: transformer.ModelConfig, length: int, layout: Layout,
    with_reference: bool,
) -> float:
  """Per chip, read and written in one update: weights, Adam, activations.

  XLA multiplies with each part of a gathered weight as it comes, and adds to
  the product: it is read and written again for each of the `fsdp` parts.
  """
  passes = {'none': 2, 'dots': 2.5, 'block': 3}[layout.remat]
  products = layout.rows * length / layout.shards * _width(cfg) * (
      2 * cfg.D + ((cfg.H + 2 * cfg.K) * cfg.d + 2 * cfg.F) / layout.tensor)
  again = 2 * (layout.fsdp - 1) * (int(passes) + with_reference) * products
  return (passes * _width(cfg) * n_params(cfg) / layout.tensor
          + 2 * state_bytes(cfg, layout) + weight_bytes(cfg, layout)
          + cfg.N * (2 * passes * _layer_bytes(cfg, length, layout) + again))


class Decode(NamedTuple):
  """One token for each of the rows, on all chips together."""

  flops: float
  hbm_bytes: float          # per chip
  link_seconds: float


def decode_work(
    cfg: transformer.ModelConfig, chip: Chip, sides: Sequence[int], rows: int,
    columns: int, layout: Layout,
) -> Decode:
  """Weights are read once a token by every chip, and its part of the caches.

  Two sums over `tensor` a layer.
  """
  flops = sum(forward_flops(cfg, rows, columns, rows))
  over = spans(sides, layout.tensor)
  one = 2 * rows / layout.shards * cfg.D * _width(cfg) * _others(layout.tensor)
  link = 2 * cfg.N * (one / rate(chip, over) + 2 * hop_seconds(chip, over))
  return Decode(flops, read_bytes(cfg, layout)
                + cache_bytes(cfg, rows, columns, layout), link)


def read_bytes(cfg: transformer.ModelConfig, layout: Layout) -> float:
  """Per chip: the weights that a pass reads, whole but for `tensor`.

  Of an untied embedding only a few rows are.
  """
  unread = 0 if cfg.tied else cfg.V * cfg.D
  return _width(cfg) * (n_params(cfg) - unread) / layout.tensor


def served_bytes(cfg: transformer.ModelConfig, layout: Layout) -> float:
  """Per chip: a copy of the weights to decode with (models/serving.py)."""
  return _width(cfg) * n_params(cfg) / layout.tensor


class Times(NamedTuple):
  """Seconds that each unit needs at its peak."""

  compute: float
  hbm: float
  link: float

  @property
  def bound(self) -> str:
    """The unit that takes longest."""
    return max(self._fields, key=lambda name: getattr(self, name))

  @property
  def longest(self) -> float:
    """If all of them work at once."""
    return max(self)


def times(
    chip: Chip, chips: int, flops: float, hbm_bytes: float, link: float
) -> Times:
  """flops on all chips, bytes on each, seconds of the links."""
  return Times(flops / chips / chip.flops, hbm_bytes / chip.hbm_rate, link)


# Of a group of chips, along each axis of the torus in which it extends: its
# chips there, and those of the torus.
Spans = Sequence[tuple[int, int]]


def spans(sides: Sequence[int], n: int) -> Spans:
  """Of a group of n, if it is laid along as few axes as it can be."""
  found = []
  for side in sorted(sides, reverse=True):
    if n > 1:
      found.append((min(n, side), side))
      n = -(-n // side)
  return found


def rate(chip: Chip, over: Spans) -> float:
  """Bytes a second out of a chip to its group, by all links that lead there.

  Both ways around a ring; where the ends are not linked, or the group is a
  part of the ring, the chip at the end has one link.
  """
  if not chip.axes or not over:
    return chip.link_rate
  n_links = sum(2 if n == side >= chip.ring else 1 for n, side in over)
  return chip.link_rate / (2 * chip.axes) * n_links


def hop_seconds(chip: Chip, over: Spans) -> float:
  """What distance costs a collective, however small it is."""
  return _HOP * sum(
      n // 2 if n == side >= chip.ring else n - 1 for n, side in over)


def train_link_seconds(
    cfg: transformer.ModelConfig, length: int, layout: Layout,
    with_reference: bool, chip: Chip, sides: Sequence[int],
) -> float:
  """One axis of the mesh after the other."""
  sent = train_link_bytes(cfg, length, layout, with_reference)
  return sum(n / rate(chip, spans(sides, getattr(layout, axis)))
             for axis, n in sent.items())


def _width(cfg: transformer.ModelConfig) -> int:
  return _BF16 if cfg.dtype == 'bfloat16' else _F32


def _others(n: int) -> float:
  """The share of an array that a ring of n moves past each member."""
  return (n - 1) / n
