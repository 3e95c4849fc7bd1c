"""The curriculum of a run: a pool of tasks, and M_task adding to it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from dreamgym_jax import curriculum, experience, types
from dreamgym_jax.stages import run as runs

# (seed tasks of each new one, key) -> proposals
Propose = Callable[
    [Sequence[Sequence[types.Task]], jax.Array], list[experience.Proposal]]


class Book(NamedTuple):
  """The pool, the texts of its tasks by slot, and what became of proposals."""

  pool: curriculum.TaskPool
  tasks: list[types.Task | None]
  families: tuple[str, ...]
  log: list[dict]           # of every proposal, for the report


def open_book(
    run: runs.Run, episodes: Sequence[types.Episode]
) -> Book:
  """Real pages of the offline set, `curriculum.pages` of each family."""
  c = run.config
  families = tuple(c.env.families)
  pages: dict[str, dict[str, types.Task]] = {f: {} for f in families}
  for episode in episodes:
    known = pages.get(episode.task.family)
    if known is not None and len(known) < c.curriculum.pages:
      known[episode.task.task_id] = episode.task
  tasks = [t for known in pages.values() for t in known.values()]
  n = len(tasks)
  pool, slots = curriculum.add(
      curriculum.create(max(c.curriculum.capacity, n)),
      np.array([families.index(t.family) for t in tasks]),
      np.full(n, curriculum.NO_TASK), np.zeros(n, bool))
  texts: list[types.Task | None] = [None] * pool.capacity
  for slot, task in zip(slots, tasks, strict=True):
    texts[slot] = task
  return Book(pool, texts, families, [])


def choose(
    book: Book, key: jax.Array, n: int, allowed: Sequence[str],
    max_synthetic: float,
) -> np.ndarray:
  """Slots of the next n tasks, at most a share lambda generated."""
  mask = np.array([f in allowed for f in book.families])
  return curriculum.sample(book.pool, key, n, max_synthetic, mask)


def observe(
    book: Book, slots: np.ndarray, success_JxG: np.ndarray,
    valid_JxG: np.ndarray,
) -> Book:
  """Takes in the groups; frees generated tasks that teach nothing."""
  pool = curriculum.observe(book.pool, slots, success_JxG, valid_JxG)
  pool, retired = curriculum.retire(pool, min_value=0.02, min_visits=2)
  for i in np.flatnonzero(retired):
    _note(book, i, 'retired: every rollout ties')
    book.tasks[i] = None
  return book._replace(pool=pool)


def extend(
    run: runs.Run, book: Book, propose: Propose, key: jax.Array,
    allowed: Sequence[str],
) -> Book:
  """Lets M_task vary the tasks of highest group reward entropy (Eq. 6)."""
  c = run.config.curriculum
  mask = np.array([f in allowed for f in book.families])
  n, m = c.candidates, c.seeds_per_task
  slots = curriculum.seeds_for_generation(book.pool, key, n * m, mask)
  if len(slots) < m:
    return book
  groups = [[book.tasks[i] for i in slots[start:start + m]]
            for start in range(0, len(slots) - m + 1, m)]
  known = {(t.instruction, t.initial_state) for t in book.tasks if t}
  kept, parents = [], []
  for g, proposal in enumerate(propose(groups, jax.random.fold_in(key, 1))):
    parent = proposal.parents[0]
    serial = len(book.log)
    task = types.Task(parent.family, -1 - serial, proposal.instruction,
                      proposal.initial_state, types.GENERATED, parent.task_id)
    why = validate(task, proposal.error, known)
    book.log.append({
        'slot': None, 'instruction': proposal.instruction,
        'initial_state': proposal.initial_state, 'family': parent.family,
        'parent': parent.instruction, 'kept': not why, 'reason': why})
    if not why:
      known.add((task.instruction, task.initial_state))
      kept.append((task, serial))
      parents.append(slots[g * m])
  if not kept:
    return book
  pool, placed = curriculum.add(
      book.pool, np.array([book.families.index(t.family) for t, _ in kept]),
      np.array(parents), np.ones(len(kept), bool))
  for slot, (task, serial) in zip(placed, kept, strict=True):
    if slot == curriculum.NO_TASK:
      book.log[serial].update(kept=False, reason='the pool is full')
      continue
    if book.tasks[slot]:
      _note(book, slot, 'made room for another')
    book.tasks[slot] = task
    book.log[serial]['slot'] = int(slot)
  return book._replace(pool=pool)


def proposed(i: int, entry: dict) -> types.Task:
  """The i-th entry of a book's log as a task."""
  return types.Task(entry['family'], -1 - i, entry['instruction'],
                    entry['initial_state'], types.GENERATED)


def validate(
    task: types.Task, error: str, known: set[tuple[str, str]]
) -> str:
  """Why a proposal is dropped; '' if it is kept.

  Whether it can be solved shows when it is first played: groups in which no
  or every rollout succeeds have no entropy, and are retired.
  """
  if error:
    return f'malformed: {error}'
  if (task.instruction, task.initial_state) in known:
    return 'a duplicate'
  return ''


def _note(book: Book, slot: int, reason: str) -> None:
  for entry in reversed(book.log):
    if entry['slot'] == slot:
      entry.update(kept=False, reason=reason)
      return


def to_host(book: Book) -> dict:
  """JSON-able: all but the arrays of the pool."""
  return {'tasks': [t and dataclasses.asdict(t) for t in book.tasks],
          'log': book.log}


def from_host(book: Book, pool: curriculum.TaskPool, host: dict) -> Book:
  tasks = [types.Task(**t) if t else None for t in host['tasks']]
  return book._replace(pool=pool, tasks=tasks, log=host['log'])
