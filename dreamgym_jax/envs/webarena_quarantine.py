"""Tasks that broke again and again, kept out until someone looks at them."""

import json
import os
import pathlib

from dreamgym_jax.envs import checks

_FILE = 'webarena_quarantine.json'


class Quarantine:
  """Counts how often each task broke; past `max_breaks` in a row it is out.

  The counts are in `DIRECTORY/webarena_quarantine.json`, replaced as a whole at
  every change; delete a task's entry, or the file, to try again. Without a
  directory they last as long as the object.
  """

  def __init__(self, directory: str = '', max_breaks: int = 3):
    if max_breaks < 1:
      raise ValueError(f'max_breaks must be at least 1, got {max_breaks}')
    self._path = pathlib.Path(directory, _FILE) if directory else None
    self._max_breaks = max_breaks
    # task name -> {'breaks': in a row, 'total': ever, 'last': error}
    self.entries: dict[str, dict] = {}
    if self._path and self._path.exists():
      self.entries = _load(self._path)

  def reason(self, name: str) -> str:
    """Why the task is out; '' if it is not."""
    entry = self.entries.get(name)
    if not entry or entry['breaks'] < self._max_breaks:
      return ''
    return (f'{name} broke {entry["breaks"]} times in a row, last: '
            f'{entry["last"]}')

  def note_break(self, name: str, error: str) -> None:
    entry = self.entries.setdefault(name, {'breaks': 0, 'total': 0})
    entry.update(breaks=entry['breaks'] + 1, total=entry['total'] + 1,
                 last=error)
    self._save()

  def note_good(self, name: str) -> None:
    """An episode that ended without an error; the count starts again."""
    if self.entries.get(name, {}).get('breaks'):
      self.entries[name]['breaks'] = 0
      self._save()

  def _save(self) -> None:
    if self._path is None:
      return
    self._path.parent.mkdir(parents=True, exist_ok=True)
    new = self._path.with_suffix(f'.{os.getpid()}.tmp')
    new.write_text(json.dumps(self.entries, indent=1, sort_keys=True),
                   encoding='utf-8')
    new.replace(self._path)


def _load(path: pathlib.Path) -> dict[str, dict]:
  try:
    entries = json.loads(path.read_text(encoding='utf-8'))
    for entry in entries.values():
      entry['breaks'] + entry['total'] + len(entry['last'])
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise checks.EnvError(
        f'{path} is no record of broken tasks ({error}); mend or delete '
        'it') from error
  return entries
