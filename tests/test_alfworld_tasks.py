"""Experts, verdicts and realism in ALFWorld, held against the real engine."""

import dataclasses
import functools
import itertools

import pytest

from dreamgym_jax import collect, types
from dreamgym_jax.envs import (
    alfworld,
    alfworld_experts,
    alfworld_games,
    alfworld_pages,
    alfworld_tasks,
    goals,
)
from dreamgym_jax.text import actions, prompts, states

FAMILIES = [alfworld_games.family_of(k, s) for k in alfworld_games.KINDS
            for s in ('', alfworld_games.UNSEEN)]
HOUSE = '\n'.join((
    '[1] status: at = closed drawer 1', '[2] status: carrying =',
    '[3] button: closed drawer 1', '[4] button: shelf 1',
    '[5] button: sinkbasin 1', '[6] button: clean with sinkbasin 1',
    '[7] button: mug 1 in drawer 1', '[8] button: mug 2 in shelf 1'))


@pytest.fixture(scope='module')
def make(tmp_path_factory):
  return functools.partial(
      alfworld.AlfWorld, alfworld_games.Generated(6, 6), max_steps=30,
      pose=alfworld_tasks.pose,
      cache=str(tmp_path_factory.mktemp('alfworld')))


def played(world, behaviours, n):
  tasks = [types.Task(f, s) for f in FAMILIES for s in range(n)]
  return collect.collect(
      world, tasks, behaviours, alfworld_experts.advise,
      alfworld_experts.rehearse, alfworld_tasks.accepts,
      alfworld_tasks.annotate, 40, 0, 24, errands=alfworld_experts.errands)


@pytest.fixture(scope='module')
def full(make):
  """Episodes of every behaviour where pages show all."""
  return played(make(observe='full'),
                ('expert', 'noisy', 'near_miss', 'random'), 2)


@pytest.fixture(scope='module')
def seen(make):
  return played(make(), ('expert', 'near_miss'), 2)


def steps(*collected):
  return [(e, t, s) for c in collected for e in c.episodes
          for t, s in enumerate(e.transitions)]


@pytest.mark.parametrize('observe', ['full', 'seen'])
def test_the_expert_solves_every_family(request, observe):
  found = request.getfixturevalue(observe)
  assert not found.passed_over
  experts = [e for e in found.episodes if e.behaviour == 'expert']
  assert len(experts) == 2 * len(FAMILIES)
  assert [e.task.task_id for e in experts if not e.success] == []
  assert not any(s.is_invalid for e in experts for s in e.transitions)


def test_every_step_has_its_reason_and_no_other(full, seen):
  """Verdicts say yes throughout exactly where the engine says it is won."""
  n_verdicts = n_wins = 0
  for episode, _, step in steps(full, seen):
    assert bool(step.reasoning), (episode.task, step)
    is_verdict = ' need ' in step.reasoning
    n_verdicts += is_verdict
    n_wins += step.reward > 0
    if step.reward:
      assert is_verdict and not prompts.refutes(step.reasoning)
    elif is_verdict:
      assert prompts.refutes(step.reasoning)
  assert n_wins > 100 and n_verdicts > n_wins + 20


def test_reasons_that_the_world_contradicts_are_none(full):
  for episode, _, step in steps(full)[:200]:
    is_valid = step.next_state != states.invalid(step.state)
    if is_valid and step.next_state != states.OVER:
      won = dataclasses.replace(step, next_state=states.OVER, reward=1.)
      assert not alfworld_tasks.annotate(episode.task, won)
    elif step.reward:
      lost = dataclasses.replace(step, next_state=step.state, reward=0.)
      assert not alfworld_tasks.annotate(episode.task, lost)


def test_invalid_actions_are_many_and_of_all_kinds(full):
  reasons = {s.reasoning.rpartition(' ; ')[2] for _, _, s in steps(full)
             if s.is_invalid}
  assert reasons >= {
      'not there', 'there already', 'hands full', 'closed', 'does not fit',
      'nothing carried', 'takes no click'}
  near = [s.is_invalid for e, _, s in steps(full)
          if e.behaviour == 'near_miss']
  assert .1 < sum(near) / len(near) < .5


def test_what_is_imagined_is_what_happens(full):
  n = 0
  for _, _, step in steps(full):
    if not step.is_invalid and step.next_state != states.OVER and (
        step.action.startswith('click')):
      n += 1
      assert alfworld_experts.imagine(
          states.body(step.state), step.action) == step.next_state
  assert n > 300


def test_edits_are_exact_and_short(full, seen):
  for _, _, step in steps(full, seen):
    edit = states.diff(step.state, step.next_state)
    assert states.apply(step.state, edit) == step.next_state
    assert not edit.startswith('page')


