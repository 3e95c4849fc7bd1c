"""Several processes of one computation: joining, waiting, who writes.

Each process holds some of the devices of one mesh and runs the same program.
Every process calls the same functions in the same order; files and logs are
the first one's. `sft.fit`, checkpoints and weights work so; the stages do not
(see train.py): what a page answered one process, no other has heard.
"""

import collections

import jax

AUTO = 'auto'
_PREFIX = 'dreamgym'
_uses: collections.Counter[str] = collections.Counter()   # of each barrier


class DistributedError(RuntimeError):
  """Processes that do not find each other; names those that are missing."""


def join(
    coordinator: str, processes: int = 0, process: int = -1,
    timeout: float = 300.0,
) -> None:
  """Makes this one of several processes; call it before JAX is used.

  Args:
    coordinator: host:port where the first process listens; or 'auto', for what
      jax.distributed.initialize finds by itself: Slurm, Open MPI, TPU VMs,
      GKE, Kubernetes.
    processes: how many there are; not with 'auto'.
    process: which of them this is, from 0; not with 'auto'.
    timeout: seconds to wait for the others; when not all have come by then,
      JAX itself ends the process, and names none.

  Raises:
    DistributedError: an argument is missing, or nothing was found.
  """
  given = {}
  if coordinator != AUTO:
    host, _, port = coordinator.rpartition(':')
    if not (host and port.isdecimal()):
      raise DistributedError(f'--coordinator={coordinator}: want host:port of '
                             f'the first process, or {AUTO}')
    if not 0 <= process < processes:
      raise DistributedError(
          f'--processes={processes} --process={process}: want how many there '
          'are, and which of them this is, from 0')
    given = dict(coordinator_address=coordinator, num_processes=processes,
                 process_id=process)
  try:
    jax.distributed.initialize(
        **given, initialization_timeout=max(1, round(timeout)))
  except (ValueError, RuntimeError) as error:
    advice = '' if given else (
        ' Give it as host:port, with --processes and --process.')
    raise DistributedError(
        f'--coordinator={coordinator}: cannot join the other processes: '
        f'{error}{advice}') from error


def is_first() -> bool:
  """Whether files and logs are this process's to write."""
  return jax.process_index() == 0


def barrier(name: str, timeout: float = 600.0) -> None:
  """Waits for all processes; alone it does nothing.

  Each signs in at the coordination service, so that who waits in vain can say
  for whom. All processes must come to barriers of a name in the same order.

  Raises DistributedError naming the missing ones after `timeout` seconds.
  """
  # jax.distributed has no barrier with a time-out among its public functions.
  from jax._src import distributed
  state = distributed.global_state
  if state.client is None or state.num_processes == 1:
    return
  _uses[name] += 1
  key = f'{_PREFIX}/{name}/{_uses[name]}'
  state.client.key_value_set(f'{key}/{state.process_id}', 'here')
  try:
    state.client.wait_at_barrier(key, round(timeout * 1000))
  except jax.errors.JaxRuntimeError as error:
    came = {int(k.rpartition('/')[2])
            for k, _ in state.client.key_value_dir_get(f'{key}/')}
    missing = [str(i) for i in range(state.num_processes) if i not in came]
    raise DistributedError(
        f'barrier {name!r}: waited for process {", ".join(missing)} of '
        f'{state.num_processes} (at most {timeout:g} s); see what it printed '
        'last' if missing else f'barrier {name!r}: {error}') from error

