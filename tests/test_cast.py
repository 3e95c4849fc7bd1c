"""What the stages act with, opened as a config asks for it."""

import types

import jax
import pytest

from dreamgym_jax import config
from dreamgym_jax.stages import cast as casts


def test_rows_of_several_processes_play_together(monkeypatch):
  """Each would wait for the others at another call."""
  c = config.defaults()
  c.env.parts = 2
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with (casts.Cast(types.SimpleNamespace(config=c)) as cast,
        pytest.raises(config.ConfigError, match='env.parts=2')):
    _ = cast.player
