"""A perfect dream passes, each kind of lie is caught by its own column."""

import dataclasses
import json
import math

import pytest

from dreamgym_jax.audit import gate
from dreamgym_jax.text import states
from dreamgym_jax.types import Transition

PAGE = '[1] button: ok\n[2] button: cancel'
LIMITS = gate.Thresholds()


def step(next_state=PAGE, reward=0.0, done=False, **more):
  return Transition(PAGE, 'click [1]', next_state, reward, done, **more)


GO_ON = step(reasoning='same page')
INVALID = step(states.invalid(PAGE), is_invalid=True)
WIN, LOSE = step(states.OVER, 1.0, True), step(states.OVER, 0.0, True)


def episode(i, real, dreamed=None, family='click-button'):
  dreamed = dreamed or real
  return [gate.StepPair(family, f'e{i}', t, r, d, t == len(real) - 1)
          for t, (r, d) in enumerate(zip(real, dreamed, strict=True))]


def perfect(n=25, family='click-button'):
  pairs = []
  for i in range(n):
    pairs += episode(2 * i, [GO_ON, INVALID, LOSE], family=family)
    pairs += episode(2 * i + 1, [GO_ON, WIN], family=family)
  return pairs


def verdict(pairs, dream=(25, 50), real=(25, 50), limits=LIMITS):
  table = gate.measure(pairs, {'click-button': dream},
                       {'click-button': real})
  return gate.decide(table, limits)['click-button']


def test_perfect_dream_passes():
  got = verdict(perfect())
  assert got.passed and not got.reasons and not got.notes


def test_a_floor_under_what_nobody_could_foresee():
  drawn = [dataclasses.replace(p, is_determined=False, episode_id=f'd{i}')
           for i in range(40)
           for p in episode(i, [LOSE], [LOSE if i % 4 else step('other')])]
  got = gate.measure(perfect() + drawn, {}, {}).rows['click-button']
  assert got.unforeseen == (30, 40) and got.next_state.value == 1
  assert verdict(perfect() + drawn).passed
  strict = dataclasses.replace(LIMITS, unforeseen=0.9)
  assert verdict(perfect() + drawn, limits=strict).reasons[0].startswith(
      'unforeseen: 10 of 40 wrong')
  assert verdict(perfect(), limits=strict).passed     # nothing to foresee


def test_few_cases_count_where_no_rate_is_asked_for():
  """A limit of 0 asks for no share, and still for evidence."""
  one = episode(99, [INVALID, LOSE], [GO_ON, LOSE])
  lax = dataclasses.replace(LIMITS, invalid_recall=0.0, next_state=0.0)
  assert any('invalid recall' in r for r in verdict(one, limits=lax).reasons)


def test_a_table_from_before_that_floor_is_read():
  rows = gate.measure(perfect(), {}, {}).to_json()
  for row in rows.values():
    del row['unforeseen']
  assert gate.from_json(rows).rows['all'].unforeseen == (0, 0)


def test_counts_by_hand():
  pairs = (
      episode(0, [GO_ON, INVALID, LOSE], [GO_ON, GO_ON, WIN])
      + episode(1, [INVALID, WIN], [INVALID, LOSE])
      + episode(2, [GO_ON, GO_ON], [WIN, step('', reasoning='x')]))
  row = gate.measure(pairs, {'click-button': (2, 3)},
                     {'click-button': (1, 3)}).rows['all']
  assert (row.n_episodes, row.n_steps) == (3, 7)
  # States wrong: the invalid one, 'over' for a page, a malformed ''.
  assert row.next_state == (4, 7)
  # Flags wrong: lose->win, win->lose, go on->win.
  assert row.flag == (4, 7)
  # Right in both: steps 0 of e0, 0 of e1. (e2: WIN wrong twice, '' once.)
  assert row.both == (2, 7)
  assert row.reasoning == (1, 3)
  assert row.invalid_recall == (1, 2)
  assert row.false_wins == (2, 2)      # e0 and e2 fail; both dreamed a win
  assert row.missed_wins == (1, 1)
  assert row.dream_gap == pytest.approx(1 / 3)


@pytest.mark.parametrize('bad,name', [
    (episode(99, [GO_ON, LOSE], [step('[1] button: x'), LOSE]), 'next state'),
    (episode(99, [INVALID, LOSE], [GO_ON, LOSE]), 'invalid recall'),
    (episode(99, [LOSE], [WIN]), 'false wins'),
])
def test_each_lie_is_caught_by_its_column(bad, name):
  many = [dataclasses.replace(p, episode_id=f'bad{i}')
          for i in range(20) for p in bad]
  got = verdict(perfect() + many)
  assert not got.passed and any(r.startswith(name) for r in got.reasons)


