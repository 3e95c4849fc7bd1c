"""Bytes that a compiled program sends between chips, read from its HLO text.

A collective inside a loop counts as often as the loop turns: XLA says so
(`known_trip_count`), or the caller does.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
         'collective-permute')
_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
          's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_OP = re.compile(rf'= (.*?) ({"|".join(KINDS)})(-start)?\(')
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|true_computation|false_computation)='
    r'%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'known_trip_count\D+(\d+)')
_GROUPS = re.compile(r'replica_groups=\{\{([\d,]*)\}|'
                     r'replica_groups=\[\d+,(\d+)\]')


class Sent(NamedTuple):
  """One collective of a program."""

  kind: str
  bytes: float              # sent by each chip, over all turns of its loops
  count: int                # how often it runs


def sent(hlo: str, default_trips: int = 1) -> list[Sent]:
  """The collectives of a program.

  Args:
    hlo: `compiled.as_text()`.
    default_trips: turns of a loop whose number XLA does not know.
  """
  found, calls, entry = _parse(hlo, default_trips)
  times: dict[str, int] = {}

  def visit(name: str, n: int) -> None:
    times[name] = times.get(name, 0) + n
    for callee, trips in calls.get(name, ()):
      visit(callee, n * trips)

  if entry:
    visit(entry, 1)
  return [Sent(kind, n_bytes * times.get(name, 0), times.get(name, 0))
          for name, kind, n_bytes in found if times.get(name)]


def _parse(hlo: str, default_trips: int):
  found: list[tuple[str, str, float]] = []
  calls: dict[str, list[tuple[str, int]]] = {}
  entry = name = ''
  for line in hlo.splitlines():
    header = _HEADER.match(line)
    if header:
      name = header[2]
      entry = name if header[1] else entry
      continue
    if not name:
      continue
    calls.setdefault(name, []).extend(_called(line, default_trips))
    op = _OP.search(line)
    if op:
      found.append((name, op[2], _bytes(line, *op.groups())))
  return found, calls, entry


def _called(line: str, default_trips: int) -> Iterator[tuple[str, int]]:
  trips = 1
  if ' while(' in line:
    known = _TRIPS.search(line)
    trips = int(known[1]) if known else default_trips
  for callee in _CALLED.findall(line):
    yield callee, trips
  for group in _BRANCHES.findall(line):
    for callee in group.split(','):
      yield callee.strip().lstrip('%'), 1


def _bytes(line: str, result: str, kind: str, is_start: str | None) -> float:
  """What each member of a ring sends: of n parts all but its own."""
  sizes = [_BYTES.get(dtype, 4) * math.prod(map(int, filter(
      None, dims.split(',')))) for dtype, dims in _SHAPE.findall(result)]
  # An asynchronous one names its operand and its result: the larger counts.
  size = float(max(sizes) if is_start else sum(sizes)) if sizes else 0.0
  if kind == 'collective-permute':
    return size
  groups = _GROUPS.search(line)
  n = 1
  if groups:
    n = int(groups[2]) if groups[2] else len(groups[1].split(','))
  if kind == 'reduce-scatter' and not is_start:
    size *= n
  return size * (n - 1) / n * (2 if kind == 'all-reduce' else 1)
