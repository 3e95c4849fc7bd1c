"""The client against a real HTTP server: nothing is paid twice or told on."""

import json
import logging
import os
import sys
import threading

import chat_server
import pytest

from dreamgym_jax.data import endpoint

HELLO = [{'role': 'user', 'content': 'how do you do'}]
KEY = 'sk-a-long-secret-0123456789'


def question(text):
  return [{'role': 'user', 'content': text}]


def test_an_answer_with_what_it_cost(tmp_path):
  with chat_server.serve(lambda seen, n: 'very well') as server:
    end = endpoint.Endpoint(server.settings(
        temperature=0.25, max_tokens=77, prompt_price=2.0,
        completion_price=10.0), tmp_path)
    assert end.ask(HELLO) == endpoint.Answer('very well', False, 4, 2)
    end.ask(question('and now'))
  sent = server.seen[0]
  assert sent.path == '/v1/chat/completions'
  assert sent.body == {
      'model': 'a-model', 'messages': HELLO, 'temperature': 0.25,
      'max_tokens': 77, 'response_format': {'type': 'json_object'}}
  assert end.usage == endpoint.Usage(2, 0, 6, 4, 0)
  # 6 * 2 + 4 * 10 = 52 $ for a million
  assert end.dollars == pytest.approx(52e-6)


def test_what_is_sent_can_be_changed(tmp_path):
  with chat_server.serve(lambda seen, n: 'x') as server:
    endpoint.Endpoint(server.settings(
        limit='max_completion_tokens', use_json_mode=False), tmp_path
        ).ask(HELLO)
  assert server.seen[0].body.keys() == {
      'model', 'messages', 'temperature', 'max_completion_tokens'}


def test_the_same_question_is_asked_once_in_all_of_time(tmp_path):
  with chat_server.serve(lambda seen, n: f'answer {n}') as server:
    first = endpoint.Endpoint(server.settings(), tmp_path)
    assert first.ask(HELLO).text == first.ask(HELLO).text == 'answer 0'
    assert first.usage == endpoint.Usage(1, 1, 4, 2)
    # Another process, after an interrupt: paid before, and still counted.
    second = endpoint.Endpoint(server.settings(), tmp_path)
    assert second.usage == endpoint.Usage(1, 0, 4, 2)
    assert second.ask(HELLO).text == 'answer 0'
    assert second.usage == endpoint.Usage(1, 1, 4, 2)
    assert len(server.seen) == 1
    for other in ({'model': 'b'}, {'temperature': 0.5}, {'max_tokens': 9},
                  {'use_json_mode': False}):
      endpoint.Endpoint(server.settings(**other), tmp_path).ask(HELLO)
    second.ask([{'role': 'system', 'content': HELLO[0]['content']}])
    assert len(server.seen) == 6
    # How it is reached is not part of the question.
    endpoint.Endpoint(server.settings(timeout=9.0, workers=1, retries=0),
                      tmp_path).ask(HELLO)
    assert len(server.seen) == 6
  assert endpoint.read_usage(tmp_path).calls == 6


def test_the_same_question_at_once_is_asked_once(tmp_path):
  respond = lambda seen, n: chat_server.Reply(body='x', delay=0.1)  # noqa: E731
  with chat_server.serve(respond) as server:
    end = endpoint.Endpoint(server.settings(), tmp_path)
    answers = end.map(end.ask, [HELLO] * 6)
  assert len(server.seen) == 1
  assert end.usage.cache_hits == 5 and len(set(answers)) == 1


