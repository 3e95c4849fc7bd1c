"""What a run writes while it goes and when it ends: metrics, summary.json.

`MetricsWriter` owns two files: TensorBoard events in <workdir>/tensorboard
and <workdir>/metrics.jsonl, one JSON object a line. The second is the record
that the report reads and that tells a resumed run what is written already.
"""

import json
import math
import numbers
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import tensorboardX

from dreamgym_jax import checkpoint, distributed

METRICS, EVENTS = 'metrics.jsonl', 'tensorboard'
STAGES = ('warmup', 'dream', 'transfer', 'real_grpo')
LEDGER = ('pretraining', 'real_offline', 'real_demo', 'real_gate',
          'real_online', 'dreamed')
_SUMMARY = {
    'config': dict, 'commit': str, 'seed': int, 'stages': dict, 'gate': dict,
    'fidelity': dict, 'ledger': dict, 'seconds': dict, 'peak_rss_bytes': int}


class MetricsError(ValueError):
  """A corrupt line of metrics.jsonl; names it."""


class MetricsWriter:
  """Scalars by (stage, step); steps of a stage only ever grow.

  A run that resumes from a checkpoint repeats the steps after it; since a
  resumed run is exact, what it would write again is dropped.
  """

  def __init__(self, workdir: str | os.PathLike):
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / METRICS
    _drop_torn_line(path)
    self._cursor: dict[str, int] = {}
    for row in read_metrics(workdir):
      self._cursor[row['stage']] = max(
          row['step'], self._cursor.get(row['stage'], -1))
    self._file = open(path, 'a', encoding='utf-8')
    self._events = tensorboardX.SummaryWriter(str(folder / EVENTS))

  def cursor(self, stage: str) -> int:
    """The last step written for the stage; -1 before the first."""
    return self._cursor.get(stage, -1)

  def write(
      self, stage: str, step: int, scalars: Mapping[str, float]
  ) -> bool:
    """Writes the scalars of one step; False if that step is written already.

    Values are Python or 0-d array numbers. NaN and infinity become null in
    the JSON lines, which have no word for them.
    """
    if step <= self.cursor(stage):
      return False
    values = {name: float(value) for name, value in scalars.items()}
    row = {'stage': stage, 'step': int(step)} | {
        k: v if math.isfinite(v) else None for k, v in values.items()}
    self._file.write(json.dumps(row, allow_nan=False) + '\n')
    self._file.flush()
    for name, value in values.items():
      self._events.add_scalar(f'{stage}/{name}', value, step)
    self._events.flush()
    self._cursor[stage] = int(step)
    return True

  def close(self) -> None:
    self._file.close()
    self._events.close()

  def __enter__(self) -> Self:
    return self

  def __exit__(
      self, kind: type[BaseException] | None, error: BaseException | None,
      trace: TracebackType | None,
  ) -> None:
    self.close()


class Silent:
  """What the other processes have in place of the first one's writer."""

  def write(
      self, stage: str, step: int, scalars: Mapping[str, float]
  ) -> bool:
    """Writes nothing."""
    del stage, step, scalars
    return False

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    """Has nothing to close."""


def open_metrics(workdir: str | os.PathLike) -> MetricsWriter | Silent:
  """The writer of a workdir, in the first process; the others write nothing."""
  return MetricsWriter(workdir) if distributed.is_first() else Silent()


def _drop_torn_line(path: pathlib.Path) -> None:
  """Cuts a last line that a kill left unfinished."""
  if not path.exists():
    return
  text = path.read_bytes()
  whole = text.rfind(b'\n') + 1
  if whole < len(text):
    with open(path, 'r+b') as file:
      file.truncate(whole)


