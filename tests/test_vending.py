"""The vending machine of the notebook: an environment from outside."""

import dataclasses
import pathlib
import pickle

import numpy as np
import pytest

from colabs import vending
from dreamgym_jax import collect, config, corpus, train, types
from dreamgym_jax.data import trajectories
from dreamgym_jax.envs import behaviours, checks
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import actions, states

FAMILIES = ('vending-2', 'vending-3', 'vending-4')
TASKS = [types.Task(f, s) for f in FAMILIES for s in range(30)]
PAGE = ('[1] radio: tea\n[2] radio: cola\n'
        '[3] status: to pay = 2\n[4] button: insert coin\n[5] button: take')


def machine(wanted='tea'):
  """A world whose only row is the page above."""
  world = vending.Vending(6)
  world._rows = [vending._Machine(['tea', 'cola'], wanted, 2)]
  return world


def play(world, *written):
  return [world.step([0], [action])[0] for action in written]


def collected(names, max_steps=6):
  return collect.collect(
      vending.Vending(max_steps), TASKS, names, vending.advise,
      vending.rehearse, vending.accepts, vending.annotate, 12, 0, 40)


def test_a_drink_is_chosen_paid_and_taken():
  world = machine()
  assert world._rows[0].page == PAGE
  *seen, last = play(
      world, 'click [1]', 'click [4]', 'click [4]', 'click [5]')
  tea = PAGE.replace('tea', 'tea checked')
  assert [o.state for o in seen] == [
      tea, tea.replace('= 2', '= 1'), tea.replace('= 2', '= 0')]
  assert last == types.Observation(states.OVER, 1.0, True)


@pytest.mark.parametrize('written', [
    'click [5]',                                                 # nothing
    'click [1] click [4] click [5]',                             # a coin short
    'click [2] click [4] click [4] click [5]',                  # the other one
    'click [4] click [4] click [5]',                            # none at all
])
def test_anything_else_is_lost(written):
  written = written.replace('] ', ']|').split('|')
  assert play(machine(), *written)[-1] == types.Observation(
      states.OVER, 0.0, True)


def test_a_choice_can_be_changed_until_it_is_taken():
  seen = play(machine('cola'), 'click [1]', 'click [4]', 'click [2]',
              'click [4]', 'click [5]')
  cola = PAGE.replace('cola', 'cola checked')
  assert [o.state for o in seen[2:4]] == [
      cola.replace('= 2', '= 1'), cola.replace('= 2', '= 0')]
  assert seen[4].reward == 1.0


@pytest.mark.parametrize('action', [
    'click [6]', 'click [3]', 'fill [3] 2', 'hover [1]', 'press [5] Enter',
    'goto http://x', 'open [1]', 'click', ''])
def test_what_cannot_be_done_is_an_invalid_observation(action):
  [seen] = play(machine(), action)
  assert seen == types.Observation(states.invalid(PAGE), is_invalid=True)


def test_no_coin_is_taken_once_all_is_paid():
  *_, second, third = play(machine(), *['click [4]'] * 3)
  assert not second.is_invalid
  assert third == types.Observation(
      states.invalid(second.state), is_invalid=True)


def test_episodes_end_after_so_many_steps():
  seen = play(machine(), *['noop'] * 6)
  assert [o.done for o in seen] == 5 * [False] + [True]
  assert seen[-1].state == PAGE and seen[-1].reward == 0
  with pytest.raises(ValueError, match='row 0 is over'):
    play(machine(), *['noop'] * 7)


def test_the_same_seed_is_the_same_machine():
  def tasks():
    return vending.Vending(6).reset(TASKS)

  assert tasks() == tasks()
  shown = {(t.instruction, t.initial_state) for t in tasks()}
  assert len(shown) > .9 * len(TASKS)
  assert {t.initial_state.count('radio') for t in tasks()} == {2, 3, 4}


@pytest.mark.parametrize('task', [
    types.Task('vending-1', 0), types.Task('click-button', 0),
    types.Task('vending-2', -1, 'Buy tea.', PAGE, types.GENERATED)])
def test_other_tasks_are_refused(task):
  with pytest.raises(checks.EnvError, match=task.task_id):
    vending.Vending(6).reset([task])


