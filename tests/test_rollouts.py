"""Rollouts: what the learner is given is exactly what was sampled."""

import threading

import jax
import numpy as np
import pytest

from dreamgym_jax import experience, learner, rollouts, sampling, types
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer
from dreamgym_jax.text import prompts
from dreamgym_jax.text import tokenizer as tokenizers

PAGE = '[1] textbox: =\n[2] button: Submit'
GOAL = 'Enter "vina" into the text field'
TASKS = [types.Task('f', i, f'{GOAL} {i}', PAGE) for i in range(3)]
CAPACITY = 128
SETTINGS = rollouts.Settings(max_new=9)


@pytest.fixture(scope='module')
def prompt():
  text = [PAGE, GOAL, 'page same over invalid karrie 0123'] * 3
  return prompts.Prompts(tokenizers.train(text, 400))


@pytest.fixture(scope='module')
def model(prompt):
  cfg = transformer.ModelConfig(
      V=prompt.tok.vocab_size, D=16, N=1, H=2, K=1, d=8, F=16)
  return cfg, jax.jit(transformer.init, static_argnums=1)(
      jax.random.key(3), cfg)


@pytest.fixture(scope='module')
def sampler(model):
  return sampling.Sampler(
      model[0], 3, CAPACITY, row_buckets=(3,), token_buckets=(48,),
      column_buckets=(0, CAPACITY))


class Fake:
  """Task of seed i ends after `lengths[i]` steps; says what it was asked."""

  def __init__(self, lengths, last=None, states_=None):
    self.lengths, self.last = lengths, last or {}
    self.states = states_ or (lambda i, t: PAGE.replace('=', f'= {t}'))
    self.asked = []

  def reset(self, tasks, rows=None):
    if rows is None:
      self.rows, rows = {}, range(len(tasks))
    self.rows.update((r, [t.seed, 0]) for r, t in zip(rows, tasks, strict=True))
    return list(tasks)

  def step(self, rows, actions):
    self.asked.append((list(rows), list(actions)))
    out = []
    for r in rows:
      self.rows[r][1] += 1
      i, t = self.rows[r]
      assert t <= self.lengths[i], 'a finished row was asked'
      done = t == self.lengths[i]
      o = types.Observation(self.states(i, t), 0.0, done, is_invalid=t == 1,
                            reasoning='changes', success_prob=0.25)
      out.append(o._replace(**self.last.get(i, {})) if done else o)
    return out

  def close(self):
    pass


def play(model, sampler, prompt, world, tasks=TASKS, seed=0, refill=1,
         parts=1, **kw):
  return rollouts.rollout(
      model[1], sampler, prompt, world, tasks, jax.random.key(seed),
      SETTINGS._replace(refill=refill, parts=parts), types.REAL, 'e', **kw)


@pytest.fixture(scope='module')
def lived(model, sampler, prompt):
  world = Fake([1, 3, 2], {
      0: {'reward': 1.0, 'state': 'over'},
      1: {'is_malformed': True}, 2: {'error': 'lost'}})
  steps = []
  return world, play(model, sampler, prompt, world,
                     on_step=steps.append), steps


def test_the_log_probs_are_those_of_the_scorer(model, lived):
  cfg, params = model
  streams = [batches.Stream(a.token_T, a.is_written_T.astype(np.float32),
                            a.logp_T) for a in lived[1]]
  score = learner.make_score(cfg)
  batch, = batches.pack(streams, 3, CAPACITY, 96)
  logp_P = np.asarray(score(params, batch))
  used = batch.weight_P > 0
  assert used.sum() == sum(a.is_written_T.sum() for a in lived[1]) > 20
  np.testing.assert_allclose(logp_P[used], batch.logp_P[used], atol=1e-5)


def test_the_stream_is_the_harness_and_the_replies_in_turn(prompt, lived):
  for task, a in zip(TASKS, lived[1], strict=True):
    assert len(a.token_T) == len(a.is_written_T) == len(a.logp_T)
    assert not a.logp_T[~a.is_written_T].any()
    assert (a.logp_T[a.is_written_T] < 0).all()
    edges = np.flatnonzero(np.diff(a.is_written_T)) + 1
    runs = np.split(a.token_T, edges)
    printed, replies = runs[0::2], runs[1::2]
    steps = a.episode.transitions
    assert len(printed) == len(replies) == len(steps)
    wanted = [prompt.start(task.instruction, task.initial_state)]
    wanted += [prompt.observe(s.state, s.next_state) for s in steps[:-1]]
    for ids, expected in zip(printed, wanted, strict=True):
      assert ids.tolist() == expected + prompt.policy_ask(task.instruction)
    for ids, step in zip(replies, steps, strict=True):
      assert prompt.parse_reply(ids) == (step.thought, step.action)
      assert len(ids) <= SETTINGS.max_new


