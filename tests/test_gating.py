"""The gate's measuring: predictions along real episodes, crashes left out."""

import contextlib
import types as builtin_types

import jax
import pytest

from dreamgym_jax import config, rollouts, types
from dreamgym_jax.audit import gate
from dreamgym_jax.data import trajectories
from dreamgym_jax.envs import miniwob_tasks
from dreamgym_jax.stages import gating, learn
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import prompts, states

PAGE = '[1] textbox: =\n[2] button: Submit'
FILLED = PAGE.replace('=', '= a0')
FAMILY = 'enter-text'


def episode(i, n, win=True, error=''):
  """n steps on page i: fills, then the last click."""
  task = types.Task(FAMILY, i, f'Enter "a{i}" into the text field and press '
                    'Submit.', PAGE)
  after = PAGE.replace('=', f'= a{i}' if win else '= q')
  steps = []
  for t in range(n):
    before = after if t else PAGE
    last = t + 1 == n
    steps.append(types.Transition(
        before, 'click [2]' if last else f'fill [1] a{i}',
        states.OVER if last else after, float(win and last), last))
  return types.Episode(task, tuple(steps), types.REAL, 'policy', f'e{i}',
                       error=error)


class Oracle:
  """A dream that knows the episodes; `lies` answers otherwise."""

  def __init__(self, episodes, lies=None):
    self.known = {(e.task.task_id, s.state, s.action): s
                  for e in episodes for s in e.transitions}
    self.lies = lies or {}
    self.resets, self.calls = [], []

  def reset(self, tasks):
    self.resets.append([t.task_id for t in tasks])
    self.tasks = list(tasks)
    self.state = {}
    return self.tasks

  def follow(self, rows, states_):
    self.state.update(zip(rows, states_, strict=True))

  def step(self, rows, actions):
    self.calls.append(list(rows))
    out = []
    for r, action in zip(rows, actions, strict=True):
      s = self.known[self.tasks[r].task_id, self.state[r], action]
      o = types.Observation(s.next_state, s.reward, s.done, s.is_invalid,
                            s.reasoning, 0.75)
      out.append(o._replace(**self.lies.get((self.tasks[r].seed, action), {})))
    return out


EPISODES = [episode(0, 2), episode(1, 4), episode(2, 1, win=False),
            episode(3, 3), episode(4, 2)]


def always(episode, t):
  del episode, t
  return True


@pytest.mark.parametrize('rows', [1, 2, 5, 9])
def test_every_step_is_asked_from_the_real_state(rows):
  dream = Oracle(EPISODES)
  pairs = gating.predict(dream, EPISODES, rows, always)
  assert sum(dream.resets, []) == [e.task.task_id for e in EPISODES]
  assert all(len(r) <= rows for r in dream.resets)
  told = {(p.episode_id, p.step): p for p in pairs}
  assert len(told) == len(pairs) == sum(len(e.transitions) for e in EPISODES)
  for e in EPISODES:
    for t, step in enumerate(e.transitions):
      p = told[e.episode_id, t]
      assert p.real is step and p.family == FAMILY
      assert p.is_last == (t + 1 == len(e.transitions))
      d = p.dreamed
      assert (d.state, d.action, d.next_state, d.reward, d.done) == (
          step.state, step.action, step.next_state, step.reward, step.done)
      assert d.success_prob == 0.75


def test_finished_episodes_are_not_asked():
  dream = Oracle(EPISODES)
  gating.predict(dream, EPISODES, 5, always)
  assert dream.calls == [[0, 1, 2, 3, 4], [0, 1, 3, 4], [1, 3], [1]]


def test_a_wrong_prediction_does_not_spoil_the_next():
  """What the dream says is compared; the real episode goes on."""
  lies = {(1, 'fill [1] a1'): {'state': PAGE, 'done': True, 'reward': 1.0}}
  dream = Oracle(EPISODES, lies)
  pairs = [p for p in gating.predict(dream, EPISODES, 5, always)
           if p.episode_id == 'e1']
  assert [p.dreamed.next_state == p.real.next_state for p in pairs] == [
      False, False, False, True]
  assert pairs[0].dreamed.reward == 1.0


def test_what_nobody_could_know_is_marked():
  pairs = gating.predict(Oracle(EPISODES), EPISODES, 5,
                         lambda e, t: (e.episode_id, t) != ('e1', 2))
  assert [(p.episode_id, p.step) for p in pairs if not p.is_determined] == [
      ('e1', 2)]


def test_what_retrieval_showed_is_marked_where_nobody_could_know():
  def retrieve(tasks, states_, actions_):
    # One lies, one fits no page, one is right for fills alone.
    return [[prompts.Demo('', '', edit, 0.0, False)
             for edit in ('same', '[7] = x', '[1] typed')] if t.seed else []
            for t in tasks]

  pairs = gating.predict(Oracle(EPISODES), EPISODES, 5, lambda e, t: t > 0,
                         retrieve)
  shown = {(p.episode_id, p.step) for p in pairs if p.is_shown}
  assert shown == {(e.episode_id, 0) for e in EPISODES[1:]
                   if len(e.transitions) > 1}


def test_a_malformed_answer_is_no_state():
  lies = {(2, 'click [2]'): {'is_malformed': True, 'state': states.OVER}}
  pairs = gating.predict(Oracle(EPISODES, lies), EPISODES, 5, always)
  bad, = (p for p in pairs if p.episode_id == 'e2')
  assert bad.dreamed.next_state == ''


