"""Placement: four fake devices give what one does (in a process of its own).

The number of devices is fixed before JAX starts, hence the subprocess.
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from dreamgym_jax.models import sharding

_FOUR_DEVICES = '''
import jax, jax.numpy as jnp, numpy as np
from dreamgym_jax.models import sharding, transformer
jax.config.update('jax_numpy_rank_promotion', 'raise')
cfg = transformer.ModelConfig(V=32, D=16, N=2, H=4, K=2, d=8, F=24)
assert len(jax.devices()) == 4
init = jax.jit(transformer.init, static_argnums=1)
params = init(jax.random.key(0), cfg)
rng = np.random.default_rng(0)
batch = {'tok': rng.integers(0, cfg.V, (4, 8)).astype(np.int32),
         'pos': np.tile(np.arange(8, dtype=np.int32), (4, 1)),
         'segment': np.ones((4, 8), np.int32)}

def loss(params, batch):
  x = transformer.hidden(
      params, batch['tok'], batch['pos'], batch['segment'], cfg)
  logp, entropy = transformer.logp_entropy(
      params, x.reshape(-1, cfg.D), batch['tok'].reshape(-1), cfg, chunk=8)
  return (logp + entropy).mean()

grad = jax.jit(jax.value_and_grad(loss))
want = grad(params, batch)
for sizes in ((4, 1, 1), (1, 2, 2)):
  mesh = sharding.make_mesh(*sizes)
  where = transformer.shardings(cfg, mesh)
  with jax.set_mesh(mesh):
    mine = jax.jit(transformer.init, static_argnums=1, out_shardings=where)(
        jax.random.key(0), cfg)
    split = sharding.shard_batch(batch, mesh)
    got = grad(mine, split)
  for a, b in zip(jax.tree.leaves((mine, got)), jax.tree.leaves((params, want)),
                  strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  shard = split['tok'].addressable_shards[0].data.shape
  assert shard == (4 // sharding.n_batch_shards(mesh), 8), shard
  gate = mine['blocks']['gate']
  shape = gate.sharding.shard_shape(gate.shape)
  assert shape == (2, 16 // sizes[1], 24 // sizes[2]), shape
print('same')
'''


def test_four_devices_equal_one():
  env = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
      'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
      [sys.executable, '-c', _FOUR_DEVICES], env=env, capture_output=True,
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
