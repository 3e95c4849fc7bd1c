"""The table a run ends with, as text for the terminal.

The gate's table as text is `audit.gate.render`.
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict


class Result(TypedDict):
  """One evaluation: a method on a held-out split, at one temperature."""

  method: str             # 'warm-up', 'DreamGym', 'DreamGym-S2R', 'real GRPO'
  split: str              # 'held-out seeds', 'held-out tasks'
  decoding: str           # 'T=1', 'greedy'
  real_online: int        # real transitions the policy learned from online
  real_all: int           # all of them, offline, gate and pretraining too
  successes: int
  episodes: int
  wilson95: Sequence[float]


_HEADER = ('method', 'online', 'all real', 'decoding', 'success', 'rate',
           '95 % range')
_NUMERIC = (1, 2, 4, 5)


def rate(successes: int, episodes: int) -> str:
  return f'{100 * successes / episodes:.1f} %' if episodes else '-'


def interval(wilson95: Sequence[float]) -> str:
  lo, hi = wilson95
  return f'[{100 * lo:.1f}, {100 * hi:.1f}]'


def aligned(
    grid: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> list[str]:
  """Rows of cells as lines with equal columns; columns in `right` flush."""
  widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
  return ['  '.join(
      cell.rjust(w) if i in right else cell.ljust(w)
      for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
          for row in grid]


def result_table(results: Sequence[Result]) -> str:
  """Success in the real environment, a block for each held-out split."""
  grid = [_HEADER] + [(
      r['method'], f'{r["real_online"]:,}', f'{r["real_all"]:,}',
      r['decoding'], f'{r["successes"]}/{r["episodes"]}',
      rate(r['successes'], r['episodes']), interval(r['wilson95']))
                      for r in results]
  header, *lines = aligned(grid, _NUMERIC)
  rule = '-' * max(map(len, [header, *lines]))
  out = []
  for split in dict.fromkeys(r['split'] for r in results):
    out += ([''] if out else []) + [f'Success in the real world, {split}',
                                    rule, header, rule]
    out += [line for line, r in zip(lines, results, strict=True)
            if r['split'] == split]
  return '\n'.join(out) if out else 'no real episodes were evaluated'


def spent_table(spent: Mapping[str, Mapping[str, float]]) -> str:
  """What the trainings used, a row each.

  Args:
    spent: stage -> tokens by 'role/what', 'flops' and 'seconds'.
  """
  names = sorted({n for used in spent.values() for n in used if '/' in n})
  grid = [('tokens', *(n.replace('/', ' ') for n in names), 'TFLOP', 's')]
  grid += [(stage, *(f'{used.get(n, 0):,}' for n in names),
            f'{used["flops"] / 1e12:,.2f}', f'{used["seconds"]:,.0f}')
           for stage, used in spent.items()]
  return '\n'.join(aligned(grid, range(1, len(grid[0]))))


def ledger_table(ledger: Mapping[str, int]) -> str:
  """Transitions by kind, and the sum of the real ones."""
  real = sum(n for kind, n in ledger.items() if kind != 'dreamed')
  grid = [(kind.replace('_', ' '), f'{n:,}') for kind, n in ledger.items()]
  grid.append(('all real', f'{real:,}'))
  return '\n'.join(aligned(grid, right=(1,)))
