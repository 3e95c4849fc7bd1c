"""The adapter that WebArena uses, on real Chromium and BrowserGym's own tasks.

One World plays four kinds of pages: MiniWoB++ as BrowserGym has it, tasks made
up here that break on purpose, a site that is down, and WebArena's own task
class with its own evaluator, whose sites are a local server.
"""

import contextlib
import functools
import http.server
import json
import os
import pathlib
import socket
import threading
import time

import pytest
from browsergym.core import task as task_lib

from dreamgym_jax import types
from dreamgym_jax.envs import (
    checks,
    miniwob,
    webarena,
    webarena_gym,
    webarena_tasks,
)
from dreamgym_jax.text import states

Task = types.Task
PAGE = '''<title>{path}</title><h1>Walking</h1>
<p>It takes 51 minutes.</p><button onclick="location.href='/{path}?done'">
Finish</button>'''
# Nothing can be clicked for two seconds, as on a busy machine.
COVERED = '''<div style="position: fixed; inset: 0"></div>
<script>setTimeout(() => document.querySelector('div').remove(), 2000)</script>
'''
STEP_TIMEOUT = 25.


class LocalTask(task_lib.AbstractBrowserTask):
  """Over with the click on Finish; what the evaluator does is its name."""

  def __init__(self, seed, address, path):
    super().__init__(seed)
    self._address, self._path = address, path

  def setup(self, page):
    page.goto(f'{self._address}/{self._path}')
    return f'Finish {self._path}', {}

  def validate(self, page, chat_messages):
    if not page.url.endswith('?done'):
      return 0., False, '', {}
    if self._path == 'broken':
      raise KeyError('no reference answer')
    if self._path == 'hanging':
      time.sleep(1000)
    return 1., True, '', {}


def open_env(address, dead, task):
  """What the worker processes open, by family."""
  kind, _, name = task.family.partition(':')
  if kind == 'miniwob':
    from browsergym.miniwob import all as pages
    base = miniwob.find_pages().as_uri() + '/'
    return webarena_gym.open_env(functools.partial(
        getattr(pages, name), base_url=base), delay=0.)
  if kind == 'local':
    return webarena_gym.open_env(functools.partial(
        LocalTask, address=dead if name == 'gone' else address, path=name),
        delay=0.)
  return webarena_gym.open_webarena(task, delay=0.)


def find(task):
  kind, _, name = task.family.partition(':')
  if kind == 'miniwob':
    return webarena_tasks.Item(task.family, '', 0, (), name, (), False)
  if kind == 'local':
    site = 'gone' if name == 'gone' else 'shop'
    return webarena_tasks.Item(
        f'local.{name}', '', 0, (site,), f'Finish {name}', (),
        name == 'writing')
  return webarena_tasks.find(task)


class Handler(http.server.BaseHTTPRequestHandler):
  """Every path is a page of that name."""

  def do_GET(self):
    path = self.path.strip('/').partition('?')[0]
    self.send_response(200)
    self.send_header('content-type', 'text/html')
    self.end_headers()
    page = PAGE.format(path=path) + COVERED * (path == 'busy')
    with contextlib.suppress(OSError):
      self.wfile.write(page.encode())

  def log_message(self, *_):
    pass


@pytest.fixture(scope='module')
def put_back():
  return []


@pytest.fixture(scope='module')
def world(tmp_path_factory, put_back):
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  address = f'http://127.0.0.1:{server.server_port}'
  with socket.create_server(('127.0.0.1', 0)) as closed:
    dead = f'http://127.0.0.1:{closed.getsockname()[1]}'
  # BrowserGym asks for NLTK's tokenizer when imported, which only answers of
  # one letter need; here the folder is there, and empty.
  data = tmp_path_factory.mktemp('nltk')
  (data / 'tokenizers' / 'punkt_tab').mkdir(parents=True)
  names = [*webarena_tasks.SITES, webarena_tasks.HOMEPAGE]
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('NLTK_DATA', str(data))
    patch.setenv('PYTHONWARNINGS', 'ignore')
    for name in names:
      patch.setenv(f'WA_{name.upper()}', address)
    made = webarena.WebArena(
        max_rows=2, timeout=STEP_TIMEOUT, reset_timeout=240., attempts=2,
        pause=.01, max_breaks=2, reset_site=put_back.append,
        directory=str(tmp_path_factory.mktemp('quarantine')),
        sites={**webarena_tasks.addresses(), 'shop': address, 'gone': dead},
        open_env=functools.partial(open_env, address, dead), find=find)
    yield made
    made.close()
  server.shutdown()


def named(state, role, name=''):
  """The [id] of the first element of a role and name."""
  return next(f'[{e.id}]' for e in states.parse(state)
              if e.role == role and name in e.name)


