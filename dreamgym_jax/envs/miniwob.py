"""MiniWoB++ in real Chromium as a World: text states in, text actions out.

The task pages are those of the installed `miniwob` wheel; they decide what an
action does and when a task is solved. Every row is a same-origin iframe of one
host page, so that a single call into the browser steps a whole batch; what
runs inside the page are miniwob_page.js and miniwob_input.js.

Mode 'script' sends input events through JavaScript; mode 'user' has Playwright
move the mouse and type keys in the same frames, slower and closer to a person.

Playwright's sync API belongs to one thread and refuses to run inside an asyncio
loop (notebooks): use envs/pool.py there.
"""

import collections
import dataclasses
import difflib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import threading
from collections.abc import Callable, Sequence

from playwright import sync_api

from dreamgym_jax import types
from dreamgym_jax.text import actions as actions_lib
from dreamgym_jax.text import states

Task, Observation = types.Task, types.Observation

SCRIPT, USER = 'script', 'user'
_SCRIPTS = tuple(
    pathlib.Path(__file__).with_name(name)
    for name in ('miniwob_page.js', 'miniwob_input.js'))
_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_DEBIAN = '/usr/lib/chromium/chromium'
_FLAGS = (
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update',
    '--disable-sync',
    # The host page and its frames are files: one origin only with this.
    '--allow-file-access-from-files',
    # Frames out of sight must run as fast as those in view.
    '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
    '--disable-backgrounding-occluded-windows',
)
_MAX_FRAMES = 96        # loaded pages kept for reuse, least recently used go
_USER_TIMEOUT = 2000.   # ms for one action of Playwright, e.g. while covered
_WON = .99              # some pages pay in part; only full marks are success


class EnvError(RuntimeError):
  """The real environment cannot be had; the message says what to do."""


class _Driver(threading.local):
  """Playwright's own process: one thread can have one, worlds share it."""

  users = 0

  def acquire(self) -> sync_api.Playwright:
    if not self.users:
      try:
        self._playwright = sync_api.sync_playwright().start()
      except sync_api.Error as error:
        raise EnvError(
            f'Playwright does not start here: {error} In a notebook put the '
            'world into envs.pool.Pool.') from error
    self.users += 1
    return self._playwright

  def release(self) -> None:
    self.users -= 1
    if not self.users:
      self._playwright.stop()


_driver = _Driver()


@dataclasses.dataclass
class _Row:
  """Where an episode stands. Frames outlive episodes, rows do not."""

  frame: int
  state: str
  steps: int = 0
  is_over: bool = False
  error: str = ''       # the browser died under this row


def find_chromium() -> str:
  """Path of a Chromium; raises EnvError naming how to install one."""
  for name in _NAMES:
    if path := shutil.which(name):
      return path
  if os.environ.get('PATH') and os.access(_DEBIAN, os.X_OK):
    return _DEBIAN
  path = _driver.acquire().chromium.executable_path
  _driver.release()
  if os.access(path, os.X_OK):
    return path
  raise EnvError(
      'no Chromium found; install one with `apt-get install chromium` or '
      '`playwright install chromium`')


def find_pages() -> pathlib.Path:
  """Folder of the task pages, without importing miniwob and its selenium."""
  spec = importlib.util.find_spec('miniwob')
  if spec is None:
    raise EnvError('no MiniWoB++ pages found; `pip install miniwob`')
  return pathlib.Path(spec.submodule_search_locations[0]) / 'html' / 'miniwob'


