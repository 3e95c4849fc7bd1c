"""Runs that were ended and go on: as one that was not, wherever they go on.

The shipped models in the dream and the browser, where there is something to
learn. `straight` is undisturbed; `resumed` was asked to stop, then killed; what
`moved` began on one device goes on in two processes of two devices each.
"""

import pathlib
import shutil
import signal

import numpy as np
import pytest
import whole_runs
from safetensors import numpy as safetensors

from dreamgym_jax import checkpoint
from dreamgym_jax.data import trajectories
from dreamgym_jax.report import writer

SHIPPED = whole_runs.ROOT / 'dreamgym_jax' / 'shipped' / 'web'
FAMILIES = ('click-button', 'click-checkboxes', 'enter-text')


def learning_flags() -> list[str]:
  return ['--config=configs/webarena.py', *(f'--config.{k}={v}' for k, v in {
      'env.families': FAMILIES, 'env.rows': 16, 'rl.tasks': 4, 'rl.group': 4,
      'dream.iterations': 4, 'curriculum.every': 1, 'curriculum.candidates': 4,
      'transfer.transitions': 40, 'real_grpo.is_on': False,
      'checkpoint_every': 1}.items())]


@pytest.fixture(scope='session')
def planted(tmp_path_factory) -> pathlib.Path:
  """A workdir of which only the dream and the transfer are still to do."""
  workdir = tmp_path_factory.mktemp('planted')
  episodes = trajectories.read_jsonl(SHIPPED / 'offline.jsonl.gz')
  chosen = [e for e in episodes
            if e.task.family in FAMILIES and e.task.seed < 40]
  trajectories.write_jsonl(workdir / 'offline.jsonl.gz', chosen)
  gate = {'gates': [], 'kept': 0, 'passed': list(FAMILIES), 'real_gate': 0,
          'enforced': True}
  for stage, result in (('gate', gate), ('evaluate', {}), ('audit', {})):
    checkpoint.write_json_atomic(
        workdir / 'stages' / f'{stage}.json',
        {'stage': stage, 'seconds': 0.0, 'result': result, 'finished': ''})
  return workdir


@pytest.fixture(scope='session')
def straight(planted, tmp_path_factory) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('straight') / 'run'
  shutil.copytree(planted, workdir)
  whole_runs.run(workdir, *learning_flags())
  return workdir


@pytest.fixture(scope='session')
def resumed(planted, tmp_path_factory) -> pathlib.Path:
  """The same, asked to stop after an iteration of the dream, killed later."""
  workdir = tmp_path_factory.mktemp('resumed') / 'run'
  shutil.copytree(planted, workdir)
  code, printed = whole_runs.run_and_end(
      workdir, workdir / 'dream-1.safetensors', signal.SIGTERM,
      *learning_flags(), '--config.checkpoint_every=100')
  assert code == 0 and 'the same command goes on from here' in printed, printed
  assert not (workdir / 'stages' / 'dream.json').exists()
  saved, = (workdir / 'checkpoints' / 'dream').glob('[0-9]*')
  code, printed = whole_runs.run_and_end(
      workdir, saved.with_name(str(int(saved.name) + 1)), signal.SIGKILL,
      *learning_flags())
  assert f'goes on after iteration {saved.name}' in printed
  assert code == -signal.SIGKILL
  assert 'goes on after iteration' in whole_runs.run(workdir, *learning_flags())
  return workdir


def test_the_shipped_policy_learns_from_its_dream(straight):
  rows = whole_runs.rows_of(straight, 'dream')
  assert all(r['logp_mismatch'] < 1e-4 for r in rows)
  assert any(r['logp_mismatch'] > 0 for r in rows)    # there were updates
  assert any(0 < r['success'] < 1 for r in rows)
  assert all(r['malformed_share'] < 0.2 for r in rows)
  before = safetensors.load_file(SHIPPED / 'warmup.safetensors')
  after = safetensors.load_file(straight / 'dream.safetensors')
  assert any((before[k] != after[k]).any() for k in before)
  assert all(np.isfinite(v).all() for v in after.values())


def test_sampler_and_scorer_agree_on_the_transfers_updates(straight):
  rows = whole_runs.rows_of(straight, 'transfer')
  assert rows and all(r['logp_mismatch'] < 1e-4 for r in rows)


@pytest.mark.parametrize('name', ['dream', 'dream-2', 'transfer'])
def test_a_killed_run_ends_with_the_same_policies(straight, resumed, name):
  whole_runs.assert_same_weights(straight / f'{name}.safetensors',
                      resumed / f'{name}.safetensors')


@pytest.mark.parametrize('stage', ['dream', 'transfer'])
def test_a_killed_run_ends_with_the_same_books(straight, resumed, stage):
  one, other = ([whole_runs.timeless(r) for r in whole_runs.rows_of(w, stage)]
                for w in (straight, resumed))
  assert one == other
  one, other = (whole_runs.timeless(checkpoint.read_json(
      w / 'stages' / f'{stage}.json')['result']) for w in (straight, resumed))
  assert one == other


@pytest.fixture(scope='session')
def moved(planted, tmp_path_factory) -> pathlib.Path:
  """Killed too; two processes, of two devices each, go on from there."""
  workdir = tmp_path_factory.mktemp('moved') / 'run'
  shutil.copytree(planted, workdir)
  code, _ = whole_runs.run_and_end(
      workdir, workdir / 'checkpoints' / 'dream' / '2', signal.SIGKILL,
      *learning_flags())
  assert code == -signal.SIGKILL
  (first, printed), (second, told) = whole_runs.run_in_two(
      *whole_runs.command(workdir, *learning_flags(), *whole_runs.JOINED,
                          '--config.mesh.fsdp=2', '--config.mesh.tensor=-1'))
  assert first == second == 0, printed[-3000:] + told[-3000:]
  assert 'goes on after iteration' in printed and '==' not in told
  return workdir


@pytest.mark.parametrize('name', ['dream', 'transfer'])
def test_two_processes_end_with_the_same_policies(straight, moved, name):
  whole_runs.assert_same_weights(straight / f'{name}.safetensors',
                      moved / f'{name}.safetensors', atol=1e-5)
  one, other = ([(r['transitions'], r['success'])
                 for r in whole_runs.rows_of(w, name)]
                for w in (straight, moved))
  assert one == other


def test_a_torn_end_of_the_metrics_is_mended(straight, tmp_path):
  """A kill in the middle of a line."""
  workdir = tmp_path / 'run'
  shutil.copytree(straight, workdir)
  with open(workdir / 'metrics.jsonl', 'a') as file:
    file.write('{"stage": "dream", "st')
  whole_runs.run(workdir, '--mode=report', *learning_flags())
  assert writer.read_metrics(workdir) == writer.read_metrics(straight)
