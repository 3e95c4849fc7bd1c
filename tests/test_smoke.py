"""Whole runs through the command: every stage, twice over, and killed.

`finished` is the :smoke size from nothing; its models are untrained, so that
it shows the plumbing and the books. `straight` and `resumed` are the shipped
models in the dream and the browser, where there is something to learn. `meshed`
and `moved` are the same on four fake devices, or killed on one and ended there.
"""

import gzip
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from playwright import sync_api
from safetensors import numpy as safetensors

from dreamgym_jax import checkpoint
from dreamgym_jax.data import trajectories
from dreamgym_jax.envs import chromium
from dreamgym_jax.report import html, writer
from dreamgym_jax.stages import judging

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = ROOT / 'dreamgym_jax' / 'shipped' / 'web'
CACHE = ROOT / 'runs' / '.compile_cache'     # the second time is much faster
STAGES = ('collect', 'base', 'experience', 'warmup', 'gate', 'dream',
          'transfer', 'real_grpo', 'evaluate', 'audit')
FAMILIES = ('click-button', 'click-checkboxes', 'enter-text')
# What a report says of the moment it is drawn, not of the run.
OF_THE_MOMENT = ('summary.json', 'report.json', 'report.html', 'tensorboard')
# Wall-clock among metrics and results.
CLOCKS = ('seconds', 'seconds_learning', 'finished')
LIMIT = 1800                                 # seconds, for a busy machine


def command(workdir: pathlib.Path, *flags: str) -> list[str]:
  return [sys.executable, '-m', 'dreamgym_jax.main', f'--workdir={workdir}',
          f'--compile_cache={CACHE}', *flags]


