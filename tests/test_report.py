"""The report of a made-up run: table, figures, and the page in a browser."""

import copy
import functools
import html as htmllib
import re
import struct
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from playwright import sync_api

from dreamgym_jax import evaluate
from dreamgym_jax.audit import fidelity, gate
from dreamgym_jax.envs import chromium
from dreamgym_jax.report import html, plots, table
from dreamgym_jax.text import states
from dreamgym_jax.types import Episode, Task, Transition

EVIL = '<script>alert("x")</script>'
LOGIN = ('[1] textbox: Username =\n[2] textbox: Password =\n'
         '[3] button: Login')
NAMED = LOGIN.replace('Username =', 'Username = keneth')
BOTH = NAMED.replace('Password =', 'Password = Hs4')
WRONG = NAMED.replace('Password =', 'Password = Hs')
FAMILIES = ('click-button', 'click-checkboxes', 'enter-text', 'login-user')
LEDGER = {'pretraining': 41200, 'real_offline': 12788, 'real_demo': 212,
          'real_gate': 1604, 'real_online': 0, 'dreamed': 48211}


def results():
  rows = []
  for method, online, p in (('warm-up', 0, .31), ('DreamGym', 0, .52),
                            ('DreamGym-S2R', 2000, .58),
                            ('real GRPO, equal time', 9400, .55)):
    for split, drop in (('held-out seeds', 0.), ('held-out tasks', .1)):
      for decoding, more in (('T=1', 0.), ('greedy', .04)):
        score = evaluate.make_score(round(240 * (p - drop + more)), 240)
        rows.append(table.Result(
            method=method, split=split, decoding=decoding,
            real_online=online, real_all=55804 + online, **score.to_json()))
  return rows


def curve():
  rng = np.random.default_rng(0)
  points = []
  for method, top in (('DreamGym', .55), ('real GRPO', .53)):
    for i in range(41):
      mean = .3 + (top - .3) * (1 - np.exp(-i / 12))
      here = dict(method=method, iteration=i, seconds=i * 21. + 30,
                  real_transitions=55804 + 230 * i * (method != 'DreamGym'))
      if method == 'DreamGym':
        points.append(plots.Point(
            world='dreamed', success=float(mean + .05 + rng.normal() * .04),
            **here))
      if i % 8 == 0:
        score = evaluate.make_score(int(240 * mean), 240)
        points.append(plots.Point(
            world='real', success=score.rate, lo=score.wilson95[0],
            hi=score.wilson95[1], **here))
  return points


def step_pairs(accuracy, n=30):
  rng = np.random.default_rng(1)
  pairs = []
  for family in FAMILIES:
    for i in range(n):
      win = i % 2
      real = [(LOGIN, 0., False, False), (NAMED, 0., False, False),
              (states.invalid(NAMED), 0., False, True),
              (states.OVER, float(win), True, False)]
      for t, (after, reward, done, invalid) in enumerate(real):
        right = family == 'click-button' or rng.random() < accuracy
        r = Transition(LOGIN, 'click [3]', after, reward, done, invalid,
                       reasoning='need keneth')
        prob = float(np.clip(reward * .96 + rng.normal() * .03 + .02, 0, 1))
        d = r if right else Transition(
            LOGIN, 'click [3]', after if t == 3 else LOGIN,
            float(t == 3 and not win), done)
        d = Transition(**(vars(d) | {
            'success_prob': prob if right else 1 - prob * .8}))
        pairs.append(gate.StepPair(family, f'e{i}', t, r, d, t == 3))
  return pairs


def gate_summary(accuracy, label):
  half = {f: (15, 30) for f in FAMILIES}
  dream = dict(half, **{'login-user': (15 + round(20 * (1 - accuracy)), 30)})
  measured = gate.measure(step_pairs(accuracy), dream, half)
  return gate.summary(measured, gate.Thresholds()) | {'label': label}


