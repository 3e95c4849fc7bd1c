"""Intervals against scipy and published numbers; differences by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from dreamgym_jax import evaluate
from dreamgym_jax.types import Episode, Task, Transition


def episode(win, seed, family='click-button', error=''):
  step = Transition('[1] button: ok', 'click [1]', 'over', float(win), True)
  return Episode(Task(family, seed), (step,), 'real', 'policy',
                 f'{family}/{seed}', error=error)


def episodes(wins, start=0):
  return [episode(w, start + i) for i, w in enumerate(wins)]


@pytest.mark.parametrize('k,n', [(0, 7), (7, 7), (3, 10), (70, 240)])
def test_wilson_equals_scipy(k, n):
  want = stats.binomtest(k, n).proportion_ci(method='wilson')
  z = stats.norm.ppf(0.975)
  np.testing.assert_allclose(evaluate.wilson(k, n, z), want, atol=1e-9)


def test_wilson_edges():
  assert evaluate.wilson(0, 0) == (0.0, 1.0)
  assert evaluate.wilson(0, 5)[0] == 0.0 and evaluate.wilson(5, 5)[1] == 1.0
  with pytest.raises(ValueError, match='3 successes of 2'):
    evaluate.wilson(3, 2)


def test_score_counts_errors_as_failures_and_groups_by_family():
  a = episodes([1, 0, 1, 1])
  b = [episode(0, 9, 'login-user', error='page crashed')]
  total = evaluate.score(a + b)
  assert (total.successes, total.episodes) == (3, 5)
  assert total.rate == 0.6
  families = evaluate.by_family(a + b)
  assert list(families) == ['click-button', 'login-user']
  assert families['login-user'].episodes == 1
  assert set(total.to_json()) == {'successes', 'episodes', 'wilson95'}
  assert math.isnan(evaluate.score([]).rate)


def test_empty_episode_is_no_success():
  empty = Episode(Task('x', 1), (), 'real', 'policy', 'e', error='no browser')
  assert evaluate.score([empty]).successes == 0


def test_newcombe_published_example():
  # Newcombe 1998 (independent), example (a): 56/70 against 48/80.
  lo, hi = evaluate.newcombe((48, 80), (56, 70))
  assert lo == pytest.approx(0.0524, abs=1e-4)
  assert hi == pytest.approx(0.3339, abs=1e-4)


def paired(both, only_a, only_b, neither):
  a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
  b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
  return evaluate.paired_difference(episodes(a), episodes(b)[::-1])


def test_paired_difference_by_hand():
  got = paired(30, 2, 12, 6)
  assert got.diff == pytest.approx(10 / 50)
  assert (got.n, got.only_a, got.only_b) == (50, 2, 12)
  # Exact McNemar: 2 (C(14,0)+C(14,1)+C(14,2)) / 2^14 = 2*106/16384.
  assert got.mcnemar_p == pytest.approx(212 / 16384)
  assert 0 < got.ci95[0] < got.diff < got.ci95[1]


def test_paired_published_example():
  # Bentur et al. 2009 in Fagerland, Lydersen and Laake, Statistics in
  # Medicine 33:2850 (2014): cells 1, 1, 7, 12 -> .026 to .507 in size.
  got = paired(1, 1, 7, 12)
  np.testing.assert_allclose(got.ci95, (0.026, 0.507), atol=5e-4)


def test_paired_interval_without_correlation_is_the_independent_one():
  got = paired(0, 5, 15, 0)    # a margin product, but phi = -75/75 here
  assert got.ci95[0] <= evaluate.newcombe((5, 20), (15, 20))[0]
  got = paired(10, 10, 10, 10)   # both*neither == only_a*only_b: phi = 0
  np.testing.assert_allclose(
      got.ci95, evaluate.newcombe((20, 40), (20, 40)), atol=1e-12)


def test_paired_interval_narrows_with_agreement():
  together, apart = paired(45, 0, 10, 45), paired(25, 20, 30, 25)
  width = [c.ci95[1] - c.ci95[0] for c in (together, apart)]
  assert together.diff == apart.diff and width[0] < width[1]


def test_paired_is_antisymmetric():
  ab, ba = paired(30, 2, 12, 6), paired(30, 12, 2, 6)
  assert ba.diff == -ab.diff
  np.testing.assert_allclose(ba.ci95, [-ab.ci95[1], -ab.ci95[0]])


def test_paired_interval_has_width_where_all_agree():
  got = paired(20, 0, 0, 20)
  assert got.diff == 0 and got.mcnemar_p == 1.0
  assert got.ci95[0] < 0 < got.ci95[1]


def test_paired_interval_covers():
  rng = np.random.default_rng(0)
  cells = np.array([.4, .1, .3, .2])
  hits = 0
  for _ in range(400):
    both, only_a, only_b, neither = rng.multinomial(80, cells)
    phi = evaluate._paired_phi(both, only_a, only_b, neither)
    lo, hi = evaluate._square_and_add(
        (int(both + only_a), 80), (int(both + only_b), 80), phi)
    hits += lo <= 0.2 <= hi
  assert 0.92 <= hits / 400 <= 0.985


def test_paired_rejects_unequal_tasks():
  with pytest.raises(ValueError, match='one side only'):
    evaluate.paired_difference(episodes([1, 0]), episodes([1, 0], start=1))
  with pytest.raises(ValueError, match='twice'):
    evaluate.paired_difference(episodes([1]) * 2, episodes([1]))
  with pytest.raises(ValueError, match='no episodes'):
    evaluate.paired_difference([], [])


def run(rng, n, p_a, p_b):
  return (episodes(rng.random(n) < p_a), episodes(rng.random(n) < p_b))


def test_seeds_difference_of_one_seed_is_the_plain_mean():
  a, b = [1, 0, 0, 0], [1, 1, 0, 1]
  got = evaluate.seeds_difference([(episodes(a), episodes(b))])
  assert got.diff == pytest.approx(0.5) and got.per_seed == (0.5,)
  assert got.ci95 == got.ci95_tasks


def test_seeds_interval_is_wider_when_seeds_disagree():
  rng = np.random.default_rng(1)
  agree = [run(rng, 200, .3, .5) for _ in range(3)]
  differ = [run(rng, 200, .3, p) for p in (.3, .5, .7)]
  same, apart = map(evaluate.seeds_difference, (agree, differ))
  width = lambda ci: ci[1] - ci[0]   # noqa: E731
  assert width(apart.ci95) > 1.5 * width(apart.ci95_tasks)
  assert width(apart.ci95) > width(same.ci95)
  assert same.ci95[0] > 0


def test_seeds_difference_clusters_repeats_of_a_task():
  # Ten copies of each episode are no more evidence than one.
  rng = np.random.default_rng(2)
  a, b = run(rng, 40, .3, .5)
  once = evaluate.seeds_difference([(a, b)])
  often = evaluate.seeds_difference([(a * 10, b * 10)])
  assert once == often


def test_seeds_difference_takes_tasks_of_one_seed_only():
  one = (episodes([0] * 20), episodes([1] * 20))
  two = (episodes([0] * 20, start=20), episodes([0] * 20, start=20))
  got = evaluate.seeds_difference([one, two])
  assert got.per_seed == (1.0, 0.0) and got.n_tasks == 40
  with pytest.raises(ValueError, match='same tasks'):
    evaluate.seeds_difference([(one[0], two[0])])