def test_finished_rows_take_no_more_steps(lived):
  world, _, steps = lived
  assert [rows for rows, _ in world.asked] == [[0, 1, 2], [1, 2], [1]]
  assert steps == [3, 2, 1]


def test_episodes_say_what_happened(lived):
  world, attempts, _ = lived
  won, malformed, lost = (a.episode for a in attempts)
  assert won.success and not malformed.success and not lost.success
  assert [e.is_malformed for e in (won, malformed, lost)] == [0, 1, 0]
  assert [e.error for e in (won, malformed, lost)] == ['', '', 'lost']
  assert [len(e.transitions) for e in (won, malformed, lost)] == [1, 3, 2]
  assert [a.n_invalid for a in attempts] == [1, 1, 1]
  for i, e in enumerate((won, malformed, lost)):
    assert (e.task, e.source, e.behaviour) == (TASKS[i], types.REAL, 'policy')
    assert e.episode_id == f'e-{i}'
    assert e.transitions[0].state == PAGE
    assert {(s.reasoning, s.success_prob) for s in e.transitions} == {
        ('changes', 0.25)}
    for a, b in zip(e.transitions, e.transitions[1:], strict=False):
      assert a.next_state == b.state and not a.done
    assert e.transitions[-1].done


def test_the_world_is_given_the_actions_that_were_written(lived):
  world, attempts, _ = lived
  for t, (rows, actions) in enumerate(world.asked):
    assert actions == [
        attempts[r].episode.transitions[t].action for r in rows]


def test_the_policy_has_the_same_luck_again_and_another_under_another_key(
    model, sampler, prompt, lived):
  again = play(model, sampler, prompt, Fake([1, 3, 2]))
  other = play(model, sampler, prompt, Fake([1, 3, 2]), seed=1)
  for a, b in zip(lived[1], again, strict=True):
    np.testing.assert_array_equal(a.token_T, b.token_T)
    np.testing.assert_array_equal(a.logp_T, b.logp_T)
  assert any(len(a.token_T) != len(c.token_T) or (a.token_T != c.token_T).any()
             for a, c in zip(again, other, strict=True))


def test_a_row_does_not_depend_on_when_the_others_end(
    model, sampler, prompt, lived):
  again = play(model, sampler, prompt, Fake([3, 3, 1]))
  np.testing.assert_array_equal(again[1].token_T, lived[1][1].token_T)
  np.testing.assert_allclose(again[1].logp_T, lived[1][1].logp_T, atol=1e-5)
  n = len(lived[1][0].token_T)
  np.testing.assert_array_equal(again[0].token_T[:n], lived[1][0].token_T)


MANY = [types.Task('f', i, f'{GOAL} {i}', PAGE) for i in range(7)]
LENGTHS = [4, 1, 3, 1, 2, 5, 1]


@pytest.fixture(scope='module')
def side_by_side(model, prompt):
  wide = sampling.Sampler(model[0], 7, CAPACITY, row_buckets=(),
                          token_buckets=(48,), column_buckets=())
  return play(model, wide, prompt, Fake(LENGTHS), MANY)


# The next task begins at the turn after one ended; by hand, of two rows:
# 0 0 0 0 3 5 5 5 5 5 and 1 2 2 2 4 4 6; or, of three, when two (all) are free.
@pytest.mark.parametrize('rows, refill, n_turns', [
    (1, 1, 17), (2, 1, 10), (3, 1, 8), (3, 2, 9), (3, 9, 10)])
def test_an_episode_does_not_tell_which_row_it_had(
    model, sampler, prompt, side_by_side, rows, refill, n_turns):
  world = Fake(LENGTHS)
  attempts = play(
      model, sampler, prompt, world, MANY, rows=rows, refill=refill)
  assert [a.episode for a in attempts] == [a.episode for a in side_by_side]
  for a, b in zip(attempts, side_by_side, strict=True):
    np.testing.assert_array_equal(a.token_T, b.token_T)
    np.testing.assert_array_equal(a.is_written_T, b.is_written_T)
    np.testing.assert_allclose(a.logp_T, b.logp_T, atol=1e-5)
  assert {r for asked, _ in world.asked for r in asked} == set(range(rows))
  assert len(world.asked) == n_turns


@pytest.mark.parametrize('rows, refill, parts', [
    (3, 1, 2), (3, 2, 2), (2, 9, 2), (3, 1, 3), (1, 1, 2)])
def test_an_episode_does_not_tell_that_rows_played_in_parts(
    model, sampler, prompt, side_by_side, rows, refill, parts):
  world = Fake(LENGTHS)
  attempts = play(model, sampler, prompt, world, MANY, rows=rows,
                  refill=refill, parts=parts)
  assert [a.episode for a in attempts] == [a.episode for a in side_by_side]
  for a, b in zip(attempts, side_by_side, strict=True):
    np.testing.assert_array_equal(a.token_T, b.token_T)
    np.testing.assert_allclose(a.logp_T, b.logp_T, atol=1e-5)
  for asked, _ in world.asked:
    assert len({r % parts for r in asked}) == 1


