"""report.html: one file, nothing loaded from elsewhere, from one JSON dict.

`save` keeps the dict in the workdir, so that `--mode=report` can draw the
page again from files. Text from pages, policies and dreams is untrusted and
is escaped by the template (autoescape); only figures drawn here are markup.
"""

import difflib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TypedDict

import jinja2
import markupsafe

from dreamgym_jax import checkpoint
from dreamgym_jax.report import plots, table
from dreamgym_jax.types import Episode, Transition


class Outcome(TypedDict):
  """What one world answered to one action."""

  next_state: str
  done: bool
  success: bool
  is_invalid: bool
  reasoning: str            # R (dreamed) or R*; '' if none
  success_prob: float       # -1 where the world gives none


class Step(TypedDict):
  action: str
  thought: str
  demos: list[str]          # retrieved transitions as M_exp read them
  dreamed: Outcome | None   # None: that world's episode was over
  real: Outcome | None


class Replay(TypedDict):
  """A dreamed episode beside the real outcome of the same actions."""

  task_id: str
  instruction: str
  initial_state: str
  error: str                # of the real replay; '' if it went well
  steps: list[Step]


class Generated(TypedDict):
  """A task that M_task made."""

  instruction: str
  initial_state: str
  parent: str               # the instruction it varies
  kept: bool
  reason: str               # why it was kept or dropped
  is_real: bool | None      # could the environment have made it? None: unread
  is_solved: bool | None    # by an expert, for real; None: it was not played


class Comparison(TypedDict):
  """A difference of success rates with its interval, b against a."""

  label: str                # 'DreamGym against warm-up, held-out seeds'
  diff: float
  ci95: Sequence[float]
  note: str                 # seeds, tasks, test; free text


class ReportData(TypedDict, total=False):
  """All that the page shows; a key that is missing says 'not measured'."""

  title: str
  when: str
  command: str
  results: list[table.Result]
  comparisons: list[Comparison]
  config: Mapping
  commit: str
  seed: int
  ledger: Mapping[str, int]         # keys of writer.LEDGER
  seconds: Mapping[str, float]      # by stage
  peak_rss_bytes: int
  curve: list[plots.Point]
  exploitation: list[Mapping]       # {'iteration', 'dreamed', 'real'}
  gates: list[Mapping]              # gate.summary | {'label'}, in time
  replays: list[Replay]
  generated: list[Generated]
  fidelity: Mapping                 # fidelity.summary
  warnings: Mapping[str, Sequence]  # metric -> [(step, value)]
  fell_short: list[str]


def _empty() -> dict:
  return {'title': 'DreamGym', 'when': '', 'command': '', 'results': [],
          'comparisons': [], 'config': {}, 'commit': '', 'seed': None,
          'ledger': {}, 'seconds': {}, 'peak_rss_bytes': 0, 'curve': [],
          'exploitation': [], 'gates': [], 'replays': [], 'generated': [],
          'fidelity': {}, 'warnings': {}, 'fell_short': []}


def outcome(transition: Transition) -> Outcome:
  return Outcome(
      next_state=transition.next_state, done=transition.done,
      success=transition.reward > 0, is_invalid=transition.is_invalid,
      reasoning=transition.reasoning, success_prob=transition.success_prob)


def replay(
    dreamed: Episode, real: Episode, demos: Sequence[Sequence[str]] = ()
) -> Replay:
  """A Replay of two episodes; demos[t] are the texts retrieved at step t."""
  steps = []
  for t in range(max(len(dreamed.transitions), len(real.transitions))):
    d = dreamed.transitions[t] if t < len(dreamed.transitions) else None
    r = real.transitions[t] if t < len(real.transitions) else None
    steps.append(Step(
        action=(d or r).action, thought=(d or r).thought,
        demos=list(demos[t]) if t < len(demos) else [],
        dreamed=outcome(d) if d else None, real=outcome(r) if r else None))
  return Replay(task_id=dreamed.task.task_id,
                instruction=dreamed.task.instruction,
                initial_state=dreamed.task.initial_state,
                error=real.error, steps=steps)


def compare_lines(
    dreamed: str, real: str
) -> list[tuple[str | None, str | None]]:
  """Aligned (dreamed, real) lines; None where a side has no such line."""
  a, b = dreamed.split('\n'), real.split('\n')
  rows = []
  matcher = difflib.SequenceMatcher(a=a, b=b, autojunk=False)
  for _, i0, i1, j0, j1 in matcher.get_opcodes():
    left, right = a[i0:i1], b[j0:j1]
    length = max(len(left), len(right))
    rows += zip(left + [None] * (length - len(left)),
                right + [None] * (length - len(right)), strict=True)
  return rows


