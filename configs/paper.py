r"""The sizes of the paper's policies, for --mode=plan.

  python -m dreamgym_jax.main --mode=plan \
    --config=configs/paper.py:llama-3.1-8b --config.plan.topology=v5p:4x4x4

Sizes: llama-3.2-3b, llama-3.1-8b, qwen2.5-7b. Streams of 4,096 tokens, 160
episodes at once, 100 iterations of 15 turns; other keys are the defaults. Only
plans: no weights of this size are read.
"""

from configs import sizes


def get_config(model: str = 'llama-3.1-8b'):
  c = sizes.get_config('configs/paper.py', 'scratch', lambda c: None)
  c.plan.model = model
  c.sampler.capacity = c.batch.length = 4096
  c.batch.rows = 64
  c.env.max_steps = 15
  c.rl.max_new, c.experience.max_new = 128, 256
  c.experience.steps, c.dream.iterations = 2_000, 100
  return c
