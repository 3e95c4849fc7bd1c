"""Placement: eight fake devices give what one does (in a process of its own).

The number of devices is fixed before JAX starts, hence the subprocess.
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from dreamgym_jax.models import sharding

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


def test_updates_and_samples_on_eight_devices_equal_those_on_one():
  env = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
      'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
      [sys.executable, '-c', _EIGHT_DEVICES], env=env, capture_output=True,
      text=True, timeout=600)
  assert done.returncode == 0, done.stderr[-3000:]
  assert done.stdout.split()[-1] == 'same'


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
