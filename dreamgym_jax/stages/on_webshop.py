"""WebShop, with its made-up catalogue or the official one, to the stages."""

import functools
from collections.abc import Callable

import ml_collections

from dreamgym_jax import config, types
from dreamgym_jax.envs import (
    webshop,
    webshop_catalogue,
    webshop_files,
    webshop_tasks,
)
from dreamgym_jax.stages import domains


def _world(
    load: Callable[[], webshop_catalogue.Catalogue],
    c: ml_collections.ConfigDict,
) -> Callable[[], types.World]:
  return functools.partial(
      webshop.WebShop, load, max_steps=c.env.max_steps,
      subpages=c.shop.subpages, page_size=c.shop.page_size,
      pose=webshop_tasks.pose)


def _official_world(c: ml_collections.ConfigDict) -> Callable[[], types.World]:
  for key in ('items', 'attributes'):
    if not c.shop[key]:
      raise config.ConfigError(
          f"shop.{key}='': name='webshop-official' reads the official files; "
          f'give the path, --config.shop.{key}=/path/to/file.json')
  load = functools.partial(
      webshop_files.load, c.shop.items, c.shop.attributes,
      c.shop.instructions or None)
  return _world(load, c)


DOMAIN = domains.Domain(
    title='WebShop', shipped='shop', dataset='dreamgym_webshop',
    world=functools.partial(_world, webshop_catalogue.generate),
    advise=webshop_tasks.advise, rehearse=webshop_tasks.rehearse,
    accepts=webshop_tasks.accepts, annotate=webshop_tasks.annotate,
    is_determined=webshop_tasks.is_determined, poses=True)
OFFICIAL = DOMAIN._replace(
    world=_official_world, accepts=webshop_tasks.reads)
