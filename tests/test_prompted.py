"""The prompted world against a real HTTP server: it answers as a world does."""

import json

import chat_server
import pytest

from dreamgym_jax import prompted, types
from dreamgym_jax.data import endpoint
from dreamgym_jax.text import prompts, states

START = '[1] textbox: Name =\n[2] button: Ok'
FILLED = '[1] textbox: Name = Renda\n[2] button: Ok'
DEMO = prompts.Demo('click [2]', 'button: Ok', 'over', 1.0, True)
SETTINGS = prompted.Settings(max_steps=3)


def no_demos(tasks, states_, actions_):
  return [[] for _ in tasks]


def tasks(n):
  return [types.Task('enter-text', i, f'Enter Renda {i}.', START)
          for i in range(n)]


def answer(next_state, done=False, success=False, reasoning='because'):
  return json.dumps({'reasoning': reasoning, 'next_state': next_state,
                     'done': done, 'success': success})


def dreamer(seen, n):
  """Fills in what it is told to; wins if the name is there at the end."""
  shown = json.loads(seen.texts[1])
  verb, _, argument = shown['action'].partition(' ')
  if verb == 'fill':
    page = states.body(shown['state'])
    return answer(page.replace('=', f'= {argument[4:]}'))
  return answer('over', True, 'Renda' in shown['state'])


def make_world(server, tmp_path, retrieve=no_demos, settings=SETTINGS):
  end = endpoint.Endpoint(server.settings(), tmp_path)
  return prompted.PromptedWorld(end, retrieve, settings)


def test_episodes_are_dreamed_row_by_row(tmp_path):
  with chat_server.serve(dreamer) as server:
    world = make_world(server, tmp_path)
    assert world.reset(tasks(2)) == tasks(2)
    one, two = world.step([0, 1], ['fill [1] Renda', 'click [2]'])
    assert one == types.Observation(FILLED, reasoning='because')
    assert two == types.Observation(
        'over', 0.0, True, reasoning='because', success_prob=-1.0)
    assert world.step([0], ['click [2]']) == [
        types.Observation('over', 1.0, True, reasoning='because')]
    world.close()
  assert world.counts == {'malformed': 0}


def test_what_the_model_is_shown(tmp_path):
  asked = []

  def retrieve(*arguments):
    asked.append(arguments)
    return [[DEMO]]

  with chat_server.serve(dreamer) as server:
    world = make_world(server, tmp_path, retrieve)
    world.reset(tasks(1))
    world.step([0], ['fill [1] Renda'])
    world.step([0], ['click [2]'])
  assert asked == [(tasks(1), [START], ['fill [1] Renda']),
                   (tasks(1), [FILLED], ['click [2]'])]
  system, user = server.seen[1].body['messages']
  assert (system['role'], user['role']) == ('system', 'user')
  assert json.loads(user['content']) == {
      'task': 'Enter Renda 0.',
      'steps': [{'state': START, 'action': 'fill [1] Renda'}],
      'comparable': [{'action': 'click [2]', 'element': 'button: Ok',
                      'change': 'over', 'done': True, 'success': True}],
      'state': FILLED, 'action': 'click [2]',
      'element': 'button: Ok ; Name = Renda'}


def test_malformed_actions_are_invalid_by_rule_and_cost_nothing(tmp_path):
  with chat_server.serve(dreamer) as server:
    world = make_world(server, tmp_path)
    world.reset(tasks(1))
    seen, = world.step([0], ['please click Ok'])
    assert server.seen == []
  assert seen.is_invalid and seen.state == states.invalid(START)
  assert not seen.done and seen.reward == 0


def test_the_last_step_ends_as_a_failure(tmp_path):
  with chat_server.serve(dreamer) as server:
    world = make_world(server, tmp_path)
    world.reset(tasks(1))
    seen = [world.step([0], [action])[0]
            for action in ('fill [1] x', 'what', 'fill [1] y')]
  assert [o.done for o in seen] == [False, False, True]
  assert seen[-1].reward == 0 and not seen[-1].is_malformed


