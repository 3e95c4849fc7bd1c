"""What a run would need on accelerators that are not here: `--mode=plan`.

Searches (data, fsdp, tensor, rows, remat) by arithmetic, compiles the real
steps for the best that fits (TPUs), and prices the run. Times are lower bounds
and MFU an upper one: each unit at its peak, all of them at once. The run is
taken at its worst: every stream full, every turn taken.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dreamgym_jax import config as configs
from dreamgym_jax import learner
from dreamgym_jax.models import decoding, sharding, transformer
from dreamgym_jax.planning import compiling, geometries, roofline
from dreamgym_jax.stages import run as runs

_PER_SHARD = (1, 2, 4, 8)   # rows of a batch on each part of it
_PIECE = 128                # tokens of a prefill's call, as sampling's
_ROOM = 0.95                # of HBM that a plan by arithmetic may fill
_G = 2.0 ** 30


class Job(NamedTuple):
  """What is planned."""

  cfg: transformer.ModelConfig
  chip: roofline.Chip
  chips: int
  length: int               # tokens of a row of a training batch
  capacity: int             # of a stream
  episodes: int             # at once: J G
  written: int              # tokens that both roles write in an episode
  iterations: int
  sft_tokens: float
  has_reference: bool


class Guess(NamedTuple):
  """A layout, by arithmetic; bytes and times of one chip."""

  layout: roofline.Layout
  bytes: float              # at the fullest moment of training
  work: roofline.Work
  times: roofline.Times

  @property
  def rate(self) -> float:
    """Tokens trained in a second, at most."""
    return self.work.tokens / self.times.longest


def parse_topology(text: str) -> tuple[str, int]:
  """'v5p:4x4x4' -> ('v5p', 64); ConfigError for what is none."""
  kind, _, sizes = text.partition(':')
  parts = sizes.split('x')
  if kind not in roofline.CHIPS or not all(p.isdecimal() for p in parts):
    raise configs.ConfigError(
        f'plan.topology={text!r}: write e.g. v5p:4x4x4; chips are '
        f'{", ".join(roofline.CHIPS)}')
  n = math.prod(map(int, parts))
  if not n:
    raise configs.ConfigError(f'plan.topology={text!r}: has no chips')
  return kind, n


def job_of(c: configs.D) -> Job:
  """Of a config; ConfigError for a model or topology that is unknown."""
  kind, chips = parse_topology(c.plan.topology)
  if c.plan.model and c.plan.model not in geometries.MODELS:
    raise configs.ConfigError(
        f"plan.model={c.plan.model!r}: '' is the config's own; else "
        f'{", ".join(geometries.MODELS)}')
  files = runs.Files(c, pathlib.Path())
  V = files.tok.vocab_size if c.model.pretrained else c.tokenizer.vocab_size
  cfg = geometries.MODELS.get(c.plan.model) or files.model_config(V)
  chip = roofline.CHIPS[kind]
  if c.plan.price:
    chip = chip._replace(price=c.plan.price)
  return Job(
      cfg, chip, chips, c.batch.length, c.sampler.capacity,
      c.rl.tasks * c.rl.group,
      c.env.max_steps * (c.rl.max_new + c.experience.max_new),
      c.dream.iterations,
      c.experience.steps * c.batch.rows * c.batch.length, c.rl.kl_coef > 0)


def layouts(
    job: Job, fsdp: int, tensor: int, rows: int
) -> Iterator[roofline.Layout]:
  """All that divide evenly; 0 leaves a size open."""
  cfg = job.cfg
  for t in _divisors(job.chips):
    if (tensor and t != tensor) or any(n % t for n in (
        cfg.H, cfg.K, cfg.F, cfg.V)):
      continue
    for f in _divisors(job.chips // t):
      if (fsdp and f != fsdp) or cfg.D % f:
        continue
      data = job.chips // t // f
      for per in _PER_SHARD:
        for remat in ('none', 'block'):
          if not rows or rows == per * data * f:
            yield roofline.Layout(data, f, t, per * data * f, remat)


def guess(job: Job, layout: roofline.Layout) -> Guess:
  """Bytes and times of one update, by arithmetic."""
  cfg = job.cfg
  work = roofline.train_work(
      cfg, layout.rows, job.length, layout.remat, job.has_reference)
  resident = roofline.state_bytes(cfg, layout) + _others(job, layout)
  return Guess(
      layout,
      resident + roofline.activation_bytes(cfg, job.length, layout), work,
      roofline.times(
          job.chip, job.chips, work.flops,
          roofline.train_hbm_bytes(cfg, job.length, layout),
          roofline.train_link_bytes(cfg, job.length, layout)))


def _others(job: Job, layout: roofline.Layout) -> float:
  """Beside the policy's state: reference, M_exp, the caches of both roles."""
  copies = 1 + job.has_reference
  return copies * roofline.weight_bytes(job.cfg, layout) + (
      2 * roofline.cache_bytes(job.cfg, job.episodes, job.capacity, layout))