def episodes(instruction, thought='the goal names keneth'):
  """A dreamed win with a wrong password, which really fails."""
  task = Task('login-user', 7, instruction, LOGIN)
  acts = ((LOGIN, 'fill [1] keneth', NAMED, NAMED, 0., 0., False),
          (NAMED, 'fill [2] Hs', BOTH, WRONG, 0., 0., False),
          (BOTH, 'click [3]', states.OVER, states.OVER, 1., 0., True))
  dreamed = tuple(Transition(
      s, a, d, rd, done, False, 'hit keneth need keneth y', thought,
      .97 if rd else .01) for s, a, d, r, rd, rr, done in acts)
  real = tuple(Transition(s, a, r, rr, done, False, '', thought)
               for s, a, d, r, rd, rr, done in acts)
  return (Episode(task, dreamed, 'dreamed', 'policy', 'd7'),
          Episode(task, real, 'real', 'policy', 'r7'))


@functools.cache
def report_data():
  ask = 'Enter the username "keneth" and the password "Hs4", press login.'
  lie = episodes(ask)
  true = (lie[0], Episode(**(vars(lie[0]) | {'source': 'real'})))
  short = (lie[0], Episode(**(vars(lie[1]) | {
      'transitions': lie[1].transitions[:2]})))
  broken = (lie[0], Episode(lie[0].task, (), 'real', 'policy', 'r8',
                            error='page crashed: Target closed'))
  rng = np.random.default_rng(2)
  return html.ReportData(
      title='DreamGym on MiniWoB++', when='2026-11-22 20:00 UTC',
      command='python -m dreamgym_jax.main --config=configs/webarena.py',
      results=results(), config={'grpo': {'clip_high': .28, 'lr': 3e-4},
                                 'seed': 0, 'tasks': list(FAMILIES)},
      comparisons=[
          html.Comparison(label='DreamGym against warm-up, held-out seeds',
                          diff=.21, ci95=[.12, .30],
                          note='3 seeds, 240 tasks each, T=1'),
          html.Comparison(label='DreamGym against warm-up, held-out tasks',
                          diff=.02, ci95=[-.05, .09], note='3 seeds')],
      commit='faf058d0c1e2', seed=0, ledger=LEDGER,
      seconds={'collect': 271., 'experience': 342.5, 'warmup': 13.2,
               'dream': 840., 'evaluate': 96.}, peak_rss_bytes=2_400_000_000,
      curve=curve(),
      exploitation=[{'iteration': 8 * i, 'dreamed': .33 + .05 * i,
                     'real': .31 + .045 * i} for i in range(6)],
      gates=[gate_summary(.85, 'Before the remedy'),
             gate_summary(.995, 'After the remedy')],
      replays=[html.replay(*lie, demos=[['click [3] -> over <win>']]),
               html.replay(*true), html.replay(*short),
               html.replay(*broken)],
      generated=[
          html.Generated(instruction='Select Bobine and click Submit.',
                         initial_state=LOGIN, parent='Select Aurora.',
                         kept=True, reason='dreamed success 3 of 8',
                         is_real=True, is_solved=True),
          html.Generated(instruction='Select the the.', initial_state=LOGIN,
                         parent='Select Aurora.', kept=False,
                         reason='names no element', is_real=None,
                         is_solved=None)],
      fidelity=fidelity.summary(step_pairs(.97), [lie, true]),
      warnings={name: [(i, float(v)) for i, v in enumerate(
          start + slope * np.arange(40) + rng.normal(size=40) * .02)]
                for name, start, slope in (
                    ('entropy', 1.2, -.015), ('KL', .01, .002),
                    ('zero-variance share', .4, .004),
                    ('invalid share', .2, -.004))},
      fell_short=['login-user did not pass the gate.',
                  'On held-out tasks the interval includes 0.'])


# Table.


def test_result_table_says_everything_in_equal_columns():
  text = table.result_table(results())
  lines = text.split('\n')
  assert sum('held-out' in line for line in lines) == 2
  assert 'T=1       125/240  52.1 %  [45.8, 58.3]' in text
  rows = [line for line in lines if '/240' in line]
  assert len(rows) == 16 and len({line.index('/') for line in rows}) == 1
  assert max(map(len, lines)) <= 80
  assert 'no real episodes' in table.result_table([])


