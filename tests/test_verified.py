"""Verdicts by rule on dreamed pages, and who dreams as a config names it."""

import dataclasses
import json

import chat_server
import pytest

from configs import webarena
from dreamgym_jax import config, experience, prompted, types, verified
from dreamgym_jax.data import trajectories
from dreamgym_jax.envs import alfworld_tasks, miniwob_tasks, webshop_tasks
from dreamgym_jax.stages import cast as casts
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import states

PAGE = '[1] textbox: =\n[2] button: Submit'
TASK = types.Task('enter-text', 0, 'Enter "Ann" into the text field and press '
                  'Submit.', PAGE)


class Dream:
  """Plays what it is given, row by row."""

  def __init__(self, *episodes):
    self.episodes = episodes
    self.counts = {'malformed': 0}

  def reset(self, tasks, rows=None):
    if rows is None:
      self.at, rows = {}, range(len(tasks))
    self.at.update(dict.fromkeys(rows, 0))
    return list(tasks)

  def follow(self, rows, states_):
    self.followed = list(zip(rows, states_, strict=True))

  def step(self, rows, actions):
    seen = []
    for r in rows:
      s = self.episodes[r][self.at[r]]
      self.at[r] += 1
      seen.append(types.Observation(
          s.next_state, s.reward, s.done, s.is_invalid, 'dreamed', .6))
    return seen

  def close(self):
    self.closed = True


@pytest.mark.parametrize(('name', 'annotate'), [
    ('web', miniwob_tasks.annotate), ('shop', webshop_tasks.annotate),
    ('house', alfworld_tasks.annotate)])
def test_the_rules_see_through_a_dream_that_lies(name, annotate):
  """Real episodes with every verdict turned round."""
  episodes = [
      e for e in trajectories.read_jsonl(
          runs.SHIPPED / name / 'offline.jsonl.gz')[:400]
      if not e.error and e.transitions[-1].next_state == states.OVER]
  lies = [[dataclasses.replace(s, reward=1 - s.reward) if s.done else s
           for s in e.transitions] for e in episodes]
  dream = Dream(*lies)
  world = verified.VerifiedWorld(dream, annotate)
  assert world.reset([e.task for e in episodes]) == [e.task for e in episodes]
  right = {True: 0, False: 0}
  for i, e in enumerate(episodes):
    for s in e.transitions:
      seen, = world.step([i], [s.action])
      assert (seen.state, seen.done) == (s.next_state, s.done)
      if s.done:
        right[seen.reward == s.reward] += 1
  n = len(episodes)
  assert n > 100
  assert right == {True: n, False: 0}
  assert world.counts is dream.counts and world.counts['overruled'] == n
  world.close()
  assert dream.closed


@pytest.mark.parametrize(('text', 'reward'), [('Ann', 1.), ('Bob', 0.)])
def test_the_page_that_a_row_was_put_on_is_judged(text, reward):
  """As the gate does: the real page, then M_exp's answer to an action."""
  end = types.Transition('', '', states.OVER, 1 - reward, True)
  world = verified.VerifiedWorld(Dream([end]), miniwob_tasks.annotate)
  world.reset([TASK])
  world.follow([0], [PAGE.replace('=', f'= {text}')])
  seen, = world.step([0], ['click [2]'])
  assert (seen.reward, seen.success_prob) == (reward, reward)


def test_a_win_that_cannot_be_is_a_loss():
  """ALFWorld's episodes end with wins alone; the dream ends one too early."""
  page = '[1] status: at =\n[2] status: carrying =\n[3] button: shelf 1'
  task = types.Task('alfworld-pick', 0, 'put a mug in shelf', page)
  end = types.Transition('', '', states.OVER, 1.0, True)
  world = verified.VerifiedWorld(Dream([end]), alfworld_tasks.annotate)
  world.reset([task])
  assert world.step([0], ['click [3]'])[0].reward == 0


def test_an_episode_out_of_steps_is_left_alone():
  late = types.Transition('', '', PAGE, 0.0, True)
  world = verified.VerifiedWorld(Dream([late]), lambda task, step: 'why')
  world.reset([TASK])
  assert world.step([0], ['click [2]'])[0].reasoning == 'dreamed'


def test_the_config_names_who_dreams(tmp_path):
  c = webarena.get_config('tiny')
  c.env.rows = c.rl.tasks = c.rl.group = 2
  answer = json.dumps({'reasoning': 'typed', 'next_state': PAGE,
                       'done': False, 'success': False})
  with chat_server.serve(lambda seen, n: answer) as server:
    c.teacher.base_url, c.teacher.model = server.settings()[:2]
    run = runs.open_run(c, tmp_path, '', '')
    with casts.Cast(run) as cast:
      params = run.params('experience', cast.model_config)
      found = {}
      for c.dream.world in ('model', 'verified', 'prompted'):
        world = cast.dream(params, cast.open_replay(), runs.DREAM)
        found[c.dream.world] = type(world)
        world.reset([TASK])
        assert world.step([0], ['fill [1] Ann'])[0].state
  assert found == {'model': experience.DreamWorld,
                   'verified': verified.VerifiedWorld,
                   'prompted': prompted.PromptedWorld}


def test_a_prompted_dream_needs_somebody_to_ask():
  c = config.defaults()
  c.dream.world = 'prompted'
  with pytest.raises(config.ConfigError, match=r'teacher\.base_url'):
    config.validate(c)
