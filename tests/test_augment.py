"""A renamed episode is as true as the first."""

import re

import numpy as np
import pytest
import test_miniwob_tasks as pages

from dreamgym_jax import types
from dreamgym_jax.data import augment
from dreamgym_jax.envs import behaviours, miniwob_tasks
from dreamgym_jax.text import actions, prompts, states
from dreamgym_jax.text import tokenizer as tokenizers

# Words of the pages that are drawn anew on every real page.
FREE = ('okay Okay ÖK Cancél Eget eget justo Agustina 6gH vina yA US gray Male '
        'Aurora Lorri Bobine GDK USa fzzqo NYYyS82 hIy Curry crime gH').split()
_WORD = re.compile(r'(?<!\w)(' + '|'.join(FREE) + r')(?!\w)')
# Families whose pages show nothing but their template.
BARE = {'click-test', 'click-test-2', 'click-tab', 'click-dialog',
        'click-dialog-2', 'focus-text', 'focus-text-2'}
EVERY = pytest.mark.parametrize('family', sorted(pages.PAGES))


def task_of(family, i):
  """The i-th page of a family: other names, same template."""
  def vary(text):
    return _WORD.sub(lambda m: m[0] + chr(ord('p') + i), text)
  instruction, page, _ = pages.PAGES[family]
  return types.Task(family, i, vary(instruction), vary(page))


def play(task, script, behaviour='expert'):
  """The script on a page that does the obvious and knows the rules."""
  state, steps = task.initial_state, []
  for t, action in enumerate(script, 1):
    reward = 0.0
    if not prompts.is_wellformed(action) or actions.ground(
        action, state) == actions.NO_ELEMENT:
      after = states.invalid(state)
    elif t == len(script):
      after = states.OVER
      reward = float((miniwob_tasks.advise(task, state)[1]) == action)
    else:
      after = behaviours.imagine(state, action)
    step = types.Transition(state, action, after, reward, after == states.OVER,
                            after == states.invalid(state), thought='need x')
    steps.append(types.Transition(**{
        **vars(step), 'reasoning': miniwob_tasks.annotate(task, step)}))
    state = after
  return types.Episode(task, tuple(steps), types.REAL, behaviour,
                       f'{task.task_id}#{behaviour}')


def episodes_of(family, i):
  """A win, and a loss after an action that names nothing."""
  task, state, script = task_of(family, i), '', []
  state = task.initial_state
  while not script or behaviours.imagine(state, script[-1]) != state:
    if script:
      state = behaviours.imagine(state, script[-1])
    script.append(miniwob_tasks.advise(task, state)[1])
  return [play(task, script),
          play(task, ['click [40]', pages.LOSING[family]], 'near_miss')]


@pytest.fixture(scope='module')
def episodes():
  return {f: [e for i in range(7) for e in episodes_of(f, i)]
          for f in pages.PAGES}


@pytest.fixture(scope='module')
def renamer(episodes):
  return augment.make_renamer([e for es in episodes.values() for e in es])


def renamed(renamer, episodes):
  return [(e, renamer.rename(e, np.random.default_rng(s)))
          for s, e in enumerate(episodes)]


@EVERY
def test_the_reasons_of_the_renamed_are_the_reasons_renamed(
    family, episodes, renamer):
  for old, new in renamed(renamer, episodes[family]):
    assert all(step.reasoning for step in old.transitions) or (
        family in pages.CANNOT_LOSE)
    for step in new.transitions:
      assert miniwob_tasks.annotate(new.task, step) == step.reasoning


@EVERY
def test_the_expert_would_do_the_same_on_the_renamed_page(
    family, episodes, renamer):
  for _, new in renamed(renamer, episodes[family]):
    assert miniwob_tasks.accepts(new.task)
    if new.behaviour == 'expert':
      for step in new.transitions:
        assert miniwob_tasks.advise(new.task, step.state)[1] == step.action


