"""The environments that a config can name: one module and one line each.

Everything else in the package knows worlds, tasks and texts alone; what it
needs to be told about an environment is a `Domain`. The modules are imported
when a config names them, for their packages need not all be installed. One
from outside the package is named by name='module:ATTRIBUTE'.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_collections

from dreamgym_jax import config, types
from dreamgym_jax.envs import behaviours


def always(episode: types.Episode, t: int) -> bool:
  """`is_determined` of pages that show all there is to know of them."""
  del episode, t
  return True


def endless(c: ml_collections.ConfigDict, family: str) -> None:
  """`n_pages` of families that a generator makes, a page for any seed."""
  del c, family


def together(tasks: Sequence[types.Task]) -> list[list[int]]:
  """`lots` of worlds in which any tasks can be played side by side."""
  return [list(range(len(tasks)))] if tasks else []


class Domain(NamedTuple):
  """A real world and what is known about its tasks, from text alone."""

  title: str                 # for people
  shipped: str               # directory of its weights, below shipped/
  dataset: str               # name of its TFDS dataset
  # config -> what makes a world; picklable, for worker processes
  world: Callable[[ml_collections.ConfigDict], Callable[[], types.World]]
  # (task, state) -> (thought, action) of an expert; None where there is none
  advise: Callable[[types.Task, str], tuple[str, str]] | None
  # what near misses do apart from their slip
  rehearse: behaviours.Rehearse | None
  # whether the environment's own generator could have made the task
  accepts: Callable[[types.Task], bool]
  # R* of a true transition; '' where the rules here disagree with the world
  annotate: Callable[[types.Task, types.Transition], str]
  # (episode, t): whether what step t leads to could be known before it
  is_determined: Callable[[types.Episode, int], bool]
  # whether the world can play generated tasks that `accepts` accepts
  poses: bool = False
  # (config, family) -> how many pages a family has; None: one for any seed
  n_pages: Callable[[ml_collections.ConfigDict, str], int | None] = endless
  # tasks -> indices of those that may be played side by side
  lots: Callable[[Sequence[types.Task]], list[list[int]]] = together
  # what the behaviour 'errand' is about; None where it is not known
  errands: behaviours.Errands | None = None


# name -> (module beside this one, its Domain, what it needs installed)
DOMAINS = {
    'miniwob': ('on_miniwob', 'DOMAIN', 'requirements-web.txt'),
    'alfworld': ('on_alfworld', 'DOMAIN', 'requirements-alfworld.txt'),
    'alfworld-map': ('on_alfworld', 'MAPPED', 'requirements-alfworld.txt'),
    'webshop': ('on_webshop', 'DOMAIN', 'requirements-webshop.txt'),
    'webshop-official': ('on_webshop', 'OFFICIAL', 'requirements-webshop.txt'),
    'webarena': ('on_webarena', 'DOMAIN', 'requirements-webarena.txt'),
}


def of(c: ml_collections.ConfigDict) -> Domain:
  """The domain that a config names; raises ConfigError if there is none."""
  if ':' in c.name:
    return _from_outside(c.name)
  if c.name not in DOMAINS:
    raise config.ConfigError(
        f'name={c.name!r}: choose from {tuple(DOMAINS)}, or give '
        "'module:ATTRIBUTE' of a Domain of your own")
  module, attribute, requirements = DOMAINS[c.name]
  try:
    found = importlib.import_module(f'dreamgym_jax.stages.{module}')
  except ModuleNotFoundError as error:
    raise config.ConfigError(
        f'name={c.name!r}: the package {error.name!r} is missing; '
        f'pip install -r {requirements}') from error
  return getattr(found, attribute)


def _from_outside(name: str) -> Domain:
  """'module:ATTRIBUTE' imported; ConfigError where that is no Domain."""
  path, _, attribute = name.partition(':')
  try:
    module = importlib.import_module(path)
  except (ImportError, TypeError, ValueError) as error:   # or no module's name
    raise config.ConfigError(
        f'name={name!r}: cannot import {path!r}: {error}; its directory must '
        'be on PYTHONPATH, and what it imports installed') from error
  if not hasattr(module, attribute):
    raise config.ConfigError(
        f'name={name!r}: {path} has no {attribute!r}')
  found = getattr(module, attribute)
  if not isinstance(found, Domain):
    raise config.ConfigError(
        f'name={name!r}: want a stages.domains.Domain, '
        f'got {type(found).__name__}')
  return found


def pages(c: ml_collections.ConfigDict, family: str, split: str) -> range:
  """The seeds of a family in 'train', 'gate' or 'test', as far as it has them.

  Families that are only tested have a range of their own, where
  `env.held_out_seeds` is given. Raises ConfigError if nothing is left.
  """
  e = c.env
  is_apart = family in e.held_out_families
  spans = {'train': e.train_seeds, 'gate': e.gate_seeds,
           'test': is_apart and e.held_out_seeds or e.test_seeds}
  seeds = range(*spans[split])
  n_pages = of(c).n_pages(c, family)
  if n_pages is None:
    return seeds
  kept = range(seeds.start, min(seeds.stop, n_pages))
  if not kept:
    raise config.ConfigError(
        f'env.{split}_seeds or env.held_out_seeds: {family} has {n_pages} '
        f'pages, numbered from 0, and none of {seeds}')
  return kept
