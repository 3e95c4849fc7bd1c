"""MiniWoB++ in real Chromium."""

import os
import time

import numpy as np
import pytest

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, chromium, miniwob
from dreamgym_jax.text import states

# (family, seed, actions, reward) of pages that were read by a person.
SCRIPTS = [
    ('click-button', 2, ['click [3]'], 1),
    ('click-button', 0, ['noop', 'click [4]'], 0),
    ('click-link', 1, ['click [2]'], 1),
    ('click-option', 1, ['click [1]', 'click [2]', 'click [3]'], 1),
    ('click-option', 1, ['click [1]', 'click [3]'], 0),
    ('click-checkboxes', 2, ['click [1]', 'click [2]', 'click [4]'], 1),
    # One box of two: the page pays in part, which is no success.
    ('click-checkboxes', 2, ['click [1]', 'click [4]'], 0),
    ('enter-text', 0, ['fill [1] Agustina', 'click [2]'], 1),
    ('enter-text', 0, ['fill [1] agustina', 'press [2] Enter'], 0),
    ('enter-text', 0, ['fill [1] Agustin', 'press [1] a', 'click [2]'], 1),
    ('login-user', 0, ['fill [1] karrie', 'fill [2] AU', 'click [3]'], 1),
    ('login-user', 0, ['fill [1] karrie', 'clear [1]', 'fill [2] AU',
                       'press [3] Space'], 0),
    # Focusing the name shows a pop-up that disables the form.
    ('login-user-popup', 1, ['fill [1] vina', 'fill [2] US', 'click [7]',
                             'fill [1] vina', 'fill [2] US', 'click [3]'], 1),
    ('choose-list', 0, ['select_option [1] Helli', 'click [2]'], 1),
    ('choose-list', 0, ['select_option [1] Heli', 'click [2]'], 0),
    ('focus-text-2', 0, ['focus [3]'], 1),
    ('focus-text-2', 0, ['click [2]'], 0),
    ('click-dialog-2', 2, ['click [3]'], 1),
    ('click-tab', 0, ['click [2]'], 1),
    ('read-table', 0, ['click [10]', 'fill [11] Reynolds', 'click [12]'], 1),
    ('click-collapsible-nodelay', 0, ['click [1]', 'click [2]'], 1),
    ('click-widget', 2, ['fill [3] x', 'click [3]'], 1),
    ('form-sequence-2', 0, ['click [1]', 'fill [5] -5', 'dblclick [7]'], 1),
    ('click-button-sequence', 0, ['click [2]', 'click [1]'], 0),
    # Here every choice is a switch of its own, for keys and mouse alike.
    ('click-scroll-list', 0, [
        'select_option [1] Corrine', 'select_option [1] Helli',
        'select_option [1] Helli', 'select_option [1] Catherine',
        'click [2]'], 1),
    ('use-slider', 0, ['press [1] Home', 'press [1] ArrowRight', 'click [2]'],
     1),
    ('click-color', 0, ['click [1]'], 0),
]
FAMILIES = ('login-user-popup', 'choose-list', 'click-option', 'click-widget',
            'click-dialog-2', 'click-tab-2-hard', 'form-sequence-2',
            'navigate-tree', 'use-autocomplete-nodelay', 'scroll-text')
LOGIN = types.Task('login-user', 0)


@pytest.fixture(scope='module')
def world():
  made = miniwob.MiniWob()
  yield made
  made.close()


def play(world, tasks, choose):
  """Every row's [instruction, s_0, observation...], in lock step."""
  started = world.reset(tasks)
  seen = [[t.instruction, t.initial_state] for t in started]
  state = [t.initial_state for t in started]
  live = list(range(len(tasks)))
  while live:
    texts = [choose(i, len(seen[i]) - 2, state[i]) for i in live]
    live = [i for i, text in zip(live, texts, strict=True) if text]
    texts = [t for t in texts if t]
    answers = world.step(live, texts)
    for i, answer in zip(live, answers, strict=True):
      seen[i].append(answer)
      state[i] = answer.state
    live = [i for i, o in zip(live, answers, strict=True) if not o.done]
  return seen


def play_random(world, tasks):
  rngs = [np.random.default_rng(t.seed) for t in tasks]
  return play(world, tasks, lambda i, step, state: '' if step == 4 else (
      behaviours.random_action(state, 'Enter "An" here', rngs[i])))