def search(job: Job, fsdp: int = 0, tensor: int = 0,
           rows: int = 0) -> list[Guess]:
  """Best first: those that fit by rate, then the others by bytes."""
  found = [guess(job, at) for at in layouts(job, fsdp, tensor, rows)]
  if not found:
    raise configs.ConfigError(
        f'plan.fsdp={fsdp}, plan.tensor={tensor}, plan.rows={rows}: no such '
        f'layout of {job.chips} chips divides this model; 0 leaves one open')
  room = _ROOM * job.chip.hbm
  # Of equal rates the one that has least to hide behind the longest.
  return sorted(found, key=lambda g: (
      g.bytes > room, -round(g.rate) if g.bytes <= room else g.bytes,
      sum(g.times) / g.work.tokens))


def make(c: configs.D) -> str:
  """The plan as text; its last line says whether the run fits."""
  configs.validate(c)
  job, kind = job_of(c), parse_topology(c.plan.topology)[0]
  found = search(job, c.plan.fsdp, c.plan.tensor, c.plan.rows)
  best = found[0]
  lines = [*_head(c, job), '', 'search (by arithmetic, best first):',
           *map(_row, found[:5]), '']
  needed, link = best.bytes, None
  if kind in roofline.TPUS and c.plan.compile:
    steps = _compile(c, job, best.layout)
    lines += ['compiled for the chip:', *(
        f'  {name:8} {s.total / _G:8.2f} GiB a chip, of it arguments '
        f'{s.arguments / _G:.2f}; {s.link_bytes / _G:.3f} GiB sent'
        for name, s in steps.items()), '']
    link = {name: s.link_bytes for name, s in steps.items()}
    needed = _fullest(job, best.layout, steps)
  lines += [*_speed(job, best, link), '']
  lines.append(f'{needed / _G:.2f} GiB a chip with all that is resident, of '
               f'{job.chip.hbm / _G:.2f}')
  over = needed - job.chip.hbm
  lines.append('fits' if over <= 0 else
               f'does not fit: {over / _G:.2f} GiB a chip too much')
  return '\n'.join(lines)


