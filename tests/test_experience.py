"""The dream: a scripted sampler for its rules, a real one for its rows."""

import dataclasses

import jax
import numpy as np
import pytest
from scripted import (
    AGAINST_ITSELF,
    CHANGES,
    FILLED,
    GOAL,
    LOSE,
    PAGE,
    RUBBISH,
    SETTINGS,
    TASK,
    WIN,
    Scripted,
    make,
    make_prompts,
    one,
)

from dreamgym_jax import experience, sampling, types
from dreamgym_jax.models import transformer
from dreamgym_jax.text import prompts, states


@pytest.fixture(scope='module')
def prompt():
  return make_prompts()


def test_an_untrained_model_writes_no_foreign_tags(prompt):
  """Its answers are wrong; a tag of the harness in one would hide how."""
  cfg = transformer.ModelConfig(V=prompt.tok.vocab_size, D=16, N=1, H=2, K=1,
                                d=8, F=16)
  params = transformer.init(jax.random.key(0), cfg)
  params['embed'] = params['embed'].at[np.array(prompt.dream_barred)].mul(30.)
  written = []

  class Listening(sampling.Sampler):
    def turn(self, *args, **kw):
      written.extend(super().turn(*args, **kw))
      return written[-len(args[1]):]

  dream = experience.DreamWorld(
      params, Listening(cfg, 4, 256), prompt, experience.no_retrieval,
      SETTINGS, jax.random.key(0))
  dream.reset([TASK] * 4)
  dream.step(range(4), ['fill [1] vina'] * 4)
  assert len(written) >= 4
  assert not any(set(t.tokens.tolist()) & {*prompt.dream_barred}
                 for t in written)


def test_a_dreamed_step_is_what_the_model_wrote(prompt):
  dream, sampler = make(prompt, [CHANGES, WIN])
  first, last = (one(dream, a) for a in ('fill [1] vina', 'click [2]'))
  assert first[:5] == (FILLED, 0.0, False, False, 'changes')
  assert last[:5] == (states.OVER, 1.0, True, False, WIN[0])
  assert first.success_prob == pytest.approx(0.7)
  assert dream.counts['malformed'] == 0
  for call in sampler.calls:
    assert call['temperature'] == 0.0 and call['max_new'] == 24
    assert tuple(call['stop']) == tuple(call['watch']) == prompt.flags


@pytest.mark.parametrize('repeat_pages, refers', [
    (True, False), (False, False), (False, True)])
def test_the_stream_is_the_one_it_was_trained_on(prompt, repeat_pages, refers):
  """What the sampler's row holds equals the training stream, token by token."""
  prompt = dataclasses.replace(
      prompt, repeat_pages=repeat_pages, refers=refers, demo_tokens=99)
  edit = '[1] = a\n[2] button: karrie'
  demo = prompts.Demo('click [2]', 'button: Submit', edit, 0.0, False, True)
  dream, sampler = make(prompt, [
      CHANGES, ('textbox takes no press', 'invalid', 'cont'),
      ('changes', 'shown' if refers else edit, 'cont'), WIN],
      SETTINGS._replace(max_steps=9), retrieve=lambda *a: [[demo]])
  steps, state = [], PAGE
  for action in ('fill [1] vina', 'tap', 'press [2] x', *['click [2]'] * 2):
    o = one(dream, action)
    steps.append(types.Transition(state, action, o.state, o.reward, o.done,
                                  o.is_invalid, o.reasoning))
    state = o.state
  episode = types.Episode(TASK, tuple(steps), types.DREAMED, 'policy', 'e')
  wanted = prompt.dream_stream(episode, [[demo]] * 5).ids
  assert sampler.stream[0] == wanted and dream.counts['shown'] == refers
  assert steps[3].next_state == '[1] textbox: = a\n[2] button: karrie'