def differs(step: Step) -> bool:
  """Whether the two worlds answered a step differently."""
  d, r = step['dreamed'], step['real']
  if d is None or r is None:
    return True
  return any(d[key] != r[key]
             for key in ('next_state', 'done', 'success', 'is_invalid'))


def _view(episode: Replay) -> dict:
  """A Replay with what the template needs of it worked out."""
  parted = [not episode['error'] and differs(s) for s in episode['steps']]
  steps = [dict(step, differs=parted[t], first=parted.index(True) == t
                if any(parted) else False,
                lines=compare_lines(step['dreamed']['next_state'],
                                    step['real']['next_state'])
                if step['dreamed'] and step['real'] else None)
           for t, step in enumerate(episode['steps'])]

  def won(world: str) -> bool:
    return any(s[world] and s[world]['success'] for s in episode['steps'])

  return dict(episode, steps=steps, agrees=not any(parted),
              dreamed_win=won('dreamed'), real_win=won('real'))


def flatten(config: Mapping, prefix: str = '') -> list[tuple[str, str]]:
  """Nested config as (dotted key, JSON value) pairs."""
  out = []
  for key, value in config.items():
    if isinstance(value, Mapping) and value:
      out += flatten(value, f'{prefix}{key}.')
    else:
      out.append((f'{prefix}{key}', json.dumps(value, default=str)))
  return out


def figures(data: Mapping) -> dict[str, markupsafe.Markup]:
  """SVG of every figure that the data allow, by name."""
  svg: dict[str, tuple[str, bytes]] = {}
  if data['curve']:
    for x, label in plots.X_LABELS.items():
      svg[f'curve_{x}'] = (f'success by {label}',
                           plots.learning_curve(data['curve'], x))
  if data['exploitation']:
    svg['exploitation'] = ('dreamed against real success',
                           plots.exploitation_curve(data['exploitation']))
  if data['gates']:
    svg['gate'] = ('criteria of the gate by task family',
                   plots.gate_bars(data['gates']))
  if data['fidelity']:
    svg['horizon'] = ('fidelity by step of the episode',
                      plots.horizon(data['fidelity']['horizon']))
    for name, reward in data['fidelity']['reward'].items():
      svg[f'reliability_{name}'] = (
          f'reliability of P(success), {name.replace("_", " ")}',
          plots.reliability_diagram(reward['reliability']))
  if data['warnings']:
    svg['warnings'] = ('early-warning metrics by step',
                       plots.small_multiples(data['warnings']))
  return {name: markupsafe.Markup(plots.inline(image, label, name))
          for name, (label, image) in svg.items()}


def duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{minutes} min {rest:02d} s' if minutes else f'{seconds:.1f} s'


def points(difference: float | None) -> str:
  """A difference of rates in percentage points, with its sign."""
  if difference is None:
    return '–'
  return f'{100 * difference:+.1f}'.replace('-', '−')


def render(data: ReportData) -> str:
  """The page as text. Raises KeyError for a key that is not ReportData's."""
  unknown = set(data) - set(_empty())
  if unknown:
    raise KeyError(f'not keys of ReportData: {sorted(unknown)}')
  full = _empty() | dict(data)
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
      lstrip_blocks=True)
  environment.filters.update(
      duration=duration, interval=table.interval,
      percent=lambda x: '–' if x is None else f'{100 * x:.1f} %',
      points=points,
      count=lambda x: f'{x:,}')
  return environment.get_template('report.html').render(
      data=full, figures=figures(full),
      replays=[_view(r) for r in full['replays']],
      config=flatten(full['config']),
      real_total=sum(n for kind, n in full['ledger'].items()
                     if kind != 'dreamed'))


def write_report(path: str | os.PathLike, data: ReportData) -> None:
  """Writes the page whole or not at all."""
  path = pathlib.Path(path)
  scratch = path.with_name(path.name + '.part')
  scratch.write_text(render(data), encoding='utf-8')
  os.replace(scratch, path)


def save(path: str | os.PathLike, data: ReportData) -> None:
  """Keeps the data as strict JSON beside the page."""
  checkpoint.write_json_atomic(path, data, allow_nan=False)


def load(path: str | os.PathLike) -> ReportData:
  return json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
