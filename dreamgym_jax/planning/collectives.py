"""What a compiled program sends between chips, and how long that takes.

A torus (or, without links around its ends, a grid) of chips: a collective of a
group of chips may use the links along the axes of the torus in which the group
extends, both ways, and no others. Each hop costs a microsecond beside. That is
a lower bound for a group alone; groups that share links would take longer.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dreamgym_jax.planning import program, roofline

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all',
         'collective-permute')
_LISTED = re.compile(r'replica_groups=\{\{([\d,]*)\}')
# [groups, size]<=[sizes of an array of all ids]T(its axes, transposed)
_IOTA = re.compile(r'replica_groups=\[([\d,]+)\]<='
                   r'\[([\d,]+)\](?:T\(([\d,]+)\))?')
# The same by named axes, of which the groups extend over some.
_NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?: \{([^}]*)\})?"
    r'(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?')
_PAIRS = re.compile(r'source_target_pairs=\{\{(\d+),(\d+)\}')


class Sent(NamedTuple):
  """One collective of a program."""

  kind: str
  bytes: float              # sent by each chip, over all turns of its loops
  count: int                # how often it runs
  members: tuple[int, ...]  # one of its groups, as indices into the mesh


def sent(parsed: program.Program) -> Iterator[Sent]:
  """The collectives of a program that run."""
  for name, ops in parsed.ops.items():
    times = parsed.times.get(name, 0)
    for op in ops if times else ():
      kind = op.kind.removesuffix('-start')
      if kind not in KINDS:
        continue
      # XLA on TPUs writes a sum of which each keeps a part as a fused sum.
      if name.startswith('all-reduce-scatter'):
        kind = 'reduce-scatter'
      members = _members(op.line)
      yield Sent(kind, _bytes(op, kind, len(members)) * times, times, members)


def seconds(
    chip: roofline.Chip, found: Sequence[Sent],
    place: Sequence[Sequence[int]], sides: Sequence[int],
) -> float:
  """At the peak of the links, one after the other.

  Args:
    chip: whose links.
    found: what is sent.
    place: where each member of the mesh stands in the torus.
    sides: chips along each axis of the torus.
  """
  total = 0.0
  for s in found:
    at = np.array([place[i] for i in s.members] or [place[0]])
    over = [(len(set(x)), side) for side, x in zip(sides, at.T, strict=False)
            if len(set(x)) > 1]
    if s.kind == 'collective-permute':    # two at once, there and back
      over = [(side, side) for _, side in over[:1]]
    if over:
      total += s.bytes / roofline.rate(chip, over)
      total += s.count * (2 if s.kind == 'all-reduce' else 1) * (
          1e-6 if s.kind == 'collective-permute'
          else roofline.hop_seconds(chip, over))
  return total


def _bytes(op: program.Op, kind: str, n: int) -> float:
  """What each member of a ring sends: of n parts all but its own."""
  sizes = list(program.sizes(op.type))
  # An asynchronous one names its operand and its result: the larger counts.
  is_start = op.kind.endswith('-start')
  size = float(max(sizes) if is_start else sum(sizes)) if sizes else 0.0
  if kind == 'collective-permute':
    return size
  if op.kind == 'reduce-scatter':
    size *= n
  return size * (n - 1) / n * (2 if kind == 'all-reduce' else 1)


def _members(line: str) -> tuple[int, ...]:
  """The first group, however it is written."""
  pair = _PAIRS.search(line)
  if pair:
    return tuple(map(int, pair.groups()))
  listed = _LISTED.search(line)
  if listed:
    return tuple(_ints(listed[1]))
  iota = _IOTA.search(line)
  if iota:
    ids = _ids(iota[2], iota[3]).reshape(_ints(iota[1]))
    return tuple(ids[0].tolist())
  named = _NAMED.search(line)
  if not named:
    return (0,)
  axes = dict(part.split('=') for part in named[1].split(','))
  sizes = [int(n) for n in axes.values()]
  ids = (_ids(named[3], named[4]) if named[3]
         else np.arange(math.prod(sizes))).reshape(sizes)
  over = (named[2] or '').split(',')
  for i, name in reversed(list(enumerate(axes))):
    if name not in over:
      ids = ids.take(0, i)
  return tuple(ids.ravel().tolist())


def _ids(sizes: str, order: str | None) -> np.ndarray:
  ids = np.arange(math.prod(_ints(sizes))).reshape(_ints(sizes))
  return (ids.transpose(_ints(order)) if order else ids).ravel()


def _ints(text: str) -> list[int]:
  return [int(n) for n in text.split(',') if n]
