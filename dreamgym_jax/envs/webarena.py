"""WebArena and WebArena-Lite as a World, on live sites, one process a row.

Families and seeds are those of webarena_tasks; states are a few lines of the
accessibility tree (webarena_state); BrowserGym's task decides every outcome
(webarena_gym). On when WA_SHOPPING, WA_SHOPPING_ADMIN, WA_REDDIT, WA_GITLAB,
WA_WIKIPEDIA, WA_MAP and WA_HOMEPAGE hold the sites' addresses.

What real sites do to long runs, and what is done about it:

  they hang         every call has a deadline; the row's process is replaced
  they fail         opening a task is tried again, with growing pauses
  they are down     the row says so, and the task is not blamed
  tasks are broken  after `max_breaks` in a row a task is out (quarantine)
  tasks write       `reset_site` puts their sites back before, and after them
                    before anybody else comes; they share no site with others

Every failure is an `Observation.error` on its own row and counted in `counts`
by who is to blame: site, evaluator, setup, page, timeout, process; reset (of a
site), quarantine and install, which are not held against the task.
"""

import collections
import dataclasses
import functools
import multiprocessing as mp
import time
import weakref
from collections.abc import Mapping, Sequence

from dreamgym_jax import types
from dreamgym_jax.envs import (
    checks,
    pool,
    webarena_gym,
    webarena_quarantine,
    webarena_sites,
    webarena_state,
    webarena_tasks,
)

Task, Observation = types.Task, types.Observation
TIMEOUT, PROCESS, RESET, QUARANTINE = (
    'timeout', 'process', 'reset', 'quarantine')
_NOT_THE_TASKS = (RESET, QUARANTINE, webarena_gym.INSTALL)


@dataclasses.dataclass
class _Row:
  task: Task
  item: webarena_tasks.Item
  state: str = ''
  is_over: bool = False
  error: str = ''       # to be told at the next step


