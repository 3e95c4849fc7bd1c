"""Training streams: what carries loss, and what is left out."""

import dataclasses
import re
import types as builtin_types

import numpy as np
import pytest

from dreamgym_jax import corpus, types
from dreamgym_jax.data import augment
from dreamgym_jax.stages import memory, pretrain
from dreamgym_jax.text import actions, prompts, states
from dreamgym_jax.text import tokenizer as tokenizers

PAGE = '[1] textbox: =\n[2] button: Submit'
KINDS = ('context', 'reasoning', 'state', 'flag', 'thought', 'action', 'task')


def episode(name, seed=0, behaviour='expert', typed=None, **changes):
  goal = f'Enter "{name}" into the text field and press Submit.'
  typed = name if typed is None else typed
  after = PAGE.replace('=', f'= {typed}')
  win = float(typed == name)
  yes = 'yes' if win else 'no'
  task = types.Task('enter-text', seed, goal, PAGE)
  steps = (
      types.Transition(PAGE, 'tap', states.invalid(PAGE), 0.0, False, True),
      types.Transition(states.invalid(PAGE), f'fill [1] {typed}', after, 0.0,
                       False, reasoning='changes', thought=f'need {name}'),
      types.Transition(after, 'click [2]', states.OVER, win, True,
                       reasoning=f'need {name} have {typed} {yes}',
                       thought='finish'))
  return types.Episode(**{
      'task': task, 'transitions': steps, 'source': types.REAL,
      'behaviour': behaviour, 'episode_id': f'{seed}#{behaviour}', **changes})


EPISODES = [episode('vina'), episode('karrie', 1),
            episode('Agustina', 2, 'near_miss', 'Agustin'),
            episode('Jerald', 3, 'random', 'field')]


@pytest.fixture(scope='module')
def prompt():
  texts = [t for e in EPISODES for s in e.transitions
           for t in (s.state, s.action, s.reasoning, e.task.instruction)]
  return prompts.Prompts(tokenizers.train(texts * 3, 420))


def weighted(stream):
  return stream.tokens[stream.weight > 0].tolist()


@pytest.mark.parametrize('kind', KINDS)
def test_weights_land_on_the_kind_that_was_named(prompt, kind):
  index = KINDS.index(kind)
  table = corpus.kind_weights(**{kind: 2.5})
  assert table.tolist() == [2.5 * (i == index) for i in range(prompts.N_KINDS)]
  task = EPISODES[0].task
  for piece in (prompt.policy_stream(EPISODES[0]),
                prompt.dream_stream(EPISODES[0], [[], [], []]),
                prompt.task_stream([EPISODES[1].task], task)):
    stream = corpus.to_stream(piece, table)
    assert stream.tokens.tolist() == piece.ids
    assert stream.weight.tolist() == [2.5 * (k == index) for k in piece.kinds]


def test_a_kind_that_is_not_there_is_an_error():
  with pytest.raises(AttributeError):
    corpus.kind_weights(rewards=1)


def test_the_experience_model_learns_what_it_writes(prompt):
  """Eq. 5: reasoning, next state and flag of each well-formed action."""
  weights = corpus.kind_weights(reasoning=1, state=1, flag=3)
  streams = corpus.dream_streams(prompt, EPISODES, corpus.no_demos, weights)
  assert len(streams) == len(EPISODES)
  for e, stream in zip(EPISODES, streams, strict=True):
    steps = e.transitions[1:]      # the first action is malformed
    assert weighted(stream) == [
        i for s in steps for i in prompt.dream_answer(s).ids]
    flags = stream.tokens[stream.weight == 3].tolist()
    assert flags == [prompt.dream_answer(s).ids[-1] for s in steps]


def test_the_ablation_writes_no_reasons(prompt):
  weights = corpus.kind_weights(reasoning=1, state=1, flag=1)
  stream, = corpus.dream_streams(
      prompt, EPISODES[:1], corpus.no_demos, weights, use_reasoning=False)
  assert prompt.tok.tag['think'] not in stream.tokens
  assert weighted(stream) == [
      i for s in EPISODES[0].transitions[1:]
      for i in prompt.dream_answer(s, use_reasoning=False).ids]


LAST = EPISODES[0].transitions[2]


