"""MiniWoB++ in real Chromium as a World: text states in, text actions out.

The task pages are those of the installed `miniwob` wheel; they decide what an
action does and when a task is solved. Every row is a same-origin iframe of one
host page, so that a single call into the browser steps a whole batch; what
runs inside the page are miniwob_page.js (reads), miniwob_marks.js (says what
pages show without text) and miniwob_input.js (acts).

Mode 'script' sends input events through JavaScript; mode 'user' has Playwright
move the mouse and type keys in the same frames, slower and closer to a person.
"""

import collections
import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Callable, Sequence

from playwright import sync_api

from dreamgym_jax import types
from dreamgym_jax.envs import checks, chromium
from dreamgym_jax.text import actions as actions_lib
from dreamgym_jax.text import states

Task, Observation = types.Task, types.Observation

SCRIPT, USER = 'script', 'user'
_SCRIPTS = tuple(
    pathlib.Path(__file__).with_name(name)
    for name in ('miniwob_page.js', 'miniwob_marks.js', 'miniwob_input.js'))
_USER_TIMEOUT = 2000.   # ms for one action of Playwright, e.g. while covered
_WON = .99              # some pages pay in part; only full marks are success


EnvError = chromium.EnvError
find_chromium = chromium.find_chromium


@dataclasses.dataclass
class _Row:
  """Where an episode stands. Frames outlive episodes, rows do not."""

  frame: int
  state: str
  steps: int = 0
  is_over: bool = False
  error: str = ''       # the browser died under this row


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
      self, max_steps: int = 8, mode: str = SCRIPT, timeout: float = 10.,
      max_frames: int = 400,
  ):
    """`timeout` in seconds bounds every call into the browser.

    Up to `max_frames` loaded pages are kept for reuse, about 3 MB each: loading
    one takes .05-.1 s, starting it over some milliseconds.
    """
    if mode not in (SCRIPT, USER):
      raise ValueError(f'mode is {SCRIPT!r} or {USER!r}, got {mode!r}')
    self.max_steps, self.mode, self.timeout = max_steps, mode, timeout
    self.restarts, self._max_frames = 0, max_frames
    self._pages = find_pages()
    self._families = {p.stem for p in self._pages.glob('*.html')}
    self._rows: dict[int, _Row] = {}
    # One script: the order of several is not promised.
    script = '\n'.join(p.read_text(encoding='utf-8') for p in _SCRIPTS)
    # Script input needs no frame in view, and what is not in view is not
    # painted.
    size = (200, 100) if mode == SCRIPT else (1400, 1000)
    self._browser = chromium.Browser(script, size, timeout)
    try:
      self._open_host()
    except BaseException:
      self._browser.close()
      raise

  def reset(
      self, tasks: Sequence[Task], rows: Sequence[int] | None = None
  ) -> list[Task]:
    """As types.World; the same (family, seed) gives the same page.

    Raises EnvError for an unknown family, or if a page fails twice.
    """
    for family in sorted({t.family for t in tasks} - self._families):
      raise EnvError(f'no MiniWoB page named {family!r}'
                     + checks.did_you_mean(family, self._families))
    if rows is None:
      self._rows, rows = {}, range(len(tasks))
    for i in rows:    # their frames are free
      self._rows.pop(i, None)
    try:
      starts = self._begin(rows, tasks)
    except chromium.Error as error:
      self._relaunch(error)
      try:
        starts = self._begin(rows, tasks)
      except chromium.Error:
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
    checks.check_rows(
        rows, lambda i: self._rows[i].is_over and not self._rows[i].error)
    parsed, answers = {}, {}
    for i, text in zip(rows, actions, strict=True):
      row = self._rows[i]
      if row.error:
        answers[i] = self._lost(row)
        continue
      row.steps += 1
      try:
        parsed[i] = actions_lib.parse(text)
      except actions_lib.ActionError:
        answers[i] = self._invalid(row)
    try:
      answers |= self._act(parsed)
    except chromium.Error as error:
      self._relaunch(error)
      answers |= {i: self._lost(self._rows[i]) for i in parsed}
    return [answers[i] for i in rows]

  def close(self) -> None:
    """Ends the browser; harmless when it is gone already."""
    self._browser.close()

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
    results = json.loads(self._browser.evaluate(
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
    error = self._browser.evaluate(
        '''([i, verb, id, argument]) => {
          const win = dreamgym.frames[i].contentWindow;
          dreamgym.enter(win);
          return dreamgym.check(win, verb, id, argument);
        }''',
        [index, verb, element, argument])
    if error or verb == 'noop':
      return error
    if index not in self._frames:
      self._frames[index] = self._browser.frame(
          'i => dreamgym.frames[i]', index)
    frame, limit = self._frames[index], {'timeout': _USER_TIMEOUT}
    with self._browser.watch():
      handle = frame.evaluate_handle(
          'id => top.dreamgym.element(window, id)', element).as_element()
      act: dict[str, Callable[[], object]] = {
          'click': lambda: handle.click(**limit),
          'dblclick': lambda: handle.dblclick(**limit),
          'hover': lambda: handle.hover(**limit),
          'focus': handle.focus,
          'clear': lambda: handle.fill('', **limit),
          'fill': lambda: handle.fill(argument, **limit),
          'press': lambda: (
              frame.evaluate('id => top.dreamgym.moveCaret(window, id)',
                             element),
              handle.press(argument, **limit)),
          'select_option': lambda: handle.select_option(
              index=frame.evaluate(
                  '([id, text]) => top.dreamgym.optionIndex(window, id, text)',
                  [element, argument]), **limit),
      }
      try:
        act[verb]()
      except chromium.Error as failure:
        frame.evaluate('0')   # raises if it is the browser that failed
        return str(failure)   # e.g. covered by something: no user could
      handle.dispose()
    return ''

  def _begin(self, rows: Sequence[int], tasks: Sequence[Task]) -> list[dict]:
    """Loads and starts these rows' pages; one retry of those that fail."""
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
    self._rows.update(
        (i, _Row(frame, start['state']))
        for i, frame, start in zip(rows, frames, starts, strict=True))
    return starts

  def _start(self, calls: list[tuple]) -> list[dict]:
    # Loading is slower than acting: every page on a loaded machine, in turn.
    loads = sum(bool(url) for _, url, _ in calls)
    return json.loads(self._browser.evaluate(
        '([json, timeout]) => dreamgym.reset(json, timeout)',
        [json.dumps(calls), self.timeout + loads],
        timeout=2 * (self.timeout + loads)))

  def _assign(self, families: list[str]) -> tuple[list[int], list[bool]]:
    """A frame for each, and whether its page is still to be loaded."""
    in_play = {row.frame for row in self._rows.values()
               if not (row.is_over or row.error)}
    free = collections.defaultdict(list)
    for frame, family in self._family_of.items():   # oldest use first
      if frame not in in_play:
        free[family].append(frame)
    taken = [free[f].pop() if free[f] else -1 for f in families]
    spare = [f for f in self._family_of if f not in in_play | set(taken)]
    is_new = [frame < 0 for frame in taken]
    for n, family in enumerate(families):
      if taken[n] < 0:
        size = len(self._family_of)
        taken[n] = spare.pop(0) if size >= self._max_frames and spare else size
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

  def _open_host(self) -> None:
    # Any file may be the host, as long as it brings no scripts of its own.
    self._browser.goto(_SCRIPTS[0].as_uri())
    self._browser.evaluate('document.body.replaceChildren()')
    self._family_of: dict[int, str] = {}     # frame -> page, oldest use first
    self._frames: dict[int, sync_api.Frame] = {}

  def _relaunch(self, error: Exception) -> None:
    self.restarts += 1
    # Frames share the browser: rows that were not in the call are lost too.
    for row in self._rows.values():
      if not row.is_over:
        row.error = f'the browser was lost: {str(error).splitlines()[0]}'
    self._browser.restart()
    self._open_host()
