"""Bytes of HBM that a compiled program touches: read and written.

Each operation reads its operands and writes its result, once; what XLA keeps
on the chip (prefetched, or between two operations) is not touched again. Of an
array from which only a slice is taken, or which is updated in place, that part
counts. Padding of tiles is not counted.
"""

import re
from collections.abc import Sequence

from dreamgym_jax.planning import program

_FREE = frozenset((
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while',
    'conditional', 'call', 'after-all', 'partition-id', 'iota',
    'opt-barrier'))
_SLICES = frozenset(('dynamic-slice', 'slice', 'gather'))
_FETCHES = frozenset(('slice-start', 'dynamic-slice-start'))
_UPDATES = frozenset(('dynamic-update-slice', 'scatter'))
_VIEWS = frozenset(('bitcast', 'copy', 'convert', 'pad', 'reshape'))
_NUMBER = re.compile(r' parameter\((\d+)\)')


def touched(parsed: program.Program) -> float:
  """Bytes per chip, over all turns of loops."""
  inner = {callee for ops in parsed.ops.values() for op in ops
           if op.kind not in ('while', 'conditional', 'call')
           for callee in op.calls}
  total = 0.0
  for name, ops in parsed.ops.items():
    if parsed.times.get(name) and name not in inner:
      known = {op.name: op for op in ops}
      total += parsed.times[name] * sum(_of(op, known, parsed) for op in ops)
  return total


def _of(op: program.Op, ops: dict[str, program.Op], parsed) -> float:
  """Bytes of one run of an operation among `ops`."""
  if op.kind in _FREE or op.kind.endswith('-done'):
    return 0.0
  operands = [ops[name] for name in op.operands if name in ops]
  read = [float(sum(program.sizes(o.type, True))) for o in operands]
  wrote = float(sum(program.sizes(op.type, True)))
  if op.kind in _FETCHES:             # its type names operands, result, context
    *_, near, _ = program.sizes(op.type, True)
    *_, size, _ = program.sizes(op.type)
    return float(size + near)
  if op.kind.endswith('-start'):      # likewise, and all of it is moved
    return wrote
  if op.kind in _SLICES:
    return 2 * wrote
  if op.kind in _UPDATES:
    return 2 * sum(read[1:])
  inside = parsed.ops.get(op.calls[0], ()) if (
      op.kind == 'fusion' and op.calls) else ()
  for i, taken in _partly(inside, parsed).items():
    if i < len(read):
      read[i] = min(read[i], taken)
  return sum(read) + _wrote(op, inside)


def _partly(
    inside: Sequence[program.Op], parsed: program.Program
) -> dict[int, float]:
  """Bytes taken of those parameters of a fusion that are not read whole."""
  users: dict[str, list[program.Op]] = {}
  for op in inside:
    for name in op.operands:
      users.setdefault(name, []).append(op)

  def taken(name: str) -> float | None:
    total = 0.0
    for user in users.get(name, ()):
      if user.kind in _SLICES and user.operands[0] == name:
        total += sum(program.sizes(user.type))
      elif user.kind in _UPDATES and user.operands[0] == name:
        pass                          # in place
      elif user.kind == 'fusion':
        within = _partly(parsed.ops.get(user.calls[0], ()), parsed)
        more = within.get(user.operands.index(name))
        if more is None:
          return None
        total += more
      elif user.kind in _VIEWS:
        more = taken(user.name)
        if user.is_root or more is None:
          return None
        total += more
      else:
        return None
    return total

  found = {}
  for op in inside:
    if op.kind == 'parameter':
      n = taken(op.name)
      if n is not None:
        found[int(_NUMBER.search(op.line)[1])] = n
  return found


def _wrote(op: program.Op, inside: Sequence[program.Op]) -> float:
  """Bytes of each result of a fusion; of one updated in place, the update."""
  by_name = {o.name: o for o in inside}
  root = next((o for o in inside if o.is_root), None)
  results = [root] if root else []
  if root and root.kind == 'tuple':
    results = [by_name.get(name) for name in root.operands]
  total = 0.0
  for i, size in enumerate(program.sizes(op.type, True)):
    at = results[i] if i < len(results) else None
    while at and at.kind in _VIEWS:
      at = by_name.get(at.operands[0])
    if at and at.kind in _UPDATES:
      update = by_name.get(at.operands[-1 if at.kind == 'scatter' else 1])
      size = min(size, sum(program.sizes(update.type)) if update else size)
    total += size
  return total