@pytest.mark.parametrize('spoil', [
    {'error': 'the browser was lost'},
    {'transitions': ()},
    {'transitions': (dataclasses.replace(LAST, reasoning=''),)},
], ids=['a crash', 'no step', 'no reason'])
def test_unusable_episodes_are_left_out(prompt, spoil):
  bad = episode('vina', **spoil)
  assert not corpus.is_usable(bad) and corpus.is_usable(EPISODES[0])
  asked = []

  def retrieve(episodes):
    asked.extend(episodes)
    return corpus.no_demos(episodes)

  weights = corpus.kind_weights(state=1)
  streams = corpus.dream_streams(
      prompt, [bad, EPISODES[0], bad], retrieve, weights)
  assert asked == [EPISODES[0]] and len(streams) == 1


def test_a_malformed_action_needs_no_reason():
  assert EPISODES[0].transitions[0].reasoning == ''
  assert corpus.is_usable(EPISODES[0])


def test_demos_are_dropped_from_a_share(prompt):
  demo = corpus.make_demo(EPISODES[0].transitions[2])
  tag = prompt.tok.tag['demo']

  def shown(drop, seed=0):
    streams = corpus.dream_streams(
        prompt, EPISODES * 10, lambda es: [[[demo]] * 3 for _ in es],
        corpus.kind_weights(state=1), drop_demos=drop, seed=seed)
    return [(s.tokens == tag).sum() for s in streams]

  assert set(shown(0.0)) == {2} and set(shown(1.0)) == {0}
  some = shown(0.5)
  assert set(some) == {0, 2} and some == shown(0.5) != shown(0.5, seed=1)


def test_a_demo_shows_the_element_the_edit_and_the_end():
  fill, click = EPISODES[0].transitions[1:]
  assert corpus.make_demo(fill) == prompts.Demo(
      'fill [1] vina', 'textbox: =', '[1] typed', 0.0, False)
  assert corpus.make_demo(click) == prompts.Demo(
      'click [2]', 'button: Submit ; = vina', 'over', 1.0, True)
  # Asked about the very page and action, a notice aside, or about another.
  for state, action, here in ((click.state, 'click [2]', True),
                              (states.invalid(click.state), 'click [2]', True),
                              (PAGE, 'click [2]', False),
                              (click.state, 'click [1]', False)):
    assert corpus.make_demo(click, state, action).is_here is here
  # The step limit ends an episode; the page is not over.
  cut = types.Transition(PAGE, 'click [1]', PAGE, 0.0, True)
  assert corpus.make_demo(cut).done is False


def test_the_task_generator_sees_others_of_the_family(prompt):
  tasks = [e.task for e in EPISODES]
  alone = types.Task('click-test', 0, 'Click the button.', PAGE)
  weights = corpus.kind_weights(task=1)
  streams = corpus.task_streams(prompt, [*tasks, alone], 20, 2, weights, 0)
  assert len(streams) == 20
  known = {(t.instruction, t.initial_state) for t in tasks}
  seen = set()
  for stream in streams:
    target = prompt.parse_task(weighted(stream))
    assert target in known
    seen.add(target)
    context = prompt.tok.split(stream.tokens[stream.weight == 0])
    seeds = [text for name, text in context if name == 'seed']
    assert len(seeds) == 2 and target[0] not in seeds
  assert len(seen) > 1
  assert not corpus.task_streams(prompt, [alone], 20, 1, weights, 0)


def test_seeds_are_like_the_target(prompt):
  """Of three tasks the two with a common word are each other's seeds."""
  tasks = [types.Task('shop', i, goal, PAGE) for i, goal in enumerate(
      ('red shoes', 'blue shoes', 'green tea'))]
  streams = corpus.task_streams(
      prompt, tasks, 30, 1, corpus.kind_weights(task=1), 0)
  seed_of = {}
  for stream in streams:
    (name, seed), *_ = prompt.tok.split(stream.tokens[stream.weight == 0])
    assert name == 'seed'
    seed_of.setdefault(prompt.parse_task(weighted(stream))[0], set()).add(seed)
  assert seed_of.pop('red shoes') == {'blue shoes'}
  assert seed_of.pop('blue shoes') == {'red shoes'}
  assert list(seed_of) == ['green tea']


def test_the_policy_is_cloned_thought_and_action(prompt):
  weights = corpus.kind_weights(thought=1, action=1)
  stream, = corpus.policy_streams(prompt, EPISODES[:1], weights)
  assert weighted(stream) == [
      i for s in EPISODES[0].transitions
      for i in prompt.policy_reply(s.thought, s.action).ids]


