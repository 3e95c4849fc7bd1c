"""What is restored is what was saved; damage and misuse are told apart."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamgym_jax import checkpoint, types


def _state(seed: int) -> dict:
  w, b = jax.random.normal(jax.random.key(seed), (2, 6))
  params = {'layers': [{'w': w.reshape(2, 3)}], 'b': b}
  opt_state = optax.adamw(1e-3).init(params)
  return {'train': types.TrainState(jnp.int32(seed), params, opt_state),
          'key': jax.random.key(seed), 'replay': np.arange(seed, seed + 4),
          'bf16': b.astype(jnp.bfloat16)}


def _same(a, b) -> bool:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    if not np.array_equal(x, y):
      return False
  return True


def test_round_trip_and_keep(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path / 'c', keep=2)
  assert saver.restore(_state(0)) is None
  for step in (1, 2, 10):
    saver.save(step, _state(step), {'cursor': np.int64(step), 'x': ['é', None]})
  assert saver.steps() == [2, 10]
  for example in (_state(0), jax.eval_shape(lambda: {
      **_state(0), 'replay': jnp.arange(4)})):
    if isinstance(example['train'].step, jax.ShapeDtypeStruct):
      example['replay'] = np.arange(4)   # int64 exists on the host only
    restored = checkpoint.Checkpointer(tmp_path / 'c').restore(example)
    assert restored.step == 10
    assert restored.host == {'cursor': 10, 'x': ['é', None]}
    assert _same(restored.arrays, _state(10))
    assert not _same(restored.arrays, _state(2))
  same_draw = jax.random.normal(restored.arrays['key'])
  assert same_draw == jax.random.normal(jax.random.key(10))
  saver.save(10, _state(11), {})   # replaces
  assert _same(saver.restore(_state(0)).arrays, _state(11))


def test_what_is_begun_is_there_after_wait_whatever_becomes_of_it(tmp_path):
  """Also where the arrays are donated to the next update meanwhile."""
  update = jax.jit(lambda x: x + 1, donate_argnums=0)
  saver = checkpoint.Checkpointer(tmp_path)
  x, pool = jnp.arange(2. ** 18), np.arange(4)
  saver.begin(1, {'x': x, 'pool': pool}, {})
  pool += 1
  for _ in range(5):
    x = update(x)
  saver.wait()
  saver.wait()              # nothing is left to wait for
  assert saver.steps() == [1] and not list(tmp_path.glob('*.partial'))
  arrays = saver.restore({'x': x, 'pool': pool}).arrays
  np.testing.assert_array_equal(arrays['x'], np.arange(2. ** 18))
  np.testing.assert_array_equal(arrays['pool'], np.arange(4))
  saver.begin(2, {'x': x, 'pool': pool}, {})
  saver.begin(3, {'x': x, 'pool': pool}, {})      # ends the one before
  assert saver.steps() == [1, 2]
  assert saver.restore({'x': x, 'pool': pool}).step == 3


def test_resume_equals_a_straight_run(tmp_path):
  optimizer = optax.adam(0.1)

  @jax.jit
  def update(state, key):
    grads = jax.tree.map(
        lambda p: p + jax.random.normal(
            jax.random.fold_in(key, state.step), p.shape), state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state)
    return types.TrainState(
        state.step + 1, optax.apply_updates(state.params, updates), opt_state)

  params = {'w': jnp.ones((3, 2))}
  key = jax.random.key(5)
  first = types.TrainState(jnp.int32(0), params, optimizer.init(params))
  straight = first
  for _ in range(6):
    straight = update(straight, key)
  half = first
  for _ in range(3):
    half = update(half, key)
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(3, {'state': half, 'key': key}, {})
  restored = saver.restore({'state': first, 'key': jax.random.key(0)}).arrays
  resumed = restored['state']
  for _ in range(3):
    resumed = update(resumed, restored['key'])
  assert _same(straight, resumed)


def _flip(path):
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 0x10
  path.write_bytes(bytes(raw))


def _data_file(step_dir):
  return max((step_dir / 'arrays').rglob('*'), key=lambda f: f.stat().st_size
             if f.is_file() else -1)


@pytest.mark.parametrize('damage', [
    lambda d: _flip(_data_file(d)), lambda d: _data_file(d).unlink(),
    lambda d: _flip(d / 'host.json'), lambda d: (d / 'host.json').unlink(),
    lambda d: (d / 'digests.json').write_text('{"files"'),
    lambda d: (d / 'digests.json').write_text('[]'),
    lambda d: (d / 'digests.json').unlink(),
    lambda d: shutil.rmtree(d / 'arrays')])
def test_a_damaged_one_is_named_and_the_one_before_used(
    tmp_path, caplog, damage):
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, _state(1), {'n': 1})
  saver.save(2, _state(2), {'n': 2})
  damage(tmp_path / '2')
  with caplog.at_level(logging.WARNING):
    restored = saver.restore(_state(0))
  assert restored.step == 1 and restored.host == {'n': 1}
  assert _same(restored.arrays, _state(1))
  assert f'{tmp_path / "2"} is damaged' in caplog.text
  assert saver.steps() == [1] and (tmp_path / '2.damaged').exists()
  saver.save(2, _state(3), {})
  assert saver.restore(_state(0)).step == 2


def test_all_damaged_is_none(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, _state(1), {})
  (tmp_path / '1' / 'host.json').unlink()
  assert saver.restore(_state(0)) is None


def test_a_crash_while_saving_leaves_the_last_one(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, _state(1), {})
  with pytest.raises(TypeError, match='set'):
    saver.save(2, _state(2), {'not json': {1}})
  assert (tmp_path / '2.partial').exists()
  assert saver.restore(_state(0)).step == 1
  saver.save(3, _state(3), {})
  assert not (tmp_path / '2.partial').exists()


@pytest.mark.parametrize('change', [
    {'replay': np.arange(5)}, {'replay': np.arange(4.0)}, {'more': jnp.ones(1)},
    {'key': None}])
def test_another_model_is_an_error_not_a_fresh_start(tmp_path, change):
  saver = checkpoint.Checkpointer(tmp_path)
  saver.save(1, _state(1), {})
  (name,) = change
  with pytest.raises(checkpoint.CheckpointError, match=f"{name}.*--workdir"):
    saver.restore({**_state(0), **change})
  assert saver.restore(_state(0)).step == 1


def test_empty_arrays_are_refused(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(checkpoint.CheckpointError, match='without elem.*rows'):
    saver.save(1, {'rows': jnp.zeros((0, 3))}, {})
  assert saver.steps() == []


def test_json_is_replaced_whole(tmp_path):
  path = tmp_path / 'a' / 'x.json'
  checkpoint.write_json_atomic(path, {'a': np.float32(0.5), 'b': [1]})
  assert checkpoint.read_json(path) == {'a': 0.5, 'b': [1]}
  with pytest.raises(TypeError, match='not JSON-able'):
    checkpoint.write_json_atomic(path, {'a': np.arange(3)})
  assert checkpoint.read_json(path)['b'] == [1]
  assert [p.name for p in path.parent.iterdir()] == ['x.json']
  path.write_text('{"a": ')
  with pytest.raises(checkpoint.CheckpointError, match='x.json is not JSON'):
    checkpoint.read_json(path)


CONFIG = {'seed': 0, 'model': {'width': 128, 'depth': 4}, 'lr': (1e-3, 1e-4)}


def test_stages_survive_a_restart(tmp_path, caplog):
  stages = checkpoint.Stages(tmp_path, CONFIG)
  assert not stages.is_done('gate')
  with pytest.raises(checkpoint.CheckpointError, match='gate is not done'):
    stages.result('gate')
  stages.finish('gate', {'accuracy': np.float64(0.98)}, 12.3456)
  again = checkpoint.Stages(tmp_path, CONFIG)
  assert again.is_done('gate') and not again.is_done('dream')
  assert again.result('gate') == {'accuracy': 0.98}
  assert again.seconds('gate') == 12.346
  path = tmp_path / 'stages' / 'gate.json'
  assert json.loads(path.read_text())['stage'] == 'gate'
  path.write_text('{')
  assert not again.is_done('gate') and 'gate.json is not JSON' in caplog.text


def test_another_config_is_refused(tmp_path):
  checkpoint.Stages(tmp_path, CONFIG)
  changed = {'seed': 0, 'model': {'width': 64, 'depth': 4}, 'extra': True,
             'lr': (1e-3, 1e-4)}
  with pytest.raises(checkpoint.CheckpointError) as e:
    checkpoint.Stages(tmp_path, changed)
  message = str(e.value)
  assert 'model.width: 128 there, 64 now' in message
  assert 'extra: null there, true now' in message
  assert 'depth' not in message and 'another --workdir' in message
  checkpoint.Stages(tmp_path, changed, ignore=('model.width', 'extra'))
  reordered = dict(reversed(CONFIG.items()))
  checkpoint.Stages(tmp_path, reordered)
  assert checkpoint.config_hash(reordered) == checkpoint.config_hash(CONFIG)
  assert checkpoint.config_hash(changed) != checkpoint.config_hash(CONFIG)
