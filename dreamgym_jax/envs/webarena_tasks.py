"""The tasks of WebArena and WebArena-Lite: what they ask, where they write.

Read from the JSON files inside the wheels of libwebarena and
browsergym-webarenalite, without importing either (they bring large packages).

A family is a site and a benchmark. 'webarena-lite-SITE' are the 165 of
WebArena-Lite, with its corrected answers, for evaluation alone;
'webarena-SITE' are the other 647 of WebArena's 812, the training tasks. SITE is
one of `SITES`, 'several' where a task needs more than one. The seed is the
task's place in its family: first those that only read, then those that write,
each by number, so the first `n_reading(family)` seeds write nothing.
"""

import functools
import importlib.resources
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib import parse

from dreamgym_jax import types
from dreamgym_jax.envs import checks

SITES = ('shopping', 'shopping_admin', 'gitlab', 'map', 'reddit', 'wikipedia')
SEVERAL = 'several'
HOMEPAGE = 'homepage'
FULL, LITE = 'webarena', 'webarenalite'
_FILES = {FULL: ('webarena', 'test.raw.json'),
          LITE: ('browsergym', 'webarenalite', 'test_webarena_lite.raw.json')}
_PREFIX = {FULL: 'webarena-', LITE: 'webarena-lite-'}
_WRITABLE = ('shopping', 'shopping_admin', 'gitlab', 'reddit')
# First words of clauses that ask for a change.
_WRITING = frozenset(
    'add approve ask assign buy cancel change create delete disable dislike '
    'draft edit fill follow fork increase invite like make mark merge modify '
    'notify post promote pull rate re-post reduce remove rename '
    'reply repost request send set star start submit subscribe thumbs unstar '
    'unfollow unlike update upload upvote write'.split())
_CLAUSE = re.compile(r"(?:^|[.!?;,]\s+|\b(?:and|then|please)\s+)([\w-]+)")


class Item(NamedTuple):
  """One task of a benchmark."""

  name: str                  # 'webarenalite.4': BrowserGym's
  benchmark: str             # FULL or LITE
  number: int                # WebArena's task id, in both benchmarks
  sites: tuple[str, ...]
  intent: str
  eval_types: tuple[str, ...]
  writes: bool               # by the rule of `is_writing`
  template: str = ''         # the intent, with {{names}} of what was filled in


Find = Callable[[types.Task], Item]


def addresses(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
  """Site -> address; raises EnvError naming the variables that are missing."""
  names = {site: f'WA_{site.upper()}' for site in (*SITES, HOMEPAGE)}
  missing = [name for name in names.values() if not environ.get(name)]
  if missing:
    raise checks.EnvError(
        f'WebArena needs its sites: {", ".join(missing)} not set. Start the '
        'sites (github.com/web-arena-x/webarena, environment_docker) and '
        f'export their addresses, e.g. {missing[0]}=http://HOST:PORT')
  found = {site: environ[name] for site, name in names.items()}
  for site, address in found.items():
    if parse.urlparse(address).scheme not in ('http', 'https'):
      raise checks.EnvError(
          f'{names[site]}={address!r} is no address; want http://HOST:PORT')
  return found


def is_writing(
    intent: str, eval_types: Sequence[str], sites: Sequence[str]
) -> bool:
  """Whether a task is to change what its sites hold; errs on the side of yes.

  It is where a site can be written to at all (not map and wikipedia) and either
  the evaluator looks at pages afterwards (`program_html`) or a clause of the
  intent starts with a verb of change. What a lost agent may write during a
  task that only reads, no rule knows beforehand.
  """
  if not set(sites) & set(_WRITABLE):
    return False
  verbs = set(_CLAUSE.findall(intent.lower()))
  return 'program_html' in eval_types or bool(verbs & _WRITING)


@functools.cache
def families() -> dict[str, tuple[Item, ...]]:
  """All tasks by family, in the order of their seeds."""
  lite = list(_items(LITE, 'old_task_id'))
  held_out = {item.number for item in lite}
  training = [item for item in _items(FULL, 'task_id')
              if item.number not in held_out]
  found: dict[str, list[Item]] = {}
  for item in sorted([*training, *lite], key=lambda i: (i.writes, i.number)):
    site = item.sites[0] if len(item.sites) == 1 else SEVERAL
    found.setdefault(_PREFIX[item.benchmark] + site, []).append(item)
  return {family: tuple(found[family]) for family in sorted(found)}


def is_lite(family: str) -> bool:
  """Whether a family is for evaluation alone."""
  return family.startswith(_PREFIX[LITE])


def n_reading(family: str) -> int:
  """How many of a family's first seeds are tasks that only read."""
  return sum(not item.writes for item in families()[family])


def find(task: types.Task) -> Item:
  """The item of a task; raises EnvError for an unknown family or seed."""
  known = families()
  if task.family not in known:
    raise checks.EnvError(f'no WebArena family {task.family!r}'
                          + checks.did_you_mean(task.family, known))
  items = known[task.family]
  if not 0 <= task.seed < len(items):
    raise checks.EnvError(f'{task.task_id}: seeds of {task.family!r} are '
                          f'below {len(items)}')
  return items[task.seed]


def accepts(task: types.Task) -> bool:
  """Whether WebArena could have asked it of this site, filled in otherwise."""
  return any(
      re.fullmatch(_blank(item.template), task.instruction, re.DOTALL)
      for item in families().get(task.family, ()))


@functools.cache
def _blank(template: str) -> str:
  return '(.+)'.join(map(re.escape, re.split(r'{{.*?}}', template)))


def clashes(items: Sequence[Item]) -> list[tuple[int, int]]:
  """Pairs that must not run at once: one writes where the other works."""
  return [
      (i, j) for j, b in enumerate(items) for i, a in enumerate(items[:j])
      if _is_clash(a, b)]


def lots(tasks: Sequence[types.Task], find: Find = find) -> list[list[int]]:
  """Indices of tasks in lots that may be played at once, all that read first.

  Writing tasks share a lot only where they share no site that can be written.
  """
  items = [find(task) for task in tasks]
  made: list[list[int]] = []
  for i in sorted(range(len(items)), key=lambda i: items[i].writes):
    for lot in made:
      if not any(items[j].writes != items[i].writes
                 or _is_clash(items[j], items[i]) for j in lot):
        lot.append(i)
        break
    else:
      made.append([i])
  return made


def writable(item: Item) -> set[str]:
  """The sites of a task that a writing task leaves changed."""
  return set(item.sites) - {'map', 'wikipedia'}


def _is_clash(a: Item, b: Item) -> bool:
  return (a.writes or b.writes) and bool(writable(a) & writable(b))


def _items(benchmark: str, number: str) -> Iterator[Item]:
  package, *path = _FILES[benchmark]
  try:
    file = importlib.resources.files(package)
    for part in path:
      file = file / part
    rows = json.loads(file.read_text(encoding='utf-8'))
  except (ModuleNotFoundError, FileNotFoundError) as error:
    raise checks.EnvError(
        f'the task file of {benchmark} is not installed: pip install --no-deps '
        '-r requirements-webarena.txt') from error
  for row in rows:
    types_, sites = row['eval']['eval_types'], tuple(row['sites'])
    yield Item(
        f'{benchmark}.{row[number]}', benchmark, row[number], sites,
        row['intent'], tuple(types_), is_writing(row['intent'], types_, sites),
        row['intent_template'])