def test_experts_win_in_as_few_steps_as_it_takes():
  episodes = collected(['expert']).episodes
  assert len(episodes) == len(TASKS)
  for episode in episodes:
    *_, display, _, _ = states.parse(episode.task.initial_state)
    assert episode.success
    assert len(episode.transitions) == 2 + int(display.value)
    assert all(s.thought and not s.is_invalid for s in episode.transitions)


def test_reasons_agree_with_the_world_on_every_true_transition():
  names = [b for b in behaviours.BEHAVIOURS if b != behaviours.ERRAND]
  episodes = collected(names).episodes
  steps = [(e.task, s) for e in episodes for s in e.transitions]
  assert all(s.reasoning for _, s in steps)
  ends = [(t, s) for t, s in steps if s.next_state == states.OVER]
  assert {s.reward for _, s in ends} == {0.0, 1.0}
  for task, step in ends:
    assert step.reasoning.startswith(
        f'need {task.instruction[4:-1]} have ')
    assert step.reasoning.endswith('no') <= (step.reward == 0)
    other = dataclasses.replace(step, reward=1 - step.reward)
    assert vending.annotate(task, other) == ''
  # Enough of everything goes wrong to learn from.
  assert {'all paid', actions.NO_ELEMENT, 'nothing changes'} <= {
      s.reasoning for _, s in steps}


@pytest.mark.parametrize('action, reason', [
    ('click [1]', 'turns on'), ('click [4]', 'one less'),
    ('noop', 'nothing changes'),
    ('click [9]', actions.NO_ELEMENT), ('hover [1]', 'radio takes no hover'),
    ('buy', 'malformed action'),
    ('click [5]', 'need tea have none no ; pay need 0 have 2 no')])
def test_reasons_in_words(action, reason):
  [seen] = play(machine(), action)
  step = types.Transition(PAGE, action, seen.state, seen.reward, seen.done,
                          seen.is_invalid)
  task = types.Task('vending-2', 0, 'Buy tea.', PAGE)
  assert vending.annotate(task, step) == reason


def test_a_near_miss_does_not_look_again():
  course = vending.rehearse(types.Task('vending-2', 0, 'Buy tea.', PAGE))
  assert [course.act(t, '') for t in range(course.n_steps + 1)] == [
      'click [1]', 'click [4]', 'click [4]', 'click [5]', '']


def test_what_a_machine_could_have_set_is_accepted():
  task = types.Task('vending-2', -1, 'Buy tea.', PAGE, types.GENERATED)
  assert vending.accepts(task)
  for changes in ({'instruction': 'Buy milk.'}, {'instruction': 'Tea, please'},
                  {'initial_state': PAGE.replace('cola', 'tea')},
                  {'initial_state': PAGE.replace('= 2', '= 9')},
                  {'initial_state': PAGE.replace('status', 'text')},
                  {'initial_state': '[1] button: take'}):
    assert not vending.accepts(dataclasses.replace(task, **changes)), changes


def test_a_run_that_names_it_collects_its_episodes(tmp_path):
  c = config.defaults()
  c.name, c.shipped = 'colabs.vending:DOMAIN', ''
  c.experience.init = c.warmup.init = 'base'
  c.env.families, c.env.held_out_families = ('vending-2',), ('vending-3',)
  c.env.max_steps, c.collect.pages = 6, 5
  train.main('run', c, tmp_path, '', '', until='collect')
  episodes = trajectories.read_jsonl(tmp_path / runs.OFFLINE)
  assert len(episodes) == 5 * len(c.collect.behaviours)
  assert all(map(corpus.is_usable, episodes))


def test_worlds_are_made_in_worker_processes_too():
  make = vending.DOMAIN.world(config.defaults())
  assert isinstance(pickle.loads(pickle.dumps(make))(), vending.Vending)


def test_it_is_as_short_as_the_notebook_says():
  assert len(pathlib.Path(vending.__file__).read_text().splitlines()) <= 200
  assert np.unique(vending.DRINKS).size == len(vending.DRINKS)


def test_a_row_begins_anew_and_the_others_go_on():
  machine = vending.Vending(8)
  first, second, third = (types.Task('vending-2', seed) for seed in range(3))
  a, b = machine.reset([first, second])
  moved = machine.step([1], [vending.advise(b, b.initial_state)[1]])[0].state
  anew, = machine.reset([third], [0])
  assert anew == vending.Vending(8).reset([third])[0]
  now = [o.state for o in machine.step([0, 1], ['noop'] * 2)]
  assert now == [anew.initial_state, moved] and moved != b.initial_state