def test_one_part_writes_while_the_other_is_in_the_world(
    model, sampler, prompt, monkeypatch):
  """The first step does not end before the other part's turn has begun."""
  written, turn = threading.Semaphore(0), sampler.turn

  def telling(*args, **kwargs):
    written.release()
    return turn(*args, **kwargs)

  class Waiting(Fake):

    def step(self, rows, actions):
      # Two turns before the first step ends: its own, and the other part's.
      assert self.asked or all(written.acquire(timeout=60) for _ in range(2))
      return super().step(rows, actions)

  monkeypatch.setattr(sampler, 'turn', telling)
  assert len(play(model, sampler, prompt, Waiting([1, 2]), TASKS[:2],
                  parts=2)) == 2


def test_an_error_of_the_world_ends_both_parts(model, sampler, prompt):
  class Broken(Fake):

    def step(self, rows, actions):
      raise OSError('the site is gone')

  with pytest.raises(OSError, match='the site is gone'):
    play(model, sampler, prompt, Broken([1, 2]), TASKS[:2], parts=2)


class Filling(experience.DreamWorld):
  """Untrained policies write no action that a dream is asked about."""

  def step(self, rows, actions):
    return super().step(rows, ['fill [1] vina'] * len(rows))


def test_a_dream_does_not_tell_which_row_it_had(model, sampler, prompt):
  """Retries of malformed answers draw by the episode's place, too."""
  cfg, params = model
  dreamer = sampling.Sampler(cfg, 3, 256, row_buckets=(3,),
                             token_buckets=(64,), column_buckets=(0, 256))
  settings = experience.Settings(max_steps=3, max_new=8)
  told, retries = [], []
  for rows in (3, 2, 1):
    dream = Filling(params, dreamer, prompt, experience.no_retrieval,
                    settings, jax.random.key(1))
    told.append([a.episode for a in play(
        model, sampler, prompt, dream, rows=rows)])
    retries.append(dream.counts['malformed'])
  assert told[0] == told[1] == told[2]
  assert retries[0] == retries[1] == retries[2] > 0


def test_a_turn_has_its_luck_of_its_task_and_its_own_count(
    model, sampler, prompt, side_by_side):
  """As in lock step: turn t of task i by fold_in(key, t) and stream i."""
  for i in (2, 5):
    a = side_by_side[i]
    edges = [*(np.flatnonzero(np.diff(a.is_written_T)) + 1), len(a.token_T)]
    sampler.start(1)
    for t, (begin, end) in enumerate(
        zip(edges[0::2], edges[1::2], strict=True)):
      before = edges[2 * t - 1] if t else 0
      turn, = sampler.turn(
          model[1], [0], [a.token_T[before:begin]],
          key=jax.random.fold_in(jax.random.key(0), t), streams=[i],
          temperature=1.0, max_new=SETTINGS.max_new,
          stop=(prompt.tok.tag['end'],))
      assert turn.tokens.tolist() == a.token_T[begin:end].tolist()


def test_a_full_stream_frees_its_row(model, sampler, prompt):
  world = Fake([99, 2, 1], states_=lambda i, t: PAGE.replace(
      '=', '= ' + 'vina ' * t))
  attempts = play(model, sampler, prompt, world, rows=1)
  assert [a.episode.error for a in attempts] == ['the stream is full', '', '']
  assert [len(a.episode.transitions) for a in attempts][1:] == [2, 1]


def test_a_group_shares_its_task_but_not_its_luck(model, sampler, prompt):
  attempts = play(model, sampler, prompt, Fake([1, 1, 1]), [TASKS[0]] * 3)
  begin = len(prompt.start(TASKS[0].instruction, PAGE)) + 1
  said = [tuple(a.token_T[begin:]) for a in attempts]
  assert len(set(said)) == 3
  assert len({tuple(a.token_T[:begin]) for a in attempts}) == 1


def test_a_full_stream_ends_with_an_error(model, sampler, prompt):
  world = Fake([99, 2, 99],
               states_=lambda i, t: PAGE.replace('=', '= ' + 'vina ' * t))
  attempts = play(model, sampler, prompt, world)
  assert [a.episode.error for a in attempts] == [
      'the stream is full', '', 'the stream is full']
  for a in attempts:
    assert 0 < len(a.token_T) <= CAPACITY
    assert a.is_written_T[-1] and a.episode.transitions


def test_a_task_that_never_fits_is_an_error_and_no_crash(
    model, sampler, prompt):
  long = types.Task('f', 0, GOAL, PAGE + '\n[3] link: ' + 'vina ' * 150)
  attempts = play(model, sampler, prompt, Fake([1, 1]), [long, TASKS[1]])
  assert attempts[0].episode.error == 'the stream is full'
  assert not attempts[0].episode.transitions and not attempts[0].token_T.size
  assert not attempts[1].episode.error and attempts[1].episode.transitions