def test_script_and_user_input_end_as_a_person_says(world):
  tasks = [types.Task(family, seed) for family, seed, _, _ in SCRIPTS]

  def choose(i, step, _):
    script = SCRIPTS[i][2]
    return script[step] if step < len(script) else ''

  by_script = play(world, tasks, choose)
  for script, seen in zip(SCRIPTS, by_script, strict=True):
    last = seen[-1]
    assert (last.done, last.reward, last.state) == (
        True, script[3], states.OVER), script
    assert len(seen) == 2 + len(script[2]), script
  user = miniwob.MiniWob(mode=miniwob.USER)
  try:
    assert play(user, tasks, choose) == by_script
  finally:
    user.close()


def test_a_seed_gives_the_same_page_whatever_was_played_before(world):
  tasks = [types.Task(f, 1 + i % 2) for i, f in enumerate(FAMILIES)]
  first = world.reset(tasks)
  assert all(t.instruction and t.initial_state for t in first)
  once = play_random(world, tasks)
  play_random(world, [types.Task(t.family, t.seed + 7) for t in tasks])
  backwards = world.reset(tasks[::-1])[::-1]     # in other frames
  assert backwards == first
  fresh = miniwob.MiniWob()
  try:
    assert play_random(fresh, tasks) == once
  finally:
    fresh.close()


def test_rows_begin_anew_while_others_go_on(world):
  """Ten episodes of two families, whose pages may be in play twice, at once."""
  tasks = [types.Task(FAMILIES[i % 2], i) for i in range(10)]
  together = play_random(world, tasks)
  rngs = [np.random.default_rng(t.seed) for t in tasks]
  seen = [[t.instruction, t.initial_state] for t in world.reset(tasks[:3])]
  playing = {r: r for r in range(3)}
  while playing:
    rows = list(playing)
    texts = [behaviours.random_action(
        getattr(seen[i][-1], 'state', seen[i][-1]), 'Enter "An" here', rngs[i])
        for i in playing.values()]
    for r, o in zip(rows, world.step(rows, texts), strict=True):
      i = playing[r]
      seen[i].append(o)
      if o.done or len(seen[i]) == 6:
        del playing[r]
        if len(seen) < len(tasks):
          playing[r] = len(seen)
          began, = world.reset([tasks[len(seen)]], [r])
          seen.append([began.instruction, began.initial_state])
  assert seen == together


def test_a_browser_that_dies_in_a_reset_takes_the_rows_that_go_on(world):
  world.reset([LOGIN] * 3)
  world.step([2], ['click [3]'])      # over
  os.kill(world._browser.pid, 9)
  world.reset([LOGIN], [1])
  lost, begun = world.step([0, 1], ['noop'] * 2)
  assert lost.done and 'browser was lost' in lost.error
  assert not begun.done and not begun.error
  assert world.reset([LOGIN], [0])[0].initial_state == begun.state
  assert not world.step([0], ['noop'])[0].error


def test_rows_do_not_see_each_other(world):
  tasks = [types.Task(f, 3) for f in FAMILIES]
  together = play_random(world, tasks)
  alone = [play_random(world, [task])[0] for task in tasks]
  assert alone == together


def test_what_was_typed_is_gone_after_a_reset(world):
  tasks = [types.Task(f, 3) for f in (
      'scroll-text', 'login-user', 'form-sequence-2', 'click-option')]
  first = world.reset(tasks)
  seen = world.step(range(4), ['fill [1] x', 'fill [1] x', 'click [2]',
                               'click [1]'])
  for task, answer in zip(first, seen, strict=True):
    assert answer.state != task.initial_state
  assert world.reset(tasks) == first


@pytest.mark.parametrize('mode', [miniwob.SCRIPT, miniwob.USER])
def test_the_focus_of_one_row_is_not_that_of_another(world, mode):
  if mode == miniwob.USER:
    world = miniwob.MiniWob(mode=mode)
  world.reset([LOGIN, LOGIN])
  frames = [row.frame for row in world._rows.values()]
  world._browser.evaluate('''frames => { for (const i of frames) {
      const win = dreamgym.frames[i].contentWindow;
      win.seen = [];
      for (const type of ['focusin', 'focusout']) {
        win.addEventListener(
            type, (e) => win.seen.push(`${type} ${e.target.id}`), true);
      } } }''', frames)
  for rows, action in (([0, 1], 'focus [1]'), ([0], 'focus [1]'),
                       ([0, 1], 'fill [2] x')):
    world.step(rows, [action] * len(rows))
  seen = world._browser.evaluate(
      'frames => frames.map((i) => dreamgym.frames[i].contentWindow.seen)',
      frames)
  if mode == miniwob.USER:
    world.close()
  assert seen == [['focusin username', 'focusout username',
                   'focusin password']] * 2


