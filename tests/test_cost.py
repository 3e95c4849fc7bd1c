"""The ledger counts everything once; the forecast is hand-computed."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym_jax import cost

_counts = st.dictionaries(
    st.sampled_from([*cost.TRANSITIONS, 'tokens', 'flops']),
    st.integers(0, 10 ** 6))


@given(_counts, _counts, _counts)
def test_merge_is_a_sum(a, b, c):
  a, b, c = map(cost.Ledger, (a, b, c))
  assert a.merge(b).merge(c) == a.merge(b.merge(c))
  assert a.merge(b) == b.merge(a)
  before = a.to_dict()
  for name in (*cost.TRANSITIONS, 'tokens'):
    assert a.merge(b)[name] == a[name] + b[name]
  assert a.merge(b).real == a.real + b.real
  assert a.to_dict() == before


def test_real_counts_all_that_is_real():
  ledger = cost.Ledger()
  for i, name in enumerate(cost.TRANSITIONS):
    ledger.add(name, 10 ** i)
  assert ledger.real == 11111 and ledger['dreamed'] == 10 ** 5
  assert set(cost.TRANSITIONS) == {
      'pretraining', 'real_offline', 'real_demo', 'real_gate', 'real_online',
      'dreamed'}


def test_json_round_trip_and_zeros_are_shown():
  ledger = cost.Ledger()
  assert json.loads(ledger.to_json())['real_online'] == 0
  ledger.add('real_gate', np.int64(3))   # counts often come from numpy
  ledger.add('dreamed')
  ledger.add('seconds/gate', 1.5)
  assert cost.Ledger.from_json(ledger.to_json()) == ledger
  assert cost.Ledger(ledger.to_dict()) == ledger


@pytest.mark.parametrize('name, amount', [
    ('dreamed', -1), ('dreamed', 1.5), ('tokens', float('nan')),
    ('tokens', float('inf')), ('real_onlin', 1)])   # a typo hides no count
def test_impossible_counts_are_refused(name, amount):
  ledger = cost.Ledger()
  with pytest.raises(cost.LedgerError, match=name):
    ledger.add(name, amount)
  assert ledger == cost.Ledger()


def test_timer_adds_up_and_counts_failures(monkeypatch):
  ticks = iter([0.0, 2.0, 10.0, 13.0])
  monkeypatch.setattr(cost.time, 'perf_counter', lambda: next(ticks))
  ledger = cost.Ledger()
  with ledger.timer('dream'):
    pass
  with pytest.raises(KeyError), ledger.timer('dream'):
    raise KeyError
  assert ledger['seconds/dream'] == 5.0


def test_peak_memory_is_in_bytes():
  block = np.ones(40 * 2 ** 20, np.uint8)
  before = cost.peak_memory()
  assert before.own > block.nbytes
  subprocess.run([sys.executable, '-c', 'x = bytearray(60 * 2 ** 20)'],
                 check=True)
  after = cost.peak_memory()
  assert after.largest_child > 60 * 2 ** 20
  assert after.total == after.own + after.largest_child
  assert after.own < 2 ** 36   # 64 GiB: a unit error would show


def test_cost_model():
  # (160 * 14.8 + 16 * 17.1) / 16 = 148 + 17.1
  assert cost.cost_model(160, 16, 16) == pytest.approx(165.1)
  assert cost.cost_model(10, 0, 1, step_seconds=2.0) == 20
  with pytest.raises(ValueError, match='clients'):
    cost.cost_model(1, 1, 0)
