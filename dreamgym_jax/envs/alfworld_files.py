"""The official games of ALFWorld, as alfworld-download leaves them.

Their families are those of alfworld_games and 'alfworld-pick-seen' besides: the
split json_2.1.1/train, valid_unseen behind '-unseen', valid_seen behind
'-seen'. A seed is a number in the order of their paths.
"""

import dataclasses
import functools
import json
import pathlib

from dreamgym_jax import types
from dreamgym_jax.envs import alfworld_games, checks

_SPLITS = {'': 'train', alfworld_games.SEEN: 'valid_seen',
           alfworld_games.UNSEEN: 'valid_unseen'}


@dataclasses.dataclass(frozen=True)
class Official:
  """The games of ALFWorld's data, below `path` (what ALFWORLD_DATA names)."""

  path: str

  def game(self, task: types.Task) -> dict:
    """The game file of a task; raises EnvError, naming a broken file."""
    kind, suffix = alfworld_games.split_family(task.family)
    root = pathlib.Path(self.path) / 'json_2.1.1' / _SPLITS[suffix]
    files = _files(root, alfworld_games.KINDS[kind])
    if not 0 <= task.seed < len(files):
      raise checks.EnvError(f'{task.task_id}: {root} has {len(files)} games '
                            'of this kind')
    return read_game(files[task.seed])


def read_game(path: pathlib.Path) -> dict:
  """A game.tw-pddl file; raises EnvError naming it where it is broken."""
  try:
    game = json.loads(path.read_text())
    for key in ('pddl_domain', 'pddl_problem', 'grammar'):
      if not isinstance(game[key], str):
        raise ValueError(f'{key} is no text')
  except OSError as error:
    raise checks.EnvError(f'{path}: {error}') from error
  except (ValueError, KeyError, TypeError) as error:
    raise checks.EnvError(
        f'{path}: no game of ALFWorld ({error!r}); download it again with '
        'alfworld-download') from error
  return game


@functools.lru_cache(32)
def _files(root: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Solvable games of a kind; those that ALFWorld itself leaves out, are."""
  found = []
  for path in sorted(root.glob('*/*/game.tw-pddl')):
    parent = str(path.parent)
    if f'/{name}-' in parent and not (
        'movable' in parent or 'Sliced' in parent):
      if read_game(path).get('solvable'):
        found.append(path)
  if not found:
    raise checks.EnvError(f'{root} has no games of {name!r}; run '
                          'alfworld-download, or leave ALFWORLD_DATA unset '
                          'for generated ones')
  return found