def test_states_are_in_the_grammar_and_hide_the_harness(world):
  names = ('click-button', 'read-table', 'social-media-all', 'email-inbox',
           'search-engine', 'unicode-test', 'multi-layouts', *FAMILIES)
  for task in world.reset([types.Task(f, 0) for f in names]):
    elements = states.parse(task.initial_state)
    assert [e.id for e in elements] == list(range(1, len(elements) + 1))
    # These pages hold no text of their own: it would be MiniWoB's display.
    if task.family in ('click-button', 'login-user-popup', 'choose-list'):
      assert 'text:' not in task.initial_state
    for element in elements:
      assert element.body == element.body.strip()
      assert len(element.name) <= 60 or element.role in (
          'textarea', 'clickable', 'text')


@pytest.mark.parametrize('action', [
    'click 3', 'click', 'type [1] x', '', 'click [9]', 'click [3] now',
    'fill [3] x', 'select_option [1] x', 'press [1] Meta', 'press [1]'])
def test_invalid_actions_change_nothing(world, action):
  state = world.reset([LOGIN])[0].initial_state
  (answer,) = world.step([0], [action])
  assert answer == types.Observation(states.invalid(state), is_invalid=True)
  (answer,) = world.step([0], ['noop'])
  assert answer == types.Observation(state)


def test_episodes_end_at_the_step_limit_and_take_no_more():
  world = miniwob.MiniWob(max_steps=2)
  try:
    state = world.reset([LOGIN, LOGIN])[0].initial_state
    world.step([0, 1], ['noop', 'fill [1] karrie'])
    idle, wrong = world.step([0, 1], ['noop', 'click [8]'])
    assert idle == types.Observation(state, done=True)
    assert wrong.done and wrong.is_invalid and not wrong.reward
    with pytest.raises(ValueError, match='over'):
      world.step([0], ['noop'])
    with pytest.raises(ValueError, match='twice'):
      world.step([0, 0], ['noop', 'noop'])
  finally:
    world.close()


def test_a_killed_browser_is_replaced(world):
  started = world.reset([LOGIN, types.Task('click-test', 0), LOGIN])
  before = world.restarts
  world.step([1], ['click [1]'])
  os.kill(world._browser.pid, 9)
  (answer,) = world.step([0], ['fill [1] karrie'])
  assert answer.done and answer.error and answer.reward == 0
  assert answer.state == started[0].initial_state
  # Row 2 was in the same browser; it learns of it at its next step.
  (answer,) = world.step([2], ['noop'])
  assert answer.done and answer.error
  assert world.restarts == before + 1
  os.kill(world._browser.pid, 9)
  assert world.reset([LOGIN])[0] == started[0]
  assert world.restarts == before + 2


def test_a_page_that_hangs_or_leaves_ends_its_row(world):
  world.reset([LOGIN, LOGIN])
  world._browser.evaluate(
      'i => { dreamgym.frames[i].contentWindow.dreamgymIsLive = false; }',
      world._rows[0].frame)
  left, kept = world.step([0, 1], ['noop', 'noop'])
  assert left.done and left.error == 'the page was left'
  assert kept == types.Observation(kept.state)
  world._browser.evaluate(
      'i => { dreamgym.frames[i].contentDocument.querySelector("button")'
      '.addEventListener("click", () => { for (;;); }); }',
      world._rows[1].frame)
  world._browser._timeout, patience = 1., world._browser._timeout
  before, begin = world.restarts, time.monotonic()
  try:
    (hung,) = world.step([1], ['click [3]'])
  finally:
    world._browser._timeout = patience
  assert hung.done and hung.error and world.restarts == before + 1
  assert time.monotonic() - begin < 15


def test_unknown_families_and_modes_are_named(world):
  with pytest.raises(miniwob.EnvError, match='click-button'):
    world.reset([types.Task('click-buton', 0)])
  with pytest.raises(ValueError, match='mode'):
    miniwob.MiniWob(mode='robot')


def test_a_missing_chromium_is_explained(monkeypatch, tmp_path):
  assert os.access(chromium.find_chromium(), os.X_OK)
  monkeypatch.setenv('PATH', '')
  monkeypatch.setattr(chromium, '_DEBIAN', str(tmp_path / 'chromium'))
  monkeypatch.setattr(chromium, '_driver', _NoBrowser(tmp_path))
  with pytest.raises(miniwob.EnvError) as error:
    miniwob.MiniWob()
  assert 'apt-get install chromium' in str(error.value)
  assert 'playwright install chromium' in str(error.value)


class _NoBrowser:
  """A Playwright that has not downloaded its browser."""

  def __init__(self, path):
    self.chromium = self
    self.executable_path = str(path / 'chrome')

  def acquire(self):
    return self

  def release(self):
    pass
