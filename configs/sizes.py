"""The sizes that every environment's config has; no config of its own."""

from collections.abc import Callable

from dreamgym_jax import config


def get_config(
    path: str, size: str, adapt: Callable[[config.D], None]
) -> config.D:
  """The defaults, adapted to an environment, at one of config.SIZES.

  `path` is the config's file, for errors.
  """
  if size not in config.SIZES:
    raise config.ConfigError(
        f'{path} has no size {size!r}: choose from '
        f'{", ".join(config.SIZES)}, e.g. --config={path}:tiny')
  c = config.defaults()
  adapt(c)
  c.size = size
  if size == 'tiny':
    c.gate.remedies = 0     # the shipped M_exp has had its own
  if size == 'scratch':
    c.shipped = ''
    c.experience.init = c.warmup.init = 'base'
  if size == 'smoke':
    _smoke(c)
  return c


def _smoke(c: config.D) -> None:
  """Every stage runs and nothing is good; ends in under three minutes."""
  c.shipped = ''
  c.experience.init = c.warmup.init = 'base'
  c.env.rows = 8
  c.collect.pages = 6
  c.tokenizer.vocab_size = 400
  c.model.D, c.model.N, c.model.F = 32, 2, 64
  c.model.H, c.model.K, c.model.d = 2, 1, 16
  c.env.families = c.env.families[:2]
  c.env.held_out_families = c.env.held_out_families[:1]
  c.base.steps = c.experience.steps = 20
  c.gate.enforce = False        # an untrained dream cannot pass
  c.gate.pages = c.gate.remedy_pages = 2
  c.gate.remedy_steps = 5
  c.curriculum.pages = 4
  c.curriculum.candidates = 4
  c.curriculum.every = 1
  c.rl.tasks, c.rl.group = 4, 4
  c.rl.updates = 1
  c.dream.iterations = 2
  c.transfer.transitions = 60
  c.evaluate.pages = 3
  c.report.episodes = 2