def test_following_puts_a_row_on_a_given_state(tmp_path):
  with chat_server.serve(dreamer) as server:
    world = make_world(server, tmp_path)
    world.reset(tasks(2))
    world.follow([1], [FILLED])
    seen = world.step([0, 1], ['click [2]'] * 2)
  assert [o.reward for o in seen] == [0.0, 1.0]


BAD = {
    'prose': 'It ends.',
    'fenced': f'```json\n{answer("over", True)}\n```',
    'a list': '[]',
    'a key more': answer('over', True)[:-1] + ', "note": 1}',
    'a key less': '{"reasoning": "", "next_state": "over", "done": true}',
    'truth as a word': answer('over', 'true'),
    'truth as a number': answer('over', 1),
    'success as a number': answer('over', True, 1),
    'a state as a list': answer(['over'], True),
    'reasons as a list': answer('over', True, reasoning=['x']),
    'reasons in two lines': answer('over', True, reasoning='x\ny'),
    'no state': answer('Name is filled in now.'),
    'an empty state': answer(''),
    'the same id twice': answer('[1] button: a\n[1] button: b'),
    'a lone surrogate': answer('[1] button: \ud800'),
    'over and not done': answer('over'),
    'done and not over': answer(FILLED, True),
    'success and not done': answer(FILLED, False, True),
    'a notice of its own': answer(f'! well done\n{START}'),
    'a notice and another page': answer(f'{states.INVALID}\n{FILLED}'),
}


@pytest.mark.parametrize('text', BAD.values(), ids=list(BAD))
def test_what_is_not_exactly_an_answer_is_refused(text):
  with pytest.raises(prompts.ParseError):
    prompted.parse(text, START)


def test_what_is_exactly_an_answer_is_read():
  assert prompted.parse(answer('over', True, True), START) == (
      types.Observation('over', 1.0, True, reasoning='because'))
  invalid = states.invalid(START)
  for now in (START, invalid):    # one notice, however often
    seen = prompted.parse(answer(invalid), now)
    assert seen.is_invalid and seen.state == invalid and not seen.done
  assert not prompted.parse(answer(START), START).is_invalid


def test_a_malformed_answer_is_asked_for_once_more(tmp_path):
  bad = BAD['over and not done']
  with chat_server.serve(
      lambda seen, n: answer('over', True) if n else bad) as server:
    world = make_world(server, tmp_path)
    world.reset(tasks(1))
    seen, = world.step([0], ['click [2]'])
  assert seen.done and not seen.is_malformed
  assert world.counts == {'malformed': 1} and len(server.seen) == 2
  assert 'done is false' in server.seen[1].texts[3]


def test_a_second_one_ends_the_episode_as_malformed(tmp_path):
  with chat_server.serve(lambda seen, n: 'It ends.') as server:
    world = make_world(server, tmp_path)
    world.reset(tasks(1))
    seen, = world.step([0], ['click [2]'])
  assert seen.is_malformed and seen.done and seen.reward == 0
  assert 'not JSON' in seen.reasoning and len(server.seen) == 2


def test_a_cut_answer_is_malformed(tmp_path):

  def respond(seen, n):
    return chat_server.Reply(200, chat_server.completion(
        answer('over', True), seen, 'length'))

  with chat_server.serve(respond) as server:
    world = make_world(server, tmp_path)
    world.reset(tasks(1))
    assert world.step([0], ['click [2]'])[0].is_malformed


def test_refused_is_malformed_but_an_outage_is_an_error(tmp_path):
  status = [400]
  with chat_server.serve(lambda seen, n: chat_server.Reply(
      status[0], {'error': {'message': 'too long'}})) as server:
    world = make_world(server, tmp_path)
    world.reset(tasks(1))
    seen, = world.step([0], ['click [2]'])
    assert seen.is_malformed and 'too long' in seen.reasoning
    status[0] = 403
    with pytest.raises(endpoint.EndpointError):
      world.step([0], ['click [1]'])
