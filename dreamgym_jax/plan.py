"""What a run would need on accelerators that are not here: `--mode=plan`.

Searches (data, fsdp, tensor, rows, remat) by arithmetic for the shortest run,
compiles the real steps (TPUs) of one layout after the other until they fit, and
prices the run. Every unit is taken at its peak; two figures bound what would be
measured: all units at once (the time of the slowest) and one after the other
(their sum). The run is taken at its worst: every stream full, every turn taken.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dreamgym_jax import config as configs
from dreamgym_jax import learner
from dreamgym_jax.models import decoding, sharding, transformer
from dreamgym_jax.planning import compiling, geometries, roofline
from dreamgym_jax.stages import run as runs

_PER_SHARD = (1, 2, 4, 8)   # rows of a batch on each part of it
_PIECE = 128                # tokens of a prefill's call, as sampling's
_ROOM = 0.9                 # of HBM that a plan by arithmetic may fill
_TRIES = 4                  # layouts compiled until one fits
_MORE = 8                   # times as many chips, of weak scaling
_G = 2.0 ** 30


class Job(NamedTuple):
  """What is planned."""

  cfg: transformer.ModelConfig
  chip: roofline.Chip
  sides: tuple[int, ...]    # of the torus
  length: int               # tokens of a row of a training batch
  capacity: int             # of a stream
  episodes: int             # at once: J G
  written: int              # tokens that both roles write in an episode
  iterations: int
  sft_tokens: float
  has_reference: bool

  @property
  def chips(self) -> int:
    return math.prod(self.sides)

  @property
  def read(self) -> int:
    """Tokens of all streams when they are full."""
    return self.episodes * self.capacity


class Guess(NamedTuple):
  """A layout, by arithmetic; bytes and times of one chip."""

  layout: roofline.Layout
  bytes: float              # at the fullest moment of training
  work: roofline.Work
  train: roofline.Times
  prefill: roofline.Times   # of all streams
  decode: roofline.Times    # of a token of each row

  @property
  def rate(self) -> float:
    """Tokens trained in a second, at most."""
    return self.work.tokens / self.train.longest


def parse_topology(text: str) -> tuple[str, tuple[int, ...]]:
  """'v5p:4x4x4' -> ('v5p', (4, 4, 4)); ConfigError for what is none."""
  kind, _, sizes = text.partition(':')
  parts = sizes.split('x')
  if kind not in roofline.CHIPS or not all(p.isdecimal() for p in parts):
    raise configs.ConfigError(
        f'plan.topology={text!r}: write e.g. v5p:4x4x4; chips are '
        f'{", ".join(roofline.CHIPS)}')
  sides = tuple(map(int, parts))
  if not math.prod(sides):
    raise configs.ConfigError(f'plan.topology={text!r}: has no chips')
  return kind, sides


def job_of(c: configs.D) -> Job:
  """Of a config; ConfigError for a model or topology that is unknown."""
  kind, sides = parse_topology(c.plan.topology)
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
      cfg, chip, sides, c.batch.length, c.sampler.capacity,
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
        for remat in transformer.REMAT:
          if not rows or rows == per * data * f:
            yield roofline.Layout(data, f, t, per * data * f, remat)


def guess(job: Job, layout: roofline.Layout) -> Guess:
  """Bytes and times by arithmetic."""
  cfg, chip, at = job.cfg, job.chip, layout
  work = roofline.train_work(
      cfg, at.rows, job.length, at.remat, job.has_reference)
  training = (
      roofline.state_bytes(cfg, at) + _frozen(job, at)
      + roofline.activation_bytes(cfg, job.length, at))
  cache = roofline.cache_bytes(cfg, job.episodes, job.capacity, at)
  sampling = _waiting(job, at)['decode'] + (
      roofline.served_bytes(cfg, at) + cache)
  train = roofline.times(
      chip, job.chips, work.flops,
      roofline.train_hbm_bytes(cfg, job.length, at, job.has_reference),
      roofline.train_link_seconds(
          cfg, job.length, at, job.has_reference, chip, job.sides))
  one = roofline.decode_work(
      cfg, chip, job.sides, job.episodes, job.capacity, at)
  pieces = job.capacity / _PIECE
  sums = roofline.decode_work(
      cfg, chip, job.sides, job.episodes * _PIECE, 0, at)
  return Guess(
      at, max(training, sampling), work, train,
      roofline.times(
          chip, job.chips,
          sum(roofline.forward_flops(cfg, job.read, job.capacity / 2, 0)),
          pieces * (roofline.read_bytes(cfg, at) + cache / 2),
          pieces * sums.link_seconds),
      roofline.times(
          chip, job.chips, one.flops, one.hbm_bytes, one.link_seconds))


def _frozen(job: Job, at: roofline.Layout) -> float:
  """Bytes of what nobody trains: M_exp, the reference."""
  width = 2 if job.cfg.dtype == 'bfloat16' else 4
  return (1 + job.has_reference) * width / 4 * roofline.weight_bytes(
      job.cfg, at)


def _waiting(job: Job, at: roofline.Layout) -> dict[str, float]:
  """Bytes a chip of what a step does not name, but is there meanwhile.

  Samplers free caches and copies before an update (sampling.release).
  """
  cfg, frozen = job.cfg, _frozen(job, at)
  cache = roofline.cache_bytes(cfg, job.episodes, job.capacity, at)
  other = roofline.state_bytes(cfg, at) + frozen + (
      roofline.served_bytes(cfg, at) + cache)
  return {'train': frozen / (1 + job.has_reference), 'prefill': other,
          'extend': other, 'decode': other}


def seconds(
    job: Job, g: Guess,
    of: Callable[[roofline.Times], float] = lambda t: t.longest,
) -> dict[str, float]:
  """Of the whole run, by what is done."""
  tokens, n = g.work.tokens, job.iterations
  return {
      'train': n * job.read / tokens * of(g.train),
      'prefill': n * 2 * of(g.prefill),
      'decode': n * job.written * of(g.decode),
      'SFT': job.sft_tokens / tokens * of(g.train)}


def search(job: Job, fsdp: int = 0, tensor: int = 0,
           rows: int = 0) -> list[Guess]:
  """Best first: those that fit by the run's time, then the others by bytes.

  The time is between that with all units at once and that with one after the
  other: a layout is not to hide much behind little.
  """
  found = [guess(job, at) for at in layouts(job, fsdp, tensor, rows)]
  if not found:
    raise configs.ConfigError(
        f'plan.fsdp={fsdp}, plan.tensor={tensor}, plan.rows={rows}: no such '
        f'layout of {job.chips} chips divides this model; 0 leaves one open')
  room = _ROOM * job.chip.hbm

  def cost(g):
    both = (sum(seconds(job, g, of).values()) for of in (max, sum))
    return (False, sum(both)) if g.bytes <= room else (True, g.bytes)

  return sorted(found, key=cost)


def make(c: configs.D) -> str:
  """The plan as text; its last line says whether the run fits."""
  configs.validate(c)
  job, kind = job_of(c), parse_topology(c.plan.topology)[0]
  found = search(job, c.plan.fsdp, c.plan.tensor, c.plan.rows)
  best, fullest = found[0], 'by arithmetic'
  lines = [*_head(c, job), '', 'search (by arithmetic, best first):',
           *map(_row, found[:5]), '']
  if kind in roofline.TPUS and c.plan.compile:
    best, compiled, tried = _first_that_fits(c, job, found)
    best = compiled_times(job, best, compiled)
    waits = _waiting(job, best.layout)
    fullest = max(compiled, key=lambda k: compiled[k].total + waits[k])
    lines += [*tried, 'compiled for the chip'
              + _CARRIED * (len(c.plan.layers) > 1) + ':',
              *(_step(name, s, job, best.layout)
                for name, s in compiled.items()), '']
  needed, over = best.bytes, best.bytes - job.chip.hbm
  lines += [*_speed(job, best), _scaling(job, best), '']
  lines.append(f'{needed / _G:.2f} GiB a chip with all that is resident '
               f'({fullest}), of {job.chip.hbm / _G:.2f}')
  lines.append('fits' if over <= 0 else
               f'does not fit: {over / _G:.2f} GiB a chip too much')
  return '\n'.join(lines)


_CARRIED = ' (prefill, extend and decode from fewer layers, carried on)'


def _first_that_fits(
    c: configs.D, job: Job, found: Sequence[Guess]
) -> tuple[Guess, dict[str, compiling.Compiled], list[str]]:
  """The first layout whose training step fits, its steps, what was tried."""
  tried, best = [], None
  for _ in range(_TRIES):
    step = _compile_train(c, job, found[0].layout)
    needed = step.total + _waiting(job, found[0].layout)['train']
    if best is None or needed < best[0]:
      best = needed, found[0], step
    rest = [g for g in found if g.bytes < 0.85 * found[0].bytes]
    if needed <= job.chip.hbm or not rest:
      break
    tried.append(f'compiled, does not fit ({needed / _G:.2f} GiB a chip):\n'
                 + _row(found[0]))
    found = rest
  _, g, step = best
  return g, {'train': step} | _compile_sampler(c, job, g.layout), tried


def _target(c, job: Job, at: roofline.Layout) -> compiling.Target:
  chips = compiling.devices(c.plan.topology)
  return compiling.Target(sharding.make_mesh(
      at.data, at.fsdp, at.tensor, np.ravel(chips).tolist()),
      job.chip, job.sides)


def _compile_train(c, job, at) -> compiling.Compiled:
  cfg = dataclasses.replace(job.cfg, remat=at.remat)
  optimizer = learner.make_optimizer(
      c.rl.lr, warmup_steps=2, total_steps=1,
      max_grad_norm=c.rl.max_grad_norm, schedule=learner.warmup_constant)
  step = learner.make_grpo_step(
      cfg, optimizer, c.rl.clip_low, c.rl.clip_high, c.rl.kl_coef,
      c.rl.entropy_coef)
  return compiling.train_step(
      cfg, _target(c, job, at), at.rows, job.length, optimizer, step)


def _compile_sampler(c, job, at) -> dict[str, compiling.Compiled]:
  rows = -(-job.episodes // at.shards) * at.shards
  full = compiling.Sampling(rows, job.capacity, job.capacity, _PIECE)

  def compiled(step, shape):
    return compiling.carried_on(
        step, job.cfg, c.plan.layers, _target(c, job, at), shape)

  return {
      'prefill': compiled(compiling.extend_step, full._replace(columns=0)),
      'extend': compiled(compiling.extend_step, full),
      'decode': compiled(compiling.decode_step, full)}


def compiled_times(
    job: Job, g: Guess, steps: dict[str, compiling.Compiled]
) -> Guess:
  """The guess with bytes and times as compiled; operations by arithmetic."""
  def per(step: compiling.Compiled, n: float) -> dict[str, float]:
    return dict(hbm=step.hbm_bytes * n / job.chip.hbm_rate,
                link=step.link_seconds * n)

  waiting = _waiting(job, g.layout)
  # Half of a prefill's pieces see less than half of the columns.
  piece = compiling.Compiled(*(
      (a + b) / 2 for a, b in zip(
          steps['prefill'], steps['extend'], strict=True)))
  return g._replace(
      bytes=max(s.total + waiting[name] for name, s in steps.items()),
      train=g.train._replace(**per(steps['train'], 1)),
      prefill=g.prefill._replace(**per(piece, job.capacity / _PIECE)),
      decode=g.decode._replace(**per(steps['decode'], 1 / decoding.CHUNK)))


def _step(name, s, job, at) -> str:
  waits = _waiting(job, at)[name]
  return (f'  {name:8} {s.total / _G:7.2f} GiB a chip (arguments '
          f'{s.arguments / _G:.2f}), {waits / _G:.2f} beside; touches '
          f'{s.hbm_bytes / _G:.1f} GiB of HBM, sends {s.link_bytes / _G:.3f}')


def _head(c, job: Job) -> list[str]:
  cfg = job.cfg
  return [
      f'{c.plan.model or "the config"}: {roofline.n_params(cfg) / 1e9:.3g}e9 '
      f'parameters, {cfg.dtype}; policy and experience model of this size each',
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
          f'{g.rate:10,.0f} tokens/s, bound by {g.train.bound}')


def _speed(job: Job, g: Guess) -> list[str]:
  """Times of each step, and what the run takes."""
  at, work = g.layout, g.work
  ideal = work.model_flops / job.chips / job.chip.flops
  least = roofline.decode_work(
      job.cfg, job.chip, job.sides, job.episodes, job.capacity, at
  ).hbm_bytes / job.chip.hbm_rate
  run = seconds(job, g)
  hours = sum(run.values()) / 3600 * job.chips
  updates = max(1, math.ceil(job.read / (0.9 * work.tokens)))
  price = (f'${hours * job.chip.price:,.0f} at ${job.chip.price:.2f} a '
           'chip-hour' if job.chip.price else 'set plan.price for its price')
  return [
      f'layout: data={at.data} fsdp={at.fsdp} tensor={at.tensor} '
      f'model.remat={at.remat} rl.updates={updates} (rows of {at.rows})',
      f'train:   {_told(g.train)}; {work.model_flops:.3g} FLOP, MFU '
      f'{ideal / g.train.longest:.0%} if all overlaps, '
      f'{ideal / sum(g.train):.0%} if nothing does, '
      f'{work.tokens / g.train.longest:,.0f} tokens/s',
      f'prefill: {_told(g.prefill)} for all streams',
      f'decode:  {_told(g.decode)} a token of each of {job.episodes} rows; '
      f'weights and caches read once take {least * 1e3:.3g} ms: '
      f'{least / g.decode.longest:.0%} of the HBM roofline, '
      f'{least / (g.decode.hbm + g.decode.link):.0%} if links do not overlap; '
      f'{job.episodes / g.decode.longest:,.0f} tokens/s',
      'run:     ' + ', '.join(
          f'{name} {s / 3600:.2f} h' for name, s in run.items())
      + f'; {hours:,.1f} chip-hours, {price}']


def _scaling(job: Job, g: Guess) -> str:
  """Training on more chips with as many more rows, by the same model.

  A torus grows along all its axes, a grid 2 x 4. The layout is searched again,
  for training alone; what is more by arithmetic is added to what was compiled.
  """
  factors = {3: (2, 2, 2), 2: (2, 4)}.get(len(job.sides), (_MORE,))
  large = job._replace(
      sides=tuple(n * k for n, k in zip(job.sides, factors, strict=True)),
      episodes=job.episodes * _MORE)
  wide = min(search(large, rows=g.layout.rows * _MORE), key=lambda w: (
      w.bytes > _ROOM * job.chip.hbm, w.train.longest + sum(w.train)))
  after = roofline.Times(*(
      max(0.0, x + more - less) for x, more, less in zip(
          g.train, wide.train, guess(job, g.layout).train, strict=True)))
  return (
      f'{job.chips} -> {large.chips} chips (data={wide.layout.data} '
      f'fsdp={wide.layout.fsdp} tensor={wide.layout.tensor}): '
      f'{g.train.longest / after.longest:.0%} of the training rate a chip if '
      f'all overlaps, {sum(g.train) / sum(after):.0%} if nothing does')


def _told(t: roofline.Times) -> str:
  return (f'{t.longest * 1e3:.3g} ms (compute {t.compute * 1e3:.3g}, HBM '
          f'{t.hbm * 1e3:.3g}, links {t.link * 1e3:.3g})')


def _divisors(n: int) -> list[int]:
  return [i for i in range(1, n + 1) if n % i == 0]
