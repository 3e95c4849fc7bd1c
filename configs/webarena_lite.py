"""WebArena on live sites, judged on the tasks of WebArena-Lite.

Trains on WebArena's own tasks, those of WebArena-Lite left out, and evaluates
on WebArena-Lite (webarena-lite-*). Needs the sites (WA_* addresses), what
requirements-webarena.txt lists, and recorded episodes of training tasks, for
there are no experts:

  python -m dreamgym_jax.main --config=configs/webarena_lite.py \
    --config.collect.trajectories=episodes.jsonl.gz \
    --config.model.pretrained=meta-llama/Llama-3.2-3B-Instruct \
    --config.teacher.base_url=http://localhost:8000/v1 \
    --config.teacher.model=my-model

Without --config.arena.reset_command (a command that puts back the site whose
name is appended) tasks that write are left out: 98 of Lite's 165 are played.
Nobody has run this on live sites yet. Everything up to them is tested, in real
Chromium through BrowserGym.

Sizes: scratch (a tiny model; for a look), smoke, smollm2; none is shipped.
"""

from configs import sizes

_SITES = ('shopping', 'shopping_admin', 'gitlab', 'map')
_LITE_SITES = (*_SITES, 'reddit', 'several')


def get_config(size: str = 'scratch'):
  return sizes.get_config('configs/webarena_lite.py', size, _adapt)


def _adapt(c) -> None:
  c.name, c.shipped = 'webarena', 'arena'
  c.env.families = tuple(f'webarena-{s}' for s in _SITES)
  c.env.held_out_families = tuple(f'webarena-lite-{s}' for s in _LITE_SITES)
  # Places among the tasks of a site that only read; each has 52 or more.
  c.env.train_seeds = (0, 32)
  c.env.gate_seeds = (32, 44)
  c.env.test_seeds = (44, 92)
  c.env.held_out_seeds = (0, 50)    # all
  c.env.max_steps = 30
  c.env.rows = 16                   # browsers, 300 MB each
  c.env.refill = 4                  # a reset takes as long as a step
  c.prompt.repeat_pages = False
  c.sampler.capacity = 8_192
  c.batch.rows, c.batch.length = 1, 8_192
  c.experience.max_new = 512
  # Live pages name things once; edits of them copy long words.
  c.base.rename = c.experience.rename = 0.0
  c.gate.pages, c.gate.remedy_pages = 12, 12
  c.rl.tasks, c.rl.group = 4, 4
  c.evaluate.pages = 50             # more than any family has
  c.evaluate.greedy = False