def test_spent_table_has_a_row_for_each_training():
  head, dream, real = table.spent_table({
      'dream': {'policy/read': 1200, 'experience/read': 30, 'flops': 2.5e12,
                'seconds': 61.},
      'real_grpo': {'policy/read': 7, 'flops': 0., 'seconds': 3.}}).split('\n')
  assert head.split() == ['tokens', 'experience', 'read', 'policy', 'read',
                          'TFLOP', 's']
  assert dream.split() == ['dream', '30', '1,200', '2.50', '61']
  assert real.split() == ['real_grpo', '0', '7', '0.00', '3']


def test_ledger_table_sums_the_real_ones():
  last = table.ledger_table(LEDGER).split('\n')[-1]
  assert last.split() == ['all', 'real', '55,804']


# Figures.


@pytest.mark.parametrize('draw', [
    lambda k: plots.learning_curve(curve(), 'iteration', k),
    lambda k: plots.learning_curve(curve(), 'seconds', k),
    lambda k: plots.learning_curve(curve(), 'real_transitions', k),
    lambda k: plots.exploitation_curve(
        [{'iteration': 0, 'dreamed': .5, 'real': .4}], k),
    lambda k: plots.reliability_diagram(
        fidelity.summary(step_pairs(.9))['reward']['all_steps'][
            'reliability'], k),
    lambda k: plots.gate_bars([gate_summary(.9, 'now')], k),
    lambda k: plots.horizon(
        fidelity.summary(step_pairs(.9))['horizon'], k),
    lambda k: plots.small_multiples({'kl': [(0, 1.), (1, 2.)]}, k),
])
def test_figures_are_svg_and_png_and_repeatable(draw):
  svg = draw('svg')
  assert ET.fromstring(svg).tag.endswith('svg')
  assert svg == draw('svg')
  png = draw('png')
  assert png[:4] == b'\x89PNG'
  width, height = struct.unpack('>II', png[16:24])
  assert width > 500 and height > 200


def test_inline_figures_share_no_ids_and_take_the_page_colour():
  svg = plots.learning_curve(curve())
  a, b = plots.inline(svg, 'x', 'a'), plots.inline(svg, 'x', 'b')
  ids = [set(re.findall(r'\bid="([^"]+)"', s)) for s in (a, b)]
  assert ids[0] and not ids[0] & ids[1]
  used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', a))
  assert used and used <= ids[0]
  assert plots.INK not in a and 'currentColor' in a
  assert plots.DREAMED not in a and 'var(--dream)' in a
  ET.fromstring(a)


def test_a_dreamed_curve_is_not_drawn_against_real_transitions():
  has = lambda x: b'in the dream' in plots.learning_curve(  # noqa: E731
      curve(), x)
  assert has('iteration') and not has('real_transitions')


# Page.


def test_page_is_one_file_and_survives_json(tmp_path):
  data = report_data()
  html.save(tmp_path / 'data.json', data)
  html.write_report(tmp_path / 'report.html', data)
  page = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert html.render(html.load(tmp_path / 'data.json')) == page
  assert not re.search(r'<(script|link|iframe|img)\b|@import|src=', page)
  assert not re.search(r'(href|url\()="?(https?:)?//', page)
  for anchor in re.findall(r'href="#([a-z]+)"', page):
    assert f'<section id="{anchor}"' in page
  for words in ('false win', 'the worlds part here', 'page crashed',
                'this episode was over', 'After the remedy', '55,804',
                'login-user did not pass', '125/240', '+21.0 points'):
    assert words in page


