"""Several processes of one computation: joining, waiting, who writes.

Each process holds some of the devices of one mesh and runs the same program on
the same texts: all call the same functions in the same order. Real worlds are
divided, each process plays rows of its own and tells the others what it saw
(envs/shared.py). Files and logs are the first one's, on a disk that all see.
"""

import collections
import json
import os
import sys
import time
from typing import Any, NoReturn

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


def fail(message: str) -> NoReturn:
  """Ends the program with a message and code 1.

  One of several processes ends at once: else it would wait minutes for the
  others, and they for it. They end when JAX misses it, and name it.
  """
  if jax.process_count() == 1:
    sys.exit(message)
  print(message, file=sys.stderr, flush=True)
  sys.stdout.flush()
  try:    # whoever fails of the same says so before the first one is gone
    barrier('failed', 3.0)
  except DistributedError:
    pass
  if is_first():
    time.sleep(1)
  os._exit(1)


def is_first() -> bool:
  """Whether files and logs are this process's to write."""
  return jax.process_index() == 0


def gather(name: str, value: Any, timeout: float = 600.0) -> list[Any]:
  """What each process brought, in their order; alone, the one value.

  Each leaves its value at the coordination service, so that who waits in vain
  can say for whom. All processes must come to a name in the same order.

  Args:
    name: what it is about; also of the error.
    value: JSON-able; a few MB of all processes together.
    timeout: seconds.

  Raises DistributedError naming the missing ones after `timeout` seconds.
  """
  # jax.distributed has no barrier with a time-out among its public functions.
  from jax._src import distributed
  state = distributed.global_state
  if state.client is None or state.num_processes == 1:
    return [value]
  _uses[name] += 1
  here = f'{_PREFIX}/{name}'
  key = f'{here}/{_uses[name]}'
  state.client.key_value_set_bytes(
      f'{key}/{state.process_id}', json.dumps(value).encode())
  try:
    state.client.wait_at_barrier(key, round(timeout * 1000))
  except jax.errors.JaxRuntimeError as error:
    came = _brought(state.client, key)
    missing = [str(i) for i in range(state.num_processes) if i not in came]
    raise DistributedError(
        f'barrier {name!r}: waited for process {", ".join(missing)} of '
        f'{state.num_processes} (at most {timeout:g} s); see what it printed '
        'last' if missing else f'barrier {name!r}: {error}') from error
  came = _brought(state.client, key)
  if _uses[name] > 1:    # all have read the last one, for all have come here
    state.client.key_value_delete(
        f'{here}/{_uses[name] - 1}/{state.process_id}')
  return [json.loads(came[i]) for i in range(state.num_processes)]


def _brought(client, key: str) -> dict[int, bytes]:
  """What lies at the service, by process."""
  return {int(k.rpartition('/')[2]): v
          for k, v in client.key_value_dir_get_bytes(f'{key}/')}


def barrier(name: str, timeout: float = 600.0) -> None:
  """Waits for all processes, as `gather`; alone it does nothing."""
  gather(name, None, timeout)


def of_first(name: str, value: Any) -> Any:
  """The first process's value, e.g. what its clock says."""
  return gather(name, value)[0]
