"""Behaviours are pure: no browser here."""

import collections

import numpy as np
import pytest

from dreamgym_jax.envs import behaviours
from dreamgym_jax.text import actions, states

LOGIN = '\n'.join([
    '[1] textbox: Username =', '[2] textbox: Password = pw',
    '[3] button: Help', '[4] button: Login'])
LOGIN_GOAL = 'Enter the username "karrie" and the password "AU".'
LIST = '\n'.join([
    '[1] combobox: = Ada options Ada ; Bo ; Cy', '[2] button: Submit'])
LIST_GOAL = 'Select Bo from the list and click Submit.'
BOXES = '\n'.join([
    '[1] checkbox: AU checked', '[2] checkbox: HF2', '[3] radio: x checked',
    '[4] radio: y', '[5] button: Submit'])
CASES = [
    ('fill [1] karrie', LOGIN, LOGIN_GOAL),
    ('click [4]', LOGIN, LOGIN_GOAL),
    ('select_option [1] Bo', LIST, LIST_GOAL),
    ('click [2]', BOXES, 'Select HF2 and click Submit.'),
]


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.mark.parametrize('kind', behaviours.KINDS)
@pytest.mark.parametrize('action, state, goal', CASES)
def test_a_near_miss_is_an_action_and_not_the_experts(
    kind, action, state, goal, rng):
  for _ in range(20):
    miss = behaviours.near_miss(kind, action, state, goal, rng, 'click [5]')
    assert miss != action
    actions.parse(miss)


def misses(kind, action, state, goal, rng, next_action=''):
  return set(behaviours.misses(kind, action, state, goal, rng, next_action))


def test_each_kind_of_near_miss_does_what_it_says(rng):
  fill, state, goal = CASES[0]
  want = {
      'wrong_object': {'fill [2] karrie'},
      'neighbour': {'fill [2] karrie'},
      'absent': {f'fill [{i}] karrie' for i in (5, 6, 7)},
      'too_early': {'click [4]'},
      'skip': {'fill [2] AU'},
      'bad_option': set(),
      'other_field': {'fill [2] karrie'},
  }
  for kind, expected in want.items():
    got = misses(kind, fill, state, goal, rng, 'fill [2] AU')
    assert got == expected, kind
  assert misses('skip', fill, state, goal, rng) == set()
  assert {'fill [1] AU', 'fill [1] pw'} <= misses(
      'other_value', fill, state, goal, rng)
  verbs = {actions.parse(a).verb
           for a in misses('wrong_verb', fill, state, goal, rng)}
  assert verbs == set(actions.VERBS) - {
      'fill', 'noop', 'scroll', 'goto', 'go_back', 'answer'}


def test_list_misses(rng):
  choice, state, goal = CASES[2]
  others = misses('other_value', choice, state, goal, rng)
  assert others == {f'select_option [1] {o}' for o in ('Ada', 'Bo', 'Cy')}
  for bad in misses('bad_option', choice, state, goal, rng):
    assert actions.parse(bad).argument not in ('Ada', 'Bo', 'Cy')


def test_a_typo_is_one_letter_away(rng):
  lengths = collections.Counter()
  for text in ('karrie', 'AU', '7', 'aa', 'Sfz'):
    for _ in range(100):
      wrong = behaviours.typo(text, rng)
      assert wrong.strip() != text and wrong
      lengths[len(wrong) - len(text)] += 1
      if len(wrong) == len(text):
        wrong_at = [i for i, (a, b) in enumerate(zip(text, wrong, strict=True))
                    if a != b]
        assert len(wrong_at) <= 2
  assert set(lengths) == {-1, 0, 1}
  assert behaviours.typo('', rng) == ''


def test_near_miss_strikes_once_at_the_planned_step(rng):
  action, state, goal = CASES[0]
  plan = behaviours.Plan(1, 'typo')
  taken = [
      behaviours.choose('near_miss', action, state, goal, rng, step=step,
                        plan=plan) for step in range(4)]
  assert [a == action for a in taken] == [True, False, True, True]
  with pytest.raises(ValueError, match='plan'):
    behaviours.choose('near_miss', action, state, goal, rng)


def test_plans_cover_every_step_and_kind(rng):
  plans = [behaviours.make_plan(rng, 3) for _ in range(1000)]
  assert {p.step for p in plans} == {0, 1, 2}
  kinds = collections.Counter(p.kind for p in plans)
  assert set(kinds) == set(behaviours.KINDS)
  assert min(kinds.values()) > 60    # of 100 expected; sigma is 9.5


def test_expert_noisy_random_shares(rng):
  action, state, goal = CASES[0]

  def share(behaviour, **kwargs):
    return np.mean([
        behaviours.choose(behaviour, action, state, goal, rng, **kwargs)
        == action for _ in range(400)])

  assert share('expert') == 1
  assert share('random') < .3
  assert abs(share('noisy', noise=.3) - .7) < .12
  with pytest.raises(ValueError, match='unknown behaviour'):
    share('expret')


@pytest.mark.parametrize('state', [LOGIN, LIST, BOXES, states.OVER, ''])
def test_random_actions_parse_and_repeat_with_the_seed(state):
  def draw():
    rng = np.random.default_rng(3)
    return [behaviours.random_action(state, LOGIN_GOAL, rng)
            for _ in range(300)]
  drawn = draw()
  assert drawn == draw()
  verbs = {actions.parse(a).verb for a in drawn}
  assert verbs == {'noop'} if state in ('', states.OVER) else len(verbs) > 3


def test_imagine():
  assert behaviours.imagine(LOGIN, 'fill [1] karrie') == LOGIN.replace(
      'Username =', 'Username = karrie')
  assert behaviours.imagine(LIST, 'select_option [1] Bo') == LIST.replace(
      '= Ada', '= Bo')
  assert behaviours.imagine(LIST, 'select_option [1] Zed') == LIST
  assert behaviours.imagine(BOXES, 'click [1]') == BOXES.replace(
      'AU checked', 'AU')
  assert behaviours.imagine(BOXES, 'click [4]') == BOXES.replace(
      'x checked', 'x').replace('radio: y', 'radio: y checked')
  assert behaviours.imagine(BOXES, 'click [5]') == BOXES
  assert behaviours.imagine(states.invalid(BOXES), 'no action') == BOXES