def test_where_names_are_said_lookups_teach_how_one_goes_on():
  """`mug 1 in` -> `drawer 2`: the place is told, which thing is not."""
  page = ('[1] button: drawer 1\n[2] button: drawer 2\n'
          '[3] button: mug 1 in drawer 2\n[4] button: cup 1 in drawer 1')
  base = dataclasses.replace(
      EPISODES[0], task=types.Task('house', 0, 'put a mug in drawer', page),
      transitions=(types.Transition(page, 'click [1]', page, 0.0, False),))
  tok = tokenizers.train([page] * 9, 400, phrases=(
      'drawer 1', 'drawer 2', 'mug 1', 'cup 1'))
  renamer = augment.make_renamer([base])

  def told(names):
    """(the two tokens before, token), of those with loss."""
    streams = corpus.lookup_streams(
        prompts.Prompts(tok, names=names), [base] * 20, renamer, 5, 0)
    return {(tok.decode(s.tokens[t - 2:t].tolist()),
             tok.decode(s.tokens[t:t + 1].tolist()))
            for s in streams for t in np.flatnonzero(s.weight)}

  more = told(True) - told(False)
  assert ('mug 1 in', 'drawer 2') in more
  assert ('cup 1 in', 'drawer 1') in more
  assert not any(a.endswith('need') for a, _ in told(True))


def test_places_things_and_roles_are_phrases():
  """Most frequent first; none at all where none is asked for."""
  pages = ('[1] button: drawer 1\n[2] button: mug 1 in drawer 1',
           '[1] button: drawer 1\n[2] status: at =')
  episodes = [dataclasses.replace(
      EPISODES[0], task=types.Task('house', i, 'go', page))
      for i, page in enumerate(pages)]
  assert set(pretrain.phrases(episodes, 9)[3:]) == {'mug 1', 'in drawer 1'}
  assert pretrain.phrases(episodes, 1) == ['button:', 'status:', 'drawer 1']
  assert pretrain.phrases(episodes, 0) == []


def test_a_recital_is_told_by_its_page_alone():
  """Every name once, loss on the places, and those drawn anew."""
  page = ('[1] button: drawer 1\n[2] button: drawer 2\n'
          '[3] button: mug 1 in drawer 2\n[4] button: cup 1 in drawer 1')
  step = types.Transition(page, 'click [1]', page, 0.0, False)
  episodes = [dataclasses.replace(
      EPISODES[0], task=types.Task('house', 0, 'put a mug in drawer', page),
      transitions=(step,))] * 20
  prompt = prompts.Prompts(tokenizers.train([page] * 9, 400, phrases=(
      'drawer 1', 'drawer 2', 'mug 1', 'cup 1')), names=True)
  shown = set()
  for stream in corpus.recital_streams(prompt, episodes, 0):
    (_, _), (_, page), (name, recital) = prompt.tok.split(stream.tokens)
    names = re.findall(r'button: (.+?)\s\[', page)
    assert name == 'think' and sorted(recital.split(' ; ')) == sorted(names)
    told = re.sub(r'mug 1 |cup 1 ', '', ' '.join(
        x for x in recital.split(' ; ') if ' in ' in x))
    assert prompt.tok.decode(weighted(stream)) == told
    shown.add(names[2])
  assert shown == {'mug 1 in drawer 1', 'mug 1 in drawer 2'}


def base_streams(prompt, episodes, lookups=1.0, seed=0, **retrieval):
  renamer = augment.make_renamer(episodes)
  streams = corpus.base_streams(
      prompt, episodes, renamer, lookups, seed, **retrieval)
  tag = prompt.tok.tag
  acting = [s for s in streams if tag['end'] in s.tokens
            and tag['seed'] not in s.tokens]
  return acting, [s for s in streams if tag['end'] not in s.tokens]


def test_the_base_learns_to_find_what_a_thought_names(prompt):
  """Only look-ups act, only their actions carry loss, and each is right."""
  acting, _ = base_streams(prompt, EPISODES * 20)
  assert len(acting) == len(EPISODES) * 20
  seen = set()
  for stream in acting:
    parts = prompt.tok.split(stream.tokens)
    page = EPISODES[0].task.initial_state
    thoughts = [text for name, text in parts if name == 'think']
    acts = [text for name, text in parts if name == 'act']
    assert len(acts) == 5
    # Loss on actions and on the ids of thoughts, which precede them.
    assert weighted(stream) == [
        i for thought, a in zip(thoughts, acts, strict=True)
        for i in [*(t for t in prompt.tok.encode(thought)
                    if t in prompt.tok.element_ids),
                  *prompt.policy_reply('', a).ids]]
    for thought, action in zip(thoughts, acts, strict=True):
      element = states.parse(page)[actions.parse(action).element - 1]
      need = thought.partition('need ')[2]
      assert need in (actions.argument(action), element.label,
                      f'{element.role}: {element.label}')
      seen.add((action.split()[0], element.role))
  assert seen == {('click', 'button'), ('click', 'textbox'),
                  ('fill', 'textbox')}