def _compile(
    c: configs.D, job: Job, layout: roofline.Layout
) -> dict[str, compiling.Compiled]:
  chips = compiling.devices(c.plan.topology)
  mesh = sharding.make_mesh(
      layout.data, layout.fsdp, layout.tensor, np.ravel(chips).tolist())
  cfg = dataclasses.replace(job.cfg, remat=layout.remat)
  optimizer = learner.make_optimizer(
      c.rl.lr, warmup_steps=2, total_steps=1,
      max_grad_norm=c.rl.max_grad_norm, schedule=learner.warmup_constant)
  step = learner.make_grpo_step(
      cfg, optimizer, c.rl.clip_low, c.rl.clip_high, c.rl.kl_coef,
      c.rl.entropy_coef)
  rows = -(-job.episodes // layout.shards) * layout.shards
  shape = compiling.Sampling(rows, job.capacity, _PIECE)
  return {
      'train': compiling.train_step(
          cfg, mesh, layout.rows, job.length, optimizer, step),
      'extend': compiling.extend_step(cfg, mesh, shape),
      'decode': compiling.decode_step(cfg, mesh, shape)}


def _fullest(job, layout, steps) -> float:
  """Bytes a chip of the fullest step and of all that waits meanwhile."""
  cfg = job.cfg
  weights = roofline.weight_bytes(cfg, layout)
  caches = 2 * roofline.cache_bytes(cfg, job.episodes, job.capacity, layout)
  # Training names state and reference itself; sampling one copy of the
  # weights and one cache.
  waiting = {'train': weights + caches}
  waiting['extend'] = waiting['decode'] = (
      roofline.state_bytes(cfg, layout) + job.has_reference * weights
      + caches / 2)
  return max(s.total + waiting[name] for name, s in steps.items())


def _head(c, job: Job) -> list[str]:
  cfg = job.cfg
  return [
      f'{c.plan.model or "the model of the config"}: '
      f'{roofline.n_params(cfg) / 1e9:.3g}e9 parameters, {cfg.dtype}; policy '
      'and experience model of this size each',
      f'{c.plan.topology}: {job.chips} chips of {job.chip.hbm / _G:.0f} GiB, '
      f'{job.chip.flops / 1e12:.0f} TFLOP/s, HBM '
      f'{job.chip.hbm_rate / 1e9:.0f} GB/s, links '
      f'{job.chip.link_rate / 1e9:.0f} GB/s',
      f'{job.episodes} episodes at once, streams of {job.capacity} tokens, '
      f'rows of {job.length}']


def _row(g: Guess) -> str:
  at = g.layout
  return (f'  data={at.data:<3} fsdp={at.fsdp:<3} tensor={at.tensor:<2} '
          f'rows={at.rows:<4} remat={at.remat:5} {g.bytes / _G:7.2f} GiB '
          f'{g.rate:10,.0f} tokens/s, bound by {g.times.bound}')


def _speed(job: Job, best: Guess, link: dict[str, float] | None) -> list[str]:
  """Times of each step, and what the run takes."""
  cfg, at = job.cfg, best.layout
  train = best.times
  decode = roofline.decode_work(cfg, job.episodes, job.capacity, at)
  one = roofline.times(job.chip, job.chips, decode.flops, decode.hbm_bytes, 0.0)
  tokens = job.episodes * job.capacity
  fill = sum(roofline.forward_flops(cfg, tokens, job.capacity / 2, 0))
  pieces = job.capacity / _PIECE
  prefill = roofline.times(
      job.chip, job.chips, fill,
      pieces * roofline.read_bytes(cfg, at), 0.0)
  if link:    # what the compiler really sends
    train = train._replace(link=link['train'] / job.chip.link_rate)
    one = one._replace(
        link=link['decode'] / decoding.CHUNK / job.chip.link_rate)
    prefill = prefill._replace(
        link=link['extend'] * pieces / job.chip.link_rate)
  mfu = best.work.model_flops / job.chips / job.chip.flops / train.longest
  seconds = {
      'train': job.iterations * tokens / best.work.tokens * train.longest,
      'prefill': job.iterations * 2 * prefill.longest,
      'decode': job.iterations * job.written * one.longest,
      'SFT': job.sft_tokens / best.work.tokens * train.longest}
  hours = sum(seconds.values()) / 3600 * job.chips
  updates = max(1, math.ceil(tokens / (0.9 * best.work.tokens)))
  price = (f'${hours * job.chip.price:,.0f} at ${job.chip.price:.2f} a '
           'chip-hour' if job.chip.price else 'set plan.price for its price')
  unsaid = [] if link else [
      'Of prefill and decode nothing is known of the links: not compiled.']
  return [
      f'layout: data={at.data} fsdp={at.fsdp} tensor={at.tensor} '
      f'model.remat={at.remat} rl.updates={updates} (rows of {at.rows})',
      f'train:   {_told(train)}; {best.work.model_flops:.3g} FLOP, MFU at most '
      f'{mfu:.0%}, {best.work.tokens / train.longest:,.0f} tokens/s',
      f'prefill: {_told(prefill)} for all streams, {fill:.3g} FLOP',
      f'decode:  {_told(one)} a token of each of {job.episodes} rows, '
      f'{one.hbm / one.longest:.0%} of the HBM roofline, '
      f'{job.episodes / one.longest:,.0f} tokens/s',
      'run:     ' + ', '.join(
          f'{name} {s / 3600:.2f} h' for name, s in seconds.items())
      + f'; {hours:,.1f} chip-hours, {price}', *unsaid]


def _told(t: roofline.Times) -> str:
  return (f'{t.longest * 1e3:.3g} ms (compute {t.compute * 1e3:.3g}, HBM '
          f'{t.hbm * 1e3:.3g}, links {t.link * 1e3:.3g})')


def _divisors(n: int) -> list[int]:
  return [i for i in range(1, n + 1) if n % i == 0]
