"""Whole runs through the command, for tests that compare what they leave."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from concurrent import futures

import numpy as np
from safetensors import numpy as safetensors

from dreamgym_jax.data import trajectories
from dreamgym_jax.report import writer

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = ROOT / 'runs' / '.compile_cache'     # the second time is much faster
# What a report says of the moment it is drawn, not of the run.
OF_THE_MOMENT = ('summary.json', 'report.json', 'report.html', 'tensorboard')
# Wall-clock among metrics and results.
CLOCKS = ('seconds', 'seconds_learning', 'finished')
LIMIT = 1800                                 # seconds, for a busy machine


def command(workdir: pathlib.Path, *flags: str) -> list[str]:
  return [sys.executable, '-m', 'dreamgym_jax.main', f'--workdir={workdir}',
          f'--compile_cache={CACHE}', *flags]


def run(workdir: pathlib.Path, *flags: str, devices: int = 1) -> str:
  """Runs to the end on so many fake devices; gives what was printed."""
  env = os.environ | {
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
  done = subprocess.run(command(workdir, *flags), cwd=ROOT, timeout=LIMIT,
                        capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
  return done.stdout


def run_in_two(
    *command: str, cwd: pathlib.Path = ROOT
) -> list[tuple[int, str]]:
  """Two processes of two fake devices; (code, what was printed) of each.

  {port} in the command is the first one's, {process} the number of each.
  """
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  env = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
      'JAX_PLATFORMS': 'cpu'}
  both = [subprocess.Popen(
      [x.replace('{port}', str(port)).replace('{process}', str(i))
       for x in command], cwd=cwd, env=env, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True) for i in range(2)]
  try:
    with futures.ThreadPoolExecutor() as threads:   # or a full pipe blocks one
      printed = list(threads.map(
          lambda p: p.communicate(timeout=LIMIT)[0], both))
  finally:
    for p in both:
      p.kill()
  return [(p.returncode, out) for p, out in zip(both, printed, strict=True)]


JOINED = ('--coordinator=127.0.0.1:{port}', '--processes=2',
          '--process={process}')


def run_and_end(
    workdir: pathlib.Path, sign: pathlib.Path, how: signal.Signals, *flags: str
) -> tuple[int, str]:
  """Sends a signal as soon as the file `sign` is there; (code, printed).

  A kill goes to the children as well, as when a machine is lost.
  """
  log = workdir / 'ended.log'
  with log.open('w') as file:
    process = subprocess.Popen(
        command(workdir, *flags), cwd=ROOT, stdout=file, stderr=file,
        start_new_session=True)
    start = time.monotonic()
    while not sign.exists():
      assert process.poll() is None, log.read_text()
      assert time.monotonic() - start < LIMIT, f'{sign} never came'
      time.sleep(0.01)
    if how == signal.SIGKILL:
      os.killpg(process.pid, how)
    else:
      process.send_signal(how)
    code = process.wait(LIMIT)
  return code, log.read_text()


def count(workdir: pathlib.Path, pattern: str) -> int:
  """Transitions in the episode files that match."""
  files = sorted(workdir.glob(pattern))
  assert files, f'no {pattern} in {workdir}'
  return sum(len(e.transitions)
             for f in files for e in trajectories.read_jsonl(f))


def rows_of(workdir: pathlib.Path, stage: str) -> list[dict]:
  return [r for r in writer.read_metrics(workdir) if r['stage'] == stage]


def timeless(record):
  """Without clocks, however deep they stand."""
  if not isinstance(record, dict):
    return record
  return {k: timeless(v) for k, v in record.items() if k not in CLOCKS}


def files_of(workdir: pathlib.Path) -> dict[str, bytes]:
  return {str(p.relative_to(workdir)): p.read_bytes()
          for p in workdir.rglob('*') if p.is_file()
          and p.relative_to(workdir).parts[0] not in OF_THE_MOMENT}


def assert_same_weights(
    a: pathlib.Path, b: pathlib.Path, atol: float = 0.0
) -> None:
  one, other = safetensors.load_file(a), safetensors.load_file(b)
  assert one.keys() == other.keys()
  for key in one:
    np.testing.assert_allclose(
        one[key], other[key], rtol=0, atol=atol, err_msg=key)
