"""What a step costs, by arithmetic: floating-point operations, bytes, seconds.

Works on sizes alone, so it knows nothing of padding, of what the compiler
saves or wastes, or of overlap. Times are lower bounds: every unit at its peak.
A product of [m, k] and [k, n] counts 2 m k n; norms, rotary angles and softmax
are left out, as is usual for MFU.
"""

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


_G = 2.0 ** 30
# cloud.google.com/tpu/docs/{v5e,v5p,v6e}; nvidia.com data sheets. Prices: US,
# on demand, 2025; `plan.price` takes yours.
CHIPS = {
    'v5e': Chip(197e12, 16 * _G, 819e9, 200e9, 1.20),
    'v5p': Chip(459e12, 95 * _G, 2765e9, 600e9, 4.20),
    'v6e': Chip(918e12, 32 * _G, 1640e9, 400e9, 2.70),
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
  (`transformer.logp_entropy`), the layers with remat='block'.
  """
  tokens = rows * length
  layers, head = forward_flops(cfg, tokens, length / 2, tokens)
  model = 3 * (layers + head)
  if with_reference:
    model += layers + head
  again = head + (layers if remat == 'block' else 0)
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

  Kept: with remat the input of each layer, without it what each product and
  the softmax need again. One layer is always held whole, its scores in float32
  and in the compute type.
  """
  width, layer = _width(cfg), _layer_bytes(cfg, length, layout)
  stream = layout.rows * length / layout.shards * width * cfg.D
  kept = cfg.N * (stream if layout.remat == 'block' else layer)
  gathered = width * block_params(cfg) / cfg.N / layout.tensor
  return kept + layer + 2 * gathered + weight_bytes(cfg, layout)


def _layer_bytes(
    cfg: transformer.ModelConfig, length: int, layout: Layout
) -> float:
  """Per chip: what one layer makes of its rows."""
  tokens, width = layout.rows * length / layout.shards, _width(cfg)
  scores = tokens * cfg.H / layout.tensor * length / 2 * (_F32 + width)
  heads = (2 * cfg.H + 2 * cfg.K) * cfg.d / layout.tensor
  return scores + tokens * width * (
      4 * cfg.D + heads + 3 * cfg.F / layout.tensor)


def train_link_bytes(
    cfg: transformer.ModelConfig, length: int, layout: Layout
) -> float:
  """Per chip, sent in one update.

  Weights gathered over `fsdp` forward and backward (and again with remat),
  gradients scattered over it, in the compute type and float32; gradients
  summed over `data`; two sums of activations a layer and pass over `tensor`.
  """
  width, passes = _width(cfg), 3 if layout.remat == 'block' else 2
  mine = n_params(cfg) / layout.tensor
  sent = mine * (passes * width + _F32) * _others(layout.fsdp)
  sent += 2 * _F32 * mine / layout.fsdp * _others(layout.data)
  activation = layout.rows * length / layout.shards * cfg.D * width
  return sent + (
      2 * passes * cfg.N * 2 * activation * _others(layout.tensor))


def train_hbm_bytes(
    cfg: transformer.ModelConfig, length: int, layout: Layout
) -> float:
  """Per chip, read and written in one update: weights, Adam, activations."""
  passes = 3 if layout.remat == 'block' else 2
  return (passes * _width(cfg) * n_params(cfg) / layout.tensor
          + 2 * state_bytes(cfg, layout) + weight_bytes(cfg, layout)
          + 2 * passes * cfg.N * _layer_bytes(cfg, length, layout))


class Decode(NamedTuple):
  """One token for each of the rows, on all chips together."""

  flops: float
  hbm_bytes: float          # per chip


def decode_work(
    cfg: transformer.ModelConfig, rows: int, columns: int, layout: Layout
) -> Decode:
  """Weights are read once a token by every chip, and its part of the caches."""
  flops = sum(forward_flops(cfg, rows, columns, rows))
  return Decode(flops, read_bytes(cfg, layout)
                + cache_bytes(cfg, rows, columns, layout))


def read_bytes(cfg: transformer.ModelConfig, layout: Layout) -> float:
  """Per chip: the weights that a pass reads, whole but for `tensor`."""
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
    return max(self)


def times(
    chip: Chip, chips: int, flops: float, hbm_bytes: float, link_bytes: float
) -> Times:
  """flops on all chips, bytes on each."""
  return Times(flops / chips / chip.flops, hbm_bytes / chip.hbm_rate,
               link_bytes / chip.link_rate)


def _width(cfg: transformer.ModelConfig) -> int:
  return _BF16 if cfg.dtype == 'bfloat16' else _F32


def _others(n: int) -> float:
  """The share of an array that a ring of n moves past each member."""
  return (n - 1) / n
