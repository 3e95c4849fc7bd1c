"""What every stage of a run shares: config, workdir, counts, progress.

Files of a workdir (and, without the checkpoints, of a shipped directory):
  offline.jsonl.gz        real transitions of the offline set, annotated
  tokenizer.model         sentencepiece
  base.safetensors        all roles' start
  experience.safetensors  M_exp (and M_task: the same parameters)
  warmup.safetensors      the policy before any RL
  dream.safetensors ...   the policy after the stage of that name

With `model.pretrained` tokenizer and base are that model's; with
`model.lora_rank` the files of roles hold adapters, and all share one base.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
import tqdm

from dreamgym_jax import checkpoint, config, distributed, types
from dreamgym_jax.data import trajectories
from dreamgym_jax.models import (
    lora,
    pretrained,
    sharding,
    transformer,
    weights,
)
from dreamgym_jax.report import writer
from dreamgym_jax.text import pretrained as tokenizers
from dreamgym_jax.text import prompts, tokenizer

SHIPPED = pathlib.Path(__file__).parents[1] / 'shipped'
# Keys that may differ when a run is resumed: they change no result.
_MAY_CHANGE = ('env.workers', 'env.timeout', 'report.', 'checkpoint_every',
               'plan.', 'mesh.',
               'teacher.key_env', 'teacher.retries', 'teacher.timeout',
               'teacher.workers', 'teacher.prompt_price',
               'teacher.completion_price')
# Before the teacher, and its answers.
UNTAUGHT, TEACHER = 'untaught.jsonl.gz', 'teacher'
OFFLINE, TOKENIZER = 'offline.jsonl.gz', 'tokenizer.model'
# Sub-streams of the run's seed.
(COLLECT, BASE, EXPERIENCE, WARMUP, GATE, DREAM, TRANSFER, REAL,
 EVALUATE, AUDIT) = range(10)


class MissingError(FileNotFoundError):
  """A file that an earlier stage makes, or that ships, is not there."""


class WorkdirError(OSError):
  """The workdir cannot be written."""


@dataclasses.dataclass(frozen=True)
class Files:
  """What stages hand to each other, as the config has it; changes nothing."""

  config: ml_collections.ConfigDict
  workdir: pathlib.Path

  def path(self, name: str) -> pathlib.Path:
    """The file in the workdir, else the shipped one; MissingError if none."""
    own = self.workdir / name
    if own.exists() or not self.config.shipped:
      return own
    return SHIPPED / self.config.shipped / name

  def need(self, name: str) -> pathlib.Path:
    path = self.path(name)
    if not path.exists():
      raise MissingError(
          f'{path} is not there: run the stage that makes it first '
          '(--mode=run), or set config.shipped')
    return path

  @functools.cached_property
  def _pretrained(self) -> pathlib.Path:
    return pretrained.find(self.config.model.pretrained)

  @functools.cached_property
  def tok(self) -> tokenizer.Tokenizer:
    if self.config.model.pretrained:
      return tokenizers.load(self._pretrained)
    return tokenizer.load(self.need(TOKENIZER))

  def prompts(self) -> prompts.Prompts:
    return prompts.Prompts(self.tok, self.config.replay.demo_tokens,
                           self.config.prompt.repeat_pages,
                           self.config.prompt.restates,
                           self.config.prompt.refers,
                           self.config.prompt.reminds,
                           self.config.prompt.names)

  def offline(self) -> list[types.Episode]:
    episodes = trajectories.read_jsonl(self.need(OFFLINE))
    if not episodes:
      raise trajectories.TrajectoryError(
          f'{self.path(OFFLINE)} holds no episodes: remove it, so that they '
          'are collected, or shipped ones used')
    return episodes

  def model_config(self, vocab_size: int) -> transformer.ModelConfig:
    m = self.config.model
    if m.pretrained:
      return pretrained.read_config(
          self._pretrained, V=vocab_size, dtype=m.dtype, remat=m.remat,
          unroll=m.unroll)
    return transformer.ModelConfig(
        V=vocab_size, D=m.D, N=m.N, H=m.H, K=m.K, d=m.d, F=m.F,
        rope_theta=m.rope_theta, dtype=m.dtype, remat=m.remat,
        unroll=m.unroll)

  @functools.cached_property
  def base(self) -> types.Params:
    """The base without adapters; read once, for all roles share its arrays."""
    V = self.tok.vocab_size
    cfg = self.model_config(V)
    if self.config.model.pretrained:
      return transformer.place(pretrained.load(
          self._pretrained, V, sharding.in_use()).params, cfg)
    return self._read('base', cfg)

  def _read(
      self, name: str, cfg: transformer.ModelConfig,
      shapes: types.Params | None = None,
  ) -> types.Params:
    """A file of weights, on the mesh."""
    path = self.need(f'{name}.safetensors')
    return transformer.place(weights.load(path, cfg, shapes), cfg)

  def params(self, name: str, cfg: transformer.ModelConfig) -> types.Params:
    """A role's weights; 'base' is where roles start."""
    rank, is_base = self.config.model.lora_rank, name == 'base'
    if not rank:
      return self.base if is_base else self._read(name, cfg)
    own = (transformer.place(
        lora.init(jax.random.key(self.config.seed), cfg, rank), cfg)
           if is_base else self._read(name, cfg, lora.shapes(cfg, rank)))
    return lora.join(self.base, own)