def test_a_damaged_answer_is_asked_for_again(tmp_path, caplog):
  with chat_server.serve(lambda seen, n: f'answer {n}') as server:
    endpoint.Endpoint(server.settings(), tmp_path).ask(HELLO)
    file, = tmp_path.iterdir()
    for damage in (b'', b'{"text": "a', b'[1]', b'{"text": 3}',
                   b'{"text": "a", "is_cut": 1, "prompt_tokens": 1,'
                   b' "completion_tokens": 1}'):
      file.write_bytes(damage)
      caplog.clear()
      end = endpoint.Endpoint(server.settings(), tmp_path)
      assert end.usage.calls == 0
      assert end.ask(HELLO).text == f'answer {len(server.seen) - 1}'
      assert str(file) in caplog.text and 'damaged' in caplog.text
  assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_it_waits_as_long_as_the_server_asks(tmp_path):
  busy = chat_server.Reply(429, {'error': {'message': 'slow down'}},
                           (('Retry-After', '0.9'),))
  with chat_server.serve(lambda seen, n: 'x' if n else busy) as server:
    end = endpoint.Endpoint(server.settings(), tmp_path)
    assert end.ask(HELLO).text == 'x'
  # Its own first pause would be half a second at most.
  assert server.seen[1].time - server.seen[0].time >= 0.9
  assert end.usage.calls == 1


def test_a_failing_server_is_tried_again(tmp_path):
  failure = chat_server.Reply(500, {'error': {'message': 'oh'}})
  with chat_server.serve(lambda seen, n: 'x' if n else failure) as server:
    end = endpoint.Endpoint(server.settings(), tmp_path)
    assert end.ask(HELLO).text == 'x'
  # Less than .375 s would be no back-off: .5 s, less a quarter of jitter.
  assert server.seen[1].time - server.seen[0].time > 0.37
  assert len(server.seen) == 2


def test_a_slow_answer_is_asked_for_again(tmp_path):
  slow = chat_server.Reply(body='too late', delay=1.0)
  with chat_server.serve(lambda seen, n: 'x' if n else slow) as server:
    end = endpoint.Endpoint(server.settings(timeout=0.4, retries=5), tmp_path)
    assert end.ask(HELLO).text == 'x'
  assert len(server.seen) >= 2


def test_giving_up_is_said_with_what_to_do(tmp_path):
  failure = chat_server.Reply(503, {'error': {'message': 'out of order'}})
  with chat_server.serve(lambda seen, n: failure) as server:
    end = endpoint.Endpoint(server.settings(retries=1), tmp_path)
    with pytest.raises(endpoint.EndpointError) as error:
      end.ask(HELLO)
  assert len(server.seen) == 2
  for part in (server.url, 'a-model', 'out of order', '1 retries', 'goes on'):
    assert part in str(error.value)
  assert not isinstance(error.value, endpoint.RefusedError)
  assert list(tmp_path.iterdir()) == []     # a failure is no answer


def test_nobody_there(tmp_path):
  with chat_server.serve(lambda seen, n: 'x') as server:
    settings = server.settings(retries=0)
  with pytest.raises(endpoint.EndpointError, match=settings.base_url):
    endpoint.Endpoint(settings, tmp_path).ask(HELLO)


@pytest.mark.parametrize('status, kind, advice', [
    (400, endpoint.RefusedError, 'too long'),
    (422, endpoint.RefusedError, 'too long'),
    (401, endpoint.EndpointError, 'the key in A_KEY'),
    (404, endpoint.EndpointError, 'base_url and model')])
def test_what_trying_again_would_not_mend(
    tmp_path, monkeypatch, status, kind, advice):
  monkeypatch.setenv('A_KEY', KEY)
  reply = chat_server.Reply(status, {'error': {'message': 'too long'}})
  with chat_server.serve(lambda seen, n: reply) as server:
    end = endpoint.Endpoint(server.settings(key_env='A_KEY'), tmp_path)
    with pytest.raises(endpoint.EndpointError, match=advice) as error:
      end.ask(HELLO)
  assert len(server.seen) == 1 and type(error.value) is kind


@pytest.mark.parametrize('body', [
    {}, {'choices': []}, {'choices': None}, [], 'null', b'<html>', b'{"cho',
    {'choices': [{'message': {'content': ['x']}, 'finish_reason': 'stop'}]}])
