"""The report's figures, from plain records to SVG (or PNG) bytes.

No pyplot, so no global state. Everything that is not data is drawn in INK;
`inline` turns it, and the colours of the two worlds, into the page's own, so
that one figure serves light and dark. Purple is dreamed, teal is real.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import matplotlib
from matplotlib import figure, ticker

INK = '#010203'
DREAMED, REAL = '#8b62d6', '#0f9484'
_METHODS = (DREAMED, REAL, '#d97b06', '#d4504c', '#3b82c4', '#7b8494')
_HALF = (4.8, 3.7)   # inches; two such stand side by side on the page
_STYLE = {
    'svg.fonttype': 'none', 'svg.hashsalt': 'dreamgym', 'font.size': 9.5,
    'font.family': 'sans-serif', 'text.parse_math': False,
    'text.color': INK, 'axes.labelcolor': INK, 'axes.edgecolor': INK,
    'xtick.color': INK, 'ytick.color': INK, 'axes.titlesize': 10,
    'axes.titleweight': 'bold', 'axes.titlelocation': 'left',
    'axes.spines.top': False, 'axes.spines.right': False,
    'axes.linewidth': 0.7, 'grid.color': INK, 'grid.alpha': 0.12,
    'grid.linewidth': 0.7, 'axes.grid': True, 'axes.axisbelow': True,
    'legend.frameon': False, 'axes.facecolor': 'none',
    'figure.facecolor': 'none', 'lines.linewidth': 1.8,
}


class Point(TypedDict):
  """One measurement of success while learning."""

  method: str              # 'DreamGym', 'real GRPO', ...
  world: str               # 'dreamed' or 'real'
  iteration: int
  real_transitions: int    # all real transitions used so far
  seconds: float           # wall-clock of the run so far
  success: float
  lo: NotRequired[float]   # 95 % interval
  hi: NotRequired[float]


X_LABELS = {'iteration': 'iteration', 'seconds': 'wall-clock, minutes',
            'real_transitions': 'real transitions, all of them'}


def _render(draw, size: tuple[float, float], kind: str, **grid) -> bytes:
  """Draws on fresh axes and gives the file's bytes ('svg' or 'png')."""
  with matplotlib.rc_context(_STYLE):
    fig = figure.Figure(figsize=size, layout='constrained')
    draw(fig.subplots(squeeze=False, **grid))
    out = io.BytesIO()
    # Without a date the same data give the same bytes.
    fig.savefig(out, format=kind, dpi=150,
                metadata={'Date': None} if kind == 'svg' else None)
  return out.getvalue()


def inline(svg: bytes, label: str, tag: str) -> str:
  """SVG markup for an HTML page: themed ink, unique ids, a text label."""
  text = svg.decode('utf-8')
  text = text[text.index('<svg'):]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.S)
  for colour, themed in ((INK, 'currentColor'), (DREAMED, 'var(--dream)'),
                         (REAL, 'var(--real)')):
    text = text.replace(colour, themed)
  text = re.sub(r'\bid="', f'id="{tag}-', text)
  text = re.sub(r'(xlink:href="|url\()#', rf'\1#{tag}-', text)
  text = re.sub(r"font: (\S+) [^;\"]*", r'font-size: \1', text)
  # A fixed size would not shrink with the page.
  text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r'<svg \1', text, count=1)
  text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r'<svg \1', text, count=1)
  return text.replace('<svg ', f'<svg role="img" aria-label="{label}" ', 1)


def _percent(axis) -> None:
  axis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))


def _whiskers(points: Sequence[Mapping]) -> list[list[float]]:
  """Distances to lo and hi, [2][n], as errorbar wants them."""
  return [[max(p['success'] - p.get('lo', p['success']), 0) for p in points],
          [max(p.get('hi', p['success']) - p['success'], 0) for p in points]]