def test_real_steps_are_annotated_and_crashes_left_out():
  crashed = episode(5, 2, error='the browser was lost')
  told = gating.annotated([EPISODES[0], crashed, EPISODES[2]],
                          miniwob_tasks.annotate)
  assert [e.episode_id for e in told] == ['e0', 'e2']
  assert [s.reasoning for s in told[0].transitions] == [
      'changes', 'need a0 have a0 yes']
  assert told[1].transitions[0].reasoning == 'need a2 have none no' or (
      told[1].transitions[0].reasoning == '')


class Run:
  """All that the gate asks of a run."""

  def __init__(self, tmp_path, pages=5):
    self.config = config.defaults()
    self.config.env.families = (FAMILY, 'click-test')
    self.config.env.rows = 3
    self.config.gate.pages = pages
    self.workdir = tmp_path

  @contextlib.contextmanager
  def bar(self, total, unit):
    yield builtin_types.SimpleNamespace(update=lambda n: None)

  write = runs.Run.write


def test_gate_pages_are_those_of_the_gate(tmp_path):
  run = Run(tmp_path)
  low, _ = run.config.env.gate_seeds
  assert [(t.family, t.seed) for t in gating.gate_tasks(run)] == [
      (f, low + i) for f in (FAMILY, 'click-test') for i in range(5)]
  run.config.env.gate_seeds = (low, low + 2)
  assert len(gating.gate_tasks(run)) == 4


def test_crashed_episodes_are_left_out_of_both_sides(tmp_path, monkeypatch):
  """Else the dream would be blamed for what the browser did."""
  run = Run(tmp_path)
  lived = [episode(0, 2), episode(1, 2, error='lost'), episode(2, 1, False),
           episode(3, 3)]
  # In the dream all four win, the crashed one too.
  dreamt = [episode(i, 2) for i in range(4)]
  asked = []

  def play(player, params, world, tasks, key, temperature, source, label,
           *rest):
    asked.append((world, list(tasks), jax.random.key_data(key).tolist(),
                  temperature))
    episodes = lived if source == types.REAL else dreamt
    return [rollouts.Attempt(e, None, None, None, 0) for e in episodes]

  monkeypatch.setattr(gating.judge, 'play', play)
  dream = Oracle(lived)
  player = builtin_types.SimpleNamespace(rows=2)
  table, pairs, unforeseen, n_real, twins = gating.measure(
      run, 'gate0', player, {}, dream, 'browser')
  row = table.rows[FAMILY]
  assert row.real_success == (2, 3) and row.dream_success == (3, 3)
  assert row.n_episodes == 3 and n_real == row.n_steps == len(pairs) == 6
  assert {p.episode_id for p in pairs} == {'e0', 'e2', 'e3'}
  assert not unforeseen
  kept = trajectories.read_jsonl(tmp_path / 'episodes' / 'gate0.jsonl.gz')
  assert [e.episode_id for e in kept] == ['e0', 'e2', 'e3']
  # One key and one temperature: the policy has the same luck in both worlds.
  (real, _, *luck), (dreamed, tasks, *same) = asked
  assert (real, dreamed) == ('browser', dream) and luck == same
  assert tasks == [e.task for e in lived]
  # Whole dreamed episodes, for the replay of one that is refused.
  assert [e.episode_id for e in twins] == ['e0', 'e2', 'e3']


def test_of_rounds_with_equal_verdicts_the_truer_one_stands_higher():
  def standing(lies):
    pairs = gating.predict(Oracle(EPISODES, lies), EPISODES, 5, always)
    table = gate.measure(pairs, {}, {})
    return learn._Round({}, gating.Measured(table, pairs, {}, 0, []),
                        gate.decide(table, gate.Thresholds())).standing

  true = standing({})
  lied = standing({(2, 'click [2]'): {'state': FILLED}})
  assert true[0] == lied[0] and true[1] == lied[1] + 1


def test_a_refused_dream_is_replayed_in_the_real_world():
  """The dream lets three win; the real last step says no to one of them."""
  dreamed = [episode(0, 1), episode(1, 2), episode(2, 2)]
  real = Oracle([episode(0, 1), episode(1, 2), episode(2, 2, win=False)])
  real.state = {}

  class Real:

    def reset(self, tasks):
      real.follow(range(len(tasks)), [PAGE] * len(tasks))
      return real.reset(tasks)

    def step(self, rows, actions):
      real.follow(rows, [self.now.get(r, PAGE) for r in rows])
      seen = real.step(rows, actions)
      self.now |= {r: o.state for r, o in zip(rows, seen, strict=True)}
      return seen

  world = Real()
  world.now = {}
  cast = builtin_types.SimpleNamespace(real=world)
  run = builtin_types.SimpleNamespace(config=config.defaults())
  said = learn._replayed(run, cast, dreamed)
  assert 'episodes 2/3, steps 3/5, outcomes 2/3, wins kept 2/3' in said
  # The fill already differs in what it says it typed.
  assert said.endswith('; first parted at: fill textbox 1')


def test_own_steps_come_from_pages_nobody_has_seen(tmp_path, monkeypatch):
  run = Run(tmp_path)
  seen = []
  monkeypatch.setattr(
      gating.judge, 'play', lambda player, policy, real, tasks, *rest:
      seen.append(list(tasks)) or [
          rollouts.Attempt(EPISODES[0], None, None, None, 0)])
  for round_ in (0, 1):
    got = gating.own_steps(run, None, {}, None, (FAMILY,), round_)
    assert got[0].transitions[-1].reasoning
  pages = [{t.seed for t in tasks} for tasks in seen]
  c = run.config
  assert not pages[0] & pages[1]
  low, high = c.env.train_seeds
  for seeds in pages:
    assert len(seeds) == c.gate.remedy_pages
    assert all(low + c.collect.pages <= s < high for s in seeds)
