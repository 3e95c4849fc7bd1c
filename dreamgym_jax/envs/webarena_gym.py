"""BrowserGym environments in this process as a World: WebArena's, any other.

What BrowserGym's task decides is kept: what an action does, when an episode is
over, and its reward. Only what nobody looks at is left out: the second browser
of its chat window, and screenshots.

Playwright's sync API belongs to one thread, and a page can hang it, so this
runs in a process of its own: see envs/webarena, or envs/pool.
"""

import dataclasses
import functools
import importlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib import parse

from dreamgym_jax import types
from dreamgym_jax.envs import (
    checks,
    chromium,
    webarena_state,
    webarena_tasks,
)
from dreamgym_jax.text import actions as actions_lib
from dreamgym_jax.text import states

if TYPE_CHECKING:
  from browsergym.core import env as env_lib

Task, Observation = types.Task, types.Observation
MAX_STEPS = 30
# What an error starts with: who is to blame.
SITE, EVALUATOR, SETUP, PAGE, INSTALL = (
    'site', 'evaluator', 'setup', 'page', 'install')
_WON = .99                 # evaluators pay 0 or 1, pages may pay in part
_SUBSETS = ('bid', 'chat', 'nav', 'infeas')
_RENAMED = {'answer': 'send_msg_to_user'}
_WAIT = 500                # ms of a noop
_PATIENCE = 5000           # ms until an element must let itself be acted on
_SCROLL = {'down': 500, 'up': -500}    # pixels
_DEAD = ('net::ERR_', 'ECONNREFUSED', 'ERR_CONNECTION')
_TASK_CLASS = {webarena_tasks.FULL: 'GenericWebArenaTask',
               webarena_tasks.LITE: 'WebArenaLiteTask'}
OpenEnv = Callable[[Task], 'env_lib.BrowserEnv']


class _Chat:
  """BrowserGym's record of messages, without a window of its own."""

  def __init__(self, **_: object):
    self.messages: list[dict] = []

  def add_message(self, role: str, msg: str) -> None:
    if role != 'info':
      self.messages.append(
          {'role': role, 'timestamp': time.time(), 'message': msg})

  def close(self) -> None:
    pass


@functools.cache
def _action_set() -> Any:
  from browsergym.core.action import highlevel
  actions = highlevel.HighLevelActionSet(
      list(_SUBSETS), strict=True, multiaction=False)
  # A busy machine takes longer than BrowserGym's half a second to click, and
  # its slowness would be the policy's invalid action.
  actions.python_includes = actions.python_includes.replace(
      'timeout=500', f'timeout={_PATIENCE}')
  return actions


def translate(action: actions_lib.Action, bid: str = '') -> str:
  """The action in BrowserGym's words, e.g. `fill('a51', 'it\\'s')`.

  Every verb of text/actions that BrowserGym has is known, under the same name;
  `answer` is its `send_msg_to_user`. Arguments are ASCII string literals.
  Raises ActionError for what BrowserGym cannot do.
  """
  takes_element, takes_argument = actions_lib.VERBS[action.verb]
  name = _RENAMED.get(action.verb, action.verb)
  if name not in _action_set().action_set:
    raise actions_lib.ActionError(f'{action.verb} cannot be done in a browser')
  if name == 'noop':
    return f'noop({_WAIT})'
  if name == 'scroll':
    if action.argument not in _SCROLL:
      raise actions_lib.ActionError('scroll wants up or down')
    return f'scroll(0, {_SCROLL[action.argument]})'
  if name == 'goto' and parse.urlparse(action.argument).scheme not in (
      'http', 'https'):
    raise actions_lib.ActionError(f'not an address: {action.argument[:60]!r}')
  texts = [bid] * takes_element + [action.argument] * takes_argument
  return f'{name}({", ".join(map(ascii, texts))})'


def open_env(
    make_task: Callable[..., object], timeout: float = 10., delay: float = .5
) -> 'env_lib.BrowserEnv':
  """A BrowserGym environment, not reset yet.

  Args:
    make_task: seed -> a BrowserGym task.
    timeout: seconds that Playwright waits for a page.
    delay: seconds between an action and reading the page; live sites need some.
  """
  from browsergym.core import env as env_lib
  env_lib.Chat = _Chat
  env_lib.extract_screenshot = lambda page: None
  return env_lib.BrowserEnv(
      make_task, slow_mo=0, timeout=int(1000 * timeout),
      pre_observation_delay=delay, action_mapping=_action_set().to_python_code,
      pw_chromium_kwargs={'executable_path': chromium.find_chromium()})


def open_webarena(
    task: Task, timeout: float = 10., delay: float = .5
) -> 'env_lib.BrowserEnv':
  """The environment of a WebArena or WebArena-Lite task."""
  item = webarena_tasks.find(task)
  try:
    module = importlib.import_module(f'browsergym.{item.benchmark}.task')
  except Exception as error:     # also NLTK's of many kinds
    raise checks.EnvError(
        f'cannot import BrowserGym\'s WebArena ({type(error).__name__}: '
        f'{error}): pip install --no-deps -r requirements-webarena.txt, and '
        'once `python -m nltk.downloader punkt_tab`') from error
  make_task = functools.partial(
      getattr(module, _TASK_CLASS[item.benchmark]), task_id=item.number)
  return open_env(make_task, timeout, delay)