def test_an_undetermined_next_state_is_not_judged():
  wrong = episode(99, [GO_ON, WIN], [step('[1] button: other',
                                          reasoning='same page'), WIN])
  luck = [dataclasses.replace(p, is_determined=p.is_last) for p in wrong]
  seen = gate.measure(wrong, {}, {}).rows['all']
  spared = gate.measure(luck, {}, {}).rows['all']
  assert seen.next_state == (1, 2) and spared.next_state == (1, 1)
  assert seen.flag == spared.flag == (2, 2)


def test_gap_both_ways_and_at_its_threshold():
  assert not verdict(perfect(), dream=(30, 50)).passed
  assert not verdict(perfect(), dream=(20, 50)).passed
  assert verdict(perfect(), dream=(6, 20), real=(5, 20)).passed
  assert 'not measured' in verdict(perfect(), dream=(0, 0)).reasons[0]


def test_a_rate_exactly_at_its_threshold_passes():
  # 3 of 100 failing episodes win in the dream: .03 is allowed.
  pairs = []
  for i in range(100):
    pairs += episode(i, [GO_ON] * 9 + [LOSE],
                     [GO_ON] * 9 + [WIN if i < 3 else LOSE])
  assert verdict(pairs, (0, 100), (0, 100)).passed
  pairs += episode(100, [LOSE], [WIN])
  assert not verdict(pairs, (0, 100), (0, 100)).passed


def test_few_cases_pass_only_without_error():
  loose = gate.Thresholds(next_state=0.5, invalid_recall=0.5, false_wins=0.5)
  one_error = perfect(3) + episode(99, [LOSE], [WIN])
  assert verdict(perfect(3), (3, 6), (3, 6), loose).passed
  got = verdict(one_error, (3, 7), (3, 7), loose)
  assert not got.passed and 'only 4 cases' in got.reasons[0]
  assert verdict(one_error, (3, 7), (3, 7),
                 dataclasses.replace(loose, min_n=4)).passed


def test_nothing_measured_does_not_pass():
  got = verdict([])
  assert not got.passed and got.reasons[0] == 'next state: not measured'
  got = verdict(episode(0, [WIN]), (1, 1), (1, 1))
  assert got.passed and got.notes == (
      'invalid recall: no case seen', 'false wins: no case seen')


def test_families_are_judged_apart_and_summed():
  liar = episode(0, [LOSE], [WIN], family='login-user')
  table = gate.measure(
      perfect() + liar, {'click-button': (25, 50), 'login-user': (1, 1)},
      {'click-button': (25, 50), 'login-user': (0, 1)})
  assert list(table.rows) == ['click-button', 'login-user', 'all']
  assert gate.enforce(table, LIMITS) == ('click-button',)
  assert table.rows['all'].false_wins == (1, 26)
  # The same episode id in two families is two episodes.
  assert table.rows['all'].n_episodes == 51


def test_refusal_is_the_table_that_says_why():
  liar = episode(0, [LOSE], [WIN])
  table = gate.measure(liar, {'click-button': (1, 1)},
                       {'click-button': (0, 1)})
  with pytest.raises(gate.GateRefused) as refused:
    gate.enforce(table, LIMITS)
  text = str(refused.value)
  assert 'false wins: 1 of 1 wrong' in text and 'REFUSED' in text
  assert 'dream gap: +1.000 (dream 1/1, real 0/1)' in text
  assert refused.value.table == table


def test_json_round_trip():
  table = gate.measure(perfect(2) + episode(9, [LOSE], family='no-rollout'),
                       {'click-button': (3, 4)}, {'click-button': (2, 4)})
  text = json.dumps(gate.summary(table, LIMITS), allow_nan=False)
  back = json.loads(text)
  assert gate.from_json(back['rows']) == table
  assert back['passed'] == [] and back['thresholds']['gap'] == 0.05
  assert math.isnan(table.rows['no-rollout'].dream_gap)


@pytest.mark.parametrize('broken', [
    lambda e: e[:-1],                # the last step is missing
    lambda e: e[1:],                 # the first
    lambda e: [*e, e[0]],            # one twice
    lambda e: [dataclasses.replace(p, is_last=True) for p in e],
])
def test_an_episode_that_is_not_whole_is_an_error(broken):
  with pytest.raises(ValueError, match="'e7' is not whole"):
    gate.measure(broken(episode(7, [GO_ON, GO_ON, WIN])), {}, {})


def test_order_of_pairs_does_not_matter():
  pairs = perfect(3) + episode(99, [GO_ON, LOSE], [GO_ON, WIN])
  assert gate.measure(pairs[::-1], {}, {}) == gate.measure(pairs, {}, {})