def test_untrusted_text_is_escaped_everywhere():
  data = copy.deepcopy(report_data())
  evil = episodes(EVIL, thought=EVIL)
  dreamed, real = (Episode(**(vars(e) | {
      'transitions': tuple(Transition(**(vars(t) | {
          'state': EVIL, 'next_state': f'{EVIL}\n{e.source}',
          'action': EVIL, 'reasoning': EVIL})) for t in e.transitions),
      'task': Task(EVIL, 1, EVIL, EVIL), 'error': ''})) for e in evil)
  data['replays'] = [html.replay(dreamed, real, [[EVIL]])]
  data['generated'] = [html.Generated(
      instruction=EVIL, initial_state=EVIL, parent=EVIL, kept=True,
      reason=EVIL, is_real=None, is_solved=None)]
  for key in ('title', 'command', 'commit', 'when'):
    data[key] = EVIL
  data['fell_short'], data['config'] = [EVIL], {EVIL: EVIL}
  data['curve'][0]['method'] = EVIL
  data['warnings'] = {EVIL: [(0, 1.)]}
  data['gates'][0]['label'] = EVIL
  data['gates'][0]['rows'][EVIL] = data['gates'][0]['rows'].pop('all')
  data['gates'][0]['verdicts'][EVIL] = {
      'passed': False, 'reasons': [EVIL], 'notes': [EVIL]}
  page = html.render(data)
  assert '<script' not in page
  assert page.count(htmllib.escape('<script>')) > 30


def test_a_browser_shows_the_page_and_runs_nothing(tmp_path):
  data = dict(report_data(), title=EVIL, replays=[
      html.replay(*episodes(EVIL, thought=EVIL))])
  html.write_report(tmp_path / 'report.html', data)
  path = chromium.find_chromium()
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=path, args=['--no-sandbox', '--disable-gpu'])
    for width in (1280, 420):
      page = browser.new_page(viewport={'width': width, 'height': 900})
      seen, said = [], []
      page.on('request', lambda r, seen=seen: seen.append(r.url))
      page.on('dialog', lambda d, said=said: said.append(d.message))
      page.on('console', lambda m, said=said: said.append(m.text))
      page.goto((tmp_path / 'report.html').as_uri())
      assert len(seen) == 1 and not said
      assert page.locator('h1').inner_text() == EVIL
      assert page.evaluate(
          'document.documentElement.scrollWidth <= innerWidth')
      # Every figure has ink of the page's colour and a size.
      assert all(page.locator('figure svg').evaluate_all(
          'all => all.map(x => x.getBoundingClientRect().height > 50)'))
      # Nothing of the gate's table is cut off on a desktop.
      if width == 1280:
        assert all(page.locator('.scroll').evaluate_all(
            'all => all.map(x => x.scrollWidth <= x.clientWidth)'))
      page.close()
    browser.close()


def test_an_empty_report_says_what_is_missing():
  page = html.render({})
  assert page.count('class="none"') >= 8 and '<svg' not in page


@pytest.mark.parametrize('key', sorted(html.ReportData.__annotations__))
def test_any_one_part_may_be_missing(key, monkeypatch):
  monkeypatch.setattr(html, 'figures', lambda data: {})   # drawn above
  data = dict(report_data())
  data.pop(key)
  assert '</html>' in html.render(data)


def test_an_unknown_key_is_an_error():
  with pytest.raises(KeyError, match='resluts'):
    html.render({'resluts': []})


def test_compare_lines_aligns_and_marks():
  assert html.compare_lines('a\nb\nc', 'a\nx\nc') == [
      ('a', 'a'), ('b', 'x'), ('c', 'c')]
  assert html.compare_lines('a\nb', 'a') == [('a', 'a'), ('b', None)]
  assert html.compare_lines('over', 'a\nb') == [('over', 'a'), (None, 'b')]


def test_only_differing_lines_are_marked():
  lie, truth = episodes('log in')
  marked = html.render({'replays': [html.replay(lie, truth)]})
  assert marked.count('<div class="d">') == 1
  assert '<div class="d">[2] textbox: Password = Hs4</div>' in marked
  plain = html.render({'replays': [html.replay(lie, lie)]})
  assert '<div class="d">' not in plain and 'same in both worlds' in plain


@pytest.mark.parametrize('seconds,text', [
    (9.24, '9.2 s'), (61, '1 min 01 s'), (3725, '1 h 02 min')])
def test_duration(seconds, text):
  assert html.duration(seconds) == text