@dataclasses.dataclass
class _Row:
  env: 'env_lib.BrowserEnv'
  goal: str = ''
  url: str = ''
  shown: webarena_state.Shown = webarena_state.Shown('', {}, {}, {})
  bodies: Mapping[str, str] | None = None     # key -> body, of the last page
  steps: int = 0
  is_over: bool = False


class GymWorld:
  """A types.World of BrowserGym environments, one browser for each row."""

  def __init__(
      self, open_env: OpenEnv, max_steps: int = MAX_STEPS,
      select: webarena_state.Select = webarena_state.by_rule,
  ):
    """`open_env` makes the environment of a task; see `open_webarena`."""
    self._open_env, self.max_steps, self._select = open_env, max_steps, select
    self._rows: dict[int, _Row] = {}

  def reset(
      self, tasks: Sequence[Task], rows: Sequence[int] | None = None
  ) -> list[Task]:
    """Opens a browser for each task; raises EnvError `blame: what failed`."""
    if rows is None:
      self.close()
      rows = range(len(tasks))
    return [self._begin(i, task) for i, task in zip(rows, tasks, strict=True)]

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[Observation]:
    """Acts in the rows in turn; raises ValueError for a finished row."""
    checks.check_rows(rows, lambda i: self._rows[i].is_over)
    answers = []
    for i, text in zip(rows, actions, strict=True):
      row = self._rows[i]
      row.steps += 1
      try:
        answer = self._act(row, text)
      except Exception as error:    # the task's and the site's of any kind
        answer = Observation(
            row.shown.state, done=True, error=_explain(error, PAGE))
      row.is_over = answer.done
      if row.is_over:
        _close(row.env)
      answers.append(answer)
    return answers

  def close(self) -> None:
    """Ends the browsers; harmless when they are gone already."""
    for row in self._rows.values():
      _close(row.env)
    self._rows = {}

  def _begin(self, i: int, task: Task) -> Task:
    if i in self._rows:
      _close(self._rows.pop(i).env)
    try:
      row = self._rows[i] = _Row(self._open_env(task))
      seen, _ = row.env.reset(seed=task.seed)
      row.goal = ' '.join(seen['goal'].split())
      self._look(row, seen)
    except Exception as error:      # the task's and the site's of any kind
      if i in self._rows:
        _close(self._rows.pop(i).env)
      raise checks.EnvError(_explain(error, SETUP)) from error
    return dataclasses.replace(
        task, instruction=row.goal, initial_state=row.shown.state)

  def _act(self, row: _Row, text: str) -> Observation:
    is_last = row.steps >= self.max_steps
    try:
      action = actions_lib.parse(text)
      bid = ''
      if actions_lib.VERBS[action.verb][0]:
        bid = row.shown.bid_of.get(action.element, '')
        if not bid:
          raise actions_lib.ActionError(actions_lib.NO_ELEMENT)
      options = row.shown.options.get(action.element, {})
      call = translate(action._replace(
          argument=options.get(action.argument, action.argument)), bid)
    except actions_lib.ActionError:
      return Observation(
          states.invalid(row.shown.state), done=is_last, is_invalid=True)
    seen, reward, is_over, _, _ = row.env.step(call)
    error = seen['last_action_error']
    if any(sign in error for sign in _DEAD):
      raise checks.EnvError(error)
    if is_over:
      return Observation(states.OVER, float(reward > _WON), True)
    self._look(row, seen)
    if error:
      return Observation(
          states.invalid(row.shown.state), done=is_last, is_invalid=True)
    return Observation(row.shown.state, done=is_last)

  def _look(self, row: _Row, seen: Mapping[str, Any]) -> None:
    """Reads the page; ids start again where the address changes."""
    url = parse.urldefrag(seen['url']).url
    if url.startswith('chrome-error:'):
      raise checks.EnvError(f'net::ERR_ no answer after {row.url!r}')
    if url != row.url:
      row.url, row.bodies = url, None
      row.shown = row.shown._replace(id_of={})
    candidates = webarena_state.read(seen, row.bodies)
    row.bodies = {c.key: c.body for c in candidates}
    row.shown = webarena_state.render(
        candidates, self._select(row.goal, candidates), row.shown.id_of)


def _explain(error: Exception, blame: str) -> str:
  """`blame: what went wrong`, in one line."""
  text = f'{type(error).__name__}: {error}'.splitlines()[0][:300]
  if any(sign in str(error) for sign in _DEAD):
    blame = SITE
  elif isinstance(error, checks.EnvError):
    blame, text = INSTALL, str(error)
  elif any(frame.name == '_task_validate'
           for frame in traceback.extract_tb(error.__traceback__)):
    blame = EVALUATOR
  return f'{blame}: {text}'


def _close(env: 'env_lib.BrowserEnv') -> None:
  # The task's teardown comes first in env.close: it must not save the browser.
  for close in (env.close, lambda: env.browser and env.browser.close()):
    try:
      close()
    except Exception:     # a browser that is gone cannot be closed
      continue
