"""WebArena and WebArena-Lite on live sites, to the stages.

There are no experts and no rules that explain a step: offline episodes are
given (`collect.trajectories`), and a teacher writes their reasoning traces.
Training plays tasks that only read, for the attempts of a group share a site;
those that write are evaluated, one at a time, where `arena.reset_command` puts
their sites back.
"""

import functools
from collections.abc import Callable

import ml_collections

from dreamgym_jax import config, types
from dreamgym_jax.envs import webarena, webarena_tasks
from dreamgym_jax.stages import domains


def _world(c: ml_collections.ConfigDict) -> Callable[[], types.World]:
  if c.env.workers != 1:
    raise config.ConfigError(
        f"env.workers={c.env.workers}: name='webarena' has a process for each "
        'row; set env.workers=1, and env.rows to how many may run at once')
  return functools.partial(
      webarena.WebArena, c.env.max_steps,
      max_rows=max(c.env.rows, c.rl.tasks * c.rl.group),
      timeout=c.arena.timeout, reset_timeout=c.arena.reset_timeout,
      reset_site=list(c.arena.reset_command) or None,
      directory=c.arena.quarantine)


def _unexplained(task: types.Task, step: types.Transition) -> str:
  del task, step
  return ''


def _n_pages(c: ml_collections.ConfigDict, family: str) -> int:
  if webarena_tasks.is_lite(family) and c.arena.reset_command:
    return len(webarena_tasks.families()[family])
  return webarena_tasks.n_reading(family)


DOMAIN = domains.Domain(
    title='WebArena on live sites', shipped='arena',
    dataset='dreamgym_webarena', world=_world, advise=None, rehearse=None,
    accepts=webarena_tasks.accepts, annotate=_unexplained,
    is_determined=domains.always, n_pages=_n_pages, lots=webarena_tasks.lots)
