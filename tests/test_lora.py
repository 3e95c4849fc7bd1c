"""Adapters: no change at first, gradients in them alone, merged = applied."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamgym_jax import learner, sampling, sft
from dreamgym_jax.data import batches
from dreamgym_jax.models import ladders, layers, lora, transformer

CFG = transformer.ModelConfig(V=24, D=16, N=2, H=4, K=2, d=4, F=20)
SHAPE = batches.Shape(2, 16, 32)
RANK = 3
pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def base():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)


def adapted(base, seed=0, is_trained=True):
  own = lora.init(jax.random.key(seed), CFG, RANK)
  if is_trained:
    own = jax.tree.map(lambda x: x + .1 * jax.random.normal(
        jax.random.key(seed + 1), x.shape), own)
  return lora.join(base, own)


_forward = jax.jit(transformer.forward, static_argnames='cfg')


def forward(params):
  tok = jax.random.randint(jax.random.key(1), (2, 8), 0, CFG.V)
  pos = jnp.tile(jnp.arange(8), (2, 1))
  return _forward(params, tok, pos, jnp.ones_like(pos), cfg=CFG)


def streams(n=6):
  """Each counts up from another token: what a base does not know."""
  return [batches.Stream((np.arange(12) + i) % CFG.V, np.ones(12))
          for i in range(n)]


def batch():
  return next(batches.epochs(streams(), *SHAPE, batches.Cursor(0)))[0]


def test_new_adapters_change_nothing(base):
  np.testing.assert_array_equal(
      forward(adapted(base, is_trained=False)), forward(base))
  np.testing.assert_array_equal(
      forward(lora.off(adapted(base))), forward(base))
  assert lora.off(base) is base


def test_merged_equals_applied(base):
  params = adapted(base)
  assert float(jnp.abs(forward(params) - forward(base)).max()) > .1
  merged = lora.merge(params)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  np.testing.assert_allclose(forward(merged), forward(params), atol=1e-4)
  assert lora.merge(base) is base
  # By hand: the second layer's output matrix, over two input axes.
  a, b = (params['blocks'][f'wo_{x}'][1] for x in 'ab')
  np.testing.assert_allclose(
      merged['blocks']['wo'][1] - base['blocks']['wo'][1],
      layers.ALPHA / RANK * np.einsum('HdR,RD->HdD', a, b), atol=1e-5)


def test_the_sampler_uses_them_as_the_scorer_does(base):
  params = adapted(base)
  sampler = sampling.Sampler(CFG, 1, 32, **ladders.LADDERS['coarse'])
  turn, = sampler.turn(
      params, [0], [[1, 2, 3]], key=jax.random.key(0), streams=[0],
      temperature=1.0, max_new=6, stop=[])
  tok = np.array([[1, 2, 3, *turn.tokens]])
  pos = np.arange(9)[None]
  z = _forward(params, tok, pos, np.ones_like(pos), cfg=CFG)
  logp = jax.nn.log_softmax(z[0, 2:-1])[np.arange(6), tok[0, 3:]]
  np.testing.assert_allclose(turn.logp, logp, atol=1e-5)


def test_one_call_serves_rows_of_several_roles(base):
  """Token for token what each role says in a call of its own."""
  trees = [lora.join(base, jax.tree.map(
      lambda x, i=i: .1 * jax.random.normal(jax.random.key(i), x.shape),
      lora.init(jax.random.key(0), CFG, RANK + i))) for i in range(2)]
  role_B = np.array([0, 1, 1, 0, 1])
  prompts = [[1, 2, 3], [4, 5], [1, 2, 3], [6] * 9, [7, 8]]

  def play(params, rows, n_drafted=0):
    sampler = sampling.Sampler(CFG, 5, 32, row_buckets=(), token_buckets=(16,),
                               column_buckets=(), n_drafted=n_drafted)
    said = {r: [] for r in rows}
    for temperature in (0.0, 1.0):
      sampler.start(5)
      for seed in range(2):
        turns = sampler.turn(
            params, rows, [[1] if seed else prompts[r] for r in rows],
            key=jax.random.key(seed), streams=rows, temperature=temperature,
            max_new=9, stop=[3])
        for r, turn in zip(rows, turns, strict=True):
          said[r].append(turn)
    return said

  stacked = lora.of_rows(lora.stack(trees), role_B)
  apart = [play(params, range(5)) for params in trees]
  for mixed in (play(stacked, range(5), n_drafted=2), play(stacked, [4, 2])):
    for row, turns in mixed.items():
      for a, b in zip(turns, apart[role_B[row]][row], strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)
  assert all(a[0].tokens.tolist() != b[0].tokens.tolist()
             for a, b in zip(*(x.values() for x in apart), strict=True))


def test_split_takes_apart_what_join_put_together(base):
  params = adapted(base)
  frozen, own = lora.split(params)
  assert jax.tree.structure(frozen) == jax.tree.structure(base)
  assert jax.tree.structure(own) == jax.tree.structure(lora.shapes(CFG, RANK))
  assert len(own['blocks']) == 2 * len(layers.ADAPTED)
  again = lora.join(frozen, own)
  assert again.keys() == params.keys()
  assert again['blocks'].keys() == params['blocks'].keys()
  assert lora.split(base) == ({}, base) and lora.join({}, base) is base
  # As files and checkpoints hold them: without their base.
  assert lora.split(own)[1]['blocks'].keys() == own['blocks'].keys()


def test_only_adapters_get_gradients_and_they_are_those_of_the_merged(base):
  """dL/dA and dL/dB by the chain rule from dL/dW of the merged weights."""
  params, b = adapted(base), batch()
  frozen, own = lora.split(params)

  def loss(params):
    return -learner.logp_entropy(params, b, CFG)[0].sum()

  grads = jax.jit(jax.grad(lambda own: loss(lora.join(frozen, own))))(own)
  assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads))
  whole = jax.jit(jax.grad(loss))(lora.merge(params))['blocks']['up']
  a, b_ = own['blocks']['up_a'], own['blocks']['up_b']
  scale = layers.ALPHA / RANK
  np.testing.assert_allclose(
      grads['blocks']['up_b'], scale * np.einsum('NDR,NDF->NRF', a, whole),
      rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(
      grads['blocks']['up_a'], scale * np.einsum('NDF,NRF->NDR', whole, b_),
      rtol=1e-3, atol=1e-3)


def test_the_state_of_training_holds_adapters_alone(base):
  params = adapted(base, is_trained=False)
  frozen, own = lora.split(params)
  optimizer = learner.make_optimizer(1e-2, 1, 10)
  state = learner.init_state(own, optimizer)
  n = sum(x.size for x in jax.tree.leaves(state))
  assert n == 3 * transformer.n_params(own) + sum(
      x.size == 1 for x in jax.tree.leaves(state))   # itself, two moments
  step = learner.make_grpo_step(CFG, optimizer, kl_coef=.1)
  before = jax.tree.map(np.array, frozen)
  b = batch()
  state, metrics = step(state, b._replace(adv_P=np.ones_like(b.adv_P)),
                        lora.off(params), frozen=frozen)
  # The reference is the base: at the first update the policy is it still.
  assert abs(float(metrics['kl'])) < 1e-6 and not metrics['skipped']
  jax.tree.map(np.testing.assert_array_equal, before, frozen)
  assert state.params['blocks'].keys() == own['blocks'].keys()


def test_supervised_steps_learn_and_resume_exactly(base, tmp_path):
  params = adapted(base, is_trained=False)
  losses = []

  def fit(name, steps, of):
    return sft.fit(params, streams(), CFG, SHAPE, steps, 2e-2, 0,
                   tmp_path / name, checkpoint_every=20,
                   on_step=lambda step, loss, n: of.append(loss))

  learned = fit('a', 40, losses)
  assert losses[-1] < .7 * losses[0]
  score = learner.make_score(CFG)
  before, after = (float(-score(p, batch()).mean()) for p in (base, learned))
  assert after < .6 * before
  jax.tree.map(np.testing.assert_array_equal, lora.off(learned), base)
  again = fit('a', 40, [])    # from its last checkpoint: nothing left to do
  jax.tree.map(np.testing.assert_array_equal, again, learned)
