"""A headless Chromium that cannot hang its caller and can be started again.

Playwright's sync API belongs to one thread and refuses to run inside an asyncio
loop (notebooks): use envs/pool.py there.
"""

import os
import shutil
import signal
import threading

from playwright import sync_api

from dreamgym_jax.envs import checks

EnvError = checks.EnvError
Error, TimeoutError = sync_api.Error, sync_api.TimeoutError

_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_DEBIAN = '/usr/lib/chromium/chromium'
_FLAGS = (
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update',
    '--disable-sync',
    # Files are one origin only with this: a host page may read its frames.
    '--allow-file-access-from-files',
    # Frames out of sight must run as fast as those in view.
    '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
    '--disable-backgrounding-occluded-windows',
)



class _Driver(threading.local):
  """Playwright's own process: a thread can have only one, browsers share it."""

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


def find_chromium() -> str:
  """Path of a Chromium; raises EnvError naming how to install one."""
  for name in _NAMES:
    if path := shutil.which(name):
      return path
  if os.access(_DEBIAN, os.X_OK):
    return _DEBIAN
  path = _driver.acquire().chromium.executable_path
  _driver.release()
  if os.access(path, os.X_OK):
    return path
  raise EnvError(
      'no Chromium found; install one with `apt-get install chromium` or '
      '`playwright install chromium`')


class Browser:
  """One Chromium with one page that runs `script` in every document.

  Every call is bounded by `timeout` seconds: Playwright's evaluate waits for
  ever on a page that loops, so a watch kills the browser and the call raises
  chromium.Error. `restart` then gives a fresh one.
  """

  def __init__(self, script: str, size: tuple[int, int], timeout: float):
    self._script, self._size, self._timeout = script, size, timeout
    self._path = find_chromium()
    self._driver: sync_api.Playwright | None = _driver.acquire()
    try:
      self._launch()
    except BaseException:
      _driver.release()
      raise

  def goto(self, url: str) -> None:
    with self.watch():
      self._page.goto(url)

  def evaluate(
      self, code: str, argument: object = None, timeout: float = 0.
  ) -> str:
    with self.watch(timeout):
      return self._page.evaluate(code, argument)

  def frame(self, code: str, argument: object) -> sync_api.Frame:
    """The document of the iframe that the code gives."""
    with self.watch():
      handle = self._page.evaluate_handle(code, argument).as_element()
      return handle.content_frame()

  def watch(self, timeout: float = 0.) -> '_Watch':
    """A context that kills the browser when it lasts too long."""
    return _Watch(self.pid, timeout or self._timeout)

  def restart(self) -> None:
    """A new process in place of one that is dead, hung or wrong."""
    _kill(self.pid)
    self._close_browser()
    try:
      self._launch()
    except sync_api.Error as error:
      raise EnvError(f'the browser does not start again: {error}') from error

  def close(self) -> None:
    """Ends the process; harmless when it is gone already."""
    if self._driver is None:
      return
    self._close_browser()
    self._driver = None
    _driver.release()

  def _launch(self) -> None:
    self._browser = self._driver.chromium.launch(
        executable_path=self._path, headless=True, args=list(_FLAGS),
        timeout=3000 * self._timeout)
    session = self._browser.new_browser_cdp_session()
    processes = session.send('SystemInfo.getProcessInfo')['processInfo']
    self.pid = next(p['id'] for p in processes if p['type'] == 'browser')
    width, height = self._size
    self._page = self._browser.new_page(
        viewport={'width': width, 'height': height})
    self._page.set_default_timeout(1000 * self._timeout)
    self._page.add_init_script(self._script)

  def _close_browser(self) -> None:
    with self.watch():
      try:
        self._browser.close()
      except sync_api.Error:
        pass


class _Watch:

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
