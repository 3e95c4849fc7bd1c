"""The book of tasks: whom to play, whom to vary, who goes."""

import json

import jax
import numpy as np
import pytest

from dreamgym_jax import config, curriculum, experience, types
from dreamgym_jax.stages import tasks

FAMILIES = ('click-button', 'enter-text')
PAGE = '[1] button: a'
KEY = jax.random.key(0)


class Run:
  """All that the book asks of a run."""

  def __init__(self, **changes):
    self.config = config.defaults()
    self.config.env.families = FAMILIES
    self.config.curriculum.update({'pages': 3, 'capacity': 9, 'candidates': 4,
                                   **changes})


def episode(family, seed, goal='Click.'):
  return types.Episode(types.Task(family, seed, f'{goal} {seed}', PAGE), (),
                       types.REAL, 'expert', f'{family}{seed}')


def open_book(run=None, n=5):
  run = run or Run()
  offline = [episode(f, s) for f in (*FAMILIES, 'click-link')
             for s in range(n) for _ in range(2)]
  return run, tasks.open_book(run, offline)


def proposal(book, groups, i, instruction='New.', **kw):
  return experience.Proposal(tuple(groups[i]), f'{instruction} {i}', PAGE, **kw)


def visited(book, wins=1, slots=None):
  """Groups of two in which `wins` of two succeed."""
  slots = np.flatnonzero(book.pool.is_alive_M) if slots is None else slots
  success = np.tile(np.arange(2) < wins, (len(slots), 1)).astype(np.float32)
  return tasks.observe(book, np.asarray(slots), success,
                       np.ones_like(success, bool))


def extended(run=None, make=None):
  run, book = open_book(run)
  book = visited(book)
  return run, tasks.extend(
      run, book, lambda groups, key: [
          (make or proposal)(book, groups, i) for i in range(len(groups))],
      KEY, FAMILIES)


def test_the_book_holds_each_page_once_and_so_many_of_a_family():
  _, book = open_book()
  held = [t for t in book.tasks if t]
  assert [(t.family, t.seed) for t in held] == [
      (f, s) for f in FAMILIES for s in range(3)]
  assert book.pool.is_alive_M.sum() == 6 and len(book.tasks) == 9
  assert not book.pool.is_generated_M.any()
  for i, t in enumerate(held):
    assert FAMILIES[book.pool.family_M[i]] == t.family


def test_a_pool_too_small_for_the_real_pages_grows():
  _, book = open_book(Run(capacity=2))
  assert sum(t is not None for t in book.tasks) == 6


@pytest.mark.parametrize('allowed', [FAMILIES[:1], FAMILIES[1:], FAMILIES])
def test_only_allowed_families_are_played(allowed):
  run, book = extended()
  for seed in range(10):
    slots = tasks.choose(book, jax.random.key(seed), 8, allowed, 0.5)
    assert len(slots) == 8
    assert {book.tasks[i].family for i in slots} <= set(allowed)
  with pytest.raises(ValueError, match='no real task'):
    tasks.choose(book, KEY, 8, (), 0.5)


@pytest.mark.parametrize('share', [0.0, 0.25, 0.5])
def test_generated_tasks_keep_to_their_share(share):
  run, book = extended()
  most = 0
  for seed in range(10):
    slots = tasks.choose(book, jax.random.key(seed), 8, FAMILIES, share)
    n = sum(book.tasks[i].source == types.GENERATED for i in slots)
    assert n <= share * 8
    most = max(most, n)
  assert (most > 0) == (share > 0)


def test_proposals_become_tasks_with_a_parent():
  run, book = extended(Run(candidates=3))
  made = [t for t in book.tasks if t and t.source == types.GENERATED]
  assert len(made) == 3 == sum(e['kept'] for e in book.log)
  assert len({t.task_id for t in made}) == 3
  real = {t.task_id: t for t in book.tasks if t and t.source == types.REAL}
  for t in made:
    slot = book.tasks.index(t)
    assert real[t.parent].family == t.family
    assert book.tasks[book.pool.parent_M[slot]].task_id == t.parent
    assert book.pool.is_generated_M[slot]
    assert FAMILIES[book.pool.family_M[slot]] == t.family
    assert t.seed < 0