def test_what_could_be_known(full, seen):
  assert all(alfworld_tasks.is_determined(e, t) for e, t, _ in steps(full))
  known = {False: 0, True: 0}
  for episode, t, step in steps(seen):
    n_before, n_after = (
        len(states.parse(s)) for s in (step.state, step.next_state))
    known[alfworld_tasks.is_determined(episode, t)] += 1
    if step.next_state != states.OVER and n_after > n_before:
      assert not alfworld_tasks.is_determined(episode, t)
  assert known[False] > 50 and known[True] > 50


def test_real_tasks_are_accepted_and_posed_again(make, full):
  tasks = {e.task.task_id: e.task for e in full.episodes}.values()
  made_up = [dataclasses.replace(t, source=types.GENERATED, seed=-i - 1)
             for i, t in enumerate(tasks)]
  assert all(map(alfworld_tasks.accepts, made_up))
  again = make(observe='full').reset(made_up)
  assert [t.initial_state for t in again] == [t.initial_state for t in tasks]
  assert [t.instruction for t in again] == [t.instruction for t in tasks]
  hidden, = make().reset([made_up[0]])
  assert alfworld_tasks.accepts(hidden)
  with pytest.raises(goals.GoalError, match='shows no things'):
    alfworld_tasks.pose(hidden)


PUT = types.Task('alfworld-clean', 0, 'put a clean mug in shelf', '\n'.join((
    '[1] status: at =', '[2] status: carrying =',
    '[3] button: closed drawer 1', '[4] button: shelf 1',
    '[5] button: sinkbasin 1', '[6] button: clean with sinkbasin 1',
    '[7] button: mug 1 in sinkbasin 1')))


@pytest.mark.parametrize('old, new', [
    ('', ''),
    ('closed drawer', 'drawer'), ('shelf 1', 'shelf 2'), ('mug 1', 'mug 2'),
    ('at =', 'at = shelf 1'), ('button: shelf', 'link: shelf'),
    ('[5] button: sinkbasin 1\n[6] button: clean with sinkbasin 1',
     '[5] button: toilet 1\n[6] button: toilet 2'),
    ('in sinkbasin', 'in shelf'), ('button: mug', 'button: clean mug'),
    ('mug', 'unicorn'), ('mug', 'knife'), ('mug', 'fork'),
    ('in sinkbasin 1', 'in sinkbasin 2'), (' in sinkbasin 1', '')])
def test_pages_that_no_game_begins_with(old, new):
  task = dataclasses.replace(
      PUT, initial_state=PUT.initial_state.replace(old, new))
  assert alfworld_tasks.accepts(task) == (not old)


@pytest.mark.parametrize('instruction, is_real', [
    ('clean some mug and put it in shelf', True),
    ('put a mug in shelf', False), ('put a hot mug in shelf', False),
    ('put a clean mug in bed', False), ('put a clean mug in drawer', False),
    ('put a clean pillow in shelf', False), ('put a clean  in shelf', False)])
def test_instructions(instruction, is_real):
  task = dataclasses.replace(PUT, instruction=instruction)
  assert alfworld_tasks.accepts(task) == is_real


def test_goals():
  def goal(kind, text):
    return alfworld_tasks.goal_of(types.Task(f'alfworld-{kind}', 0, text))

  assert goal('pick', 'put some mug on shelf')[1:] == ('mug', 'shelf', '')
  assert goal('look', 'examine the book with the desklamp')[1:] == (
      'book', '', 'desklamp')
  assert goal('cool-unseen', 'put a cool mug in shelf').word == 'cool'
  assert goal('pick-two', 'find two pen and put them in drawer').kind == (
      'pick-two')
  with pytest.raises(goals.InstructionError, match='cannot read'):
    goal('heat', 'put some mug on shelf')


@pytest.mark.parametrize('task, state, advice', [
    ('put a mug in shelf', HOUSE, ('open drawer 1 [3]', 'click [3]')),
    ('put a mug in shelf', HOUSE.replace('at = closed drawer 1', 'at ='),
     ('mug 1 in drawer 1 ; go to drawer 1 [3]', 'click [3]')),
    ('put a mug in shelf', HOUSE.replace('closed', 'open'),
     ('take mug 1 in drawer 1 [7]', 'click [7]')),
    ('put a mug in drawer', HOUSE.replace('at = closed drawer 1',
                                          'at = shelf 1'),
     ('take mug 2 in shelf 1 [8]', 'click [8]')),
    ('put a pen in drawer', states.OVER, ('', 'noop'))])
def test_advice(task, state, advice):
  task = types.Task('alfworld-pick', 0, task, HOUSE)
  assert alfworld_experts.advise(task, state) == advice


def carrying(thing, at, *more):
  return '\n'.join((
      f'[1] status: at = {at}', f'[2] status: carrying = {thing}',
      '[3] button: drawer 1', '[4] button: shelf 1',
      f'[5] button: {thing} in hand', *more))


