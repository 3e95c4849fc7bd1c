"""The environments that a config can name: one entry each.

Everything else in the package knows worlds, tasks and texts alone; what it
needs to be told about an environment is a `Domain`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import ml_collections

from dreamgym_jax import config, types
from dreamgym_jax.envs import miniwob, miniwob_tasks


class Domain(NamedTuple):
  """A real world and what is known about its tasks, from text alone."""

  # config -> what makes a world; picklable, for worker processes
  world: Callable[[ml_collections.ConfigDict], Callable[[], types.World]]
  # (task, state) -> (thought, action) of an expert
  advise: Callable[[types.Task, str], tuple[str, str]]
  # whether the environment's own generator could have made the task
  accepts: Callable[[types.Task], bool]
  # R* of a true transition; '' where the rules here disagree with the world
  annotate: Callable[[types.Task, types.Transition], str]
  dataset: str               # name of its TFDS dataset


def _miniwob(c: ml_collections.ConfigDict) -> Callable[[], types.World]:
  e = c.env
  return functools.partial(
      miniwob.MiniWob, max_steps=e.max_steps, mode=e.mode, timeout=e.timeout)


DOMAINS = {
    'miniwob': Domain(_miniwob, miniwob_tasks.advise, miniwob_tasks.accepts,
                      miniwob_tasks.annotate, 'dreamgym_web'),
}


def of(c: ml_collections.ConfigDict) -> Domain:
  """The domain that a config names; raises ConfigError if there is none."""
  if c.name not in DOMAINS:
    raise config.ConfigError(
        f'name={c.name!r}: choose from {tuple(DOMAINS)}')
  return DOMAINS[c.name]
