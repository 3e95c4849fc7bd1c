"""What the stages act with: samplers, worlds, the replay; opened when used."""

import contextlib
import functools
from collections.abc import Sequence

import jax

from dreamgym_jax import (
    config,
    distributed,
    experience,
    prompted,
    replay,
    sampling,
    types,
    verified,
)
from dreamgym_jax.envs import pool, shared
from dreamgym_jax.models import ladders, serving
from dreamgym_jax.stages import domains, judge, memory, tasks, teaching
from dreamgym_jax.stages import run as runs


def make_real(run: runs.Run) -> types.World:
  """The config's environment; in worker processes where there are several."""
  c = run.config
  make = domains.of(c).world(c)
  own = make() if c.env.workers == 1 else pool.Pool(make, c.env.workers)
  n = jax.process_count()
  return own if n == 1 else shared.Shared(
      own, jax.process_index(), n, distributed.gather)


class Cast:
  """Owns browsers and caches; use as a context manager."""

  def __init__(self, run: runs.Run):
    self.run = run
    self._exit = contextlib.ExitStack()

  def __enter__(self) -> 'Cast':
    return self

  def __exit__(self, *error) -> None:
    self._exit.close()

  @functools.cached_property
  def real(self) -> types.World:
    world = make_real(self.run)
    self._exit.callback(world.close)
    return world

  @functools.cached_property
  def prompt(self):
    return self.run.prompts()

  @functools.cached_property
  def model_config(self):
    return self.run.model_config(self.prompt.tok.vocab_size)

  @functools.cached_property
  def player(self) -> judge.Player:
    c = self.run.config
    if c.env.parts > 1 and jax.process_count() > 1:
      raise config.ConfigError(
          f'env.parts={c.env.parts}: of several processes each would wait for '
          'the others at another call; 1 plays all rows together')
    rows = self._rows
    return judge.Player(
        self._sampler(), self.prompt, rows, c.rl.max_new, c.env.refill,
        c.env.parts)

  @property
  def _rows(self) -> int:
    c = self.run.config
    return max(c.env.rows, c.rl.tasks * c.rl.group)

  def _sampler(self, n_drafted: int = 0) -> sampling.Sampler:
    c = self.run.config.sampler
    return sampling.Sampler(self.model_config, self._rows, c.capacity,
                            n_drafted=n_drafted, **ladders.LADDERS[c.buckets])

  @functools.cached_property
  def dream_sampler(self) -> sampling.Sampler:
    return self._sampler(self.run.config.sampler.drafted)

  @functools.cached_property
  def offline(self) -> list[types.Episode]:
    return self.run.offline()

  def open_replay(self) -> replay.Replay:
    """A fresh store, seeded with the offline set."""
    return memory.open_replay(self.run, self.offline)

  def dream(
      self, params: types.Params, store: replay.Replay, stream: int,
      sampler: sampling.Sampler | None = None,
  ) -> types.Dream:
    """The world that `dream.world` names, grounded by the given store."""
    c = self.run.config
    key = jax.random.fold_in(jax.random.key(c.seed), 1000 + stream)
    params = serving.freeze(params, self.model_config)
    return _DREAMS[c.dream.world](
        self, params, memory.make_retrieve(store, c.replay.k), key,
        sampler or self.dream_sampler)

  def _by_model(self, params, retrieve, key, sampler) -> types.Dream:
    c = self.run.config
    settings = experience.Settings(
        c.env.max_steps, c.experience.max_new, c.experience.use_reasoning,
        compares=c.experience.compares, halts=c.dream.halts)
    return experience.DreamWorld(
        params, sampler, self.prompt, retrieve, settings, key)

  def _by_model_and_rules(self, *args) -> types.Dream:
    domain = domains.of(self.run.config)
    if domain.advise is None:
      raise config.ConfigError(
          f"dream.world='verified': no rules know who wins in {domain.title}")
    return verified.VerifiedWorld(self._by_model(*args), domain.annotate)

  def _by_endpoint(self, params, retrieve, *_) -> types.Dream:
    asked = teaching.ask(self.run)
    self._exit.callback(asked.close)
    world = prompted.PromptedWorld(
        asked, retrieve, prompted.Settings(self.run.config.env.max_steps))
    return world if jax.process_count() == 1 else shared.SharedDream(
        world, jax.process_index(), distributed.gather)

  def proposer(self, params: types.Params) -> tasks.Propose:
    """M_task: the same parameters as M_exp."""
    c = self.run.config.curriculum

    def propose(
        groups: Sequence[Sequence[types.Task]], key: jax.Array
    ) -> list[experience.Proposal]:
      return experience.propose_tasks(
          params, self.dream_sampler, self.prompt, groups, key,
          c.temperature, c.max_new)

    return propose


_DREAMS = {'model': Cast._by_model, 'verified': Cast._by_model_and_rules,
           'prompted': Cast._by_endpoint}
