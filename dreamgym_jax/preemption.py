"""Being asked to stop: by SIGTERM, which clusters send before they take a host.

A training that can be saved holds on to its next checkpoint, `hold`, and asks
`is_asked` where it could make one. Anything else is begun anew by the run that
goes on, and so ends at once.
"""

import contextlib
import signal
from collections.abc import Iterator

from dreamgym_jax import distributed

_held = _asked = False


class Stopped(Exception):
  """The program was asked to end; what it keeps is saved."""


def listen() -> None:
  """From now on SIGTERM is heard; of the main thread, after `join`."""
  signal.signal(signal.SIGTERM, _hear)


def _hear(*_: object) -> None:
  global _asked
  _asked = True
  if not _held:
    raise Stopped


@contextlib.contextmanager
def hold() -> Iterator[None]:
  """Inside, whoever asks is heard by `is_asked` alone; or at the end."""
  global _held
  _held = True
  try:
    yield
  finally:
    _held = False
  if _asked:
    raise Stopped


def is_asked() -> bool:
  """Whether any process was asked to stop; all must call this."""
  return any(distributed.gather('stop', _asked))