def learning_curve(
    points: Sequence[Point], x: str = 'iteration', kind: str = 'svg'
) -> bytes:
  """Success against one of X_LABELS; dreamed thin, real with intervals.

  Against real transitions only real points are drawn: dreaming uses none.
  """
  methods = list(dict.fromkeys(p['method'] for p in points))
  scale = 1 / 60 if x == 'seconds' else 1

  def draw(axes):
    ax = axes[0, 0]
    for method, world in dict.fromkeys(
        (p['method'], p['world']) for p in points):
      if world == 'dreamed' and x == 'real_transitions':
        continue
      chosen = sorted((p for p in points if p['method'] == method
                       and p['world'] == world), key=lambda p: p[x])
      colour = _METHODS[methods.index(method) % len(_METHODS)]
      x_n = [p[x] * scale for p in chosen]
      y_n = [p['success'] for p in chosen]
      if world == 'dreamed':
        ax.plot(x_n, y_n, color=colour, alpha=0.55, linewidth=1.3,
                label=f'{method}, in the dream')
      else:
        ax.errorbar(x_n, y_n, yerr=_whiskers(chosen), color=colour,
                    marker='o', markersize=4.5, capsize=2.5,
                    elinewidth=1, label=f'{method}, real')
    ax.set(xlabel=X_LABELS[x], ylabel='success', ylim=(0, 1))
    _percent(ax.yaxis)
    ax.xaxis.set_major_locator(
        ticker.MaxNLocator(5, integer=x != 'seconds'))
    if x == 'real_transitions':
      ax.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
    if ax.has_data():
      ax.figure.legend(loc='outside lower center', fontsize=8.5,
                       ncols=2 if len(methods) > 1 else 1)

  return _render(draw, _HALF, kind)


def exploitation_curve(
    steps: Sequence[Mapping[str, float]], kind: str = 'svg'
) -> bytes:
  """Dreamed against real success while learning; below the diagonal, the
  policy wins in the dream what it does not win in the world.

  steps: {'iteration', 'dreamed', 'real'} in order.
  """

  def draw(axes):
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1,
            linestyle=(0, (4, 4)))
    dreamed = [s['dreamed'] for s in steps]
    real = [s['real'] for s in steps]
    ax.plot(dreamed, real, color=DREAMED, alpha=0.5, linewidth=1.2)
    ax.scatter(dreamed, real, color=DREAMED, s=22, zorder=3)
    for s in ([steps[0], steps[-1]] if len(steps) > 1 else steps):
      ax.annotate(f' {s["iteration"]:g}', (s['dreamed'], s['real']),
                  xytext=(4, -10), textcoords='offset points')
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect='equal',
           xlabel='success in the dream', ylabel='success in the real world')
    _percent(ax.xaxis)
    _percent(ax.yaxis)

  return _render(draw, _HALF, kind)


def reliability_diagram(
    reliability: Mapping[str, Sequence[float]], kind: str = 'svg'
) -> bytes:
  """Observed success against P(success), dots sized by the bin's cases.

  reliability: `audit.fidelity.Reliability` as a dict.
  """
  bins = [(p, o, n) for p, o, n in zip(
      reliability['mean_prob'], reliability['observed'],
      reliability['count'], strict=True) if n]
  most = max((n for _, _, n in bins), default=1)

  def draw(axes):
    ax = axes[0, 0]
    ax.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1,
            linestyle=(0, (4, 4)))
    ax.plot([b[0] for b in bins], [b[1] for b in bins], color=DREAMED,
            alpha=0.6, linewidth=1.2)
    ax.scatter([b[0] for b in bins], [b[1] for b in bins], color=DREAMED,
               s=[18 + 140 * math.sqrt(b[2] / most) for b in bins], zorder=3)
    for p, o, n in bins:
      side = -1 if p > 0.9 else 1   # beside the dot and within the frame
      ax.annotate(f'{n:,}', (p, o), xytext=(11 * side, -3), fontsize=8,
                  ha='right' if side < 0 else 'left',
                  textcoords='offset points', alpha=0.75)
    ax.set(xlim=(-.04, 1.04), ylim=(-.04, 1.04), aspect='equal',
           xlabel='P(success) in the dream', ylabel='succeeded really')
    _percent(ax.xaxis)
    _percent(ax.yaxis)

  return _render(draw, _HALF, kind)


# (key of a gate row, title, threshold key, sign: +1 must exceed it)
_PANELS = (('next_state', 'next state', 'next_state', 1),
           ('invalid_recall', 'invalid recall', 'invalid_recall', 1),
           ('false_wins', 'false wins', 'false_wins', -1),
           ('dream_gap', 'dream gap', 'gap', 0))


def _extent(value: Mapping | float | None) -> Sequence[float]:
  """What a panel must show of a rate (its interval) or of a gap."""
  if isinstance(value, Mapping):
    return value['wilson95'] if value['n'] else ()
  return () if value is None else (value,)


