"""Several processes as one: started from flags or from the environment.

On TPU VMs, Slurm and Kubernetes JAX finds the others by itself; elsewhere
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say it. The stages
of a run do not share their work among processes yet: `launch/` gives each
worker a seed of its own instead.
"""

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax

_VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
AUTO = 'auto'
_ALL = b'all'
_PATIENCE = 5.0             # seconds for one message


class ProcessesError(RuntimeError):
  """Processes did not find one another; the message says who is missing."""


class Processes(NamedTuple):
  """Where this process stands; all None: as the cluster says."""

  coordinator: str | None = None     # host:port of process 0
  count: int | None = None
  index: int | None = None


def read(flag: str, environ: Mapping[str, str]) -> Processes | None:
  """What `flag` or else the environment says; None: one process alone.

  flag: '' (the environment decides), 'auto', or 'host:port,N,i'.
  Raises ProcessesError for half of a description.
  """
  if flag == AUTO:
    return Processes()
  given = flag.split(',') if flag else [environ.get(v, '') for v in _VARIABLES]
  if not any(given):
    return None
  coordinator, *numbers = given if len(given) == 3 else ('', '', '')
  if ':' not in coordinator or not all(n.isdecimal() for n in numbers):
    raise ProcessesError(
        f'{flag or dict(zip(_VARIABLES, given, strict=True))}: give host:port '
        f'of process 0, the number of processes and which this is, by '
        f'{", ".join(_VARIABLES)} or as host:port,N,i')
  count, index = map(int, numbers)
  if index >= count:
    raise ProcessesError(
        f'process {index} of {count}: they are counted from 0')
  return Processes(coordinator, count, index)


def start(processes: Processes | None, timeout: float = 300) -> None:
  """Joins the others; call it before anything else of JAX.

  Raises ProcessesError when they are not all there after `timeout` seconds.
  """
  if processes is None or processes.count == 1:
    return
  if processes.coordinator:
    # JAX ends the process when somebody is late, and does not say who.
    host, port = processes.coordinator.rsplit(':', 1)
    call_roll(host, int(port) + 1, processes.count, processes.index, timeout)
  jax.distributed.initialize(
      processes.coordinator, processes.count, processes.index,
      initialization_timeout=int(timeout))


def call_roll(
    host: str, port: int, count: int, index: int, timeout: float
) -> None:
  """Returns when all are there; ProcessesError names those who are not.

  Process 0 listens at the port; the others tell it who they are and hear
  whether all came.
  """
  end = time.monotonic() + timeout
  missing = (_listen(port, count, end) if index == 0
             else _report(host, port, index, end))
  if missing:
    raise ProcessesError(
        f'process {missing} of {count} did not come to {host}:{port} within '
        f'{timeout:g} s: see its log, and whether it can reach that address')


def _listen(port: int, count: int, end: float) -> str:
  """Those who did not come, as text."""
  came: dict[int, socket.socket] = {}
  with contextlib.ExitStack() as stack:
    server = stack.enter_context(socket.create_server(('', port)))
    while len(came) < count - 1 and time.monotonic() < end:
      server.settimeout(max(end - time.monotonic(), 0.01))
      with contextlib.suppress(TimeoutError):
        peer = stack.enter_context(server.accept()[0])
        peer.settimeout(_PATIENCE)
        said = peer.recv(16)
        if said.isdigit() and 0 < int(said) < count:
          came[int(said)] = peer
    missing = ', '.join(str(i) for i in range(1, count) if i not in came)
    for peer in came.values():
      with contextlib.suppress(OSError):
        peer.sendall(missing.encode() or _ALL)
  return missing


def _report(host: str, port: int, index: int, end: float) -> str:
  """Says that this process came; what process 0 answers, or that it did not."""
  while time.monotonic() < end:
    try:
      with socket.create_connection((host, port), timeout=_PATIENCE) as peer:
        peer.sendall(str(index).encode())
        peer.settimeout(max(end - time.monotonic(), 0) + _PATIENCE)
        answer = peer.recv(4096)
        if answer:
          return '' if answer == _ALL else answer.decode()
    except OSError:
      time.sleep(0.2)    # not there yet
  return '0'
