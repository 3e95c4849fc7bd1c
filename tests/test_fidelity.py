"""Divergences by construction, calibration and bounds by hand."""

import dataclasses
import json

import numpy as np
import pytest

from dreamgym_jax.audit import fidelity, gate
from dreamgym_jax.text import states
from dreamgym_jax.types import Episode, Task, Transition

PAGE = '[1] textbox: name =\n[2] button: ok'
FILLED = '[1] textbox: name = Ada\n[2] button: ok'


def step(next_state=FILLED, reward=0.0, done=False, action='fill [1] Ada',
         **more):
  return Transition(PAGE, action, next_state, reward, done, **more)


def end(reward, **more):
  return step(states.OVER, reward, True, 'click [2]', **more)


def episode(*transitions, source='real', error=''):
  return Episode(Task('enter-text', 3), transitions, source, 'policy', 'e1',
                 error=error)


def pair(t, real, dreamed, is_last=False, episode_id='e'):
  return gate.StepPair('enter-text', episode_id, t, real, dreamed, is_last)


@pytest.mark.parametrize('real,dreamed,want', [
    (FILLED, FILLED, 1.0),
    (FILLED, PAGE, 0.5),
    (PAGE, PAGE + '\n[3] link: more', 2 / 3),   # surplus counts against it
    (PAGE + '\n[3] link: more', PAGE, 2 / 3),
    (states.OVER, PAGE, 0.0),
    (PAGE, '', 0.0),
    ('a\na\nb', 'a\na\nb\nc', 3 / 4),         # a multiset, not a set
])
def test_line_match(real, dreamed, want):
  assert fidelity.line_match(real, dreamed) == pytest.approx(want)


def test_horizon_by_hand():
  rows = fidelity.by_horizon([
      pair(0, step(), step(success_prob=.1)),
      pair(1, end(1.), end(1., success_prob=.8), True),
      pair(0, step(), step(PAGE, success_prob=.3), episode_id='f'),
      pair(1, end(0.), end(1., success_prob=.6), True, 'f')])
  assert [(r.step, r.n) for r in rows] == [(0, 2), (1, 2)]
  assert rows[0].exact == 0.5 and rows[0].line_match == 0.75
  assert rows[0].flag == 1.0 and rows[0].eps_p == 0.5
  assert rows[0].eps_r == pytest.approx(.2)
  assert rows[1].exact == 1.0 and rows[1].flag == 0.5 and rows[1].eps_p == 0
  assert rows[1].eps_r == pytest.approx((.2 + .6) / 2)
  assert rows[1].eps_r_max == pytest.approx(.6)


def test_horizon_without_probabilities_takes_the_flag():
  (row,) = fidelity.by_horizon([pair(0, end(0.), end(1.), True)])
  assert row.eps_r == 1.0
  assert fidelity.success_prob(end(1., success_prob=1.0000001)) == 1.0


@pytest.mark.parametrize('dreamed,real,kind', [
    ([step(), end(1.)], [step(), end(1.)], 'none'),
    ([step(PAGE), end(1.)], [step(), end(0.)], 'state'),
    ([step(), end(1.)], [step(), end(0.)], 'false win'),
    ([step(), end(0.)], [step(), end(1.)], 'missed win'),
    ([step(), step(PAGE, action='click [2]')], [step(), end(0.)], 'done'),
    ([step(), end(0.)],
     [step(states.invalid(PAGE), is_invalid=True), end(0.)], 'invalidity'),
    ([step()], [step(), end(0.)], 'done'),
])
def test_first_divergence(dreamed, real, kind):
  d, r = episode(*dreamed, source='dreamed'), episode(*real)
  found, t = fidelity.first_divergence(d, r)
  assert found == kind and (t == -1) == (kind == 'none')
  got = fidelity.consistency([(d, r)])
  assert got.divergence[kind] == 1 and sum(got.divergence.values()) == 1
  assert got.equal_episodes == (int(kind == 'none'), 1)
  assert got.equal_success == (int(d.success == r.success), 1)


