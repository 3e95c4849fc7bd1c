"""The gate: no RL in a dream that is not measured (per task family).

In: the experience model's one-step predictions on the current policy's own
real rollouts, forced along the real states, and that policy's success in both
worlds on the gate's tasks. Out: a table of rates with Wilson intervals, a
verdict per family, and `GateRefused`, whose message is the table.

Let the policy sample with the same keys in both worlds: a perfect dream then
has a gap of exactly 0, and what is left of it is the dream's doing.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from dreamgym_jax.types import Transition

ALL = 'all'


@dataclasses.dataclass(frozen=True)
class StepPair:
  """A real step and what the dream makes of the same state and action.

  A malformed dreamed output goes in with next_state ''; it is an error.
  """

  family: str
  episode_id: str
  step: int                  # 0 for the first action of the episode
  real: Transition
  dreamed: Transition
  is_last: bool              # the real episode ended (or was cut) here
  is_determined: bool = True  # False: the page draws its next state at random
  is_shown: bool = False     # of others: a retrieved transition makes the state


class Rate(NamedTuple):
  """A proportion as counts."""

  hits: int
  n: int

  @property
  def value(self) -> float:
    return self.hits / self.n if self.n else math.nan

  @property
  def wilson95(self) -> tuple[float, float]:
    if not self.n:
      return 0.0, 1.0
    interval = stats.binomtest(self.hits, self.n).proportion_ci(
        method='wilson')
    return float(interval.low), float(interval.high)

  def to_json(self) -> dict:
    return {'hits': self.hits, 'n': self.n,
            'rate': self.value if self.n else None,
            'wilson95': list(self.wilson95)}


@dataclasses.dataclass(frozen=True)
class GateRow:
  """What was measured on one family (or on all of them)."""

  n_episodes: int
  n_steps: int
  next_state: Rate      # exact text, of steps with a determined next state
  unforeseen: Rate      # likewise, of the other steps
  flag: Rate            # done and success both right, of steps
  both: Rate            # next state and flag, of determined steps
  reasoning: Rate       # R == R*, of steps that have R*
  invalid_recall: Rate  # called invalid, of really invalid steps
  false_wins: Rate      # any dreamed step wins, of failing real episodes
  missed_wins: Rate     # winning step not dreamed a win, of real wins
  dream_success: Rate   # of the same policy on the same tasks
  real_success: Rate

  @property
  def dream_gap(self) -> float:
    """success(dream) - success(real); NaN where either was not run."""
    return self.dream_success.value - self.real_success.value


RATES = tuple(f.name for f in dataclasses.fields(GateRow)
              if f.name not in ('n_episodes', 'n_steps'))


@dataclasses.dataclass(frozen=True)
class GateTable:
  """Rows by family, sorted, and last the row 'all'."""

  rows: Mapping[str, GateRow]

  def to_json(self) -> dict:
    return {family: {
        'n_episodes': row.n_episodes, 'n_steps': row.n_steps,
        'dream_gap': None if math.isnan(row.dream_gap) else row.dream_gap,
    } | {name: getattr(row, name).to_json() for name in RATES}
            for family, row in self.rows.items()}


def from_json(rows: Mapping[str, Mapping]) -> GateTable:
  """Inverse of GateTable.to_json; raises KeyError naming what is missing."""
  # Older tables have no row 'unforeseen': then every step was determined.
  none = {'unforeseen': {'hits': 0, 'n': 0}}
  return GateTable({family: GateRow(
      n_episodes=row['n_episodes'], n_steps=row['n_steps'],
      **{name: Rate((none | row)[name]['hits'], (none | row)[name]['n'])
         for name in RATES})
      for family, row in rows.items()})


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """What a dream must reach before a policy may learn in it."""

  next_state: float = 0.97
  unforeseen: float = 0.0    # 0 where a world may hold what nobody can know
  invalid_recall: float = 0.97
  false_wins: float = 0.03   # at most, of failing episodes
  gap: float = 0.05          # at most, |success(dream) - success(real)|
  min_n: int = 20            # under it a rate passes only without an error


@dataclasses.dataclass(frozen=True)
class Verdict:
  passed: bool
  reasons: tuple[str, ...] = ()  # why not
  notes: tuple[str, ...] = ()    # what was passed without evidence

  def to_json(self) -> dict:
    return {'passed': self.passed, 'reasons': list(self.reasons),
            'notes': list(self.notes)}


class GateRefused(RuntimeError):
  """No family may be dreamed; the message is the table that says why."""

  def __init__(self, table: GateTable, verdicts: Mapping[str, Verdict]):
    super().__init__('the gate refuses RL in the dream:\n'
                     + render(table, verdicts))
    self.table = table
    self.verdicts = verdicts


def is_win(transition: Transition) -> bool:
  return transition.reward > 0


def is_flag_right(pair: StepPair) -> bool:
  return (pair.dreamed.done == pair.real.done
          and is_win(pair.dreamed) == is_win(pair.real))


def measure(
    pairs: Sequence[StepPair],
    dream_success: Mapping[str, tuple[int, int]],
    real_success: Mapping[str, tuple[int, int]],
) -> GateTable:
  """The gate's table.

  Args:
    pairs: every step of the policy's real episodes on the gate's tasks, in
      any order; each episode with exactly one `is_last` step.
    dream_success, real_success: (successes, episodes) by family, of that
      policy in either world on the same tasks.

  Raises:
    ValueError: an episode is cut short, or without its last step.
  """
  families = sorted({p.family for p in pairs} | set(real_success)
                    | set(dream_success))
  if ALL in families:
    raise ValueError(f'{ALL!r} cannot be the name of a family')
  rows = {family: _row([p for p in pairs if p.family == family],
                       dream_success.get(family, (0, 0)),
                       real_success.get(family, (0, 0)))
          for family in families}
  rows[ALL] = _row(pairs, _total(dream_success), _total(real_success))
  return GateTable(rows)


def _total(counts: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
  return (sum(c[0] for c in counts.values()),
          sum(c[1] for c in counts.values()))


def _rate(outcomes: Sequence[bool]) -> Rate:
  return Rate(sum(map(bool, outcomes)), len(outcomes))


def _row(pairs, dream_success, real_success) -> GateRow:
  episodes = _episodes(pairs)
  determined = [p for p in pairs if p.is_determined]
  exact = {id(p): p.dreamed.next_state == p.real.next_state for p in pairs}
  lost = [e for e in episodes if not is_win(e[-1].real)]
  won = [e for e in episodes if is_win(e[-1].real)]
  return GateRow(
      n_episodes=len(episodes), n_steps=len(pairs),
      next_state=_rate([exact[id(p)] for p in determined]),
      unforeseen=_rate([exact[id(p)] for p in pairs if not p.is_determined]),
      flag=_rate([is_flag_right(p) for p in pairs]),
      both=_rate([exact[id(p)] and is_flag_right(p) for p in determined]),
      reasoning=_rate([p.dreamed.reasoning == p.real.reasoning
                       for p in pairs if p.real.reasoning]),
      invalid_recall=_rate([p.dreamed.is_invalid for p in pairs
                            if p.real.is_invalid]),
      false_wins=_rate([any(is_win(p.dreamed) for p in e) for e in lost]),
      missed_wins=_rate([not is_win(e[-1].dreamed) for e in won]),
      dream_success=Rate(*dream_success), real_success=Rate(*real_success))


def _episodes(pairs: Sequence[StepPair]) -> list[list[StepPair]]:
  """Pairs by episode in the order of steps, checked to be whole."""
  groups: dict[tuple[str, str], list[StepPair]] = {}
  for pair in pairs:
    groups.setdefault((pair.family, pair.episode_id), []).append(pair)
  for (_, episode_id), group in groups.items():
    group.sort(key=lambda p: p.step)
    if any(p.step != t or p.is_last != (t == len(group) - 1)
           for t, p in enumerate(group)):
      raise ValueError(f'episode {episode_id!r} is not whole: steps '
                       f'{[p.step for p in group]}')
  return list(groups.values())


def decide(
    table: GateTable, thresholds: Thresholds
) -> dict[str, Verdict]:
  """A verdict for each row of the table, 'all' included."""
  return {family: _verdict(row, thresholds)
          for family, row in table.rows.items()}


def _verdict(row: GateRow, limits: Thresholds) -> Verdict:
  reasons, notes = [], []
  rates = [('next state', row.next_state, limits.next_state),
           ('invalid recall', row.invalid_recall, limits.invalid_recall)]
  if limits.unforeseen:
    rates.insert(1, ('unforeseen', row.unforeseen, limits.unforeseen))
  # (name, errors, cases, largest share of errors)
  checks = [(name, rate.n - rate.hits, rate.n, 1 - least)
            for name, rate, least in rates]
  checks.append(
      ('false wins', row.false_wins.hits, row.false_wins.n, limits.false_wins))
  for name, errors, n, most in checks:
    # Rounding must not refuse a rate that is exactly at its threshold.
    if n and errors / n > most + 1e-9:
      reasons.append(f'{name}: {errors} of {n} wrong, {errors / n:.3f} > '
                     f'{most:.3f}')
    elif errors and n < limits.min_n:
      reasons.append(f'{name}: {errors} wrong in only {n} cases '
                     f'(< {limits.min_n})')
    elif not n and name not in ('next state', 'unforeseen'):
      notes.append(f'{name}: no case seen')
  if not row.next_state.n:
    reasons.append('next state: not measured')
  if math.isnan(row.dream_gap):
    reasons.append('dream gap: not measured')
  elif abs(row.dream_gap) > limits.gap + 1e-9:
    reasons.append(
        f'dream gap: {row.dream_gap:+.3f} (dream {row.dream_success.hits}/'
        f'{row.dream_success.n}, real {row.real_success.hits}/'
        f'{row.real_success.n}), allowed {limits.gap:.3f}')
  return Verdict(not reasons, tuple(reasons), tuple(notes))


def passing(verdicts: Mapping[str, Verdict]) -> tuple[str, ...]:
  """The families that may be dreamed ('all' is not one)."""
  return tuple(f for f, v in verdicts.items() if f != ALL and v.passed)


def enforce(table: GateTable, thresholds: Thresholds) -> tuple[str, ...]:
  """The families that may be dreamed; raises GateRefused if none may."""
  verdicts = decide(table, thresholds)
  families = passing(verdicts)
  if not families:
    raise GateRefused(table, verdicts)
  return families


def summary(table: GateTable, thresholds: Thresholds) -> dict:
  """JSON-able: thresholds, rows, verdicts and the families that passed."""
  verdicts = decide(table, thresholds)
  return {'thresholds': dataclasses.asdict(thresholds),
          'rows': table.to_json(),
          'verdicts': {f: v.to_json() for f, v in verdicts.items()},
          'passed': list(passing(verdicts))}


def render(table: GateTable, verdicts: Mapping[str, Verdict]) -> str:
  """The table as text, with the reasons of each refusal under it."""
  header = ('family', 'episodes', 'steps', 'next state', 'unforeseen', 'flag',
            'both', 'R exact', 'invalid', 'false wins', 'missed', 'gap', '')
  grid = [header]
  for family, row in table.rows.items():
    gap = '-' if math.isnan(row.dream_gap) else f'{row.dream_gap:+.3f}'
    grid.append((
        family, str(row.n_episodes), str(row.n_steps),
        _share(row.next_state), _counts(row.unforeseen), _share(row.flag),
        _share(row.both),
        _share(row.reasoning), _counts(row.invalid_recall),
        _counts(row.false_wins), _counts(row.missed_wins), gap,
        'pass' if verdicts[family].passed else 'REFUSED'))
  widths = [max(len(line[i]) for line in grid) for i in range(len(header))]
  lines = ['  '.join(
      cell.ljust(w) if i in (0, len(header) - 1) else cell.rjust(w)
      for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip()
           for line in grid]
  lines += [f'{family}: {why}' for family, verdict in verdicts.items()
            for why in verdict.reasons]
  return '\n'.join(lines)


def _share(rate: Rate) -> str:
  return f'{rate.value:.3f}' if rate.n else '-'


def _counts(rate: Rate) -> str:
  return f'{rate.hits}/{rate.n}' if rate.n else '-'