def gate_bars(gates: Sequence[Mapping], kind: str = 'svg') -> bytes:
  """One panel per criterion, a line per family; the pass zone is tinted.

  gates: `audit.gate.summary` dicts with a 'label', in order of time; the
  last one is drawn solid, earlier ones hollow.
  """
  families = list(dict.fromkeys(f for g in gates for f in g['rows']))
  place = {f: len(families) - 1 - i for i, f in enumerate(families)}

  def draw(axes):
    for ax, (key, title, limit_key, sign) in zip(
        axes[0], _PANELS, strict=True):
      limit = gates[-1]['thresholds'][limit_key]
      seen = [x for g in gates for row in g['rows'].values()
              for x in _extent(row[key])]
      lo, hi = {1: (min([limit - .1, *seen]), 1), -1: (0, max(
          [limit + .1, *seen])), 0: (min([-2 * limit, *seen]), max(
              [2 * limit, *seen]))}[sign]
      zone = {1: (limit, 2), -1: (-1, limit), 0: (-limit, limit)}[sign]
      ax.axvspan(*zone, color=REAL, alpha=0.16, linewidth=0)
      ax.set_xlim(lo - .04 * (hi - lo), hi + .04 * (hi - lo))
      for i, gate in enumerate(gates):
        solid = i == len(gates) - 1
        shift = 0.0 if solid else 0.26 * (len(gates) - 1 - i)
        rows = [(place[f] + shift, row) for f, row in gate['rows'].items()]
        if sign:
          rows = [(y, row[key]) for y, row in rows if row[key]['n']]
          value = [rate['rate'] for _, rate in rows]
          for y, rate in rows:
            ax.plot(rate['wilson95'], [y, y], color=DREAMED, linewidth=1.2,
                    alpha=0.6 if solid else 0.3)
        else:
          rows = [(y, row[key]) for y, row in rows if row[key] is not None]
          value = [gap for _, gap in rows]
        ax.scatter(value, [y for y, _ in rows], s=26, zorder=3,
                   facecolor=DREAMED if solid else 'none',
                   edgecolor=DREAMED, label=gate.get('label', ''))
      ax.set_title(title)
      ax.set_yticks(list(place.values()), list(place))
      ax.set_ylim(-0.6, len(families) - 0.1)
      ax.tick_params(axis='y', length=0)
      _percent(ax.xaxis)
      ax.xaxis.set_major_locator(ticker.MaxNLocator(4))
    if len(gates) > 1:
      axes[0, 0].figure.legend(
          *axes[0, 0].get_legend_handles_labels(), ncols=len(gates),
          loc='outside lower center')

  return _render(draw, (9.6, 1.3 + 0.3 * len(families)), kind,
                 ncols=len(_PANELS), sharey=True)


def horizon(rows: Sequence[Mapping], kind: str = 'svg') -> bytes:
  """Exact and by-line match of the next state by step of the horizon.

  rows: `audit.fidelity.HorizonRow` as dicts.
  """

  def draw(axes):
    ax = axes[0, 0]
    steps = [r['step'] + 1 for r in rows]
    for key, label, colour, dash in (
        ('line_match', 'lines equal', REAL, '--'),
        ('exact', 'state exactly equal', DREAMED, '-'),
        ('flag', 'flags equal', '#d97b06', ':')):
      ax.plot(steps, [r[key] for r in rows], dash, color=colour, marker='o',
              markersize=4, label=label)
    ax.set(xlabel='step of the episode', ylabel='share',
           ylim=(min([0.5] + [r['exact'] for r in rows]), 1.01))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    _percent(ax.yaxis)
    ax.legend(loc='lower left')

  return _render(draw, _HALF, kind)


def small_multiples(
    series: Mapping[str, Sequence[tuple[int, float]]], kind: str = 'svg'
) -> bytes:
  """A small panel per metric, (step, value) each; four in a row."""
  columns = min(4, max(len(series), 1))
  n_rows = max(math.ceil(len(series) / columns), 1)

  def draw(axes):
    panels = axes.flatten()
    for ax in panels[len(series):]:
      ax.set_axis_off()
    for ax, (name, values) in zip(panels, series.items(), strict=False):
      ax.plot([v[0] for v in values], [v[1] for v in values],
              color=DREAMED, linewidth=1.4)
      ax.set_title(name)
      ax.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
      ax.yaxis.set_major_locator(ticker.MaxNLocator(4))

  return _render(draw, (9.6, 2.1 * n_rows), kind, nrows=n_rows,
                 ncols=columns)
