"""Placement: eight fake devices give what one does (in a process of its own).

The number of devices is fixed before JAX starts, hence the subprocess.
"""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from dreamgym_jax.models import sharding

ROOT = pathlib.Path(__file__).parents[1]
_EIGHT_DEVICES = '''
import jax, numpy as np, optax
from dreamgym_jax import learner, sampling
from dreamgym_jax.data import batches
from dreamgym_jax.models import sharding, transformer
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)
cfg = transformer.ModelConfig(V=32, D=16, N=1, H=4, K=2, d=8, F=24)
assert len(jax.devices()) == 8
init = jax.jit(transformer.init, static_argnums=1)
params = init(jax.random.key(0), cfg)
rng = np.random.default_rng(0)
streams = [batches.Stream(
    rng.integers(1, cfg.V, 8), np.arange(8) % 3 > 0,
    np.full(8, -3.4, np.float32), np.full(8, i % 2 - .5, np.float32))
    for i in range(16)]
(batch,) = batches.pack(streams, 8, 16, 128)
sgd = optax.sgd(1.0)
sft, grpo = learner.make_sft_step(cfg, sgd), learner.make_grpo_step(cfg, sgd)
prompts = [rng.integers(1, cfg.V, 3 + i % 4).tolist() for i in range(8)]

def updated(params, batch):
  state, one = sft(learner.init_state(params, sgd), batch)
  state, two = grpo(state, batch)
  return state.params, one['loss'], two['loss'], two['grad_norm']

def sampled(params):
  sampler = sampling.Sampler(cfg, 8, 24, row_buckets=(8,), token_buckets=(8,),
                             column_buckets=(24,))
  return sampler.turn(
      params, range(8), prompts, key=jax.random.key(1), streams=range(8),
      temperature=1.0, max_new=8, stop=(), watch=())

want, said = updated(params, batch), sampled(params)
for sizes in ((2, 4, 1), (2, 2, 2)):
  mesh = sharding.make_mesh(*sizes)
  where = transformer.shardings(cfg, mesh)
  with jax.set_mesh(mesh):
    mine = jax.device_put(params, where)
    split = sharding.shard_batch(batch, mesh)
    got, turns = updated(mine, split), sampled(mine)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  for a, b in zip(turns, said, strict=True):
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)
  shard = split.tok_BxT.addressable_shards[0].data.shape
  assert shard == (8 // sharding.n_batch_shards(mesh), 16), shard
  # The update left the weights where they were.
  gate = got[0]['blocks']['gate']
  shape = gate.sharding.shard_shape(gate.shape)
  assert shape == (1, 16 // sizes[1], 24 // sizes[2]), shape
print('same')
'''