def open_mesh(files: Files) -> jax.sharding.Mesh:
  """The mesh that a config asks for; ConfigError names the key that is wrong.

  Batches of RL are filled up with empty rows, and the samplers' rows rounded
  up; what must divide is what the config fixes.
  """
  c = files.config
  sizes = c.mesh.data, c.mesh.fsdp, c.mesh.tensor
  devices = jax.devices()
  if -1 not in sizes:
    devices = devices[:math.prod(sizes)]
  without = set(range(jax.process_count())) - {d.process_index for d in devices}
  if without:
    raise config.ConfigError(
        f'mesh.data * mesh.fsdp * mesh.tensor = {math.prod(sizes)}: leaves '
        f'processes {sorted(without)} without a device of the mesh; '
        f'there are {len(jax.devices())}: --config.mesh.data=-1 takes all')
  try:
    mesh = sharding.make_mesh(*sizes, devices=devices)
  except ValueError as error:
    raise config.ConfigError(
        f'mesh.data, mesh.fsdp, mesh.tensor: {error}') from error
  n = sharding.n_batch_shards(mesh)
  cfg = files.model_config(1)
  for key, value, axes, parts in (
      ('batch.rows', c.batch.rows, 'mesh.data * mesh.fsdp', n),
      ('batch.positions', c.batch.positions, 'mesh.data * mesh.fsdp', n),
      ('model.D', cfg.D, 'mesh.fsdp', mesh.shape['fsdp']),
      ('model.H', cfg.H, 'mesh.tensor', mesh.shape['tensor']),
      ('model.F', cfg.F, 'mesh.tensor', mesh.shape['tensor'])):
    if value % parts:
      raise config.ConfigError(
          f'{key}={value} does not divide over {axes}={parts}')
  return mesh


@dataclasses.dataclass(frozen=True)
class Run(Files):
  """One run; owns its workdir."""

  stages: checkpoint.Stages
  metrics: writer.MetricsWriter | writer.Silent
  commit: str = ''
  command: str = ''
  say: Callable[[str], None] = print

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[dict[str, Any]]:
    """Times a stage and marks it done with what the block puts in the dict."""
    self.say(f'\n== {name}')
    start = time.monotonic()
    result: dict[str, Any] = {}
    yield result
    seconds = time.monotonic() - start
    self.stages.finish(name, result, seconds)
    self.say(f'   {name}: {seconds:.0f} s')

  @contextlib.contextmanager
  def bar(self, total: int | None, unit: str, start: int = 0):
    """A progress bar with a rate; off a terminal it prints now and then."""
    with tqdm.tqdm(total=total, unit=f' {unit}', initial=start, ncols=79,
                   mininterval=2.0, leave=False, smoothing=0.1,
                   disable=not distributed.is_first()) as bar:
      yield bar

  def save_params(self, name: str, params: types.Params,
                  cfg: transformer.ModelConfig, **card: Any) -> None:
    """Keeps a role's weights; of adapted ones the adapters."""
    _, own = lora.split(params)
    weights.save(self.workdir / f'{name}.safetensors', own, cfg, card)
    distributed.barrier(f'weights {name} saved')

  def is_there(self, path: pathlib.Path) -> bool:
    """Whether a file is there, as the first process sees it."""
    return distributed.of_first(f'{path.name} there', path.exists())

  def write(
      self, path: pathlib.Path, episodes: Sequence[types.Episode]
  ) -> None:
    """Episodes as JSON lines; the first process writes, all wait."""
    if distributed.is_first():
      trajectories.write_jsonl(path, episodes)
    distributed.barrier(f'{path.name} written')


def open_run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, commit: str,
    command: str,
) -> Run:
  """Opens or resumes a workdir; raises WorkdirError or CheckpointError."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    stages = checkpoint.Stages(workdir, config.to_dict(), ignore=_MAY_CHANGE)
    metrics = writer.open_metrics(workdir)
  except OSError as error:
    raise WorkdirError(
        f'cannot write to {workdir}: {error.strerror or error}; give another '
        '--workdir') from error
  say = print if distributed.is_first() else _silent
  return Run(config, workdir, stages, metrics, commit, command, say)


def _silent(text: str) -> None:
  """What the first process says is said."""