def test_what_is_no_chat_completion(tmp_path, body):
  body = None if body == 'null' else body
  with chat_server.serve(
      lambda seen, n: chat_server.Reply(200, body)) as server:
    end = endpoint.Endpoint(server.settings(retries=0), tmp_path)
    with pytest.raises(endpoint.EndpointError, match='127.0.0.1'):
      end.ask(HELLO)
  assert list(tmp_path.iterdir()) == []


def test_a_cut_answer_and_one_that_was_not_metered(tmp_path):

  def respond(seen, n):
    body = chat_server.completion('half of', seen, 'length')
    del body['usage']
    return chat_server.Reply(200, body)

  with chat_server.serve(respond) as server:
    end = endpoint.Endpoint(server.settings(), tmp_path)
    assert end.ask(HELLO) == endpoint.Answer('half of', True, -1, -1)
  assert end.usage == endpoint.Usage(1, unmetered=1)
  assert endpoint.read_usage(tmp_path) == end.usage


def test_requests_at_once_are_bounded_and_results_in_order(tmp_path):
  three = threading.Barrier(3)     # breaks, if fewer are ever at once

  def respond(seen, n):
    if n < 3:
      three.wait(5)
    return chat_server.Reply(body=seen.texts[0], delay=0.03 - 0.002 * n)

  with chat_server.serve(respond) as server:
    end = endpoint.Endpoint(server.settings(workers=3), tmp_path)
    done = []
    texts = end.map(lambda i: end.ask(question(f'q {i}')).text, range(12),
                    done.append)
  assert texts == [f'q {i}' for i in range(12)]
  assert sorted(done) == sorted(texts)
  assert server.most_at_once == 3
  assert end.usage.calls == 12


def test_an_interrupt_keeps_what_was_answered(tmp_path):
  with chat_server.serve(lambda seen, n: chat_server.Reply(
      body='x', delay=0.05)) as server:
    end = endpoint.Endpoint(server.settings(workers=2), tmp_path)

    def interrupt(answer):
      raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      end.map(lambda i: end.ask(question(f'q {i}')), range(40), interrupt)
    n_asked = len(server.seen)
    assert 1 <= n_asked < 40
    assert endpoint.read_usage(tmp_path).calls == n_asked
    # The same again asks for the rest alone.
    again = endpoint.Endpoint(server.settings(workers=8), tmp_path)
    again.map(lambda i: again.ask(question(f'q {i}')), range(40))
  assert len(server.seen) == 40
  assert again.usage.cache_hits == n_asked


def test_no_half_written_answer_is_ever_there(tmp_path, monkeypatch):
  """Whoever dies while writing leaves nothing under the answer's name."""
  monkeypatch.setattr(os, 'fsync', lambda fd: (_ for _ in ()).throw(OSError()))
  with chat_server.serve(lambda seen, n: 'x') as server:
    end = endpoint.Endpoint(server.settings(), tmp_path)
    with pytest.raises(OSError):
      end.ask(HELLO)
  assert not list(tmp_path.glob('*.json'))
  assert endpoint.read_usage(tmp_path).calls == 0


@pytest.mark.parametrize('value', ['', '  '])
def test_a_key_that_is_missing_is_named(tmp_path, monkeypatch, value):
  monkeypatch.setenv('MY_TEACHER_KEY', value)
  monkeypatch.setenv('OPENAI_API_KEY', KEY)    # of somebody else
  settings = endpoint.Settings('http://127.0.0.1:9/v1', 'm', 'MY_TEACHER_KEY')
  with pytest.raises(endpoint.EndpointError, match='export MY_TEACHER_KEY='):
    endpoint.Endpoint(settings, tmp_path)