# What the stages call, under the mesh in use. The sizes are such that the
# key/value heads, the vocabulary and the replay's rows do not divide.
_IN_USE = '''
import jax, numpy as np
from dreamgym_jax import config, learner, replay, sampling
from dreamgym_jax.data import batches
from dreamgym_jax.models import lora, minilm, sharding, transformer
from dreamgym_jax.stages import algorithms
from tests import test_algorithms
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_disable_most_optimizations', True)
cfg = transformer.ModelConfig(V=33, D=16, N=1, H=4, K=1, d=8, F=24)
rng = np.random.default_rng(0)
bank = replay.Bank(rng.normal(size=(37, 8)).astype(np.float32),
                   *np.zeros((3, 37), np.int32))
query = replay.Query(rng.normal(size=(5, 8)).astype(np.float32),
                     *np.full((3, 5), -1, np.int32))
texts = rng.integers(0, 20, (16, 32)), rng.integers(1, 32, 16)
bert = {'word': (20, 16), 'position': (32, 16), 'token_type': (2, 16),
        'ln0': {'w': (16,), 'b': (16,)}, 'layers': {
            n: {'w': (2, 16) if 'ln' in n else (2, 16, 16), 'b': (2, 16)}
            for n in ('q', 'k', 'v', 'o', 'ln1', 'up', 'down', 'ln2')}}
bert = jax.tree.map(lambda s: rng.normal(size=s).astype(np.float32), bert,
                    is_leaf=lambda s: isinstance(s, tuple))

init = jax.jit(transformer.init, static_argnums=1)

def adapted():
  base = init(jax.random.key(0), cfg)
  own = lora.init(jax.random.key(1), cfg, 2)
  own = jax.tree.map(lambda w: w + .01, own)     # b is zero at first
  return transformer.place(lora.join(base, own), cfg)

def learned(name, group):
  c = config.defaults()
  c.rl.algorithm, c.rl.tasks, c.rl.group, c.rl.updates = name, 2, 2, 1
  c.batch.length = 64
  algorithm = algorithms.make(c, cfg)
  params = transformer.place(init(jax.random.key(0), cfg), cfg)
  state, metrics = algorithm.start(params), []
  for _ in range(3):
    state, said = algorithm.update(
        state, test_algorithms.some(group), params, {})
    metrics.append(said)
  assert any(m['grad_norm'] > 0 for m in metrics)
  return state.params, metrics

def said(n_drafted):
  sampler = sampling.Sampler(cfg, 5, 24, n_drafted=n_drafted,
                             row_buckets=(4,), token_buckets=(8,),
                             column_buckets=(24,))
  params = adapted()
  prompts = [rng.integers(1, cfg.V, 3 + i % 2).tolist() for i in range(5)]
  for rows in (range(5), (1, 3)):
    turns = sampler.turn(
        params, rows, [prompts[r] for r in rows], key=jax.random.key(1),
        streams=rows, temperature=1.0, max_new=7, stop=(), watch=())
    yield [t.tokens for t in turns], [t.logp for t in turns]

def everything():
  global rng
  rng = np.random.default_rng(1)
  index = replay.make_exact_top_k()
  index.update(bank, range(37))
  return dict(
      {n: learned(n, 1 if n == 'ppo' else 2)
       for n in ('grpo', 'dpo', 'ppo')},
      said=list(said(0)), drafted=list(said(3)), hits=index.search(query, 3),
      texts=minilm.embed(bert, *texts, heads=2, eps=1e-12))

want = everything()
with jax.set_mesh(sharding.make_mesh(2, 2, 2)):
  got = everything()
  for x in jax.tree.leaves(got):
    assert not isinstance(x, jax.Array) or len(x.devices()) == 8
  assert [sharding.round_up(n) for n in (7, 8, 9)] == [8, 8, 12]
  full = sharding.fill_up({'x': np.ones((3, 2)), 'y': np.ones(4)})
  np.testing.assert_array_equal(full['x'], [[1, 1]] * 3 + [[0, 0]])
  np.testing.assert_array_equal(full['y'], [1] * 4)
  params = transformer.place(init(jax.random.key(0), cfg), cfg)
  optimizer = learner.make_optimizer(1e-3, 1, 9)
  state = learner.init_state(params, optimizer)
  where = jax.tree.map(lambda x: x.sharding, state)
  step = learner.make_sft_step(cfg, optimizer)
  stream = batches.Stream(np.arange(1, 9), np.ones(8))
  (batch,) = batches.pack([stream] * 8, 8, 8, 56)
  for _ in range(3):
    state, _ = step(state, sharding.shard_batch(batch))
  assert step._cache_size() == 1, step._cache_size()
  # Moments lie where their weights lie, before the updates and after.
  assert jax.tree.all(jax.tree.map(
      lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, where))
  gate = state.opt_state[1][0].mu['blocks']['gate']
  assert gate.sharding.shard_shape(gate.shape) == (1, 8, 12)
jax.tree.map(lambda a, b: np.testing.assert_allclose(
    a, b, rtol=1e-5, atol=1e-5), got, want)
print('same')
'''


@pytest.mark.parametrize('script', [_EIGHT_DEVICES, _IN_USE])
def test_eight_devices_give_what_one_does(script):
  env = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
      'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
      [sys.executable, '-c', script], env=env, capture_output=True,
      text=True, timeout=600, cwd=ROOT)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.split()[-1] == 'same'


def test_what_does_not_divide_stays_whole():
  mesh = jax.sharding.AbstractMesh((2, 2, 3), sharding.AXES)

  def split(shape, *names):
    return tuple(sharding.fitting(shape, names, mesh))

  assert split((8, 6), 'batch', 'kv') == (('data', 'fsdp'), 'tensor')
  assert split((6, 8), 'batch', 'kv') == ()
  assert split((6, 6), 'batch', 'kv') == (None, 'tensor')
  assert split((8, 5, 6), 'batch', None, 'embed') == (
      ('data', 'fsdp'), None, 'fsdp')
  assert split((8, 5, 6), 'batch') == (('data', 'fsdp'),)


def test_outside_of_a_mesh_nothing_is_put_anywhere():
  batch = {'x': np.arange(3)}
  assert sharding.in_use() is None and sharding.where((4,), 'batch') is None
  assert sharding.shard_batch(sharding.fill_up(batch))['x'] is batch['x']
  assert sharding.round_up(7) == 7


def test_one_device_is_a_mesh_too():
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  assert dict(mesh.shape) == {'data': 1, 'fsdp': 1, 'tensor': 1}
  batch = sharding.shard_batch({'x': np.arange(6).reshape(3, 2)}, mesh)
  np.testing.assert_array_equal(batch['x'], np.arange(6).reshape(3, 2))


def test_every_rule_names_a_mesh_axis():
  axes = sharding.spec(*dict(sharding.RULES))
  flat = [a for entry in axes if entry
          for a in ((entry,) if isinstance(entry, str) else entry)]
  assert set(flat) == set(sharding.AXES)


def test_impossible_meshes_and_batches_say_why():
  one = jax.devices()[:1]
  with pytest.raises(ValueError, match='only one axis may be -1'):
    sharding.make_mesh(-1, -1, devices=one)
  with pytest.raises(ValueError, match='needs 6 devices, there are 1'):
    sharding.make_mesh(2, 3, 1, devices=one)
  mesh = sharding.make_mesh(devices=one)
  with pytest.raises(ValueError, match=r"batch\['x'\] of shape \(\)"):
    sharding.shard_batch({'x': np.float32(1)}, mesh)
