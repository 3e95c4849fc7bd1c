"""ALFWorld, generated or official, to the stages."""

import functools
from collections.abc import Callable

import ml_collections

from dreamgym_jax import types
from dreamgym_jax.envs import (
    alfworld,
    alfworld_experts,
    alfworld_files,
    alfworld_games,
    alfworld_tasks,
)
from dreamgym_jax.stages import domains


def _world(
    observe: str, c: ml_collections.ConfigDict
) -> Callable[[], types.World]:
  h = c.house
  source = (alfworld_files.Official(h.data) if h.data else
            alfworld_games.Generated(h.max_places, h.max_objects))
  return functools.partial(
      alfworld.AlfWorld, source, max_steps=c.env.max_steps, observe=observe,
      pose=alfworld_tasks.pose, cache=h.cache, max_games=max(64, c.env.rows))


DOMAIN = domains.Domain(
    title='ALFWorld', shipped='house', dataset='dreamgym_alfworld',
    world=functools.partial(_world, 'seen'),
    advise=alfworld_experts.advise, rehearse=alfworld_experts.rehearse,
    accepts=alfworld_tasks.accepts, annotate=alfworld_tasks.annotate,
    is_determined=alfworld_tasks.is_determined,
    errands=alfworld_experts.errands)
# Its pages show where everything is, so a generated one is a whole game.
MAPPED = DOMAIN._replace(
    title='ALFWorld with a map', world=functools.partial(_world, 'full'),
    poses=True)