def test_lookups_do_not_know_what_was_asked(prompt):
  """What they type is never taken from the instruction."""
  acting, _ = base_streams(prompt, EPISODES * 20)
  right = 0
  for stream in acting:
    parts = prompt.tok.split(stream.tokens)
    goal = parts[0][1].split('"')[1]
    right += f'need {goal}' in [text for _, text in parts]
  assert right < len(acting) / 2


def test_a_share_of_pages_is_lent_to_lookups(prompt):
  assert not base_streams(prompt, EPISODES, lookups=0.0)[0]
  some, _ = base_streams(prompt, EPISODES * 25, lookups=0.3)
  assert 10 <= len(some) <= 50


def test_the_base_learns_every_token_of_the_world(prompt):
  _, world = base_streams(prompt, EPISODES)
  assert len(world) == len(EPISODES)
  for stream in world:
    assert stream.weight.all()


def test_the_base_may_learn_from_what_is_retrieved(prompt):
  demo, tag = corpus.make_demo(EPISODES[0].transitions[2]), prompt.tok.tag
  for drop, shown in ((0.0, 2), (1.0, 0)):
    _, world = base_streams(
        prompt, EPISODES, retrieve=lambda es: [[[demo]] * 3 for _ in es],
        drop_demos=drop)
    assert [(s.tokens == tag['demo']).sum() for s in world] == [shown] * 4


# -- retrieval for training: the rule against leaks ----------------------------


def run_with(k, capacity=64):
  replay = builtin_types.SimpleNamespace(
      capacity=capacity, encoder='hash', embedding=32, index='exact',
      min_confidence=0.9, max_dreamed_share=0.5, k=k)
  return builtin_types.SimpleNamespace(
      config=builtin_types.SimpleNamespace(replay=replay, seed=0))


def test_no_demo_comes_from_the_same_page():
  """Names are unlike on every page, so that a demo tells where it is from."""
  twins = EPISODES + [episode('vina', 0, 'near_miss', 'vin')]
  names = {0: ('vina', 'vin'), 1: ('karrie',), 2: ('Agustin',), 3: ('field',)}
  demos = memory.retrieve_all(run_with(3), twins)(twins)
  count = 0
  for e, of_steps in zip(twins, demos, strict=True):
    assert len(of_steps) == len(e.transitions)
    own = {f'fill [1] {n}' for n in names[e.task.seed]}
    for shown in of_steps:
      assert 0 < len(shown) <= 3
      count += len(shown)
      assert not own & {d.action for d in shown}
  assert count > 20


def test_a_demo_of_the_very_page_and_action_is_known_as_such():
  twins = [EPISODES[0], episode('vina', 4)]
  first, second = memory.retrieve_all(
      run_with(9), [*twins, *EPISODES[1:]])(twins)
  here = [[[d.action for d in shown if d.is_here] for shown in demos]
          for demos in (first, second)]
  # The same texts are kept once, for one of them, and the other's to see;
  # every page begins with the same malformed action.
  assert sorted(here) == [[['tap'], [], []],
                          [['tap'], ['fill [1] vina'], ['click [2]']]]


def test_no_demo_comes_from_another_family():
  other = episode('vina', 7)
  task = types.Task('login-user', 7, 'x', PAGE)
  other = types.Episode(task, other.transitions, types.REAL, 'expert', 'o')
  demos = memory.retrieve_all(run_with(3), [other, *EPISODES])([other])
  assert demos == [[[], [], []]]


def test_without_retrieval_there_are_no_demos():
  assert memory.retrieve_all(run_with(0), EPISODES) is corpus.no_demos
  assert memory.make_retrieve(None, 0)([EPISODES[0].task], ['s'], ['a']) == [[]]


def test_crashed_episodes_are_not_retrieved():
  crashed = [episode(n, i, error='lost') for i, n in enumerate('abc', 10)]
  store = memory.open_replay(run_with(3), [*EPISODES, *crashed])
  assert {e.task_id for e in store.entries()} == {
      e.task.task_id for e in EPISODES}
  assert np.isclose(len(store), sum(len(e.transitions) for e in EPISODES),
                    atol=6)     # the same texts are kept once