def run(workdir: pathlib.Path, *flags: str, devices: int = 1) -> str:
  """Runs to the end on so many fake devices; gives what was printed."""
  env = os.environ | {
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
  done = subprocess.run(command(workdir, *flags), cwd=ROOT, timeout=LIMIT,
                        capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
  return done.stdout


def run_and_kill(workdir: pathlib.Path, sign: pathlib.Path, *flags) -> None:
  """Kills the run, with its children, as soon as the file `sign` is there."""
  with open(workdir / 'killed.log', 'w') as log:
    process = subprocess.Popen(
        command(workdir, *flags), cwd=ROOT, stdout=log, stderr=log,
        start_new_session=True)
    start = time.monotonic()
    while not sign.exists():
      assert process.poll() is None, (workdir / 'killed.log').read_text()
      assert time.monotonic() - start < LIMIT, f'{sign} never came'
      time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def count(workdir: pathlib.Path, pattern: str) -> int:
  """Transitions in the episode files that match."""
  files = sorted(workdir.glob(pattern))
  assert files, f'no {pattern} in {workdir}'
  return sum(len(e.transitions)
             for f in files for e in trajectories.read_jsonl(f))


def rows_of(workdir: pathlib.Path, stage: str) -> list[dict]:
  return [r for r in writer.read_metrics(workdir) if r['stage'] == stage]


def timeless(record):
  """Without clocks, however deep they stand."""
  if not isinstance(record, dict):
    return record
  return {k: timeless(v) for k, v in record.items() if k not in CLOCKS}


def files_of(workdir: pathlib.Path) -> dict[str, bytes]:
  return {str(p.relative_to(workdir)): p.read_bytes()
          for p in workdir.rglob('*') if p.is_file()
          and p.relative_to(workdir).parts[0] not in OF_THE_MOMENT}


def assert_same_weights(
    a: pathlib.Path, b: pathlib.Path, atol: float = 0.0
) -> None:
  one, other = safetensors.load_file(a), safetensors.load_file(b)
  assert one.keys() == other.keys()
  for key in one:
    np.testing.assert_allclose(
        one[key], other[key], rtol=0, atol=atol, err_msg=key)


# -- every stage, from nothing -------------------------------------------------


SMOKE = ('--config=configs/webarena.py:smoke',)


@pytest.fixture(scope='session')
def finished(tmp_path_factory) -> pathlib.Path:
  """A workdir after the whole :smoke run."""
  workdir = tmp_path_factory.mktemp('smoke') / 'run'
  run(workdir, *SMOKE)
  return workdir


@pytest.fixture(scope='session')
def summary(finished) -> dict:
  return checkpoint.read_json(finished / 'summary.json')


def test_every_stage_is_in_the_summary(finished, summary):
  writer.validate_summary(summary)
  assert set(summary['stages']) == set(writer.STAGES)
  assert set(summary['seconds']) == set(STAGES)
  assert all(s > 0 for s in summary['seconds'].values())
  assert summary['config']['size'] == 'smoke'
  assert summary['gate']['rows'] and summary['fidelity']
  assert summary['peak_rss_bytes'] > 2**27   # more than the imports


def test_the_ledger_is_what_the_files_say(finished, summary):
  ledger = summary['ledger']
  offline = count(finished, 'offline.jsonl.gz')
  warmup = checkpoint.read_json(finished / 'stages' / 'warmup.json')['result']
  assert ledger['real_demo'] == warmup['transitions'] > 0
  assert ledger['real_offline'] == offline - warmup['transitions']
  assert ledger['pretraining'] == 0         # nothing shipped
  dream, transfer = rows_of(finished, 'dream'), rows_of(finished, 'transfer')
  assert ledger['dreamed'] == dream[-1]['transitions']
  assert ledger['real_online'] == transfer[-1]['transitions']
  c = summary['config']
  episodes = c['rl']['tasks'] * c['rl']['group']
  assert len(dream) == c['dream']['iterations']
  for rows in (dream, transfer, rows_of(finished, 'real_grpo')):
    taken = np.diff([0, *(r['transitions'] for r in rows)])
    assert (taken >= episodes).all()
    assert (taken <= episodes * c['env']['max_steps']).all()
  # The budget of real steps is used up, by the last iteration only.
  budget = c['transfer']['transitions']
  assert [r['transitions'] >= budget for r in transfer] == (
      [False] * (len(transfer) - 1) + [True])


def test_the_gates_real_steps_are_counted_with_the_remedys(finished, summary):
  measured = count(finished, 'episodes/gate*.jsonl.gz')
  gates = checkpoint.read_json(
      finished / 'stages' / 'gate.json')['result']['gates']
  assert len(gates) == len(list(finished.glob('episodes/gate*.jsonl.gz')))
  c = summary['config']
  episodes = (len(gates) - 1) * c['gate']['remedy_pages'] * len(
      c['env']['families'])
  remedy = summary['ledger']['real_gate'] - measured
  assert (len(gates) > 1) <= remedy <= episodes * c['env']['max_steps']


def test_scores_are_those_of_the_episodes(finished, summary):
  c = summary['config']
  held_out = set(c['env']['held_out_families'])
  per_family = c['evaluate']['pages']
  named = dict(warmup='warmup', dream='dream', transfer='transfer',
               real_grpo='real_updates')
  for stage, policy in named.items():
    episodes = trajectories.read_jsonl(
        finished / 'episodes' / f'{policy}-sampled.jsonl.gz')
    assert len(episodes) == per_family * (
        len(held_out) + len(c['env']['families']))
    trained = [e for e in episodes if e.task.family not in held_out]
    assert summary['stages'][stage]['episodes'] == len(trained)
    assert summary['stages'][stage]['successes'] == sum(
        e.success for e in trained)


def test_nothing_that_is_learned_from_is_a_test_page(finished, summary):
  env = summary['config']['env']
  kinds = [('offline.jsonl.gz', 'train')] + [
      (f'episodes/gate{i}.jsonl.gz', 'gate')
      for i in range(len(list(finished.glob('episodes/gate*'))))] + [
          (f'episodes/{p}-{d}.jsonl.gz', 'test')
          for p in judging.POLICIES for d in ('sampled', 'greedy')]
  for name, split in kinds:
    low, high = env[f'{split}_seeds']
    episodes = trajectories.read_jsonl(finished / name)
    assert episodes and not any(e.error for e in episodes), name
    assert all(low <= e.task.seed < high for e in episodes), name
    if split != 'test':
      assert {e.task.family for e in episodes} == set(env['families'])


def test_sampler_and_scorer_agree_in_every_iteration(finished):
  for stage in ('dream', 'transfer', 'real_grpo'):
    rows = rows_of(finished, stage)
    assert rows
    assert all(r['logp_mismatch'] < 1e-4 for r in rows), stage


def test_the_report_is_one_file_that_opens_without_complaint(finished):
  data = html.load(finished / 'report.json')
  assert data['replays'] and data['results'] and data['gates']
  assert any('not enforced' in line for line in data['fell_short'])
  seen, said = [], []
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=chromium.find_chromium(),
        args=['--no-sandbox', '--disable-gpu'])
    page = browser.new_page()
    page.on('request', lambda r: seen.append(r.url))
    page.on('console', lambda m: said.append(m.text))
    page.on('pageerror', lambda e: said.append(str(e)))
    page.goto((finished / 'report.html').as_uri())
    text = page.inner_text('body')
    browser.close()
  assert seen == [(finished / 'report.html').as_uri()] and not said
  assert data['title'] in text
  assert data['replays'][0]['instruction'] in text


def test_the_same_command_again_does_nothing_new(finished, summary):
  before = files_of(finished)
  printed = run(finished, *SMOKE)
  for stage in STAGES:
    assert f'== {stage}: done before' in printed
  assert files_of(finished) == before
  again = checkpoint.read_json(finished / 'summary.json')
  assert again | {'peak_rss_bytes': 0} == summary | {'peak_rss_bytes': 0}


# -- on a mesh -----------------------------------------------------------------

# Two parts of a batch's rows and of the weights' width, two of the heads.
MESH = ('--config.mesh.fsdp=2', '--config.mesh.tensor=-1')


@pytest.fixture(scope='session')
def meshed(tmp_path_factory) -> pathlib.Path:
  """As `finished`, on four devices; not the stage that ends by the clock."""
  workdir = tmp_path_factory.mktemp('mesh') / 'run'
  run(workdir, *SMOKE, *MESH, '--config.real_grpo.is_on=False', devices=4)
  return workdir


# Not those that depend on what was sampled: these models are untrained, and
# where all tokens are alike another rounding now and then draws another.
@pytest.mark.parametrize('name', ['base', 'warmup'])
def test_a_mesh_gives_the_weights_of_one_device(finished, meshed, name):
  assert_same_weights(finished / f'{name}.safetensors',
                      meshed / f'{name}.safetensors', atol=1e-5)


def test_every_stage_ends_on_a_mesh(meshed):
  ended = checkpoint.read_json(meshed / 'summary.json')['seconds']
  assert set(ended) == set(STAGES) - {'real_grpo'}
  for stage in ('dream', 'transfer'):
    rows = rows_of(meshed, stage)
    assert rows and all(r['logp_mismatch'] < 1e-4 for r in rows)


# -- killed in the dream -------------------------------------------------------


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
  run(workdir, *learning_flags())
  return workdir


@pytest.fixture(scope='session')
def resumed(planted, tmp_path_factory) -> pathlib.Path:
  """The same, killed after two iterations of the dream, and started again."""
  workdir = tmp_path_factory.mktemp('resumed') / 'run'
  shutil.copytree(planted, workdir)
  run_and_kill(workdir, workdir / 'checkpoints' / 'dream' / '2',
               *learning_flags())
  assert not (workdir / 'stages' / 'dream.json').exists()
  assert 'goes on after iteration' in run(workdir, *learning_flags())
  return workdir


def test_the_shipped_policy_learns_from_its_dream(straight):
  rows = rows_of(straight, 'dream')
  assert all(r['logp_mismatch'] < 1e-4 for r in rows)
  assert any(r['logp_mismatch'] > 0 for r in rows)    # there were updates
  assert any(0 < r['success'] < 1 for r in rows)
  assert all(r['malformed_share'] < 0.2 for r in rows)
  before = safetensors.load_file(SHIPPED / 'warmup.safetensors')
  after = safetensors.load_file(straight / 'dream.safetensors')
  assert any((before[k] != after[k]).any() for k in before)
  assert all(np.isfinite(v).all() for v in after.values())


def test_sampler_and_scorer_agree_on_the_transfers_updates(straight):
  rows = rows_of(straight, 'transfer')
  assert rows and all(r['logp_mismatch'] < 1e-4 for r in rows)


@pytest.mark.parametrize('name', ['dream', 'dream-2', 'transfer'])
def test_a_killed_run_ends_with_the_same_policies(straight, resumed, name):
  assert_same_weights(straight / f'{name}.safetensors',
                      resumed / f'{name}.safetensors')


@pytest.mark.parametrize('stage', ['dream', 'transfer'])
def test_a_killed_run_ends_with_the_same_books(straight, resumed, stage):
  one, other = rows_of(straight, stage), rows_of(resumed, stage)
  assert [timeless(r) for r in one] == [timeless(r) for r in other]
  one, other = (timeless(checkpoint.read_json(
      w / 'stages' / f'{stage}.json')['result']) for w in (straight, resumed))
  assert one == other


@pytest.fixture(scope='session')
def moved(planted, tmp_path_factory) -> pathlib.Path:
  """As `resumed`, but what one device began goes on with four."""
  workdir = tmp_path_factory.mktemp('moved') / 'run'
  shutil.copytree(planted, workdir)
  run_and_kill(workdir, workdir / 'checkpoints' / 'dream' / '2',
               *learning_flags())
  assert 'goes on after iteration' in run(
      workdir, *learning_flags(), *MESH, devices=4)
  return workdir


@pytest.mark.parametrize('name', ['dream', 'transfer'])
def test_other_devices_end_with_the_same_policies(straight, moved, name):
  assert_same_weights(straight / f'{name}.safetensors',
                      moved / f'{name}.safetensors', atol=1e-5)
  one, other = rows_of(straight, name), rows_of(moved, name)
  assert ([(r['transitions'], r['success']) for r in one]
          == [(r['transitions'], r['success']) for r in other])


def test_a_torn_end_of_the_metrics_is_mended(straight, tmp_path):
  """A kill in the middle of a line."""
  workdir = tmp_path / 'run'
  shutil.copytree(straight, workdir)
  with open(workdir / 'metrics.jsonl', 'a') as file:
    file.write('{"stage": "dream", "st')
  run(workdir, '--mode=report', *learning_flags())
  assert writer.read_metrics(workdir) == writer.read_metrics(straight)


def test_metrics_and_replays_are_strict_json(finished):
  for line in (finished / 'metrics.jsonl').read_text().splitlines():
    json.loads(line, parse_constant=pytest.fail)
  json.loads((finished / 'report.json').read_text(),
             parse_constant=pytest.fail)
  with gzip.open(finished / 'episodes' / 'dream-sampled.jsonl.gz') as file:
    for line in file:
      json.loads(line, parse_constant=pytest.fail)
