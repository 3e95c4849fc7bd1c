"""Whether a run that is killed again and again ends as if it had not been.

  python -m benchmarks.kills [--kills=10] [--config=configs/webarena.py:smoke]

Runs the config once undisturbed, then `kills` times with SIGKILL, sent to the
run and all its children at a moment drawn uniformly from the undisturbed run's
time, and starts each again until it ends. Compared bit for bit with the
undisturbed run: every file of weights, and of the last checkpoint of every
stage the parameters, the optimiser, the task pool and the replay's rows; and
all metrics but clocks. GRPO in the browser is
off, for it ends by the clock. Writes kills.json beside the script; the runs are
in runs/benchmark-kills.

  python -m benchmarks.kills --kills=4 --devices=1,2,4 \\
    --set=--config.real_grpo.is_on=False --set=--config.batch.rows=4

The same on other devices after each kill: run i begins on the i-th of these
numbers of fake CPU devices and goes on with the next (mesh.fsdp=-1). Compared
with the undisturbed run on the first of them: all arrays, to 1e-5 instead of to
the bit. Records that differ are named, but are no failure: an untrained model
writes hundreds of tokens, each nearly as likely as the next, and another
rounding now and then draws another. Writes kills_devices.json.
"""

import collections
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags, logging
from safetensors import numpy as safetensors

from benchmarks import rounds
from dreamgym_jax import checkpoint
from dreamgym_jax.report import writer

_KILLS = flags.DEFINE_integer('kills', 10, 'Runs that are killed.')
_CONFIG = flags.DEFINE_string('config', 'configs/webarena.py:smoke', 'Of all.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')
_SET = flags.DEFINE_multi_string(
    'set', ['--config.real_grpo.is_on=False'], 'Flags of the runs.')
_DEVICES = flags.DEFINE_list('devices', [], 'Numbers of devices, in turn.')
_RUNS = pathlib.Path('runs/benchmark-kills')
_HERE = pathlib.Path(__file__)
_TOLERANCE = 1e-5            # of runs on other numbers of devices
_CLOCKS = ('seconds', 'seconds_learning', 'finished')


def _run(
    workdir: pathlib.Path, turn: int = 0, kill_after: float | None = None
) -> str:
  """Runs to the end, or kills it; 'ended', or how far it had come.

  `turn` is the place in --devices, round and round.
  """
  env, mesh = dict(os.environ), []
  if _DEVICES.value:
    mesh = ['--config.mesh.fsdp=-1']
    env['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={_n(turn)}'
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir.with_suffix('.log'), 'a') as log:
    process = subprocess.Popen(
        [sys.executable, '-m', 'dreamgym_jax.main', f'--config={_CONFIG.value}',
         f'--workdir={workdir}', *mesh, *_SET.value],
        stdout=log, stderr=log, start_new_session=True, env=env)
    try:
      code = process.wait(kill_after)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      n_done = len(list((workdir / 'stages').glob('*.json')))
      return f'after {n_done} stages'
  if code:
    raise SystemExit(f'{workdir} ended with {code}: see {log.name}')
  return 'ended'


def _n(turn: int) -> int:
  """Devices of this turn; 1 without --devices."""
  numbers = _DEVICES.value or ['1']
  return int(numbers[turn % len(numbers)])


def _timeless(value):
  if isinstance(value, dict):
    return {k: _timeless(v) for k, v in value.items() if k not in _CLOCKS}
  return [_timeless(v) for v in value] if isinstance(value, list) else value


def outcome(workdir: pathlib.Path) -> dict[str, object]:
  """What must not depend on kills, by name."""
  found: dict[str, object] = {}
  for path in sorted(workdir.glob('*.safetensors')):
    for key, value in safetensors.load_file(path).items():
      found[f'{path.name}/{key}'] = value
  for path in sorted((workdir / 'checkpoints').glob('*')):
    restored = checkpoint.Checkpointer(path).restore()
    for key, value in jax.tree_util.tree_leaves_with_path(restored.arrays):
      found[f'{path.name}{jax.tree_util.keystr(key)}'] = np.asarray(
          jax.random.key_data(value) if jax.dtypes.issubdtype(
              value.dtype, jax.dtypes.prng_key) else value)
    found[f'{path.name} host'] = _timeless(restored.host)
  metrics = collections.defaultdict(list)
  for row in writer.read_metrics(workdir):
    metrics[row['stage']].append(_timeless(row))
  return found | {f'metrics of {k}': v for k, v in metrics.items()}


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
  """Names of what is not the same, to the bit."""
  return sorted(
      k for k in one.keys() | other.keys()
      if k not in one or k not in other or not _is_same(one[k], other[k]))


def _is_same(a: object, b: object) -> bool:
  if isinstance(a, np.ndarray):
    return a.dtype == b.dtype and a.shape == b.shape and (
        a.tobytes() == b.tobytes())
  return a == b


def compare(one: dict[str, object], other: dict[str, object]) -> dict:
  """What to say of two runs on different devices; arrays to _TOLERANCE."""
  far = {k: _distance(one[k], other.get(k)) for k in one
         if isinstance(one[k], np.ndarray)}
  names = differences(one, other)
  return {'most': max(far.values()),
          'different': [k for k in names if far.get(k, 0) > _TOLERANCE
                        or k not in one or k not in other],
          'records': [k for k in names if k not in far and k in one]}


def _distance(a: np.ndarray, b: object) -> float:
  """The largest difference of two arrays; inf if they are of other kinds."""
  if (not isinstance(b, np.ndarray) or a.shape != b.shape
      or a.dtype != b.dtype):
    return np.inf
  return float(np.max(np.abs(a.astype(float) - b.astype(float)), initial=0))


def main(argv) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  logging.set_verbosity(logging.WARNING)     # Orbax says much
  shutil.rmtree(_RUNS, ignore_errors=True)
  _run(_RUNS / 'cold')             # fills the cache of compiled functions
  start = time.monotonic()
  _run(_RUNS / 'straight')
  seconds = time.monotonic() - start
  wanted = outcome(_RUNS / 'straight')
  print(f'undisturbed: {seconds:.0f} s, {len(wanted)} arrays and records; '
        f'twice the same: {not differences(wanted, outcome(_RUNS / "cold"))}')
  rng = np.random.default_rng(_SEED.value)
  kills = []
  for i in range(_KILLS.value):
    workdir, moment = _RUNS / str(i), float(rng.uniform(0, seconds))
    where = _run(workdir, i, moment)
    if where != 'ended':
      _run(workdir, i + 1)
    found = outcome(workdir)
    kills.append({'seconds': moment, 'where': where} | (
        {'devices': [_n(i), _n(i + 1)], **compare(wanted, found)}
        if _DEVICES.value else {'different': differences(wanted, found)}))
    print(f'{i}: {kills[-1]}', flush=True)
  n_equal = sum(not k['different'] for k in kills)
  print(f'{n_equal} of {len(kills)} equal')
  name = 'kills_devices.json' if _DEVICES.value else 'kills.json'
  checkpoint.write_json_atomic(_HERE.with_name(name), {
      'machine': rounds.machine(), 'config': _CONFIG.value,
      'flags': _SET.value, 'seconds': seconds, 'compared': len(wanted),
      'equal' if _DEVICES.value else 'bit_equal': n_equal, 'kills': kills})


if __name__ == '__main__':
  app.run(main)
