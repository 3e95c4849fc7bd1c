"""Leak rule, eviction, exact against numpy, ScaNN against exact, resume."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax import replay
from dreamgym_jax.models import encoder
from dreamgym_jax.text import states
from dreamgym_jax.types import Episode, Task, Transition

E = 64
ENCODE = encoder.make_hash_encoder(E)
WORDS = ['Renda', 'Bobine', 'okay', 'cancel', 'north', 'seven', 'submit',
         'Aurora', 'mail', 'next', 'tab', 'blue', 'item', 'previous', 'close']


def _page(rng) -> str:
  roles = ('button', 'textbox', 'link', 'checkbox', 'tab')
  return '\n'.join(
      f'[{i}] {rng.choice(roles)}: {" ".join(rng.choice(WORDS, 2))}'
      for i in range(1, 2 + rng.integers(1, 9)))


def _step(state: str, action: str = 'noop', **kwargs) -> Transition:
  return Transition(state, action, kwargs.pop('after', state), 0.0, False,
                    **kwargs)


def _episode(
    steps, trajectory='t', family='f', seed=0, source='real', **kwargs):
  return Episode(Task(family, seed), tuple(steps), source, 'b', trajectory,
                 **kwargs)


def _episodes(n: int, seed: int = 0, length: int = 3, source='real'):
  rng = np.random.default_rng(seed)
  return [_episode([_step(_page(rng), f'click [{rng.integers(1, 4)}]')
                    for _ in range(length)],
                   f'{seed}-{i}', f'f{i % 3}', i % 2, source)
          for i in range(n)]


def _store(capacity=64, **kwargs) -> replay.Replay:
  return replay.Replay(capacity, E, ENCODE, **kwargs)


def _states(store) -> list[str]:
  return [e.transition.state for e in store.entries()]


# Which rows may answer: by brute force over the entries.


def _oracle(store, text, k, trajectory, family, task):
  query_E = ENCODE([text])[0]
  allowed = [e for e in store.entries()
             if e.trajectory != trajectory and family in (None, e.family)
             and e.task_id != task]
  score = [float(ENCODE([encoder.key_text(e.transition.state,
                                          e.transition.action)])[0] @ query_E)
           for e in allowed]
  return sorted(score, reverse=True)[:k], len(allowed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exact_is_the_oracle_and_never_leaks(data):
  store = _store(capacity=30)
  episodes = _episodes(data.draw(st.integers(1, 14)))
  store.add(episodes)
  n = data.draw(st.integers(1, 5))
  pick = st.lists(st.sampled_from(episodes), min_size=n, max_size=n)
  asking = data.draw(pick)
  k = data.draw(st.integers(1, 8))
  use_family, use_task = data.draw(st.booleans()), data.draw(st.booleans())
  texts = [encoder.key_text(e.transitions[0].state, e.transitions[0].action)
           for e in asking]
  family = [e.task.family for e in asking] if use_family else None
  task = [e.task.task_id for e in asking] if use_task else None
  answers = store.query(texts, k, [e.episode_id for e in asking], family, task)
  for e, text, answer in zip(asking, texts, answers, strict=True):
    assert all(a.trajectory != e.episode_id for a in answer)
    assert not use_task or all(a.task_id != e.task.task_id for a in answer)
    assert not use_family or all(a.family == e.task.family for a in answer)
    want, num_allowed = _oracle(
        store, text, k, e.episode_id, e.task.family if use_family else None,
        e.task.task_id if use_task else None)
    assert len(answer) == min(k, num_allowed)
    np.testing.assert_allclose([a.score for a in answer], want, atol=1e-5)


def test_a_batch_is_its_rows():
  store = _store(200)
  store.add(_episodes(40))
  rng = np.random.default_rng(9)
  texts = [encoder.key_text(_page(rng), 'click [1]') for _ in range(70)]
  exclude = [f'0-{i % 40}' for i in range(70)]
  together = store.query(texts, 4, exclude)   # more than one block
  for i in (0, 63, 64, 69):
    (alone,) = store.query(texts[i:i + 1], 4, exclude[i:i + 1])
    # Ties may fall either way in another matmul: compare what cannot differ.
    np.testing.assert_allclose([a.score for a in alone],
                               [a.score for a in together[i]], atol=1e-6)


def test_shapes_are_few():
  top_k = replay.make_exact_top_k(max_batch=8)
  before = top_k._search._cache_size()   # compilations are shared by stores
  store = _store(61, retrieve=top_k)
  for i in range(6):
    store.add(_episodes(2, seed=i))
    for n in (1, 2, 3, 5, 7, 8, 13):
      store.query(['x'] * n, 2, [''] * n)
  assert top_k._search._cache_size() - before == 4   # batches of 1, 2, 4, 8


def test_what_matches_nothing():
  store = _store()
  assert store.query(['x'], 3, ['']) == [[]]
  store.add(_episodes(3))
  assert store.query([], 3, []) == []
  assert store.query(['x'], 3, [''], family=['no such']) == [[]]
  assert len(store.query(['x'], 99, ['no such'])[0]) == len(store)
  with pytest.raises(replay.ReplayError, match="2 texts need .*'t'"):
    store.query(['x', 'y'], 3, ['t'])
  with pytest.raises(replay.ReplayError, match="need one each of 'f'"):
    store.query(['x'], 3, ['t'], family='f')


def test_duplicates_are_stored_once():
  store = _store()
  step = _step('s', 'click [1]', after='x')
  assert store.add([_episode([step, step])])['added'] == 1
  again = store.add([_episode([step], 'other'),
                     _episode([step], source='dreamed')])
  assert (again['added'], again['duplicate']) == (0, 2)
  other = [_step('s', 'click [1]', after='y'),
           _step('s', 'click [2]', after='x'),
           _step('r', 'click [1]', after='x')]
  assert store.add([_episode(other)])['added'] == 3


def test_a_real_one_takes_the_place_of_the_same_dream():
  store = _store(4, max_real_share=0.5)
  step = _step('s', 'click [1]', after='x')
  store.add([_episode([step], 'dream', source='dreamed')])
  counts = store.add([_episode([step], 'real')])
  assert (counts['added'], counts['evicted']) == (1, 1)
  assert store.counts() == {'real': 1, 'dreamed': 0}
  store.add([_episode([_step('a')]),
             _episode([_step('b')], source='dreamed')])
  store.add([_episode([_step('b')])])   # also over the quota of real ones
  assert store.counts() == {'real': 2, 'dreamed': 0}
  assert _states(store) == ['a', 'b']


def test_one_dreamed_refusal_a_state():
  store = _store()
  def refusals(state):
    return [_step(state, f'click [{i}]', after='!', is_invalid=True)
            for i in range(5)]
  assert store.add([_episode(refusals('s'), source='dreamed')])['added'] == 1
  assert store.add([_episode(refusals('s'))])['added'] == 5
  assert store.add([_episode(refusals('r'), source='dreamed')])['added'] == 1


def test_default_admission():
  store = _store()
  dreamed = [_step(str(i), success_prob=p)
             for i, p in enumerate((0.5, 0.89, 0.11, 0.95, 0.05, -1.0, 0.9))]
  counts = store.add([_episode(dreamed, source='dreamed')])
  assert counts['rejected'] == 3 and _states(store) == ['3', '4', '5', '6']
  store.add([_episode([_step('m')], source='dreamed', is_malformed=True),
             _episode([_step('e')], error='time-out')])
  assert len(store) == 4
  halt = dataclasses.replace(_step('h'), next_state=states.UNKNOWN)
  store.add([_episode([_step('g'), halt], source='dreamed')])
  assert _states(store)[4:] == ['g']
  nothing = _store(admit=lambda episode, transition: False)
  assert nothing.add(_episodes(2))['rejected'] == 6 and len(nothing) == 0


def _one(name, source):
  return _episode([_step(name)], name, source=source)


def test_eviction_by_hand():
  store = _store(4, max_dreamed_share=0.5)
  store.add([_one('r0', 'real'), _one('d0', 'dreamed'), _one('d1', 'dreamed')])
  store.add([_one('d2', 'dreamed')])             # over its quota of 2
  assert _states(store) == ['r0', 'd1', 'd2']
  store.add([_one('r1', 'real'), _one('r2', 'real')])   # full: oldest dreamed
  assert _states(store) == ['r0', 'r1', 'r2', 'd2']
  store.add([_one('r3', 'real')])
  assert _states(store) == ['r0', 'r1', 'r2', 'r3']
  counts = store.add([_one('d3', 'dreamed')])    # full of real ones
  assert counts['full'] == 1 and counts['added'] == 0
  store.add([_one('r4', 'real')])                # then the oldest real
  assert _states(store) == ['r1', 'r2', 'r3', 'r4']
  none = _store(4, max_dreamed_share=0.0)
  assert none.add([_one('d', 'dreamed')])['full'] == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.sampled_from([0.0, 0.3, 0.5, 1.0]),
       st.sampled_from([0.4, 1.0]),
       st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40))
def test_eviction_rules(capacity, dreamed_share, real_share, stream):
  store = _store(capacity, max_dreamed_share=dreamed_share,
                 max_real_share=real_share)
  for i, is_dreamed in stream:
    before = [e for e in store.entries() if e.source == 'real']
    counts = store.add([_one(str(i), 'dreamed' if is_dreamed else 'real')])
    assert sum(counts[c] for c in ('added', 'duplicate', 'full')) == 1
    held = store.counts()
    assert len(store) == sum(held.values()) <= capacity
    assert held['dreamed'] <= int(dreamed_share * capacity)
    assert held['real'] <= max(int(real_share * capacity), 1)
    assert len(set(_states(store))) == len(store)
    if is_dreamed:
      assert [e for e in store.entries() if e.source == 'real'] == before
    elif not counts['duplicate']:
      assert str(i) in _states(store)            # a real one is always taken
    # The index follows: everything held is found, nothing else is.
    (found,) = store.query([encoder.key_text(str(i), 'noop')], 99, [''])
    assert sorted(e.transition.state for e in found) == sorted(_states(store))


@pytest.mark.parametrize('capacity', [50, 90])   # full, and with free rows
def test_resume_is_exact(capacity):
  def ask(store):
    rng = np.random.default_rng(3)
    texts = [encoder.key_text(_page(rng), 'click [2]') for _ in range(9)]
    return store.query(texts, 5, ['1-1'] * 9)

  straight = _store(capacity)
  straight.add(_episodes(12) + _episodes(9, 1, source='dreamed'))
  state = straight.state_dict()
  host = json.loads(json.dumps(state['host']))
  arrays = {k: v.copy() for k, v in state['arrays'].items()}
  resumed = _store(capacity)
  resumed.add(_episodes(4, seed=7))              # is replaced
  resumed.load_state_dict({'host': host, 'arrays': arrays})
  assert resumed.entries() == straight.entries()
  assert ask(resumed) == ask(straight)
  for store in (resumed, straight):              # and evolves alike
    store.add(_episodes(9, 2, source='dreamed') + _episodes(9, 4))
  assert resumed.entries() == straight.entries()
  assert ask(resumed) == ask(straight)
  assert (json.dumps(resumed.state_dict()['host'])
          == json.dumps(straight.state_dict()['host']))
  with pytest.raises(replay.ReplayError, match='saved with shape'):
    _store(capacity + 1).load_state_dict(state)


def test_sizes_are_checked():
  for bad in ({'capacity': 0}, {'max_dreamed_share': 1.5},
              {'max_real_share': 0}):
    with pytest.raises(replay.ReplayError, match='want at least 1'):
      _store(**bad)
  with pytest.raises(replay.ReplayError, match='the encoder gives 64'):
    replay.Replay(4, 32, ENCODE).add(_episodes(1))


def test_scann_against_exact(caplog):
  pytest.importorskip('scann')
  exact = _store(3000)
  scann = _store(3000, retrieve=replay.make_scann_top_k(min_rows=1000))
  rng = np.random.default_rng(5)
  texts = [encoder.key_text(_page(rng), f'click [{i % 3 + 1}]')
           for i in range(60)]
  exclude = [f'0-{i}' for i in range(60)]

  def recall(k=8, **kwargs):
    got, want = (s.query(texts, k, exclude, **kwargs) for s in (scann, exact))
    for g, trajectory in zip(got, exclude, strict=True):
      assert len(g) == k and all(e.trajectory != trajectory for e in g)
    # By score: rows of equal similarity are equally good.
    return np.mean([g.score >= w[-1].score - 1e-5
                    for gs, w in zip(got, want, strict=True) for g in gs])

  with caplog.at_level(logging.INFO):
    for store in (exact, scann):
      store.add(_episodes(200))
    assert recall() == 1.0 and 'cannot start empty' in caplog.text
    for store in (exact, scann):
      store.add(_episodes(400, 1))
    assert recall() >= 0.95 and 'built from' in caplog.text
  index = scann._index._index
  for store in (exact, scann):                   # upserts and evictions
    store.add(_episodes(200, 2, source='dreamed'))
    store.add(_episodes(200, 3, source='dreamed'))
    store.add(_episodes(100, 4))
  assert scann._index._index is index            # in place, not built anew
  assert scann.counts()['dreamed'] > 0
  assert recall() >= 0.95
  task = [f'f{i % 3}/{i % 2}' for i in range(60)]
  family = [f'f{i % 3}' for i in range(60)]
  assert recall(family=family, exclude_task=task) >= 0.95
  # Too few to be among the neighbours that are fetched: answered exactly.
  rare = _episode([_step(_page(rng)) for _ in range(9)], 'r', 'rare')
  for store in (exact, scann):
    store.add([rare])
  assert recall(family=['rare'] * 60) == 1.0
  newest = scann.entries()[-1]
  text = encoder.key_text(newest.transition.state, newest.transition.action)
  ((found, *_),) = scann.query([text], 1, [''])
  assert found.score == pytest.approx(1, abs=1e-4)