class WebArena:
  """A types.World of tasks on live sites; see the module."""

  def __init__(
      self, max_steps: int = webarena_gym.MAX_STEPS,
      select: webarena_state.Select = webarena_state.by_rule, *,
      max_rows: int = 16, timeout: float = 60., reset_timeout: float = 180.,
      attempts: int = 3, pause: float = 5.,
      reset_site: webarena_sites.Hook | None = None,
      hook_timeout: float = 900., directory: str = '', max_breaks: int = 3,
      sites: Mapping[str, str] | None = None,
      open_env: webarena_gym.OpenEnv = webarena_gym.open_webarena,
      find: webarena_tasks.Find = webarena_tasks.find,
  ):
    """Checks the addresses; browsers start with the first reset.

    Args:
      max_steps: an episode ends after that many actions.
      select: which elements a state shows; picklable.
      max_rows: browsers at once, each about 300 MB with its process.
      timeout: seconds for one step of a row, its evaluator included.
      reset_timeout: seconds to open a task, with logging in.
      attempts: how often opening a task is tried.
      pause: seconds before the second attempt, doubled for each further one.
      reset_site: puts one site back: a function of the site's name, or a
        command as a list of strings, which gets the name as last argument.
        Without it, tasks that write are refused.
      hook_timeout: seconds for one call of `reset_site`.
      directory: where the quarantine is kept; '' keeps it in memory.
      max_breaks: failures in a row that put a task out.
      sites: name -> address; by default those of the WA_* variables.
      open_env: makes the environment of a task; picklable by name.
      find: which task of which sites it is, and whether it writes.

    Raises EnvError for addresses that are missing.
    """
    if sites is None:
      sites = webarena_tasks.addresses()
    self.max_rows, self._attempts, self._pause = max_rows, attempts, pause
    self._timeout, self._reset_timeout = timeout, reset_timeout
    self._find = find
    self.sites = webarena_sites.Sites(sites, reset_site, hook_timeout)
    self.quarantine = webarena_quarantine.Quarantine(directory, max_breaks)
    self.counts: collections.Counter[str] = collections.Counter()
    context = mp.get_context('spawn')
    make_world = functools.partial(
        webarena_gym.GymWorld, open_env, max_steps, select)
    self._make = lambda: pool.Worker(context, make_world, timeout)
    self._workers: dict[int, pool.Worker] = {}
    self._rows: dict[int, _Row] = {}
    self._finalizer = weakref.finalize(self, _end, self._workers)

  @property
  def restarts(self) -> int:
    """Processes that were replaced since they hung or died."""
    return self.counts[TIMEOUT] + self.counts[PROCESS]

  def reset(
      self, tasks: Sequence[Task], rows: Sequence[int] | None = None
  ) -> list[Task]:
    """As types.World; waits for the slowest, the rows that go on do too.

    A row that cannot start keeps the intent and an empty state, and its first
    step answers with the error. Raises EnvError before anything is opened for
    unknown tasks, more than `max_rows`, tasks that write without `reset_site`,
    and those that cannot be played at once: `webarena_tasks.lots` parts them.
    """
    others = {} if rows is None else {
        i: row for i, row in self._rows.items() if i not in rows}
    rows = range(len(tasks)) if rows is None else rows
    begun = {i: _Row(task, self._find(task))
             for i, task in zip(rows, tasks, strict=True)}
    self._check(len(others | begun), [
        row.item for row in (others | begun).values() if not row.is_over])
    self._rows = others | begun
    idle = {i: [[]] for i in self._workers if i not in self._rows}
    self._ask('reset', idle, self._timeout)     # closes what they have open
    for row in begun.values():
      row.error = self._prepare(row.item)
    waiting = [i for i, row in begun.items() if not row.error]
    for attempt in range(self._attempts):
      if attempt and waiting:
        self.counts['retried'] += len(waiting)
        time.sleep(self._pause * 2 ** (attempt - 1))
      answers = self._ask(
          'reset', {i: [[dataclasses.asdict(self._rows[i].task)]]
                    for i in waiting}, self._reset_timeout)
      for i in waiting:
        answer, self._rows[i].error = answers[i]
        if answer:
          self._rows[i].task = Task(**answer[0])
          self._rows[i].state = self._rows[i].task.initial_state
      waiting = [i for i in waiting if self._rows[i].error]
    return [
        row.task if not row.error else dataclasses.replace(
            row.task, instruction=row.item.intent, initial_state='')
        for row in begun.values()]

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[Observation]:
    """Acts in the rows at once; raises ValueError for a finished row."""
    checks.check_rows(rows, lambda i: self._rows[i].is_over)
    calls = {i: [[0], [text]] for i, text in zip(rows, actions, strict=True)
             if not self._rows[i].error}
    answers = self._ask('step', calls, self._timeout)
    seen = []
    for i in rows:
      row = self._rows[i]
      answer, error = answers.get(i, (None, row.error))
      observation = Observation(*answer[0]) if answer else Observation(
          row.state, done=True, error=error)
      row.state, row.is_over = observation.state, observation.done
      if observation.error:
        observation = observation._replace(
            error=self._blame(row.item, observation.error))
      elif row.is_over:
        self.counts['episodes'] += 1
        self.quarantine.note_good(row.item.name)
      seen.append(observation)
    return seen

  def close(self) -> None:
    """Puts back the sites that were written to, and ends every process."""
    self._finalizer()
    if error := self.sites.prepare(self.sites.dirty, writes=False):
      raise checks.EnvError(f'{error}; it stays as the last task left it')

  def _check(
      self, n_rows: int, items: Sequence[webarena_tasks.Item]
  ) -> None:
    apart = 'webarena_tasks.lots(tasks) parts them'
    if n_rows > self.max_rows:
      raise checks.EnvError(
          f'{n_rows} rows at once, but max_rows={self.max_rows}')
    writing = sorted({item.name for item in items if item.writes})
    if writing and not self.sites.has_hook:
      raise checks.EnvError(
          f'{", ".join(writing[:5])} ({len(writing)} in all) write to their '
          'sites: give reset_site, which puts a site back, or take seeds below '
          'webarena_tasks.n_reading(family)')
    if found := webarena_tasks.clashes(items):
      i, j = found[0]
      raise checks.EnvError(
          f'{items[i].name} and {items[j].name} cannot run at once: one of '
          f'them writes to a site of the other; {apart}')

  def _prepare(self, item: webarena_tasks.Item) -> str:
    """Makes the item's sites fit for it; '' or why it cannot start."""
    if reason := self.quarantine.reason(item.name):
      return f'{QUARANTINE}: {reason}'
    touched = webarena_tasks.writable(item)
    if error := self.sites.prepare(touched, item.writes):
      return f'{RESET}: {error}'
    if item.writes:
      self.sites.soil(touched)
    return ''

  def _blame(self, item: webarena_tasks.Item, error: str) -> str:
    """Counts a row's failure and remembers it against the task, or not."""
    is_tasks = not error.startswith(_NOT_THE_TASKS)
    if is_tasks:
      if dead := self.sites.dead(item.sites):
        error, is_tasks = f'{webarena_gym.SITE}: {dead} ({error})', False
      elif error.startswith(webarena_gym.SITE):
        error = error.replace(webarena_gym.SITE, webarena_gym.PAGE, 1)
    self.counts[error.partition(':')[0]] += 1
    if is_tasks:
      self.quarantine.note_break(item.name, error)
    return error

  def _ask(
      self, name: str, calls: Mapping[int, list], timeout: float
  ) -> dict[int, tuple[list | None, str]]:
    """The answer of each row's process, or why it has none."""
    answers: dict[int, tuple[list | None, str]] = {}
    for i, args in calls.items():
      try:
        if i not in self._workers:
          self._workers[i] = self._make()
        self._workers[i].send(name, *args)
      except pool.WorkerDied as error:
        answers[i] = None, f'{PROCESS}: {error}'
    deadline = time.monotonic() + timeout
    for i in calls:
      if i in answers:
        continue
      try:
        answers[i] = self._workers[i].receive(deadline), ''
      except pool.WorkerDied as error:
        is_late = time.monotonic() >= deadline
        answers[i] = None, (
            f'{TIMEOUT}: {name} took longer than {timeout:g} s' if is_late
            else f'{PROCESS}: {error}')
      except pool.PoolError as error:
        # The last line of the traceback; reset raises EnvError `blame: ...`.
        last = str(error).strip().splitlines()[-1]
        said = last.partition('EnvError: ')[2]
        answers[i] = None, said or f'{webarena_gym.SETUP}: {last}'
    for i, (_, error) in answers.items():
      if error.startswith((TIMEOUT, PROCESS)):
        self._workers.pop(i).end()
    return answers


def _end(workers: dict[int, pool.Worker]) -> None:
  for worker in workers.values():
    worker.dismiss()
  for worker in workers.values():
    worker.end()
  workers.clear()
