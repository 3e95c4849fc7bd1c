"""Processes that wait for one another: who is missing is named."""

import socket
import threading

import pytest

from dreamgym_jax import distributed


def free_port():
  with socket.socket() as s, socket.socket() as after:
    s.bind(('127.0.0.1', 0))
    after.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def test_who_is_missing_is_named_to_all_who_came():
  port, told = free_port(), {}

  def come(i):
    try:
      distributed.call_roll('127.0.0.1', port, 4, i, timeout=1.5)
    except distributed.ProcessesError as error:
      told[i] = str(error)

  threads = [threading.Thread(target=come, args=(i,)) for i in (0, 2)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert told.keys() == {0, 2}
  for message in told.values():
    assert 'process 1, 3 of 4 did not come' in message


def test_without_process_zero_the_others_say_so():
  with pytest.raises(distributed.ProcessesError, match='process 0 of 2'):
    distributed.call_roll('127.0.0.1', free_port(), 2, 1, timeout=0.3)


def test_what_the_flag_and_the_environment_say():
  env = {'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_NUM_PROCESSES': '4',
         'JAX_PROCESS_ID': '3'}
  assert distributed.read('', {}) is None
  assert distributed.read('', env) == ('a:1', 4, 3)
  assert distributed.read('b:2,2,0', env) == ('b:2', 2, 0)
  assert distributed.read('auto', {}) == (None, None, None)
  for flag, environ in (('b:2', {}), ('b,2,0', {}), ('b:2,x,0', {}),
                        ('b:2,2,2', {}), ('', env | {'JAX_PROCESS_ID': ''})):
    with pytest.raises(distributed.ProcessesError):
      distributed.read(flag, environ)
