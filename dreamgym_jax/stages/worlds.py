"""The worlds of a run: the browser, and the dream."""

import contextlib
import functools
from collections.abc import Iterator

from dreamgym_jax import types
from dreamgym_jax.envs import miniwob, pool
from dreamgym_jax.stages import run as runs


@contextlib.contextmanager
def real(run: runs.Run) -> Iterator[types.World]:
  """MiniWoB++ in Chromium; in worker processes where there are several."""
  e = run.config.env
  make = functools.partial(
      miniwob.MiniWob, max_steps=e.max_steps, mode=e.mode, timeout=e.timeout)
  world = make() if e.workers == 1 else pool.Pool(make, e.workers)
  try:
    yield world
  finally:
    world.close()
