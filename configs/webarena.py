"""DreamGym on the web: MiniWoB++ in real Chromium, the web without a server.

Serves the WebArena column of the paper's Table 1 in method, not in numbers:
the environment here is MiniWoB++ (13 families trained on, 6 held out) until
the live WebArena sites are given.

  python -m dreamgym_jax.main --config=configs/webarena.py          # :tiny
  python -m dreamgym_jax.main --config=configs/webarena.py:scratch
  python -m dreamgym_jax.main --config=configs/webarena.py:smoke

Sizes (2 CPU cores, 24 GiB; measured figures are in README.md and docs/LOG.md):
  tiny     0.9M parameters from the shipped experience model and policy.
  scratch  the same from nothing: collects, trains the tokenizer, the base,
           the experience model and the policy first.
  smoke    every stage with the tiniest budgets, for the tests.
"""

from dreamgym_jax import config


def get_config(size: str = 'tiny'):
  if size not in config.SIZES:
    raise config.ConfigError(
        f'configs/webarena.py has no size {size!r}: choose from '
        f'{", ".join(config.SIZES)}, e.g. --config=configs/webarena.py:tiny')
  c = config.defaults()
  c.size = size
  if size == 'tiny':
    c.gate.remedies = 0     # the shipped M_exp has had its own
  if size == 'scratch':
    c.shipped = ''
    c.experience.init = c.warmup.init = 'base'
  if size == 'smoke':
    _smoke(c)
  return c


def _smoke(c) -> None:
  """Every stage runs and nothing is good; ends in under three minutes."""
  c.shipped = ''
  c.experience.init = c.warmup.init = 'base'
  c.env.families = ('click-button', 'enter-text')
  c.env.held_out_families = ('click-test-2',)
  c.env.rows = 8
  c.collect.pages = 6
  c.tokenizer.vocab_size = 400
  c.model.D, c.model.N, c.model.F = 32, 2, 64
  c.model.H, c.model.K, c.model.d = 2, 1, 16
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