def test_miniwob_through_browsergym_is_solved_and_refuses(world):
  login, choose = world.reset([
      Task('miniwob:LoginUserTask', 1), Task('miniwob:ChooseListTask', 1)])
  user, word = login.instruction.split('"')[1::2]
  wish = choose.instruction.split(' from the list')[0].removeprefix('Select ')
  state, lists = login.initial_state, choose.initial_state
  assert [e.role for e in states.parse(state)] == ['textbox'] * 2 + ['button']
  assert wish in states.parse(lists)[0].options
  # What BrowserGym refuses, what is not there, and what is no action.
  refused = [world.step([0], [text])[0] for text in (
      f'fill {named(state, "button")} x', 'click [99]', 'wiggle [1]')]
  for answer in refused:
    assert answer.is_invalid and not answer.done and not answer.error
    assert answer.state == states.invalid(state)
  for n, (first, second) in enumerate((
      (f'fill {named(state, "textbox", "Username")} {user}',
       f'select_option {named(lists, "combobox")} {wish}'),
      (f'fill {named(state, "textbox", "Password")} {word}', 'noop'),
      (f'click {named(state, "button")}', f'click {named(lists, "button")}'),
  )):
    seen = world.step([0, 1], [first, second])
    assert [o.error for o in seen] == ['', '']
    if n == 0:
      assert states.parse(seen[0].state)[0].value == user
      assert states.parse(seen[1].state)[0].value == wish
      assert states.diff(state, seen[0].state, user) == '[1] typed'
  assert [(o.state, o.reward, o.done) for o in seen] == [
      (states.OVER, 1., True)] * 2
  assert world.counts == {'episodes': 2}
  with pytest.raises(ValueError, match='row 0 is over'):
    world.step([0], ['noop'])


def finish(world, *names):
  tasks = world.reset([Task(f'local:{name}', 0) for name in names])
  return world.step(
      range(len(tasks)),
      [f'click {named(t.initial_state, "button")}' if t.initial_state
       else 'noop' for t in tasks])


def test_failures_are_errors_counted_and_quarantined(world):
  before = dict(world.counts)
  broken, gone = finish(world, 'broken', 'gone')
  assert broken.error == "evaluator: KeyError: 'no reference answer'"
  assert gone.error.startswith('site: gone (http://127.0.0.1:')
  assert 'ERR_CONNECTION_REFUSED' in gone.error
  assert broken.done and gone.done and not broken.reward
  good, hanging = finish(world, 'good', 'hanging')
  assert (good.reward, good.done, good.error) == (1., True, '')
  assert hanging.error == f'timeout: step took longer than {STEP_TIMEOUT:g} s'
  assert world.restarts == 1
  again, other = finish(world, 'broken', 'good')
  assert again.error == broken.error and other.reward == 1.
  # Twice in a row: out, without a browser being asked.
  start = time.monotonic()
  out, = finish(world, 'broken')
  assert time.monotonic() - start < 1. or not world._workers
  assert out.error.startswith('quarantine: local.broken broke 2 times in a row')
  counts = {k: n - before.get(k, 0) for k, n in world.counts.items()}
  assert counts == {'evaluator': 2, 'site': 1, 'timeout': 1, 'quarantine': 1,
                    'retried': 1, 'episodes': 2}
  kept = world.quarantine._path
  assert {name: entry['breaks'] for name, entry in json.loads(
      pathlib.Path(kept).read_text()).items()} == {
          'local.broken': 2, 'local.hanging': 1}    # a dead site is no fault


def test_a_click_waits_for_a_page_that_is_busy(world):
  busy, = finish(world, 'busy')
  assert (busy.reward, busy.is_invalid, busy.error) == (1., False, '')


def test_tasks_that_write_come_alone_and_are_cleaned_up_after(world, put_back):
  with pytest.raises(checks.EnvError, match='cannot run at once'):
    world.reset([Task('local:good', 0), Task('local:writing', 0)])
  with pytest.raises(checks.EnvError, match='max_rows=2'):
    world.reset([Task('local:good', 0)] * 3)
  assert put_back == []
  assert finish(world, 'writing')[0].reward == 1.
  assert put_back == ['shop'] and world.sites.dirty == {'shop'}
  assert finish(world, 'good')[0].reward == 1.
  assert put_back == ['shop', 'shop'] and not world.sites.dirty
  unhooked = webarena.WebArena(sites={}, find=find)
  with pytest.raises(checks.EnvError, match='local.writing.*give reset_site'):
    unhooked.reset([Task('local:writing', 0)])
  unhooked.close()


def test_a_row_begins_anew_beside_those_that_go_on(world):
  good, _ = world.reset([Task('local:good', 0), Task('local:good', 0)])
  with pytest.raises(checks.EnvError, match='cannot run at once'):
    world.reset([Task('local:writing', 0)], [1])
  begun, = world.reset([Task('miniwob:LoginUserTask', 1)], [1])
  seen = world.step([0, 1], [
      f'click {named(good.initial_state, "button")}', 'noop'])
  assert (seen[0].reward, seen[0].done) == (1., True)
  assert seen[1].state == begun.initial_state and not seen[1].done
  assert not world.sites.dirty
  world.reset([Task('local:writing', 0)], [0])    # the site's row is over
  assert world.sites.dirty == {'shop'}
  assert not world.step([1], ['noop'])[0].error


def test_webarenas_own_task_and_evaluator_decide(world):
  """The zip code of Chatham University (15232), asked on a site of ours."""
  family = 'webarena-lite-map'
  seed, item = next((n, i) for n, i in enumerate(
      webarena_tasks.families()[family]) if i.number == 71)
  tasks = world.reset([Task(family, seed)] * 2)
  assert tasks[0].instruction == item.intent
  assert 'text: It takes 51 minutes.' in tasks[0].initial_state
  right, wrong = world.step([0, 1], ['answer It\'s "15232".', 'answer 15233'])
  assert (right.reward, right.done, right.error) == (1., True, '')
  assert (wrong.reward, wrong.done, wrong.error) == (0., True, '')


def test_it_is_off_until_the_addresses_are_set(monkeypatch):
  for name in [n for n in os.environ if n.startswith('WA_')]:
    monkeypatch.delenv(name)
  with pytest.raises(checks.EnvError, match='WA_SHOPPING, WA_SHOPPING_ADMIN'):
    webarena.WebArena()
