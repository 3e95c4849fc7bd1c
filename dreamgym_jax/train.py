"""The stages in their order; what `main` calls, and what a notebook may.

  collect  base  experience  warmup     only where nothing shipped is used
  gate     M_exp on the policy's own real steps, and the remedy
  dream    GRPO in the dream, no real step
  transfer GRPO in the browser from there (S2R), a small budget
  real_grpo  GRPO in the browser from the warm-up, for comparison
  evaluate all policies on held-out pages, in the browser
  audit    how far the dream was true
  report   table, summary.json, report.html

A stage that is done is skipped; one that was killed goes on from its last
checkpoint.
"""

import pathlib
from collections.abc import Callable

import jax
import ml_collections

from dreamgym_jax import checkpoint, config, distributed
from dreamgym_jax.audit import gate
from dreamgym_jax.data import endpoint, teacher, trajectories
from dreamgym_jax.envs import checks
from dreamgym_jax.models import weights
from dreamgym_jax.report import writer
from dreamgym_jax.stages import cast as casts
from dreamgym_jax.stages import (
  domains,
  generating,
  judging,
  learn,
  pretrain,
  reinforce,
  shipping,
  telling,
)
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import tokenizer

# Errors whose message says what to do; `main` shows it without a traceback.
EXPECTED = (
    config.ConfigError, checkpoint.CheckpointError,
    distributed.DistributedError, endpoint.EndpointError,
    gate.GateRefused, teacher.TeacherError,
    checks.EnvError, reinforce.DivergedError, runs.MissingError,
    runs.WorkdirError, tokenizer.TokenizerError, trajectories.TrajectoryError,
    weights.WeightsError, writer.MetricsError)

Stage = Callable[[runs.Run, casts.Cast], None]
_FROM_NOTHING: dict[str, Callable[[runs.Run], None]] = {
    'collect': pretrain.collect_stage, 'base': pretrain.base_stage}
_STAGES: dict[str, Stage] = {
    'gate': learn.gate_stage, 'dream': learn.dream_stage,
    'transfer': learn.transfer_stage, 'real_grpo': learn.real_grpo_stage,
    'evaluate': judging.evaluate_stage, 'audit': judging.audit_stage}


def main(
    mode: str, c: ml_collections.ConfigDict, workdir: pathlib.Path,
    commit: str, command: str, until: str = '', prompt: str = '',
) -> None:
  """Runs a mode of `main`; raises one of EXPECTED where the user can act.

  `until` names the last stage of mode 'run'; '' runs all and reports. `prompt`
  is what mode 'generate' continues.
  """
  config.validate(c)
  domains.of(c)
  stages = (*_pretraining(c), *_training(c))
  if until and until not in stages:
    raise config.ConfigError(f'--until={until}: the stages of this run are '
                             f'{", ".join(stages)}')
  files = runs.Files(c, workdir)
  if mode == 'generate':
    with jax.set_mesh(runs.open_mesh(files)):
      print(generating.complete(files, prompt))
    return
  if mode == 'ship' and c.model.pretrained:
    raise config.ConfigError('--mode=ship: a pretrained model is not shipped')
  # Before anything is written. Report and ship do without devices.
  mesh = runs.open_mesh(files) if mode in ('run', 'evaluate') else None
  run = runs.open_run(c, workdir, commit, command)
  with run.metrics:
    if mode == 'run':
      with jax.set_mesh(mesh):
        _run(run, until)
      if until:
        return
    elif mode == 'evaluate':
      with jax.set_mesh(mesh), casts.Cast(run) as cast:
        judging.evaluate_stage(run, cast)
    if distributed.is_first():
      end = shipping.ship_stage if mode == 'ship' else telling.report_stage
      end(run)
    distributed.barrier('told')


def _run(run: runs.Run, until: str) -> None:
  for name, stage in _pretraining(run.config).items():
    if _is_due(run, name):
      stage(run)
    if name == until:
      return
  with casts.Cast(run) as cast:
    for name, stage in _training(run.config).items():
      if _is_due(run, name):
        stage(run, cast)
      if name == until:
        return


def _pretraining(
    c: ml_collections.ConfigDict,
) -> dict[str, Callable[[runs.Run], None]]:
  """The stages before the gate that this run must do itself."""
  stages = {} if c.shipped else dict(_FROM_NOTHING)
  if c.model.pretrained:
    stages.pop('base', None)
  if c.experience.init == 'base':
    stages['experience'] = pretrain.experience_stage
  if c.warmup.init == 'base':
    stages['warmup'] = pretrain.warmup_stage
  return stages


def _training(c: ml_collections.ConfigDict) -> dict[str, Stage]:
  """The stages from the gate on."""
  return {name: stage for name, stage in _STAGES.items()
          if name != 'real_grpo' or c.real_grpo.is_on}


def _is_due(run: runs.Run, name: str) -> bool:
  if run.stages.is_done(name):
    run.say(f'== {name}: done before, {run.stages.seconds(name):.0f} s')
    return False
  return True


def compare(workdirs: list[pathlib.Path]) -> str:
  """DreamGym against the other methods over several seeds, as text."""
  return telling.compare_seeds(workdirs)

