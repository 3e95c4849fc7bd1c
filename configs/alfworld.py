"""DreamGym in ALFWorld: household tasks in text, on TextWorld's own engine.

The rooms, rules and goals of the alfworld package (arXiv 2010.03768): all six
kinds of task in its 96 rooms for training; the same kinds in its 24 other rooms
are held out. What is played here is the smaller domain: rooms keep 6
receptacles and 6 objects, and the page is a map, it shows where everything is
(name='alfworld-map'), so that there is nothing to search for.

  python -m dreamgym_jax.main --config=configs/alfworld.py

Sizes (2 CPU cores, 24 GiB; measured figures are in README.md and docs/LOG.md):
  tiny     0.9M parameters from the shipped experience model and policy (34
           minutes on a slow machine).
  scratch  the same from nothing: collects, trains the tokenizer, the base,
           the experience model and the policy first.
  smoke    every stage with the tiniest budgets, for the tests.
  smollm2  every stage on a pretrained model, briefly: see configs/webarena.py.

ALFWorld as it is, whole rooms and closed drawers: --config.name=alfworld
--config.house.max_places=0 --config.house.max_objects=0
--config.env.max_elements=60 --config.env.max_steps=50. With the official games
(alfworld-download): --config.house.data="$ALFWORLD_DATA", and env.*_seeds
within the number of games of each kind.
"""

from configs import sizes

_KINDS = ('pick', 'look', 'clean', 'heat', 'cool', 'pick-two')


def get_config(size: str = 'tiny'):
  return sizes.get_config('configs/alfworld.py', size, _adapt)


def _adapt(c) -> None:
  c.name, c.shipped = 'alfworld-map', 'house'
  c.env.families = tuple(f'alfworld-{kind}' for kind in _KINDS)
  c.env.held_out_families = tuple(f'alfworld-{kind}-unseen' for kind in _KINDS)
  c.env.max_steps = 15
  c.env.max_elements = 30
  c.house.max_places = c.house.max_objects = 6
  c.prompt.repeat_pages = False     # a page of 25 lines changes in one or two
  # The goal is 800 tokens away by then.
  c.prompt.restates = c.prompt.reminds = True
  c.prompt.names = True             # as ALFWorld's own commands do
  c.tokenizer.phrases = 270         # all of them: else every name ends in `1`
  c.sampler.capacity = 2_048
  c.batch.rows, c.batch.length, c.batch.positions = 1, 1_536, 1_536
  # Receptacles and objects are few words: no copying to be taught.
  c.base.rename = c.experience.rename = 0.0
  c.collect.pages = 200
  # Slips that are mended or not: experts hardly ever click where they are, and
  # only errands try what does not fit.
  c.collect.behaviours = ('expert', 'noisy', 'noisy', 'near_miss', 'careless',
                          'errand', 'errand', 'random')
  c.experience.compares = True      # who is where: copied well, compared badly
  c.base.steps, c.experience.steps = 3_000, 2_400
  # Where things mostly are is learned first, and looking where one is only
  # from pages on which nothing else tells: 86 of 144 won so, 59 with half
  # of the demonstrations, twice as often, and no recital (docs/LOG.md).
  c.warmup.demos, c.warmup.epochs, c.warmup.recitals = 100, 2, 10.0
  c.gate.pages = 32                 # six families: 192 rollouts
  # A wrong action here is told from a right one by what is done in the same
  # state by other attempts, sooner than by how the episode ends.
  c.rl.algorithm, c.rl.lr, c.rl.temperature = 'gigpo', 1e-4, 0.7
  # By tokens, lost episodes, which are long, would be most of a batch.
  c.rl.aggregate = 'sequence'
  c.curriculum.pages = 200          # all of collect, not the demonstrated alone
  c.dream.iterations = 30
  c.real_grpo.is_on = False         # as long as the dream again
  c.real_grpo.max_ratio = 1.0
  c.evaluate.pages = 80             # 480 of each kind: gains are a few points
  c.evaluate.greedy = False
