"""Families in real Chromium: experts win, verdicts agree, marks are read."""

import pathlib
import re

import numpy as np
import pytest
import test_miniwob_tasks as first

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours, miniwob, miniwob_goals, miniwob_mail
from dreamgym_jax.envs import miniwob_tasks as families
from dreamgym_jax.text import prompts, states

# Most of those with a page in test_miniwob_tasks are not played again.
NEW = sorted(set(families.FAMILIES) - set(first.PAGES) | {
    'login-user-popup', 'multi-layouts'})
EVERY = pytest.mark.parametrize('family', NEW)
SEEDS = (0, 1)      # of these, text can read every family's instruction
DOCS = pathlib.Path(__file__).parents[1] / 'docs' / 'MINIWOB.md'


def play(world, tasks, act):
  """[transition] of every row."""
  live = world.reset(tasks)
  now = [t.initial_state for t in live]
  steps, active = [[] for _ in live], list(range(len(live)))
  while active:
    said = [act(i, live[i], now[i]) for i in active]
    seen = world.step(active, [action for _, action in said])
    for i, (thought, action), o in zip(active, said, seen, strict=True):
      steps[i].append(types.Transition(
          now[i], action, o.state, o.reward, o.done, o.is_invalid,
          thought=thought))
      now[i] = o.state
    active = [i for i, o in zip(active, seen, strict=True) if not o.done]
  return list(zip(live, steps, strict=True))


@pytest.fixture(scope='module')
def world():
  made = miniwob.MiniWob(max_steps=24, timeout=30.)   # many rows at once
  yield made
  made.close()


@pytest.fixture(scope='module')
def expert(world):
  """family -> [(task, transitions)] of its expert."""
  # One seed after the other, as a page that is loaded is started over.
  played = [play(world, [types.Task(f, s) for f in NEW],
                 lambda i, task, state: families.advise(task, state))
            for s in SEEDS]
  return {f: [seed[i] for seed in played] for i, f in enumerate(NEW)}


@pytest.fixture(scope='module')
def noisy(world):
  """(task, transitions) with noise and slips, of every family."""
  tasks = [types.Task(f, SEEDS[-1]) for f in NEW]
  rngs = [np.random.default_rng(i) for i in range(len(tasks))]
  count = [0] * len(tasks)

  def act(i, task, state):
    thought, wanted = families.advise(task, state)
    count[i] += 1
    if count[i] > 8:     # the step limit is not what is looked at here
      return thought, wanted
    return '', behaviours.choose(
        behaviours.NOISY, wanted, state, task.instruction, rngs[i])

  return play(world, tasks, act)


@EVERY
def test_the_expert_wins_from_the_text_alone(family, expert):
  for task, steps in expert[family]:
    assert families.accepts(task), (task.instruction, task.initial_state)
    assert steps[-1].reward == 1, (task.instruction, steps[-1].state)
    assert not any(s.is_invalid for s in steps)
    assert all(s.thought for s in steps)


@EVERY
def test_a_win_is_explained_and_a_loss_in_its_place_is_not(family, expert):
  task, steps = expert[family][0]
  why = families.annotate(task, steps[-1])
  assert why and not prompts.refutes(why)
  lost = types.Transition(*(
      getattr(steps[-1], f) for f in ('state', 'action', 'next_state')),
      0.0, True)
  assert families.annotate(task, lost) == ''
  assert all(families.annotate(task, s) for s in steps[:-1])


def test_verdicts_agree_with_what_the_pages_say(noisy):
  ends = [(task, steps[-1]) for task, steps in noisy
          if steps[-1].next_state == states.OVER]
  losses = [e for e in ends if not e[1].reward]
  assert len(ends) > len(NEW) / 2 and len(losses) > 10
  silent = [(task.task_id, step.state) for task, step in ends
            if not families.annotate(task, step)]
  assert len(silent) <= .02 * len(ends), silent
  for task, step in losses:
    why = families.annotate(task, step)
    assert not why or prompts.refutes(why)


@EVERY
def test_states_are_in_the_grammar(family, expert):
  for _, steps in expert[family]:
    for step in steps:
      elements = states.parse(step.state)
      assert [e.id for e in elements] == list(range(1, len(elements) + 1))
      assert states.apply(
          step.state, states.diff(step.state, step.next_state)
      ) == step.next_state