def test_consistency_rates():
  win = episode(step(), end(1.), source='dreamed')
  pairs = [(win, episode(step(), end(1.))),
           (win, episode(step(PAGE), end(0.))),
           (win, episode(error='browser died'))]
  got = fidelity.consistency(pairs)
  assert got.wins_kept == (1, 2) and got.equal_steps == (2, 4)
  assert got.n_errors == 1
  json.dumps(got.to_json(), allow_nan=False)


def test_what_the_dream_broke_off_at_is_not_compared():
  halt = step(states.UNKNOWN, done=True)
  dreamed = episode(step(), halt, source='dreamed')
  lost = episode(halt, source='dreamed')
  same, other = (episode(step(page), step()) for page in (FILLED, PAGE))
  got = fidelity.consistency([
      (dreamed, same), (dreamed, other), (lost, same),
      (episode(step(), end(1.), source='dreamed'), episode(step(), end(1.)))])
  assert got.equal_steps == (3, 4) and got.n_halted == 3
  assert got.equal_episodes == got.equal_success == (1, 1)
  assert got.divergence['none'] == 3 and got.divergence['state'] == 1
  assert got.to_json()['n_halted'] == 3
  assert fidelity.is_halted(lost) and not fidelity.is_halted(same)


def test_partings_are_counted_by_what_was_done():
  typed, clicked = step(), end(1.)
  found = step('[1] link: a', action='click [2]')
  opened = Transition('[1] link: a', 'click [1]', FILLED, 0.0, False)
  lost = dataclasses.replace(opened, next_state=PAGE)
  pairs = [(typed, step(PAGE)), (clicked, end(0.)), (opened, lost),
           (opened, opened)]
  got = fidelity.consistency([
      (episode(step(), d, source='dreamed'), episode(step(), r))
      for d, r in pairs] + [
          # Only the first: what comes after belongs to another page.
          (episode(found, opened, source='dreamed'),
           episode(step(PAGE, action='click [2]'), lost)),
          # The dream goes on where the real episode ended.
          (episode(found, opened, source='dreamed'), episode(found))])
  assert got.partings == {'click button: ok': 3, 'fill textbox': 1,
                          'click link': 1}
  assert list(got.partings)[0] == 'click button: ok'
  assert got.to_json()['partings'] == got.partings


@pytest.mark.parametrize('action, kind', [
    ('click [2]', 'click button: ok'), ('fill [1] Ada', 'fill textbox'),
    ('click [9]', 'click nothing'), ('noop', 'noop'), ('tap', 'malformed')])
def test_kinds_of_actions(action, kind):
  assert fidelity.kind_of(step(action=action)) == kind


def test_unforeseen_steps_by_what_retrieval_showed():
  def unknown(dreamed, is_shown, action='fill [1] Ada'):
    return dataclasses.replace(
        pair(0, step(action=action), step(dreamed, action=action)),
        is_determined=False, is_shown=is_shown)

  got = fidelity.unforeseen([
      unknown(FILLED, True), unknown(PAGE, True), unknown(PAGE, False),
      unknown(FILLED, False), unknown(FILLED, True),
      unknown(FILLED, True, 'click [2]'),
      pair(1, end(1.), end(1.), True)])
  assert list(got) == ['fill textbox', 'click button: ok']
  assert got['fill textbox'] == ((3, 5), (2, 3), (1, 2))
  assert got['click button: ok'] == ((1, 1), (1, 1), (0, 0))
  json.dumps(got['click button: ok'].to_json(), allow_nan=False)


def test_a_replay_of_other_actions_is_an_error():
  with pytest.raises(ValueError, match='acted otherwise at step 1'):
    fidelity.consistency([(episode(step(), end(1.)),
                           episode(step(), step()))])


def test_confusion():
  got = fidelity.confusion([1, 1, 0, 0, 1], [1, 0, 1, 0, 1])
  assert got == {'tp': 2, 'fp': 1, 'fn': 1, 'tn': 1}


