"""Trajectories that somebody else made: read as offline data, and shipped."""

import dataclasses
import json

import pytest

from dreamgym_jax import config, types
from dreamgym_jax.data import trajectories
from dreamgym_jax.stages import pretrain, shipping
from dreamgym_jax.stages import run as runs

FAMILY = 'click-button'


@pytest.fixture(scope='module')
def shipped():
  path = runs.SHIPPED / 'web' / 'offline.jsonl.gz'
  return [dataclasses.replace(e, annotator=types.RULE)
          for e in trajectories.read_jsonl(path)
          if e.task.family == FAMILY][:6]


@pytest.fixture
def collect(tmp_path):
  """(episodes or None for no file) -> the run, after the stage collect."""

  def stage(episodes):
    c = config.defaults()
    c.env.families = (FAMILY,)
    c.collect.trajectories = str(tmp_path / 'given.jsonl')
    if episodes is not None:
      trajectories.write_jsonl(c.collect.trajectories, episodes)
    run = runs.open_run(c, tmp_path / 'run', 'abc', 'the command')
    with run.metrics:
      pretrain.collect_stage(run)
    return run

  return stage


def test_given_episodes_are_the_offline_set(collect, shipped):
  run = collect(shipped)
  assert run.offline() == shipped
  assert run.stages.result('collect')['episodes'] == len(shipped)


def test_only_real_ones_of_training_pages_are_taken(collect, shipped):
  one, test, other, dreamed, crashed = shipped[:5]
  low, _ = config.defaults().env.test_seeds

  def with_task(episode, **changes):
    return dataclasses.replace(
        episode, task=dataclasses.replace(episode.task, **changes))

  run = collect([
      one, with_task(test, seed=low), with_task(other, family='enter-text'),
      dataclasses.replace(dreamed, source=types.DREAMED),
      dataclasses.replace(crashed, error='the page died')])
  assert run.offline() == [one]


def test_reasons_by_rule_where_nobody_has_given_any(collect, shipped):
  bare = [dataclasses.replace(e, annotator='', transitions=tuple(
      dataclasses.replace(s, reasoning='') for s in e.transitions))
      for e in shipped]
  assert collect(bare).offline() == shipped


def test_reasons_that_somebody_gave_stay(collect, shipped):
  told = [dataclasses.replace(e, annotator='somebody', transitions=tuple(
      dataclasses.replace(s, reasoning='because') for s in e.transitions))
      for e in shipped]
  assert collect(told).offline() == told


def test_what_cannot_be_used_is_an_error_that_names_the_key(collect, shipped):
  with pytest.raises(config.ConfigError, match=r'collect\.trajectories=.*file'):
    collect(None)
  with pytest.raises(config.ConfigError, match=r'env\.train_seeds'):
    collect([dataclasses.replace(e, source=types.DREAMED) for e in shipped])


def test_a_run_without_weights_ships_its_data(
    collect, shipped, tmp_path, monkeypatch):
  run = collect(shipped)
  monkeypatch.setattr(runs, 'SHIPPED', tmp_path / 'shipped')
  shipping.ship_stage(run)
  target = tmp_path / 'shipped' / 'web'
  assert {p.name for p in target.iterdir()} == {
      'offline.jsonl.gz', 'card.json', 'README.md'}
  assert trajectories.read_jsonl(target / 'offline.jsonl.gz') == shipped
  card = json.loads((target / 'card.json').read_text())
  assert card['data']['episodes'] == len(shipped) and 'gate' not in card
  assert f'{len(shipped)} real episodes' in (target / 'README.md').read_text()

  # What is taken as shipped may be shipped again.
  (run.workdir / 'offline.jsonl.gz').unlink()
  shipping.ship_stage(run)
  assert trajectories.read_jsonl(target / 'offline.jsonl.gz') == shipped


def test_data_does_not_replace_what_weights_were_made_from(
    collect, shipped, tmp_path, monkeypatch):
  run = collect(shipped)
  monkeypatch.setattr(runs, 'SHIPPED', tmp_path / 'shipped')
  target = tmp_path / 'shipped' / 'web'
  target.mkdir(parents=True)
  (target / 'warmup.safetensors').write_bytes(b'weights')
  with pytest.raises(config.ConfigError, match='other data'):
    shipping.ship_stage(run)
  assert [p.name for p in target.iterdir()] == ['warmup.safetensors']