class MiniWob:
  """A types.World of MiniWoB++ pages in one browser.

  A browser that dies or hangs is started again; the rows it took along answer
  with `error` set and done, and `restarts` counts how often that happened.
  """

  def __init__(
      self, max_steps: int = 8, mode: str = SCRIPT, timeout: float = 10.
  ):
    """`timeout` in seconds bounds every call into the browser."""
    if mode not in (SCRIPT, USER):
      raise ValueError(f'mode is {SCRIPT!r} or {USER!r}, got {mode!r}')
    self.max_steps, self.mode, self.timeout = max_steps, mode, timeout
    self.restarts = 0
    self._pages = find_pages()
    self._families = {p.stem for p in self._pages.glob('*.html')}
    self._chromium = find_chromium()
    self._rows: list[_Row] = []
    self._playwright = _driver.acquire()
    try:
      self._launch()
    except BaseException:
      _driver.release()
      raise

  def reset(self, tasks: Sequence[Task]) -> list[Task]:
    """Row i starts on tasks[i]; the same (family, seed) gives the same page.

    Raises EnvError for an unknown family, or if a page fails twice.
    """
    for family in sorted({t.family for t in tasks} - self._families):
      near = difflib.get_close_matches(family, sorted(self._families))
      hint = f'; did you mean {" or ".join(near)}?' if near else ''
      raise EnvError(f'no MiniWoB page named {family!r}{hint}')
    try:
      starts = self._begin(tasks)
    except sync_api.Error as error:
      self._relaunch()
      try:
        starts = self._begin(tasks)
      except sync_api.Error:
        raise EnvError(f'cannot reset in a fresh browser: {error}') from error
    return [
        dataclasses.replace(
            task, instruction=start['instruction'],
            initial_state=start['state'])
        for task, start in zip(tasks, starts, strict=True)
    ]

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[Observation]:
    """Acts in the rows, all at once; raises ValueError for a finished row."""
    if len(set(rows)) != len(rows):
      raise ValueError(f'the same row twice: {list(rows)}')
    parsed, answers = {}, {}
    for i, text in zip(rows, actions, strict=True):
      row = self._rows[i]
      if row.error:
        answers[i] = self._lost(row)
        continue
      if row.is_over:
        raise ValueError(f'the episode of row {i} is over')
      row.steps += 1
      try:
        parsed[i] = actions_lib.parse(text)
      except actions_lib.ActionError:
        answers[i] = self._invalid(row)
    try:
      answers |= self._act(parsed)
    except sync_api.Error as error:
      # Frames share the browser, so the rows not in this call are lost too.
      for row in self._rows:
        if not row.is_over:
          row.error = f'the browser was lost: {str(error).splitlines()[0]}'
      self._relaunch()
      answers |= {i: self._lost(self._rows[i]) for i in parsed}
    return [answers[i] for i in rows]

  def close(self) -> None:
    """Ends the browser; harmless when it is gone already."""
    if self._playwright is None:
      return
    with self._watch():
      try:
        self._browser.close()
      except sync_api.Error:
        pass
    _driver.release()
    self._playwright = None

  def _act(
      self, parsed: dict[int, actions_lib.Action]
  ) -> dict[int, Observation]:
    if not parsed:
      return {}
    invalid = {}
    calls = []
    for i, action in parsed.items():
      frame = self._rows[i].frame
      call = (frame, action.verb, action.element, action.argument)
      if self.mode == USER:
        invalid[i] = self._act_as_user(*call)
        call = (frame, '', 0, '')
      calls.append(call)
    results = json.loads(self._evaluate(
        'json => dreamgym.step(json)', json.dumps(calls)))
    answers = {}
    for i, result in zip(parsed, results, strict=True):
      row = self._rows[i]
      if 'error' in result:
        row.error = result['error']
        answers[i] = self._lost(row)
      elif result['invalid'] or invalid.get(i):
        answers[i] = self._invalid(row)
      else:
        row.is_over = result['done'] or row.steps >= self.max_steps
        row.state = states.OVER if result['done'] else result['state']
        reward = float(result['done'] and result['raw'] > _WON)
        answers[i] = Observation(row.state, reward, row.is_over)
    return answers

  def _act_as_user(
      self, index: int, verb: str, element: int, argument: str
  ) -> str:
    """One action with mouse and keys; '' or why it cannot be carried out."""
    frame = self._frame(index)
    where = [element, argument]
    error = self._evaluate(
        '([i, verb, id, argument]) => dreamgym.check('
        'dreamgym.frames[i].contentWindow, verb, id, argument)',
        [index, verb, *where])
    if error or verb == 'noop':
      return error
    with self._watch():
      handle = frame.evaluate_handle(
          'id => top.dreamgym.element(window, id)', element).as_element()
      act: dict[str, Callable[[], object]] = {
          'click': lambda: handle.click(timeout=_USER_TIMEOUT),
          'dblclick': lambda: handle.dblclick(timeout=_USER_TIMEOUT),
          'hover': lambda: handle.hover(timeout=_USER_TIMEOUT),
          'focus': handle.focus,
          'clear': lambda: handle.fill('', timeout=_USER_TIMEOUT),
          'fill': lambda: handle.fill(argument, timeout=_USER_TIMEOUT),
          'press': lambda: handle.press(argument, timeout=_USER_TIMEOUT),
          'select_option': lambda: handle.select_option(
              index=frame.evaluate(
                  '([id, text]) => top.dreamgym.optionIndex(window, id, text)',
                  where),
              timeout=_USER_TIMEOUT),
      }
      try:
        act[verb]()
      except sync_api.TimeoutError as timeout:
        return str(timeout)   # covered by something: no user could do it
    return ''

  def _frame(self, index: int) -> sync_api.Frame:
    with self._watch():
      handle = self._page.evaluate_handle(
          'i => dreamgym.frames[i]', index).as_element()
      return handle.content_frame()

  def _begin(self, tasks: Sequence[Task]) -> list[dict]:
    """Loads and starts every row's page; one retry of rows that fail."""
    frames, is_new = self._assign([t.family for t in tasks])
    calls = [
        (frame, self._url(task.family) if new else '', task.seed)
        for frame, new, task in zip(frames, is_new, tasks, strict=True)
    ]
    starts = self._start(calls)
    failed = [n for n, start in enumerate(starts) if 'error' in start]
    if failed:
      again = self._start([
          (frames[n], self._url(tasks[n].family), tasks[n].seed)
          for n in failed])
      for n, start in zip(failed, again, strict=True):
        if 'error' in start:
          raise EnvError(f'{tasks[n].task_id}: {start["error"]}')
        starts[n] = start
    self._rows = [
        _Row(frame, start['state'])
        for frame, start in zip(frames, starts, strict=True)]
    return starts

  def _start(self, calls: list[tuple]) -> list[dict]:
    # Loading is slower than acting: every page on a loaded machine, in turn.
    loads = sum(bool(url) for _, url, _ in calls)
    return json.loads(self._evaluate(
        '([json, timeout]) => dreamgym.reset(json, timeout)',
        [json.dumps(calls), self.timeout + loads],
        timeout=2 * (self.timeout + loads)))

  def _assign(self, families: list[str]) -> tuple[list[int], list[bool]]:
    """A frame for every row, and whether its page is still to be loaded."""
    free = collections.defaultdict(list)
    for frame, family in self._family_of.items():   # oldest use first
      free[family].append(frame)
    taken = [free[f].pop() if free[f] else -1 for f in families]
    spare = [f for f in self._family_of if f not in set(taken)]
    is_new = [frame < 0 for frame in taken]
    for n, family in enumerate(families):
      if taken[n] < 0:
        size = len(self._family_of)
        taken[n] = spare.pop(0) if size >= _MAX_FRAMES and spare else size
        self._family_of.pop(taken[n], None)
      else:
        self._family_of.pop(taken[n])
      self._family_of[taken[n]] = family
    return taken, is_new

  def _url(self, family: str) -> str:
    return (self._pages / f'{family}.html').as_uri()

  def _invalid(self, row: _Row) -> Observation:
    row.is_over = row.steps >= self.max_steps
    return Observation(
        states.invalid(row.state), done=row.is_over, is_invalid=True)

  def _lost(self, row: _Row) -> Observation:
    row.is_over = True
    return Observation(row.state, done=True, error=row.error)

  def _launch(self) -> None:
    self._browser = self._playwright.chromium.launch(
        executable_path=self._chromium, headless=True, args=list(_FLAGS),
        timeout=3000 * self.timeout)
    session = self._browser.new_browser_cdp_session()
    processes = session.send('SystemInfo.getProcessInfo')['processInfo']
    self._pid = next(p['id'] for p in processes if p['type'] == 'browser')
    # Script input needs no frame in view, and what is not in view is not
    # painted: a tenth of the work.
    size = (200, 100) if self.mode == SCRIPT else (1400, 1000)
    self._page = self._browser.new_page(
        viewport={'width': size[0], 'height': size[1]})
    self._page.set_default_timeout(1000 * self.timeout)
    # One script: the order of several is not promised.
    self._page.add_init_script('\n'.join(
        path.read_text(encoding='utf-8') for path in _SCRIPTS))
    # Any file may be the host, as long as it brings no scripts of its own.
    self._page.goto(_SCRIPTS[0].as_uri())
    self._page.evaluate('document.body.replaceChildren()')
    self._family_of: dict[int, str] = {}

  def _relaunch(self) -> None:
    self.restarts += 1
    _kill(self._pid)
    try:
      self._browser.close()
    except sync_api.Error:
      pass
    try:
      self._launch()
    except sync_api.Error as error:
      raise EnvError(f'the browser does not start again: {error}') from error

  def _evaluate(
      self, code: str, argument: object, timeout: float = 0.
  ) -> str:
    with self._watch(timeout):
      return self._page.evaluate(code, argument)

  def _watch(self, timeout: float = 0.) -> '_Watch':
    return _Watch(self._pid, timeout or self.timeout)


class _Watch:
  """Kills the browser when the block takes too long.

  Playwright's evaluate has no time-out of its own and waits for ever on a page
  that loops; once the browser is dead it raises.
  """

  def __init__(self, pid: int, timeout: float):
    self._timer = threading.Timer(timeout, _kill, [pid])
    self._timer.daemon = True

  def __enter__(self) -> None:
    self._timer.start()

  def __exit__(self, *_) -> None:
    self._timer.cancel()


def _kill(pid: int) -> None:
  try:
    os.kill(pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