def test_reliability_by_hand():
  got = fidelity.reliability([.05, .15, .15, 1.0], [0, 1, 0, 1])
  assert got.count == (1, 2, 0, 0, 0, 0, 0, 0, 0, 1)
  # |0-.05| 1/4 + |.5-.15| 2/4 + |1-1| 1/4
  assert got.ece == pytest.approx(.0125 + .175)
  # (.0025 + .7225 + .0225 + 0) / 4
  assert got.brier == pytest.approx(.186875)


def test_calibrated_probabilities_have_no_ece():
  rng = np.random.default_rng(0)
  prob = rng.random(20000)
  right = fidelity.reliability(prob, rng.random(20000) < prob)
  wrong = fidelity.reliability(prob, rng.random(20000) < prob ** 3)
  assert right.ece < .02 < .1 < wrong.ece


@pytest.mark.parametrize('bad', [[], [1.2], [-1.0], [float('nan')]])
def test_reliability_rejects_what_is_no_probability(bad):
  with pytest.raises(ValueError, match='within'):
    fidelity.reliability(bad, [0] * len(bad))


def test_bound_is_vacuous_at_the_papers_values():
  # gamma .99, both eps .01: 2 (1 + 198) = 398, against V_max = 100.
  got = fidelity.trust_region_bound(0., 0., .01, .01, .99)
  assert got['model'] == pytest.approx(398)
  assert got['bound'] == pytest.approx(-398)
  with pytest.raises(ValueError, match='gamma'):
    fidelity.simulation_lemma(.1, .1, 1.0)


def test_theorem_terms_by_hand():
  # gamma .5: A/.5; 4 * .5 * 2 * .1 / .25; 2 (.2/.5 + 2 * .5 * .1 / .25).
  got = fidelity.trust_region_bound(1., .1, .2, .1, .5)
  assert got['surrogate'] == pytest.approx(2.)
  assert got['trust_region'] == pytest.approx(1.6)
  assert got['model'] == pytest.approx(1.6)
  assert got['bound'] == pytest.approx(-1.2)


def random_chain(rng, n_states=4):
  """A finite chain: row-stochastic P (last state absorbs) and step rewards."""
  p = rng.random((n_states, n_states)) ** 3
  p[-1] = 0
  p[-1, -1] = 1
  r = rng.random(n_states) * .2
  r[-1] = 0
  return p / p.sum(1, keepdims=True), r


def test_bounds_hold_on_random_chains():
  # Rewards are kept small so that values stay within [0, r_max].
  rng = np.random.default_rng(3)
  horizon, gamma = 4, .9
  for _ in range(50):
    (p, r), (q, s) = random_chain(rng), random_chain(rng)
    tv = .5 * np.abs(p - q).sum(1)
    visit = np.eye(len(r))[0]
    seen = visit
    real = dream = 0.
    eps_r, eps_p = [], []
    for t in range(horizon):
      real += gamma ** t * visit @ r
      dream += gamma ** t * seen @ s
      eps_r.append(visit @ np.abs(r - s))
      eps_p.append(visit @ tv)
      visit, seen = visit @ p, seen @ q
    bound = fidelity.on_policy_bound(eps_r, eps_p, [1.] * horizon, gamma)
    assert abs(real - dream) <= bound
    sup = fidelity.simulation_lemma(
        np.abs(r - s).max(), tv.max(), gamma, .2)
    assert abs(real - dream) <= sup


def test_summary_is_json_and_perfect_dreams_bound_nothing():
  pairs = [pair(0, step(), step(success_prob=0.)),
           pair(1, end(1.), end(1., success_prob=1.), True)]
  replay = (episode(step(), end(1.), source='dreamed'),
            episode(step(), end(1.)))
  got = fidelity.summary(pairs, [replay])
  json.dumps(got, allow_nan=False)
  assert got['bound']['on_policy'] == got['bound']['sup'] == 0.
  assert got['reward']['last_steps']['confusion']['tp'] == 1
  assert got['reward']['last_steps']['n'] == 1
  wrong = dataclasses.replace(
      pairs[1], dreamed=end(0., success_prob=.25))
  worse = fidelity.summary([pairs[0], wrong])
  assert worse['bound']['on_policy'] == pytest.approx(.75)
  assert worse['consistency'] is None and fidelity.summary([]) == {}
