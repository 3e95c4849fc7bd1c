"""The sites under WebArena's tasks: which answer, which are as they should be.

A task that writes leaves its sites changed for all that come after it. So a
site is put back, by a hook that the user gives, before a task that writes works
on it, and after one did before anything else does.
"""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib import parse

# Puts one site back: site name -> None; or a command, run with the site's name
# as its last argument and never by a shell.
Hook = Callable[[str], object] | Sequence[str]
_PROBE = 3.      # seconds to connect


class Sites:
  """What is known about the sites of one set of addresses."""

  def __init__(
      self, addresses: Mapping[str, str], hook: Hook | None = None,
      timeout: float = 900.
  ):
    """`timeout` in seconds bounds one call of the hook."""
    if isinstance(hook, str):
      raise ValueError(
          f'reset_site={hook!r}: want a list, e.g. {hook.split()}, for no '
          'shell reads it; or a function of the site')
    self._addresses, self._hook, self._timeout = addresses, hook, timeout
    self._clean: set[str] = set()    # put back, and only read since
    self._dirty: set[str] = set()
    self.resets = 0

  @property
  def has_hook(self) -> bool:
    return self._hook is not None

  @property
  def dirty(self) -> set[str]:
    """The sites that a task has written to since they were put back."""
    return set(self._dirty)

  def dead(self, sites: Iterable[str]) -> str:
    """Which of the sites does not answer at all, with its address; or ''."""
    for site in sites:
      address = parse.urlparse(self._addresses.get(site, ''))
      if not address.hostname:
        continue
      port = address.port or (443 if address.scheme == 'https' else 80)
      try:
        socket.create_connection((address.hostname, port), _PROBE).close()
      except OSError as error:
        return f'{site} ({address.geturl()}) does not answer: {error}'
    return ''

  def prepare(self, sites: Iterable[str], writes: bool) -> str:
    """Makes the sites fit for a task; '' or why they are not.

    For one that writes they are known to be clean afterwards, for one that
    reads they are not known to be dirty.
    """
    for site in sorted(sites):
      if site in self._dirty or writes and site not in self._clean:
        if error := self._reset(site):
          return f'cannot reset {site}: {error}'
    return ''

  def soil(self, sites: Iterable[str]) -> None:
    """A task that writes starts on these."""
    self._clean -= set(sites)
    self._dirty |= set(sites)

  def _reset(self, site: str) -> str:
    self.resets += 1
    if callable(self._hook):
      error = _call(self._hook, site, self._timeout)
    else:
      error = _run([*self._hook, site], self._timeout)
    if not error:
      self._clean.add(site)
      self._dirty.discard(site)
    return error


def _call(hook: Callable[[str], object], site: str, timeout: float) -> str:
  failure = [f'the hook took longer than {timeout:g} s']

  def work() -> None:
    try:
      hook(site)
      failure.clear()
    except Exception as error:       # the user's, of any kind
      failure[0] = f'{type(error).__name__}: {error}'

  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  thread.join(timeout)
  return ''.join(failure)


def _run(command: list[str], timeout: float) -> str:
  try:
    subprocess.run(command, check=True, timeout=timeout, capture_output=True)
  except (OSError, subprocess.SubprocessError) as error:
    return str(error)
  return ''
