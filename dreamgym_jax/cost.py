"""What a run cost: one ledger of transitions, clocks, memory, and a forecast.

Every real transition is counted under what it was taken for, offline ones and
those of the gate too, so that "0 online real transitions" can be checked.
"""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

import jax

# Transitions by what they were taken for; all but the last are real.
REAL = ('pretraining', 'real_offline', 'real_demo', 'real_gate', 'real_online')
DREAMED = 'dreamed'
TRANSITIONS = (*REAL, DREAMED)


class LedgerError(ValueError):
  """A count that cannot be; the message names it."""


class Ledger:
  """Counters that only grow: transitions by source, and anything else.

  Any other name is a free counter, e.g. `tokens_decoded`, `seconds/dream`.
  """

  def __init__(self, counts: Mapping[str, float] | None = None):
    self._counts = dict.fromkeys(TRANSITIONS, 0)
    for name, amount in (counts or {}).items():
      self.add(name, amount)

  def __getitem__(self, name: str) -> float:
    return self._counts.get(name, 0)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Ledger) and self._counts == other._counts

  __hash__ = None

  @property
  def real(self) -> int:
    """All real transitions, whatever they were taken for."""
    return sum(self[name] for name in REAL)

  def add(self, name: str, amount: float = 1) -> None:
    """Counts; raises LedgerError for what would make a count meaningless."""
    if not amount >= 0 or amount == float('inf'):
      raise LedgerError(f'{name}: cannot add {amount}')
    if name in TRANSITIONS and amount != int(amount):
      raise LedgerError(f'{name}: {amount} is not a number of transitions')
    if name.startswith(('real', 'dream')) and name not in TRANSITIONS:
      raise LedgerError(f'{name}: transitions are {", ".join(TRANSITIONS)}')
    if name in TRANSITIONS:
      amount = int(amount)
    self._counts[name] = self[name] + amount

  def merge(self, other: Self) -> Self:
    """The sum of two ledgers, e.g. of two stages; changes neither."""
    merged = Ledger(self._counts)
    for name, amount in other._counts.items():
      merged.add(name, amount)
    return merged

  @contextlib.contextmanager
  def timer(self, stage: str) -> Iterator[None]:
    """Adds the wall-clock seconds of the block to `seconds/<stage>`.

    Counts also when the block raises: the time is spent either way.
    """
    start = time.perf_counter()
    try:
      yield
    finally:
      self.add(f'seconds/{stage}', time.perf_counter() - start)

  def to_dict(self) -> dict[str, float]:
    """For JSON and checkpoints; `Ledger(counts)` gives the same ledger."""
    return dict(self._counts)

  def to_json(self) -> str:
    return json.dumps(self._counts, indent=2)

  @classmethod
  def from_json(cls, text: str) -> Self:
    return cls(json.loads(text))


class CompileClock:
  """Seconds that JAX spent tracing and compiling since it was made.

  Its listener stays registered for the life of the process: make few.
  """

  def __init__(self):
    self.seconds = 0.0
    jax.monitoring.register_event_duration_secs_listener(self._add)

  def _add(self, event: str, duration: float, **_: object) -> None:
    if event.startswith('/jax/core/compile/'):
      self.seconds += duration


class PeakMemory(NamedTuple):
  """Largest resident sets so far, in bytes."""

  own: int
  largest_child: int    # of children that ended and were waited for

  @property
  def total(self) -> int:
    return self.own + self.largest_child


def peak_memory() -> PeakMemory:
  """Peak resident memory of this process and of its largest ended child."""
  unit = 1 if sys.platform == 'darwin' else 1024   # ru_maxrss: bytes or KiB
  return PeakMemory(*(resource.getrusage(who).ru_maxrss * unit for who in (
      resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def cost_model(
    steps: int, resets: int, clients: int,
    step_seconds: float = 14.8, reset_seconds: float = 17.1,
) -> float:
  """Wall-clock seconds that a WebArena deployment would take for this.

  steps and resets are totals, shared evenly by `clients` browsers at work at
  once. The defaults are measured on WebArena with 16 clients: VAGEN, GitHub
  issue #104.
  """
  if clients < 1:
    raise ValueError(f'clients must be at least 1, got {clients}')
  return (steps * step_seconds + resets * reset_seconds) / clients
