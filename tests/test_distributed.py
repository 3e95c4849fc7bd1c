"""Two real processes over loopback: they train as one, and miss each other."""

import os
import pathlib
import sys

import jax
import numpy as np
import pytest
import whole_runs
from safetensors import numpy as safetensors

from dreamgym_jax import checkpoint, distributed, sft
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer, weights

CFG = transformer.ModelConfig(V=32, D=16, N=1, H=2, K=1, d=8, F=24)
SHAPE = batches.Shape(4, 16, 64)
STEPS = 4
pytestmark = pytest.mark.usefixtures('quick_compilation')

# Run by each process: two fake devices of four, a few updates, then one of
# them stays away from a barrier until the other has complained.
_PROCESS = '''
import pathlib, sys, time
import jax
from dreamgym_jax import distributed
port, process, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, 'tests')
jax.config.update('jax_disable_most_optimizations', True)
distributed.join(f'127.0.0.1:{port}', 2, process, timeout=300)
from dreamgym_jax.models import sharding
from tests import test_distributed
assert len(jax.local_devices()) == 2 and len(jax.devices()) == 4
assert distributed.is_first() == (process == 0)
path = pathlib.Path(directory)
with jax.set_mesh(sharding.make_mesh(2, 2, 1)):
  test_distributed.fit(path, path / f'reported{process}')
distributed.barrier('both are here', 60)
distributed.barrier('both are here', 60)
assert distributed.gather('who', [process, 'é']) == [[0, 'é'], [1, 'é']]
assert [distributed.of_first('it', i + process) for i in range(3)] == [0, 1, 2]
mark = path / 'complained'
if process == 0:
  try:
    distributed.barrier('one is away', 2)
  except distributed.DistributedError as error:
    mark.write_text(str(error))
else:
  start = time.monotonic()
  while not mark.exists() and time.monotonic() - start < 60:
    time.sleep(.1)
'''


def fit(path: pathlib.Path, report: pathlib.Path) -> None:
  """A few updates on the mesh in use; weights and checkpoints in `path`."""
  rng = np.random.default_rng(0)
  streams = [batches.Stream(rng.integers(1, CFG.V, 12), np.arange(12) % 3 > 0)
             for _ in range(12)]
  params = jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)
  params = sft.fit(
      transformer.place(params, CFG), streams, CFG, SHAPE, STEPS, 1e-2, 0,
      path / 'checkpoints', checkpoint_every=2,
      on_step=lambda step, loss, n: report.write_text(f'{step} {loss}'))
  weights.save(path / 'fitted.safetensors', params, CFG, {})


@pytest.fixture(scope='module')
def two(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('two')
  for code, printed in whole_runs.run_in_two(
      sys.executable, '-c', _PROCESS, '{port}', '{process}', str(path)):
    assert code == 0, printed[-3000:]
  return path


@pytest.fixture(scope='module')
def one(tmp_path_factory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('one')
  fit(path, path / 'reported')
  return path


def test_two_processes_learn_what_one_learns(one, two):
  want, got = (safetensors.load_file(p / 'fitted.safetensors')
               for p in (one, two))
  assert want.keys() == got.keys()
  for key in want:
    np.testing.assert_allclose(got[key], want[key], atol=1e-5, err_msg=key)
  said = [(p.read_text().split()) for p in (
      one / 'reported', two / 'reported0', two / 'reported1')]
  assert [int(step) for step, _ in said] == [STEPS] * 3
  np.testing.assert_allclose([float(loss) for _, loss in said],
                             float(said[0][1]), atol=1e-5)


def test_one_process_reads_the_checkpoint_of_two(one, two):
  want, got = (checkpoint.Checkpointer(p / 'checkpoints').restore()
               for p in (one, two))
  assert want.step == got.step == STEPS and want.host == got.host
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               got.arrays, want.arrays)


def test_a_barrier_says_who_is_missing(two):
  message = (two / 'complained').read_text()
  assert "'one is away': waited for process 1 of 2 (at most 2 s)" in message


def test_a_mesh_that_leaves_a_process_out_is_refused(tmp_path):
  for code, printed in whole_runs.run_in_two(*whole_runs.command(
      tmp_path / 'run', '--config=configs/webarena.py:smoke',
      *whole_runs.JOINED)):
    assert code == 1, printed
    assert 'leaves processes [1] without a device of the mesh' in printed
    assert 'Traceback' not in printed
  assert not (tmp_path / 'run').exists()


def test_a_workdir_that_others_do_not_see_is_refused(tmp_path):
  for code, printed in whole_runs.run_in_two(*whole_runs.command(
      tmp_path / 'of{process}', '--config=configs/webarena.py:smoke',
      *whole_runs.JOINED, '--config.mesh.data=-1', '--config.batch.rows=4')):
    assert code == 1 and 'on a disk that all processes see' in printed, printed
    assert 'Traceback' not in printed


@pytest.mark.parametrize('arguments, words', [
    (('here',), '--coordinator=here: want host:port'),
    (('here:12', 2), '--processes=2 --process=-1'),
    (('here:12', 2, 2), '--processes=2 --process=2'),
])
def test_wrong_flags_are_named(arguments, words):
  with pytest.raises(distributed.DistributedError, match=words):
    distributed.join(*arguments)


def test_where_nothing_knows_of_others_the_flags_are_named(monkeypatch):
  for name in [n for n in os.environ if n.startswith(
      ('SLURM_', 'OMPI_', 'KUBERNETES_', 'JAX_COORDINATOR'))]:
    monkeypatch.delenv(name)
  with pytest.raises(distributed.DistributedError, match='auto.*--processes'):
    distributed.join('auto')


def test_alone_nobody_is_waited_for():
  assert distributed.is_first()
  distributed.barrier('alone', 0.0)
