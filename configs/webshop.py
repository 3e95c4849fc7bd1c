"""DreamGym in WebShop: search, choose a product and its options, buy.

The shop of Yao et al. (arXiv 2207.01206) in pure Python: its pages, search and
reward, over a catalogue of 1,000 products that is made by code. Four
categories are trained on, the fifth is held out; the goals of training, gate
and test differ.

  python -m dreamgym_jax.main --config=configs/webshop.py

Sizes (2 CPU cores, 24 GiB; measured figures are in README.md and docs/LOG.md):
  tiny     1.0M parameters from the shipped experience model and policy (16
           minutes on two cores of a Xeon).
  scratch  the same from nothing: collects, trains the tokenizer, the base,
           the experience model and the policy first (one core: two hours to
           the end of the gate).
  smoke    every stage with the tiniest budgets, for the tests.
  smollm2  every stage on a pretrained model, briefly: see configs/webarena.py.

The sizes for CPU show three links a page, where the authors' shop shows ten,
and no buttons for descriptions: what costs tokens and decides nothing here.
With the official files: --config.name=webshop-official, --config.shop.items=
and --config.shop.attributes= with their paths.
"""

from configs import sizes

_CATEGORIES = ('shop-fashion', 'shop-beauty', 'shop-electronics', 'shop-garden')


def get_config(size: str = 'tiny'):
  return sizes.get_config('configs/webshop.py', size, _adapt)


def _adapt(c) -> None:
  c.name, c.shipped = 'webshop', 'shop'
  c.env.families = _CATEGORIES
  c.env.held_out_families = ('shop-grocery',)
  c.env.max_steps = 15
  c.env.max_elements = 30
  # Numbers of goals; every category has over 2,150 of them.
  c.env.train_seeds = (0, 1_400)
  c.env.gate_seeds = (1_400, 1_800)
  c.env.test_seeds = (1_800, 2_150)
  # What a search finds nobody can know who has not seen it: many goals, so
  # that what they search for has been searched for before. Careless purchases
  # have several things wrong, as those of an untrained policy.
  c.collect.pages = 1_350
  c.collect.behaviours = ('expert', 'noisy', 'near_miss', 'careless')
  c.shop.page_size = 3
  c.shop.subpages = ()
  c.tokenizer.vocab_size = 2_048    # whole words of titles
  c.prompt.repeat_pages = False
  c.prompt.refers = True
  c.prompt.reminds = True           # as the shop's own pages do
  c.prompt.names = True             # as its own actions do
  c.sampler.capacity = 3_072
  c.batch.rows, c.batch.length, c.batch.positions = 1, 1_536, 1_536
  # Names of goods and their attributes are few: no copying to be taught.
  c.base.rename = c.experience.rename = 0.0
  c.base.steps, c.experience.steps = 4_000, 3_000
  c.experience.max_new = 200
  c.experience.compares = True
  c.base.retrieves = True
  c.replay.capacity = 100_000       # every real transition of collect, once
  c.replay.demo_tokens = 192        # a list of results, whole
  c.replay.dropped = 0.1
  # What is copied from a goal into a search is learned by many goals, not by
  # many passes.
  c.warmup.demos, c.warmup.epochs = 100, 1
  c.gate.pages = 60                 # of 30, a second win more would refuse
  # Of next states that nothing tells; the others end the episode (dream.halts).
  c.gate.unforeseen = 0.8
  c.rl.temperature = 0.7
  c.rl.max_new = 64
  # An episode is lost by one wrong word of a hundred that were drawn, and which
  # its outcome hardly tells: what was won is right from end to end.
  c.rl.algorithm = 'raft'
  c.rl.lr, c.rl.warmup = 4e-4, 20   # Adam's first updates are mostly noise
  c.transfer.optimizer = 'kept'     # else S2R would end within its warm-up
  # By tokens, lost episodes, which are long, would be most of a batch.
  c.rl.aggregate = 'sequence'
  # Not the demonstrated goals alone, and room for generated ones.
  c.curriculum.pages, c.curriculum.capacity = 1_350, 8_192
  # Pages by the model, verdicts by the shop's own rules; a list of results that
  # was made up would be of another shop.
  c.dream.world, c.dream.halts = 'verified', True
  c.dream.iterations = 30
  c.real_grpo.is_on = False         # as long as the dream again
  c.real_grpo.max_ratio = 1.0
  c.evaluate.pages = 100
  c.evaluate.greedy = False