@pytest.mark.parametrize('family, instruction, state, items', [
    ('clean', 'put a clean mug in shelf', carrying('mug 1', 'shelf 1'),
     'want clean mug in shelf ; mug into shelf ; '
     'object need clean mug have mug no ; '
     'place need shelf have shelf yes'),
    ('clean', 'put a clean mug in shelf',
     carrying('clean hot mug 1', 'drawer 1'),
     'want clean mug in shelf ; mug into drawer ; '
     'object need clean mug have clean mug yes ; '
     'place need shelf have drawer no'),
    ('pick', 'put a pen in shelf', carrying('clean mug 1', 'shelf 1'),
     'want pen in shelf ; mug into shelf ; object need pen have mug no ; '
     'place need shelf have shelf yes'),
    ('pick-two', 'put two mug in shelf',
     carrying('mug 3', 'shelf 1', '[6] button: mug 1 in drawer 1'),
     'want mug in shelf ; mug into shelf ; object need mug have mug yes ; '
     'place need shelf have shelf yes ; '
     'count need 2 have 1 no')])
def test_verdicts(family, instruction, state, items):
  task = types.Task(f'alfworld-{family}', 0, instruction)
  put = types.Transition(state, 'click [5]', alfworld_experts.imagine(
      state, 'click [5]'), 0., False)
  assert alfworld_tasks.annotate(task, put) == items


@pytest.mark.parametrize('action, reason', [
    ('click [3]', 'drawer 1 at drawer 1 yes ; closed ; opens'),
    ('click [4]', 'shelf 1 at drawer 1 no ; goes there'),
    ('click [8]', 'shelf 1 at drawer 1 no ; not there'),
    ('hover [8]', 'shelf 1 at drawer 1 no ; not there'),
    ('click [7]', 'drawer 1 at drawer 1 yes ; closed'),
    ('click [6]', 'nothing carried'), ('click [1]', 'takes no click'),
    ('noop', 'nothing changes'), ('click [9]', actions.NO_ELEMENT)])
def test_reasons_compare_where_things_are(action, reason):
  """Side by side, so that nothing has to be found to decide."""
  task = types.Task('alfworld-pick', 0, 'put a mug in shelf')
  try:
    after = alfworld_experts.imagine(HOUSE, action)
  except actions.ActionError:
    after = HOUSE
  if reason.rpartition(' ; ')[2] not in ('opens', 'goes there',
                                         'nothing changes'):
    after = states.invalid(HOUSE)
  step = types.Transition(HOUSE, action, after, 0., False)
  assert alfworld_tasks.annotate(task, step) == reason


@pytest.mark.parametrize('state', [
    '', '[1] text: hello', '[1] status: at =', HOUSE + '\n[9] button: x',
    HOUSE + '\n[9] status: at =', '[1] button: shelf 1\n[2] button: bed 1'])
def test_what_is_no_page(state):
  with pytest.raises(alfworld_pages.PageError):
    alfworld_pages.read(state)


@pytest.mark.parametrize('action, commands', [
    ('click [3]', ['open drawer 1']), ('click [4]', ['go to shelf 1']),
    ('click [7]', ['take mug 1 from drawer 1', 'use mug 1']),
    ('hover [8]', ['examine mug 2']), ('noop', ['look'])])
def test_clicks_are_commands(action, commands):
  assert alfworld_pages.commands(action, alfworld_pages.read(HOUSE)) == (
      commands)


def test_clicks_with_full_hands():
  page = alfworld_pages.read(HOUSE.replace(
      'carrying =', 'carrying = hot mug 1').replace(
          'mug 1 in drawer 1', 'hot mug 1 in hand').replace('closed', 'open'))
  assert page.at == ('drawer 1',) and page.carried == 'mug 1'
  assert [alfworld_pages.commands(f'click [{i}]', page) for i in (3, 6, 7)] == [
      ['close drawer 1'], ['clean mug 1 with sinkbasin 1'],
      ['move mug 1 to drawer 1']]
  with pytest.raises(actions.ActionError, match='no such element'):
    alfworld_pages.commands('click [9]', page)


def test_errands_try_what_fits_and_what_does_not(make):
  kept = [s for _, _, s in steps(played(make(observe='full'), ('errand',), 4))]
  assert all(s.reasoning for s in kept)
  refused = [s for s in kept if 'does not fit' in s.reasoning]
  moved = [s for s in kept if alfworld_tasks.read(s.state).carried
           and not s.is_invalid and s.next_state != states.OVER
           and not alfworld_tasks.read(s.next_state).carried]
  readied = [s for s in kept for word in alfworld_tasks.READY.values()
             if s.next_state.count(f'{word} ') > s.state.count(f'{word} ')]
  assert len(refused) > 20 and len(moved) > 20 and readied
  assert not any(a.is_invalid and a.action == b.action
                 for a, b in itertools.pairwise(kept))