def test_malformed_actions_are_invalid_by_rule(prompt):
  dream, sampler = make(prompt, [])
  for action in ('tap', '', 'click', 'click [1] x', 'fill vina'):
    dream.reset([TASK])
    assert one(dream, action) == types.Observation(
        states.invalid(PAGE), is_invalid=True, reasoning='malformed action')
  assert not sampler.calls


def test_an_invalid_action_is_told_with_the_next(prompt):
  dream, sampler = make(prompt, [CHANGES, CHANGES])
  one(dream, 'fill [1] vina')
  one(dream, 'tap')
  one(dream, 'fill [1] vina')
  text = prompt.tok.show(sampler.calls[1]['inputs'][0])
  assert text.startswith('<page> [1] textbox: = vina') or (
      states.INVALID in text)
  assert 'tap' not in text and '<act>' in text


def test_a_malformed_answer_is_asked_again_once(prompt):
  dream, sampler = make(prompt, [RUBBISH, CHANGES, WIN])
  seen = one(dream, 'fill [1] vina')
  assert seen.state == FILLED and not seen.is_malformed
  assert dream.counts['malformed'] == 1 and sampler.undone == [[0]]
  first, again = sampler.calls
  assert again['inputs'] == [[first['inputs'][0][-1]]]
  assert (first['temperature'], again['temperature']) == (0.0, 0.7)
  assert first['streams'] != again['streams']
  # The stream holds the second answer only.
  assert 'rubbish' not in prompt.tok.show(sampler.stream[0])
  assert one(dream, 'click [2]').reward == 1.0


@pytest.mark.parametrize('bad', [
    RUBBISH, ('changes', 'same', 'win'), [], [5],
    ('changes', 'remove [9]', 'cont'), ('changes', 'over', 'cont')])
def test_malformed_twice_ends_the_episode_without_a_reward(prompt, bad):
  dream, sampler = make(prompt, [bad, bad])
  seen = one(dream, 'click [2]')
  assert seen.is_malformed and seen.done and seen.reward == 0.0
  assert seen.state == PAGE and not seen.is_invalid and seen.reasoning
  assert len(sampler.calls) == 2


def test_a_win_against_its_own_reasoning_pays_nothing(prompt):
  dream, sampler = make(prompt, [AGAINST_ITSELF])
  seen = one(dream, 'click [2]')
  assert seen[:3] == (states.OVER, 0.0, True) and not seen.is_malformed
  assert len(sampler.calls) == 1


def test_only_the_rows_that_failed_are_asked_again(prompt):
  dream, sampler = make(
      prompt, [CHANGES, RUBBISH, LOSE, RUBBISH, RUBBISH, CHANGES], n=4)
  seen = dream.step([0, 1, 2, 3], ['fill [1] vina'] * 4)
  assert [o.is_malformed for o in seen] == [False, True, False, False]
  assert sampler.undone == [[1, 3]] and sampler.calls[1]['rows'] == [1, 3]
  assert seen[2][:3] == (states.OVER, 0.0, True)


def test_rows_are_told_apart(prompt):
  dream, sampler = make(prompt, [CHANGES, WIN], n=3)
  seen = dream.step([2, 1, 0], ['fill [1] vina', 'tap', 'click [2]'])
  assert [o.state for o in seen] == [FILLED, states.invalid(PAGE), states.OVER]
  assert sampler.calls[0]['rows'] == [2, 0]
  assert len(set(sampler.calls[0]['streams'])) == 2


def test_the_step_limit_ends_the_episode_as_a_failure(prompt):
  dream, _ = make(prompt, [CHANGES, ('changes', 'same', 'cont'), CHANGES])
  done = [one(dream, a).done for a in ('fill [1] vina', 'tap', 'click [1]')]
  last = one(dream, 'fill [1] vina')
  assert done == [False] * 3 and last.done
  assert last.reward == 0.0 and last.state == FILLED and not last.is_malformed
  dream.reset([TASK])
  # The count starts anew, and a malformed action can be the last one.
  assert [one(dream, 'tap').done for _ in range(4)] == [False] * 3 + [True]