def test_the_key_goes_to_the_server_and_nowhere_else(
    tmp_path, monkeypatch, caplog):
  """Not even where the server says it, in an error or in an answer."""
  monkeypatch.setenv('A_KEY', f'{KEY}\n')
  monkeypatch.setenv('OPENAI_API_KEY', 'sk-of-another-endpoint')
  monkeypatch.setenv('OPENAI_ADMIN_KEY', 'sk-of-an-administrator')
  caplog.set_level(logging.DEBUG)

  def respond(seen, n):
    told = seen.headers['authorization']
    if n == 0:
      return chat_server.Reply(500, {'error': {'message': told}})
    if n == 2:
      return chat_server.Reply(401, {'error': {'message': told}})
    return told

  with chat_server.serve(respond) as server:
    end = endpoint.Endpoint(server.settings(key_env='A_KEY'), tmp_path)
    answer = end.ask(HELLO)
    with pytest.raises(endpoint.EndpointError) as error:
      end.ask(question('again'))
  assert {s.headers['authorization'] for s in server.seen} == {f'Bearer {KEY}'}
  assert not any('sk-of' in json.dumps(s.headers) for s in server.seen)
  assert answer.text == 'Bearer <key>' and 'Bearer <key>' in str(error.value)
  kept = b''.join(f.read_bytes() for f in tmp_path.iterdir())
  assert kept and KEY.encode() not in kept
  assert caplog.text and KEY not in caplog.text
  # No traceback through the request, which holds it.
  assert error.value.__cause__ is None and error.value.__suppress_context__


def test_without_a_key_none_of_the_environments_is_sent(tmp_path, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', KEY)
  with chat_server.serve(lambda seen, n: 'x') as server:
    endpoint.Endpoint(server.settings(), tmp_path).ask(HELLO)
  assert KEY not in json.dumps(server.seen[0].headers)


def test_a_placeholder_for_a_key_may_be_a_word_of_an_answer(
    tmp_path, monkeypatch):
  monkeypatch.setenv('A_KEY', 'EMPTY')
  with chat_server.serve(lambda seen, n: 'the cart is EMPTY') as server:
    end = endpoint.Endpoint(server.settings(key_env='A_KEY'), tmp_path)
    assert end.ask(HELLO).text == 'the cart is EMPTY'


@pytest.mark.parametrize('changes, told', [
    ({'base_url': 'localhost:8000'}, 'base_url='),
    ({'base_url': 'http://[::1'}, 'base_url='),
    ({'base_url': ''}, 'base_url='),
    ({'base_url': f'https://me:{KEY}@x.org/v1'}, 'key_env'),
    ({'model': ''}, 'model='),
    ({'limit': 'tokens'}, 'max_completion_tokens')])
def test_bad_settings_are_named(tmp_path, changes, told):
  settings = endpoint.Settings('http://localhost/v1', 'm')._replace(**changes)
  with pytest.raises(endpoint.EndpointError, match=told) as error:
    endpoint.Endpoint(settings, tmp_path)
  assert KEY not in str(error.value)


def test_the_package_is_asked_for_only_when_it_is_used(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'openai', None)   # an import fails
  with pytest.raises(endpoint.EndpointError,
                     match='pip install -r requirements-teacher.txt'):
    endpoint.Endpoint(endpoint.Settings('http://x/v1', 'm'), tmp_path)


def test_text_that_utf8_refuses_still_arrives(tmp_path):
  with chat_server.serve(lambda seen, n: 'x') as server:
    endpoint.Endpoint(server.settings(), tmp_path).ask(
        question('é \ud800 "quoted"\n'))
  assert server.seen[0].texts == ['é \\ud800 "quoted"\n']


def test_usage_is_right_from_many_threads(tmp_path):
  with chat_server.serve(lambda seen, n: 'one two') as server:
    end = endpoint.Endpoint(server.settings(), tmp_path)
    barrier = threading.Barrier(8)

    def work(i):
      barrier.wait(5)
      for j in range(4):
        end.ask(question(f'q {i} {j}'))
        end.ask(question(f'q {i} {j}'))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
  assert end.usage == endpoint.Usage(32, 32, 96, 64)
  assert endpoint.read_usage(tmp_path) == end.usage._replace(cache_hits=0)
