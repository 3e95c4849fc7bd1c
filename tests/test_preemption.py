"""SIGTERM: at once outside of a training, at its next checkpoint inside."""

import os
import signal

import pytest

from dreamgym_jax import preemption


@pytest.fixture(autouse=True)
def listening(monkeypatch):
  monkeypatch.setattr(preemption, '_asked', False)
  before = signal.getsignal(signal.SIGTERM)
  preemption.listen()
  yield
  signal.signal(signal.SIGTERM, before)


def ask():
  os.kill(os.getpid(), signal.SIGTERM)


def test_nothing_is_asked_at_first():
  assert not preemption.is_asked()


def test_outside_of_a_training_it_ends_at_once():
  with pytest.raises(preemption.Stopped):
    ask()


def test_a_training_is_let_go_on_to_where_it_can_be_saved():
  with pytest.raises(preemption.Stopped):
    with preemption.hold():
      ask()
      assert preemption.is_asked()
      went_on = True
  assert went_on


def test_an_error_inside_ends_the_hold():
  with pytest.raises(KeyError), preemption.hold():
    raise KeyError
  with pytest.raises(preemption.Stopped):
    ask()
