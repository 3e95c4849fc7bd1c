"""Whole runs through the command: every stage, on one device and on a mesh.

`finished` is the :smoke size from nothing; its models are untrained, so that
it shows the plumbing and the books. `meshed` is the same on four fake devices.
"""

import gzip
import json
import pathlib

import numpy as np
import pytest
import whole_runs
from playwright import sync_api

from dreamgym_jax import checkpoint
from dreamgym_jax.data import trajectories
from dreamgym_jax.envs import chromium
from dreamgym_jax.report import html, writer
from dreamgym_jax.stages import judging

STAGES = ('collect', 'base', 'experience', 'warmup', 'gate', 'dream',
          'transfer', 'real_grpo', 'evaluate', 'audit')

# -- every stage, from nothing -------------------------------------------------


SMOKE = ('--config=configs/webarena.py:smoke',)


@pytest.fixture(scope='session')
def finished(tmp_path_factory) -> pathlib.Path:
  """A workdir after the whole :smoke run."""
  workdir = tmp_path_factory.mktemp('smoke') / 'run'
  whole_runs.run(workdir, *SMOKE)
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
  offline = whole_runs.count(finished, 'offline.jsonl.gz')
  warmup = checkpoint.read_json(finished / 'stages' / 'warmup.json')['result']
  assert ledger['real_demo'] == warmup['transitions'] > 0
  assert ledger['real_offline'] == offline - warmup['transitions']
  assert ledger['pretraining'] == 0         # nothing shipped
  dream, transfer = (whole_runs.rows_of(finished, stage)
                     for stage in ('dream', 'transfer'))
  assert ledger['dreamed'] == dream[-1]['transitions']
  assert ledger['real_online'] == transfer[-1]['transitions']
  c = summary['config']
  episodes = c['rl']['tasks'] * c['rl']['group']
  assert len(dream) == c['dream']['iterations']
  for rows in (dream, transfer, whole_runs.rows_of(finished, 'real_grpo')):
    taken = np.diff([0, *(r['transitions'] for r in rows)])
    assert (taken >= episodes).all()
    assert (taken <= episodes * c['env']['max_steps']).all()
  # The budget of real steps is used up, by the last iteration only.
  budget = c['transfer']['transitions']
  assert [r['transitions'] >= budget for r in transfer] == (
      [False] * (len(transfer) - 1) + [True])


def test_the_gates_real_steps_are_counted_with_the_remedys(finished, summary):
  measured = whole_runs.count(finished, 'episodes/gate*.jsonl.gz')
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
    rows = whole_runs.rows_of(finished, stage)
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
  before = whole_runs.files_of(finished)
  printed = whole_runs.run(finished, *SMOKE)
  for stage in STAGES:
    assert f'== {stage}: done before' in printed
  assert whole_runs.files_of(finished) == before
  again = checkpoint.read_json(finished / 'summary.json')
  assert again | {'peak_rss_bytes': 0} == summary | {'peak_rss_bytes': 0}


# -- on a mesh -----------------------------------------------------------------

# Two parts of a batch's rows and of the weights' width, two of the heads.
MESH = ('--config.mesh.fsdp=2', '--config.mesh.tensor=-1')


@pytest.fixture(scope='session')
def meshed(tmp_path_factory) -> pathlib.Path:
  """As `finished`, on four devices; not the stage that ends by the clock."""
  workdir = tmp_path_factory.mktemp('mesh') / 'run'
  whole_runs.run(workdir, *SMOKE, *MESH, '--config.real_grpo.is_on=False',
                 devices=4)
  return workdir


# Not those that depend on what was sampled: these models are untrained, and
# where all tokens are alike another rounding now and then draws another.
@pytest.mark.parametrize('name', ['base', 'warmup'])
def test_a_mesh_gives_the_weights_of_one_device(finished, meshed, name):
  whole_runs.assert_same_weights(finished / f'{name}.safetensors',
                      meshed / f'{name}.safetensors', atol=1e-5)


def test_every_stage_ends_on_a_mesh(meshed):
  ended = checkpoint.read_json(meshed / 'summary.json')['seconds']
  assert set(ended) == set(STAGES) - {'real_grpo'}
  for stage in ('dream', 'transfer'):
    rows = whole_runs.rows_of(meshed, stage)
    assert rows and all(r['logp_mismatch'] < 1e-4 for r in rows)


def test_metrics_and_replays_are_strict_json(finished):
  for line in (finished / 'metrics.jsonl').read_text().splitlines():
    json.loads(line, parse_constant=pytest.fail)
  json.loads((finished / 'report.json').read_text(),
             parse_constant=pytest.fail)
  with gzip.open(finished / 'episodes' / 'dream-sampled.jsonl.gz') as file:
    for line in file:
      json.loads(line, parse_constant=pytest.fail)