def test_what_cannot_be_used_is_dropped_with_a_reason():
  def make(book, groups, i):
    return [proposal(book, groups, 0),
            experience.Proposal(tuple(groups[1]), error='bad page'),
            proposal(book, groups, 0),
            experience.Proposal(tuple(groups[3]), 'Click. 0', PAGE)][i]

  _, book = extended(make=make)
  assert [(e['kept'], e['reason']) for e in book.log] == [
      (True, ''), (False, 'malformed: bad page'), (False, 'a duplicate'),
      (False, 'a duplicate')]
  assert sum(t is not None for t in book.tasks) == 7
  assert [e['slot'] is None for e in book.log] == [False, True, True, True]


def test_a_full_pool_says_so():
  run, book = open_book(Run(capacity=7))
  _, book = extended(Run(capacity=7))
  reasons = [e['reason'] for e in book.log]
  assert reasons.count('the pool is full') == 3 and reasons.count('') == 1
  assert sum(t is not None for t in book.tasks) == 7


def test_a_task_that_makes_room_for_another_is_noted():
  run, book = extended(Run(capacity=8))
  first = [e for e in book.log if e['kept']]
  assert len(first) == 2
  book = tasks.extend(
      run, book, lambda groups, key: [
          proposal(book, groups, i, 'Newer.') for i in range(len(groups))],
      KEY, FAMILIES)
  assert [(e['kept'], e['reason']) for e in first] == [
      (False, 'made room for another')] * 2
  kept = [e for e in book.log if e['kept']]
  assert len(kept) == 2 and all(
      book.tasks[e['slot']].instruction == e['instruction'] for e in kept)


def test_tasks_nobody_learned_from_are_not_varied():
  run, book = open_book()

  def propose(groups, key):
    raise AssertionError('nothing to vary')

  assert tasks.extend(run, book, propose, KEY, FAMILIES) is book
  mastered = visited(book, wins=2)
  assert tasks.extend(run, mastered, propose, KEY, FAMILIES) is mastered


def test_only_allowed_families_are_varied():
  run, book = open_book()
  book = visited(book)
  seen = []
  tasks.extend(run, book, lambda groups, key: seen.extend(groups) or [
      proposal(book, groups, i) for i in range(len(groups))], KEY,
      FAMILIES[1:])
  assert seen and {t.family for g in seen for t in g} == {FAMILIES[1]}


def test_generated_tasks_that_always_tie_are_retired_and_real_ones_stay():
  _, book = extended()
  made = np.flatnonzero(book.pool.is_generated_M & book.pool.is_alive_M)
  for _ in range(2):
    book = visited(book, wins=2, slots=[0, 1, made[0]])
  assert not book.pool.is_alive_M[made[0]] and book.tasks[made[0]] is None
  assert book.pool.is_alive_M[[0, 1]].all() and book.tasks[0]
  told = [e for e in book.log if e['slot'] == made[0]]
  assert [(e['kept'], e['reason'][:7]) for e in told] == [(False, 'retired')]
  assert book.pool.is_alive_M[made[1]] and book.tasks[made[1]]


def test_malformed_rollouts_do_not_retire_a_task():
  _, book = extended()
  made = np.flatnonzero(book.pool.is_generated_M & book.pool.is_alive_M)
  for _ in range(3):
    book = tasks.observe(book, made[:1], np.zeros((1, 2), np.float32),
                         np.zeros((1, 2), bool))
  assert book.tasks[made[0]] is not None


def test_a_book_comes_back_from_a_checkpoint():
  run, book = extended()
  _, fresh = open_book()
  host = json.loads(json.dumps(tasks.to_host(book)))
  back = tasks.from_host(fresh, book.pool, host)
  assert back.tasks == book.tasks and back.log == book.log
  assert back.families == book.families
  for seed in range(3):
    key = jax.random.key(seed)
    np.testing.assert_array_equal(
        tasks.choose(back, key, 6, FAMILIES, 0.5),
        tasks.choose(book, key, 6, FAMILIES, 0.5))
  assert curriculum.NO_TASK not in tasks.choose(back, KEY, 6, FAMILIES, 0)