@EVERY
def test_everything_but_names_stays(family, episodes, renamer):
  for old, new in renamed(renamer, episodes[family]):
    assert (old.success, old.behaviour, old.episode_id, old.task.task_id) == (
        new.success, new.behaviour, new.episode_id, new.task.task_id)
    assert new.transitions[0].state == new.task.initial_state
    for a, b in zip(old.transitions, new.transitions, strict=True):
      assert (a.reward, a.done, a.is_invalid) == (
          b.reward, b.done, b.is_invalid)
      assert b.is_invalid == (b.next_state == states.invalid(b.state))
      for before, after in ((a.state, b.state), (a.next_state, b.next_state)):
        assert [(e.id, e.role, e.is_checked) for e in states.parse(before)] == [
            (e.id, e.role, e.is_checked) for e in states.parse(after)]
      one, two = actions.parse(a.action), actions.parse(b.action)
      assert (one.verb, one.element) == (two.verb, two.element)
      edits = [states.diff(s.state, s.next_state) for s in (a, b)]
      words = {states.OVER, states.SAME, 'invalid'}
      assert edits[0] == edits[1] or not words & set(edits)
    chain = new.transitions
    for a, b in zip(chain, chain[1:], strict=False):
      assert a.next_state == b.state


@EVERY
def test_free_names_go_and_the_template_stays(family, episodes, renamer):
  for old, new in renamed(renamer, episodes[family]):
    names = augment.entities(old)
    free = names - renamer.structural[family]
    assert free or family in BARE or old.behaviour != 'expert'
    assert not free & augment.entities(new)
    assert names - free <= augment.entities(new)
    assert len(augment.entities(new)) == len(names)
  assert not {'Submit', 'Username', 'Password', 'OK', 'Login'} & free


def test_the_names_of_a_page_are_all_kinds_of_them():
  page = '[1] textbox: User = Al\n[2] combobox: = A options A ; B c\n' + (
      '[3] checkbox: q checked\n[4] text: 1947')
  step = types.Transition(page, 'fill [1] Bo', states.OVER, 1.0, True)
  bad = types.Transition(page, 'tap', states.invalid(page), 0.0, False)
  episode = types.Episode(types.Task('f', 0), (bad, step), types.REAL,
                          'expert', 'e')
  assert augment.entities(episode) == {'User', 'Al', 'A', 'B c', 'q', 'Bo'}


def test_the_seed_decides(episodes, renamer):
  episode = episodes['click-checkboxes'][0]
  draw = [renamer.rename(episode, np.random.default_rng(s)) for s in (3, 3, 4)]
  assert draw[0] == draw[1] != draw[2]
  assert augment.make_renamer(
      [e for es in reversed(episodes.values()) for e in es]) == renamer


def test_nothing_to_rename_is_the_same_episode(episodes, renamer):
  for family in BARE:
    episode = episodes[family][0]
    assert renamer.rename(episode, np.random.default_rng(0)) is episode


def test_a_name_within_a_word_is_left_alone():
  task = types.Task('click-link', 0, 'Click on the link "ed".',
                    '[1] link: ed\n[2] link: sed\n[3] link: ed et')
  episode = play(task, ['click [1]'])
  renamer = augment.Renamer({'click-link': frozenset()}, ('Q', 'W', 'R'))
  new = renamer.rename(episode, np.random.default_rng(1))
  names = [e.name for e in states.parse(new.task.initial_state)]
  assert len(set(names)) == 3 and not set(names) & {'ed', 'sed', 'ed et'}
  assert not names[2].endswith(' et')     # whole names first
  assert f'"{names[0]}"' in new.task.instruction
  assert new.transitions[0].reasoning == f'need {names[0]} have {names[0]} yes'


