"""metrics.jsonl, TensorBoard events and summary.json, killed and resumed."""

import json

import numpy as np
import pytest

from dreamgym_jax import evaluate
from dreamgym_jax.audit import fidelity, gate
from dreamgym_jax.report import writer
from dreamgym_jax.types import Transition

LEDGER = {'pretraining': 41200, 'real_offline': 12788, 'real_demo': 212,
          'real_gate': 1604, 'real_online': 0, 'dreamed': 48211}


def test_metrics_are_read_back(tmp_path):
  with writer.MetricsWriter(tmp_path) as out:
    assert out.cursor('dream') == -1
    assert out.write('dream', 0, {'success': np.float32(.5)})
    assert out.write('dream', 3, {'success': .25, 'kl': float('nan')})
    assert out.write('warmup', 0, {'loss': 1})
  rows = writer.read_metrics(tmp_path)
  assert rows[1] == {'stage': 'dream', 'step': 3, 'success': .25, 'kl': None}
  assert writer.series(rows, 'success', 'dream') == [(0, .5), (3, .25)]
  assert writer.series(rows, 'kl', 'dream') == []
  events = list((tmp_path / writer.EVENTS).iterdir())
  assert any(b'dream/success' in e.read_bytes() for e in events)


def test_resumed_metrics_equal_a_straight_run(tmp_path):
  def run(folder, start, stop):
    with writer.MetricsWriter(folder) as out:
      for i in range(start, stop):
        out.write('dream', i, {'x': i * i})

  run(tmp_path / 'straight', 0, 9)
  run(tmp_path / 'killed', 0, 6)
  with open(tmp_path / 'killed' / writer.METRICS, 'a') as file:
    file.write('{"stage": "dream", "st')   # the kill came while writing
  run(tmp_path / 'killed', 3, 9)           # the checkpoint was older
  texts = [(tmp_path / d / writer.METRICS).read_text()
           for d in ('straight', 'killed')]
  assert texts[0] == texts[1]


def test_a_corrupt_metrics_line_is_named(tmp_path):
  (tmp_path / writer.METRICS).write_text('{"stage": "a", "step": 1}\nxx\n')
  with pytest.raises(ValueError, match='metrics.jsonl:2 is corrupt'):
    writer.MetricsWriter(tmp_path)


def summary(**changed):
  score = evaluate.make_score(70, 240).to_json()
  step = Transition('[1] button: ok', 'click [1]', 'over', 1., True)
  pairs = [gate.StepPair('click-button', 'e', 0, step, step, True)]
  rate = {'click-button': (1, 1)}
  table = gate.measure(pairs, rate, rate)
  values = dict(
      config={'a': {'b': 1}}, commit='faf058d', seed=0,
      stages={'warmup': score, 'dream': score},
      gate=gate.summary(table, gate.Thresholds()),
      fidelity=fidelity.summary(pairs), ledger=LEDGER,
      seconds={'dream': 3.5}, peak_rss_bytes=10 ** 9)
  return values | changed


def test_summary_is_exactly_the_schema(tmp_path):
  path = tmp_path / 'summary.json'
  wrote = writer.write_summary(path, **summary())
  read = json.loads(path.read_text())
  assert read == json.loads(json.dumps(wrote))
  assert list(read) == ['config', 'commit', 'seed', 'stages', 'gate',
                        'fidelity', 'ledger', 'seconds', 'peak_rss_bytes']
  writer.validate_summary(read)
  assert [p.name for p in tmp_path.iterdir()] == ['summary.json']


BAD_SCORE = {'successes': 3, 'episodes': 2, 'wilson95': [0, 1]}


@pytest.mark.parametrize('changed,message', [
    ({'seed': '0'}, 'seed is not int'),
    ({'stages': {'sft': BAD_SCORE}}, 'stages.sft: not one of'),
    ({'stages': {'dream': BAD_SCORE}}, 'more successes'),
    ({'stages': {'dream': {'successes': 1}}}, 'missing .*episodes'),
    ({'ledger': LEDGER | {'guessed': 1}}, "unknown .'guessed'"),
    ({'ledger': LEDGER | {'dreamed': 1.5}}, 'ledger.dreamed is not a count'),
    ({'seconds': {'dream': -1}}, 'seconds.dream'),
    ({'peak_rss_bytes': -1}, 'peak_rss_bytes'),
])
def test_a_broken_summary_is_named_and_not_written(
    tmp_path, changed, message):
  with pytest.raises(ValueError, match=message):
    writer.write_summary(tmp_path / 's.json', **summary(**changed))
  assert not list(tmp_path.iterdir())


def test_an_old_summary_survives_a_failed_write(tmp_path):
  path = tmp_path / 's.json'
  writer.write_summary(path, **summary())
  before = path.read_text()
  with pytest.raises(ValueError, match='JSON compliant'):
    writer.write_summary(path, **summary(gate={'x': float('nan')}))
  assert path.read_text() == before
