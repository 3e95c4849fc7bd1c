"""A compiled program, read from its HLO text: operations, and how often.

What is inside a loop counts as often as the loop turns: XLA says so
(`known_trip_count`), or the number that the loop's condition compares with.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
          's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
_HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$')
_OP = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$')
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\](\{[^}]*\})?')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(
    r'(?:calls|to_apply|body|condition|true_computation|false_computation)='
    r'%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_TRIPS = re.compile(r'known_trip_count\D+(\d+)')
_LIMIT = re.compile(r' [su]32\[\]\S* constant\((\d+)\)')


class Op(NamedTuple):
  """One operation."""

  name: str
  type: str                 # of its result, as XLA writes it
  kind: str                 # e.g. 'fusion'
  operands: tuple[str, ...]
  line: str
  is_root: bool

  @property
  def calls(self) -> list[str]:
    """Computations that it names."""
    found = _CALLED.findall(self.line)
    for group in _BRANCHES.findall(self.line):
      found += [name.strip().lstrip('%') for name in group.split(',')]
    return found


class Program(NamedTuple):
  """The computations of a program, by name."""

  ops: dict[str, list[Op]]
  times: dict[str, int]     # how often each runs; absent: never


def sizes(type_: str, is_in_hbm: bool = False) -> Iterator[int]:
  """Bytes of each array of a type; in HBM: 0 where it lies on the chip."""
  for dtype, dims, layout in _SHAPE.findall(type_):
    n = math.prod(map(int, filter(None, dims.split(','))))
    is_near = is_in_hbm and 'S(' in layout
    yield 0 if is_near else n * _BYTES.get(dtype, 4)


def parse(hlo: str, default_trips: int = 1) -> Program:
  """Reads `compiled.as_text()`.

  Args:
    hlo: the text.
    default_trips: turns of a loop whose number nothing says.
  """
  ops: dict[str, list[Op]] = {}
  entry = name = ''
  for line in hlo.splitlines():
    header = _HEADER.match(line)
    if header:
      name = header[2]
      ops[name] = []
      entry = name if header[1] else entry
      continue
    found = _OP.match(line) if name else None
    if found:
      root, op, type_, kind, rest = found.groups()
      operands = tuple(_NAME.findall(rest.partition(')')[0]))
      ops[name].append(Op(op, type_, kind, operands, line, bool(root)))
  times: dict[str, int] = {}

  def visit(name: str, n: int) -> None:
    times[name] = times.get(name, 0) + n
    for op in ops.get(name, ()):
      trips = _trips(op, ops, default_trips) if op.kind == 'while' else 1
      for callee in op.calls:
        visit(callee, n * trips)

  if entry:
    visit(entry, 1)
  return Program(ops, times)


def _trips(loop: Op, ops: dict[str, list[Op]], default: int) -> int:
  known = _TRIPS.search(loop.line)
  if known:
    return int(known[1])
  condition = re.search(r'condition=%?([\w.\-]+)', loop.line)
  limits = [int(n) for op in ops.get(condition[1] if condition else '', ())
            for n in _LIMIT.findall(op.line)]
  return max(limits, default=0) or default
