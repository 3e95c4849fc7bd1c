"""Contenders measured in turn, and what was measured kept with its machine.

Every round runs each contender once, in an order that rotates, so that what
else the machine does meets all alike. The first round is cold (it compiles) and
is kept apart. Times are medians; what is claimed from them are ratios.
"""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dreamgym_jax.report import table


class Measured(NamedTuple):
  """One contender's seconds; units (tokens, queries) done in each round."""

  cold: float
  warm: list[float]
  units: list[int]

  @property
  def seconds(self) -> float:
    """The median of the warm rounds."""
    return statistics.median(self.warm)

  @property
  def rate(self) -> float:
    """Units a second, the median of the warm rounds."""
    return statistics.median(
        n / s for n, s in zip(self.units, self.warm, strict=True))


def interleave(
    contenders: Mapping[str, Callable[[], int]], n: int
) -> dict[str, Measured]:
  """Runs each contender once cold and n times warm, turn by turn.

  Args:
    contenders: do their work, wait for it, and say how many units it was.
    n: warm rounds.
  """
  seconds: dict[str, list[float]] = {name: [] for name in contenders}
  units: dict[str, list[int]] = {name: [] for name in contenders}
  names = list(contenders)
  for i in range(n + 1):
    k = i % len(names)
    for name in names[k:] + names[:k]:
      start = time.perf_counter()
      units[name].append(contenders[name]())
      seconds[name].append(time.perf_counter() - start)
      print(f'round {i}: {name} {seconds[name][-1]:.3f} s', flush=True)
  return {name: Measured(seconds[name][0], seconds[name][1:], units[name][1:])
          for name in names}


def machine() -> dict[str, str | int]:
  """What the numbers belong to."""
  return {'processor': platform.processor() or platform.machine(),
          'cores': len(os.sched_getaffinity(0)),
          'load': round(os.getloadavg()[0], 1),
          'date': time.strftime('%Y-%m-%d')}


def save(
    script: str, title: str, rows: Sequence[Sequence[str]], report: Mapping,
) -> None:
  """Prints the table, and keeps it as Markdown and the report as JSON.

  Args:
    script: its `__file__`; the two files stand beside it.
    title: what the table shows, under which conditions.
    rows: of the table, the head first; columns but the first are numbers.
    report: what JSON takes; the machine is added.
  """
  found = machine()
  under = ', '.join(f'{k} {v}' for k, v in found.items())
  head, *body = rows
  lines = [f'# {title}', '', f'{under}', '',
           '| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|',
           *('| ' + ' | '.join(row) + ' |' for row in body)]
  path = pathlib.Path(script)
  path.with_suffix('.md').write_text('\n'.join(lines) + '\n')
  path.with_suffix('.json').write_text(
      json.dumps({**report, 'machine': found}, indent=1) + '\n')
  print('\n'.join(table.aligned(rows, range(1, len(head)))))