@EVERY
def test_an_instruction_of_another_kind_is_refused(family, expert):
  task = types.Task(family, 0, 'Do as you like.',
                    expert[family][0][0].initial_state)
  assert not families.accepts(task)
  with pytest.raises(miniwob_goals.InstructionError):
    families.advise(task, task.initial_state)


# (family, seed, actions, lines the page then shows)
MARKS = [
    ('login-user-popup', 1, ['fill [1] vina'], [
        '[5] text: Exit to home page?', '[6] button: OK',
        '[7] button: Cancel']),
    ('odd-or-even', 0, ['click [2]'], [
        '[1] text: -5', '[2] radio: Odd checked', '[3] radio: Even']),
    ('order-food', 1, ['click [3]', 'click [3]'], [
        '[2] button: - Caesar Salad',
        '[3] button: + Caesar Salad, vegan, gluten-free x2']),
    ('navigate-tree', 3, ['click [1]'], [
        '[1] header: Beaulah expanded', '[3] header: Olin']),
    ('use-slider', 0, ['press [1] End'], [
        '[1] slider: -95 from -100 to -95']),
    ('social-media', 1, ['click [5]'], [
        '[1] text: Rosetta @mauris', '[2] button: Reply',
        '[9] clickable: Mute @mauris']),
    ('social-media-all', 1, ['click [2]'], ['[2] checkbox: Reply checked']),
    ('email-inbox-forward', 0, ['click [3]', 'click [8]', 'fill [6] x'], [
        '[3] text: from: Audrey', '[4] textbox: to =',
        '[6] textarea: letter changed = x']),
    ('email-inbox-forward', 0, [], [
        '[3] clickable: Audrey - Ridiculus eget...', '[4] button: Delete']),
    ('search-engine', 0, ['fill [1] Renda', 'click [2]', 'click [8]'], [
        '[9] link: 3 selected', '[7] link: 1']),
    ('choose-date', 0, ['click [1]'], ['[5] text: December 2016']),
    ('click-button-sequence', 0, ['click [1]'], [
        '[1] button: ONE focused', '[2] button: TWO']),
    ('terminal', 0, ['press [3] l', 'press [3] Space'], [
        '[2] text: user$ l␣', '[3] textbox: Keyboard =']),
    ('copy-paste', 0, ['fill [2] Eget', 'press [2] Space'], [
        '[2] textbox: = Eget ␣']),
    ('click-scroll-list', 0, [
        'select_option [1] Corrine', 'select_option [1] Catherine',
        'select_option [1] Helli', 'select_option [1] Helli'], [
            '[1] combobox: = Catherine, Corrine options Theodora ; Catherine'
            ' ; Marilee ; Fredra ; Deeanne ; Helli ; Corrine ; Ludovika ; '
            'Kathleen ; Allene']),
]


@pytest.mark.parametrize('family, seed, actions, lines', MARKS)
def test_pictures_styles_and_places_are_said_in_words(
    world, family, seed, actions, lines):
  state = world.reset([types.Task(family, seed)])[0].initial_state
  for action in actions:
    state = world.step([0], [action])[0].state
  assert set(lines) <= set(state.split('\n')), state


@pytest.mark.parametrize('text, order', [
    ('Find the email by Cora and click the star icon to mark it as important.',
     ('Star', 'Cora', '')),
    ("Take Cora's email out of my inbox.", ('Delete', 'Cora', '')),
    ('Give Orel the message you received from Cora,',
     ('Forward', 'Cora', 'Orel')),
    ("Please send Orel Cora's email.", ('Forward', 'Cora', 'Orel')),
    ('Cora wants his or her message to be sent to Orel.',
     ('Forward', 'Cora', 'Orel')),
    ("Send Cora's email Orel.", ('Forward', 'Cora', 'Orel')),
    ('"Vel Quis." is my reply to Cora\'s most recent email.',
     ('Reply', 'Cora', 'Vel Quis.')),
    ('Siri, Email Ann-Marie, "Vel".', ('Reply', 'Ann-Marie', 'Vel')),
])
def test_orders_are_read_whoever_wrote_them(text, order):
  assert miniwob_mail.read_order(text) == order


def test_the_table_names_every_page_of_the_package_once():
  rows = re.findall(r'^\| ([\w-]+) \| (in|out) \|', DOCS.read_text(), re.M)
  assert len(rows) == len(dict(rows))
  assert {name for name, _ in rows} == {
      page.stem for page in miniwob.find_pages().glob('*.html')}
  assert {name for name, kind in rows if kind == 'in'} == set(
      families.FAMILIES)