def test_follow_puts_a_row_on_a_given_page(prompt):
  dream, sampler = make(prompt, [('nothing changes', 'same', 'cont'), CHANGES])
  one(dream, 'click [1]')
  real = PAGE.replace('Submit', 'karrie')
  dream.follow([0], [real])
  seen = one(dream, 'fill [1] vina')
  assert seen.state == real.replace('=', '= vina')
  asked = prompt.tok.show(sampler.calls[1]['inputs'][0])
  assert asked.startswith('<page> textbox: [1] = button: karrie [2]')


def test_unchanged_pages_are_not_printed_again(prompt):
  dream, sampler = make(prompt, [('nothing changes', 'same', 'cont'), CHANGES])
  one(dream, 'click [1]')
  one(dream, 'fill [1] vina')
  first, then = (prompt.tok.show(c['inputs'][0]) for c in sampler.calls)
  assert GOAL in first and then.startswith('<page> same <act>')


def test_what_the_model_said_itself_need_not_be_printed(prompt):
  """Without `repeat_pages` a page comes only where the truth is another."""
  prompt = dataclasses.replace(prompt, repeat_pages=False)
  dream, sampler = make(prompt, [CHANGES, CHANGES, WIN])
  one(dream, 'fill [1] vina')
  one(dream, 'tap')                 # invalid by rule: the page is as it was
  one(dream, 'fill [1] vina')
  dream.follow([0], [PAGE])
  one(dream, 'click [2]')
  _, own, other = (prompt.tok.show(c['inputs'][0]) for c in sampler.calls)
  assert '<page>' not in own and '<page>' in other


def test_retrieved_transitions_stand_beside_the_action(prompt):
  asked = []
  demo = prompts.Demo('click [2]', 'button: karrie', 'over', 1.0, True)

  def retrieve(tasks, states_, actions_):
    asked.append((list(tasks), list(states_), list(actions_)))
    return [[demo] for _ in tasks]

  dream, sampler = make(prompt, [CHANGES, WIN], n=2, retrieve=retrieve)
  dream.step([0, 1], ['fill [1] vina', 'tap'])
  dream.step([0], ['click [2]'])
  assert asked == [([TASK], [PAGE], ['fill [1] vina']),
                   ([TASK], [FILLED], ['click [2]'])]
  text = prompt.tok.show(sampler.calls[0]['inputs'][0])
  assert ('<hit> textbox: = <demo> click button: karrie <edit> over <win> '
          '<think>') in ' '.join(text.split())


def test_without_reasoning_the_answer_starts_with_the_edit(prompt):
  tok = prompt.tok
  bare = [*tok.encode('[1] typed'), tok.tag['cont']]
  dream, sampler = make(prompt, [bare], SETTINGS._replace(use_reasoning=False))
  seen = one(dream, 'fill [1] vina')
  assert seen.state == FILLED and seen.reasoning == ''
  assert sampler.calls[0]['inputs'][0][-1] == tok.tag['edit']


# -- with a model --------------------------------------------------------------


CAPACITY = 128


@pytest.fixture(scope='module')
def model(prompt):
  cfg = transformer.ModelConfig(
      V=prompt.tok.vocab_size, D=16, N=1, H=2, K=1, d=8, F=16)
  params = jax.jit(transformer.init, static_argnums=1)(jax.random.key(3), cfg)
  return cfg, params


def real_dream(prompt, model):
  cfg, params = model
  sampler = sampling.Sampler(
      cfg, 3, CAPACITY, row_buckets=(3,), token_buckets=(64,),
      column_buckets=(0, CAPACITY))
  settings = experience.Settings(max_steps=3, max_new=8)
  return experience.DreamWorld(params, sampler, prompt,
                               experience.no_retrieval, settings,
                               jax.random.key(1))


TASKS = [types.Task('enter-text', i, GOAL.replace('vina', name), PAGE)
         for i, name in enumerate(('vina', 'karrie', 'need'))]