def test_the_renamed_stream_parses_back(episodes, renamer):
  some = [e for es in episodes.values() for e in es]
  words = [t for e in some for s in e.transitions
           for t in (s.state, s.reasoning, s.action, e.task.instruction)]
  prompt = prompts.Prompts(tokenizers.train(words, 500))
  for family in ('choose-list', 'click-checkboxes', 'read-table'):
    for _, new in renamed(renamer, episodes[family][:4]):
      for step in new.transitions:
        answer = prompt.parse_answer(prompt.dream_answer(step).ids, step.state,
                                     step.action)
        assert answer.next_state == step.next_state
        assert answer.reasoning == step.reasoning
        assert prompt.parse_reply(prompt.policy_reply(
            '', step.action).ids) == ('', step.action)


@pytest.mark.parametrize('family, page, typed', [
    ('enter-text', None, 'press [1] Enter'),
    ('enter-text', None, 'fill [1] field'),
    ('login-user', None, 'fill [1] password'),
    ('read-table', None, 'fill [5] of'),
    ('focus-text-2', None, 'fill [1] 2nd'),
    ('click-widget', '[1] radio: A\n[2] textbox: = a', 'click [2]'),
])
def test_words_of_the_instruction_are_no_names(
    family, page, typed, episodes, renamer):
  """Random behaviours type them; the template must stay readable."""
  task = task_of(family, 0)
  if page:
    task = types.Task(family, 0, task.instruction, page)
  script = [] if page else ['click [40]', pages.LOSING[family]]
  episode = play(task, [typed, *script])
  for seed in range(5):
    new = renamer.rename(episode, np.random.default_rng(seed))
    for step in new.transitions:
      assert miniwob_tasks.annotate(new.task, step) == step.reasoning


# -- look-ups -----------------------------------------------------------------


def lookups(page, n=200):
  rng = np.random.default_rng(0)
  return {augment.lookup(page, 'xyz', rng) for _ in range(n)}


@pytest.mark.parametrize('page, want', [
    ('[1] button: a\n[2] button: b', {('need a [1]', 'click [1]'),
                                      ('need b [2]', 'click [2]')}),
    ('[1] link: a\n[2] link: a\n[3] link: c', {('need c [3]', 'click [3]')}),
    ('[1] checkbox: a checked\n[2] checkbox: b',
     {('a [1] need off', 'click [1]'), ('b [2] need on', 'click [2]')}),
    ('[1] textbox: User =\n[2] textbox: Pass =',
     {('User [1] need xyz', 'fill [1] xyz'),
      ('Pass [2] need xyz', 'fill [2] xyz'),
      ('need [1]', 'click [1]'), ('need [2]', 'click [2]')}),
    ('[1] textbox: =\n[2] textbox: =',
     {('need [1]', 'click [1]'), ('need [2]', 'click [2]')}),
    ('[1] text: Key\n[2] textbox: =',
     {('Key need xyz', 'fill [2] xyz'), ('need [2]', 'click [2]'),
      ('need textbox: [2]', 'click [2]')}),
    ('[1] combobox: = p options p ; q',
     {('need p', 'select_option [1] p'), ('need q', 'select_option [1] q'),
      ('need combobox: [1]', 'click [1]'), ('need [1]', 'click [1]')}),
    ('[1] text: a', {('', '')}),
])
def test_lookups_are_all_that_can_be_named(page, want):
  assert lookups(page) == want


@EVERY
def test_lookups_speak_as_the_expert_thinks(family, episodes):
  """Whatever the expert needs, on some page a look-up says the same way."""
  for episode in episodes[family][:3]:
    for step in episode.transitions:
      if step.next_state == states.OVER:
        continue
      thought, action = miniwob_tasks.advise(episode.task, step.state)
      argument = actions.argument(action)
      rng = np.random.default_rng(0)
      found = {augment.lookup(step.state, argument, rng) for _ in range(300)}
      if not thought.startswith('finish'):
        assert action in {a for t, a in found if t.split('need ')[1:] ==
                          thought.split('need ')[1:]}
