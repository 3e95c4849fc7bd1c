"""Collecting from a world of one page, in pure Python."""

import collections

import pytest

from dreamgym_jax import collect, types
from dreamgym_jax.envs import behaviours, miniwob_tasks
from dreamgym_jax.text import actions, prompts, states

NAMES = ('vina', 'karrie', 'Agustina', 'Jerald', 'Marcella', 'Renda')
MAX_STEPS = 6
FOUR = ('expert', 'noisy', 'near_miss', 'random')


class Pages:
  """`Enter NAME and press Submit`, as the real page would do it."""

  def __init__(self, crash_at=None):
    """crash_at: (seed, step) of rows whose browser is lost there."""
    self.crash_at = crash_at or {}
    self.batches = []

  def reset(self, tasks):
    self.batches.append(len(tasks))
    self.tasks = [types.Task(
        t.family, t.seed, f'Enter "{NAMES[t.seed % len(NAMES)]}" into the '
        'text field and press Submit.',
        '[1] textbox: =\n[2] button: Submit' + ''.join(
            f'\n[{i}] textbox: =' for i in range(3, 3 + t.seed // 100)))
        for t in tasks]
    self.state = [t.initial_state for t in self.tasks]
    self.steps = [0] * len(tasks)
    self.over = [False] * len(tasks)
    return self.tasks

  def step(self, rows, written):
    return [self._one(r, a) for r, a in zip(rows, written, strict=True)]

  def _one(self, r, text):
    assert not self.over[r], 'a finished row was asked again'
    before = states.body(self.state[r])
    self.steps[r] += 1
    if self.crash_at.get(self.tasks[r].seed) == self.steps[r]:
      self.over[r] = True
      return types.Observation(before, done=True, error='the browser was lost')
    hit = actions.ground(text, before)
    try:
      action = actions.parse(text)
    except actions.ActionError:
      action = actions.Action('noop')
    self.state[r], reward = states.invalid(before), 0.0
    if action.verb == 'noop':
      self.state[r] = before
    elif hit.startswith('button') and action.verb == 'click':
      wanted = self.tasks[r].instruction.split('"')[1]
      reward = float(states.parse(before)[0].value == wanted)
      self.state[r] = states.OVER
    elif hit.startswith('textbox') and action.verb in ('fill', 'click'):
      self.state[r] = behaviours.imagine(before, text)
    self.over[r] = self.state[r] == states.OVER or self.steps[r] == MAX_STEPS
    return types.Observation(
        self.state[r], reward, self.over[r],
        self.state[r] == states.invalid(before))

  def close(self):
    pass


def gather(seeds=range(12), names=FOUR, rows=7, seed=0, world=None, **kw):
  tasks = [types.Task('enter-text', s) for s in seeds]
  return collect.collect(
      world or Pages(), tasks, names, miniwob_tasks.advise,
      collect.by_script(miniwob_tasks.advise), miniwob_tasks.accepts,
      miniwob_tasks.annotate, 12, seed, rows, **kw)


def by_behaviour(episodes):
  groups = collections.defaultdict(list)
  for e in episodes:
    groups[e.behaviour].append(e)
  return groups


@pytest.fixture(scope='module')
def many():
  return gather(range(60), rows=50).episodes


def test_every_behaviour_plays_every_page(many):
  assert collections.Counter(e.behaviour for e in many) == dict.fromkeys(
      FOUR, 60)
  assert len({e.episode_id for e in many}) == len(many)
  assert {e.task.seed for e in many} == set(range(60))
  assert all(e.source == types.REAL and e.transitions for e in many)


def test_experts_win_and_near_misses_mostly_fail(many):
  share = {name: sum(e.success for e in es) / len(es)
           for name, es in by_behaviour(many).items()}
  assert share['expert'] == 1.0
  assert share['near_miss'] < 0.6     # a miss at the last click is mended
  assert share['near_miss'] < share['noisy'] < 1.0
  assert share['random'] < 0.2


def test_the_careless_slip_more_than_once():
  both = by_behaviour(
      gather(range(60), names=('near_miss', 'careless')).episodes)
  most = {name: max(sum(not s.thought for s in e.transitions) for e in es)
          for name, es in both.items()}
  assert most['near_miss'] <= 2 < most['careless']
  assert any(not e.success for e in both['careless'])


def test_a_near_miss_reaches_the_last_click(many):
  """Lost at the end, not cut short: these teach what a failure looks like."""
  misses = by_behaviour(many)['near_miss']
  ended = [e for e in misses if e.transitions[-1].next_state == states.OVER]
  assert len(ended) > 0.6 * len(misses)
  lost = [e for e in ended if not e.success]
  assert lost and all(
      prompts.refutes(e.transitions[-1].reasoning) for e in lost)


def test_transitions_are_chained_and_annotated(many):
  for e in many:
    assert e.transitions[0].state == e.task.initial_state
    for a, b in zip(e.transitions, e.transitions[1:], strict=False):
      assert (a.next_state, a.done) == (b.state, False)
    assert e.transitions[-1].done
    for step in e.transitions:
      assert step.reasoning == miniwob_tasks.annotate(e.task, step)
      assert step.reasoning or not prompts.is_wellformed(step.action)


def test_thoughts_go_with_the_experts_actions_alone(many):
  for e in by_behaviour(many)['expert']:
    assert [s.thought for s in e.transitions] == [
        f'need {NAMES[e.task.seed % len(NAMES)]}', 'finish Submit [2]']
  for e in many:
    for s in e.transitions:
      if s.thought:
        assert (s.thought, s.action) == miniwob_tasks.advise(e.task, s.state)


@pytest.mark.parametrize('rows', [1, 5, 48])
def test_the_batch_size_changes_nothing(rows):
  wanted = {e.episode_id: e for e in gather().episodes}
  got = gather(rows=rows).episodes
  assert {e.episode_id: e for e in got} == wanted and len(got) == len(wanted)


def test_other_pages_change_nothing():
  wanted = {e.episode_id: e for e in gather().episodes}
  for e in gather([3, 7, 40]).episodes:
    assert e == wanted.get(e.episode_id, e)
  assert gather([3]).episodes[0].episode_id in wanted


def test_experts_play_generated_tasks_whose_seeds_are_negative():
  expert, = gather([-1], names=('expert',)).episodes
  assert expert.success


def test_the_seed_matters():
  assert gather(seed=0).episodes == gather(seed=0).episodes
  assert gather(seed=0).episodes != gather(seed=1).episodes


def test_the_same_behaviour_twice_is_two_episodes():
  episodes = gather(names=('near_miss', 'near_miss')).episodes
  first, second = ([e for e in episodes if e.episode_id.endswith(f'#{i}')]
                   for i in (0, 1))
  assert len(first) == len(second) == 12
  assert [e.transitions for e in first] != [e.transitions for e in second]


def test_crashed_rows_keep_their_error_and_disturb_no_other():
  wanted = {e.episode_id: e for e in gather().episodes}
  crashed = gather(world=Pages({2: 1, 5: 2})).episodes
  assert len(crashed) == len(wanted)
  for e in crashed:
    if e.task.seed in (2, 5) and e.error:
      assert e.error == 'the browser was lost' and not e.success
      last = e.transitions[-1]
      assert last.reasoning == '' and last.done
      assert len(e.transitions) == {2: 1, 5: 2}[e.task.seed]
    else:
      assert e == wanted[e.episode_id]
  assert sum(bool(e.error) for e in crashed) >= 2 * 3


def test_pages_beyond_the_domain_are_counted_once():
  got = gather([0, 1, 1500, 1600])
  assert {e.task.seed for e in got.episodes} == {0, 1}
  assert got.passed_over == {'enter-text': 2}


def test_steps_are_reported():
  seen = []
  episodes = gather(on_step=seen.append).episodes
  assert sum(seen) == sum(len(e.transitions) for e in episodes)
  assert max(seen) == 7


def test_the_script_is_what_the_expert_would_do():
  task = Pages().reset([types.Task('enter-text', 1)])[0]
  assert collect.script(task, miniwob_tasks.advise) == [
      'fill [1] karrie', 'click [2]']


def test_an_errand_takes_the_errands_own_way():
  with pytest.raises(ValueError, match='errand'):
    gather(names=('errand',), seeds=range(1))
  kept = gather(names=('errand',), seeds=range(4),
                errands=lambda rng: lambda state: 'click [99]').episodes
  assert len(kept) == 4
  assert all(s.is_invalid and not s.thought
             for e in kept for s in e.transitions)
