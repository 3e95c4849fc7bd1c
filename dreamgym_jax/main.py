"""The command: `python -m dreamgym_jax.main --config=configs/webarena.py`.

Parses flags and hands over; everything else can be imported.
"""

import os
import pathlib
import subprocess
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

_DEFAULT = 'configs/webarena.py'
_MODES = {
    'run': 'all stages, those already done are skipped (the default)',
    'generate': 'print what the model of the config writes after --prompt',
    'evaluate': 'judge the policies of a workdir again in the real world',
    'report': 'draw report.html of a workdir again',
    'compare': 'several seeds: --workdir=runs/a,runs/b,runs/c',
    'plan': 'what config.plan.model would need on config.plan.topology: '
            'memory, time, price; nothing is run',
    'ship': 'copy data and weights of a finished :scratch run into the '
            'package, with their card',
}
_CONFIG = config_flags.DEFINE_config_file(
    'config', None,
    'Config file, with a size behind a colon: configs/webarena.py:tiny '
    '(default), :scratch (nothing shipped is used), :smoke or :smollm2 (a '
    'pretrained model). Any key can be '
    'set: --config.rl.lr=1e-4. Every key with its default and meaning is in '
    'dreamgym_jax/config.py.', lock_config=True)
_WORKDIR = flags.DEFINE_string(
    'workdir', '', 'Where the run keeps everything; the same command again '
    'resumes. Default: runs/<config>-<size>-seed<seed>.')
_MODE = flags.DEFINE_enum(
    'mode', 'run', list(_MODES),
    '; '.join(f'{name}: {what}' for name, what in _MODES.items()))
_UNTIL = flags.DEFINE_string(
    'until', '', 'The last stage of --mode=run, e.g. --until=gate for M_exp '
    'and its gate alone; the same command without it goes on from there. '
    'Default: all stages, and the report.')
_PROMPT = flags.DEFINE_string(
    'prompt', '', 'For --mode=generate. A pretrained model answers it as a '
    'chat. Ours, which know no other language, answer an instruction and, on '
    "the lines after it, a page: --prompt=$'Click Ok.\n[1] button: Ok'.")
_CACHE = flags.DEFINE_string(
    'compile_cache', '~/.cache/dreamgym_jax', 'Where compiled programs are '
    "kept between runs; '' keeps none.")

_COORDINATOR = flags.DEFINE_string(
    'coordinator', '', 'Makes this one of several processes: host:port of the '
    "first one, with --processes and --process; or 'auto', where Slurm, Open "
    'MPI, a TPU VM, GKE or Kubernetes knows them. All need the same --workdir, '
    'on a disk that all see, and --config.mesh.data=-1.')
_PROCESSES = flags.DEFINE_integer('processes', 0, 'How many there are.')
_PROCESS = flags.DEFINE_integer('process', -1, 'Which this is, from 0.')


def _commit() -> str:
  """The checkout's commit, '+' where it has changes; '' outside of one."""
  here = pathlib.Path(__file__).parents[1]

  def git(*arguments: str) -> str:
    return subprocess.run(
        ['git', '-C', str(here), *arguments], capture_output=True, text=True,
        check=True).stdout.strip()

  try:
    return git('rev-parse', 'HEAD') + ('+' if git('status', '-s') else '')
  except (OSError, subprocess.CalledProcessError):
    return ''


def _main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments: {" ".join(argv[1:])}')
  if _MODE.value == 'plan':
    # Else libtpu asks a cloud where it runs as soon as JAX is imported.
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  # After flag parsing, so that --help answers at once.
  import jax

  from dreamgym_jax import distributed, plan, preemption, train

  if _CACHE.value:
    path = os.path.expanduser(_CACHE.value)
    jax.config.update('jax_compilation_cache_dir', path)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  logging.set_verbosity(logging.WARNING)
  config = _CONFIG.value
  workdir = _WORKDIR.value or (
      f'runs/{config.name}-{config.size}-seed{config.seed}')
  try:
    if _COORDINATOR.value:
      distributed.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    preemption.listen()
    if _MODE.value == 'plan':
      jax.config.update('jax_platforms', 'cpu')
      jax.config.update('jax_enable_compilation_cache', False)
      print(plan.make(config))
      return
    if _MODE.value == 'compare':
      print(train.compare([pathlib.Path(w) for w in workdir.split(',')]))
      return
    train.main(_MODE.value, config, pathlib.Path(workdir), _commit(),
               ' '.join(['python -m dreamgym_jax.main', *sys.argv[1:]]),
               _UNTIL.value, _PROMPT.value)
  except preemption.Stopped:
    print('\nstopped by SIGTERM; the same command goes on from here')
  except train.EXPECTED as error:
    # The message says what to do; a traceback would bury it.
    distributed.fail(f'\n{type(error).__name__}: {error}')
  except Exception:
    if jax.process_count() == 1:
      raise
    distributed.fail(traceback.format_exc())


def _parse(argv: list[str]) -> list[str]:
  """Flags; what is wrong with them in a line instead of a traceback."""
  if not any(a.partition('=')[0] in ('--config', '-config') for a in argv):
    # First, and as a flag: a default is read before overrides can fail well.
    argv = [argv[0], f'--config={_DEFAULT}', *argv[1:]]
  try:
    rest = flags.FLAGS(argv)
    # A file that is not there fails on first use only.
    getattr(_CONFIG.value, 'size', None)
    return rest
  except (flags.Error, AttributeError, KeyError, TypeError, OSError) as error:
    sys.exit(_told(error))


def _told(error: Exception) -> str:
  """The lines of a flag's error that are for the user."""
  lines = [line.strip() for line in str(error).strip('"').splitlines()]
  # An error inside the config file comes as a traceback: its last line tells.
  told = [line for line in lines
          if 'Error:' in line or line.startswith('[Errno')] or lines[:1]
  return (f'{type(error).__name__}: {told[-1] if told else error!r}\n'
          'See --help; every config key is in dreamgym_jax/config.py.')


def main() -> None:
  app.run(_main, flags_parser=_parse)


if __name__ == '__main__':
  main()
