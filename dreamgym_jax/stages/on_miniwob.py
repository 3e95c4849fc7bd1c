"""MiniWoB++ in Chromium, as the stages see it."""

import functools
from collections.abc import Callable

import ml_collections

from dreamgym_jax import collect, types
from dreamgym_jax.envs import miniwob, miniwob_tasks
from dreamgym_jax.stages import domains


def _world(c: ml_collections.ConfigDict) -> Callable[[], types.World]:
  e = c.env
  return functools.partial(
      miniwob.MiniWob, max_steps=e.max_steps, mode=e.mode, timeout=e.timeout)


DOMAIN = domains.Domain(
    title='MiniWoB++ in Chromium', shipped='web', dataset='dreamgym_web',
    world=_world, advise=miniwob_tasks.advise,
    rehearse=collect.by_script(miniwob_tasks.advise),
    accepts=miniwob_tasks.accepts, annotate=miniwob_tasks.annotate,
    is_determined=domains.always)