def read_metrics(workdir: str | os.PathLike) -> list[dict]:
  """The rows of metrics.jsonl, in the order written; [] before any.

  Raises ValueError naming the line where one is corrupt (an unfinished last
  line is left out: a run may be writing it now).
  """
  path = pathlib.Path(workdir) / METRICS
  if not path.exists():
    return []
  rows = []
  for number, line in enumerate(
      path.read_text(encoding='utf-8').splitlines(keepends=True), 1):
    if not line.endswith('\n'):
      break
    try:
      row = json.loads(line)
      row['stage'], row['step']
    except (ValueError, KeyError, TypeError) as error:
      raise MetricsError(f'{path}:{number} is corrupt: {line[:60]!r}; delete '
                       'the line to go on') from error
    rows.append(row)
  return rows


def series(
    rows: Sequence[Mapping], name: str, stage: str
) -> list[tuple[int, float]]:
  """(step, value) of one metric of one stage, where it is a number."""
  return [(row['step'], row[name]) for row in rows
          if row['stage'] == stage and row.get(name) is not None]


def write_summary(
    path: str | os.PathLike,
    *,
    config: Mapping,
    commit: str,
    seed: int,
    stages: Mapping[str, Mapping],
    gate: Mapping,
    fidelity: Mapping,
    ledger: Mapping[str, int],
    seconds: Mapping[str, float],
    peak_rss_bytes: int,
) -> dict:
  """Checks and writes summary.json; gives what it wrote.

  Args:
    path: of the file.
    config: the whole config as a plain dict.
    commit: of the code, '' when unknown.
    seed: of the run.
    stages: of STAGES, {'successes', 'episodes', 'wilson95'}
      (`evaluate.Score.to_json`), on held-out real episodes.
    gate: `audit.gate.summary`.
    fidelity: `audit.fidelity.summary`.
    ledger: transitions by the kinds in LEDGER, all of them.
    seconds: wall-clock by stage.
    peak_rss_bytes: of the process and its children.

  Raises ValueError naming the key that is not as it should be.
  """
  summary = {
      'config': dict(config), 'commit': commit, 'seed': seed,
      'stages': {k: dict(v) for k, v in stages.items()}, 'gate': dict(gate),
      'fidelity': dict(fidelity), 'ledger': dict(ledger),
      'seconds': dict(seconds), 'peak_rss_bytes': peak_rss_bytes}
  validate_summary(summary)
  checkpoint.write_json_atomic(path, summary, allow_nan=False)
  return summary


def validate_summary(summary: Mapping) -> None:
  """Raises ValueError naming the first thing that breaks the schema."""
  _same_keys('summary', summary, _SUMMARY)
  for key, kind in _SUMMARY.items():
    if not isinstance(summary[key], kind) or isinstance(summary[key], bool):
      raise ValueError(f'{key} is not {kind.__name__}: {summary[key]!r}')
  for stage, score in summary['stages'].items():
    if stage not in STAGES:
      raise ValueError(f'stages.{stage}: not one of {STAGES}')
    _validate_score(f'stages.{stage}', score)
  _same_keys('ledger', summary['ledger'], LEDGER)
  for key, count in summary['ledger'].items():
    _check_count(f'ledger.{key}', count)
  for stage, value in summary['seconds'].items():
    if not isinstance(value, numbers.Real) or value < 0:
      raise ValueError(f'seconds.{stage} is not a duration: {value!r}')
  _check_count('peak_rss_bytes', summary['peak_rss_bytes'])


def _validate_score(name: str, score: Mapping) -> None:
  _same_keys(name, score, ('successes', 'episodes', 'wilson95'))
  _check_count(f'{name}.successes', score['successes'])
  _check_count(f'{name}.episodes', score['episodes'])
  if score['successes'] > score['episodes']:
    raise ValueError(f'{name}: more successes than episodes: {score}')
  interval = score['wilson95']
  if len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
    raise ValueError(f'{name}.wilson95 is not an interval: {interval!r}')


def _same_keys(name: str, got: Mapping, want) -> None:
  if set(got) != set(want):
    raise ValueError(f'{name}: missing {sorted(set(want) - set(got))}, '
                     f'unknown {sorted(set(got) - set(want))}')


def _check_count(name: str, value) -> None:
  if not isinstance(value, int) or isinstance(value, bool) or value < 0:
    raise ValueError(f'{name} is not a count: {value!r}')