def dreamed(dream, rows):
  dream.reset(TASKS)
  out = []
  for action in ('fill [1] vina', 'tap', 'click [2]'):
    out.append(dream.step(rows, [action] * len(rows)))
  return {r: [o[i] for o in out] for i, r in enumerate(rows)}


def test_a_row_is_the_same_alone_and_in_a_batch(prompt, model):
  dream = real_dream(prompt, model)
  dream.reset(TASKS)            # so that the next are resets 2, of each
  together = dreamed(dream, [0, 1, 2])
  assert any(o.is_malformed for rows in together.values() for o in rows)
  for row in (2, 0):
    alone = real_dream(prompt, model)
    alone.reset(TASKS)
    assert dreamed(alone, [row])[row] == together[row]


def test_a_full_stream_ends_one_episode_and_not_the_run(prompt, model):
  dream = real_dream(prompt, model)
  dream.reset(TASKS)
  for _ in range(3):
    seen = dream.step([0, 1, 2], ['fill [1] ' + 'karrie ' * 30] * 3)
  for o in seen:
    assert o.done and o.is_malformed and not o.reward
    assert 'full' in o.reasoning


def test_proposals_are_read_or_say_why_not(prompt):
  tok = prompt.tok
  good = [*tok.encode(GOAL), tok.tag['page'], *tok.encode(PAGE),
          tok.tag['end']]
  sampler = Scripted(prompt, [good, good[:-1]])
  seeds = [[TASK], [TASKS[1]]]
  kept, dropped = experience.propose_tasks(
      {}, sampler, prompt, seeds, jax.random.key(0), 0.8, 99)
  assert kept == experience.Proposal((TASK,), GOAL, PAGE)
  assert dropped.parents == (TASKS[1],) and dropped.error
  assert not dropped.instruction
  call, = sampler.calls
  assert call['inputs'] == [prompt.task_ask(s) for s in seeds]
  assert call['temperature'] == 0.8 and call['max_new'] == 99
  assert sampler.started == [2]


def test_comparisons_are_put_right_and_what_follows_is_decoded_again(prompt):
  tok = prompt.tok
  rest = [tok.tag['edit'], *tok.encode('over'), tok.tag['lose']]
  dream, sampler = make(
      prompt, [('need vina have none yes ; need a have a no', 'over', 'win'),
               [*tok.encode('; need a have a no'), *rest], rest],
      SETTINGS._replace(compares=True))
  seen, = dream.step([0], ['click [2]'])
  right = 'need vina have none no ; need a have a yes'
  assert (seen.reasoning, seen.reward, seen.done) == (right, 0, True)
  assert dream.counts['corrected'] == 2 and dream.counts['malformed'] == 0
  # The stream holds the question once, and the answer as it was put right.
  first, *later = sampler.calls
  answer = [*tok.encode(right), *rest]
  assert sampler.stream[0] == [*first['inputs'][0], *answer]
  assert [c['max_new'] for c in later] == [
      SETTINGS.max_new - n for n in (
          len(tok.encode('need vina have none no')), len(tok.encode(right)))]


def test_a_retry_goes_on_from_what_was_put_right_where_that_is_asked(prompt):
  tok = prompt.tok
  lost = [tok.tag['edit'], *tok.encode('over'), tok.tag['lose']]
  dream, sampler = make(
      prompt, [('need vina have none yes', 'over', 'win'),
               [tok.tag['edit'], *tok.encode('rubbish'), tok.tag['cont']],
               lost],
      SETTINGS._replace(compares=True))
  seen, = dream.step([0], ['click [2]'])
  assert seen.reasoning == 'need vina have none no' and not seen.is_malformed
  assert sampler.stream[0] == [
      *sampler.calls[0]['inputs'][0], *tok.encode(seen.reasoning), *lost]
  dream, _ = make(prompt, [('need vina have none yes', 'over', 'win')])
  assert dream.step([0], ['click [2]'])[0].reasoning.endswith('yes')
