"""Collecting real transitions: scripted behaviours in a real world.

Every page is played once by each behaviour, in lock step. Pages that the
family's reader cannot read, or with too many elements, are passed over and
counted. Every transition is annotated with R* at once, from the true outcome.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.envs import behaviours as behaviours_lib
from dreamgym_jax.text import states

# (task, state) -> (thought, action), from text alone
Expert = Callable[[types.Task, str], tuple[str, str]]
Annotate = Callable[[types.Task, types.Transition], str]
_MAX_SCRIPT = 12


class Collected(NamedTuple):
  """Episodes, and the pages that were passed over, by family."""

  episodes: list[types.Episode]
  passed_over: dict[str, int]


def explained(episode: types.Episode, annotate: Annotate) -> types.Episode:
  """With R* by rule on every step."""
  return dataclasses.replace(episode, annotator=types.RULE, transitions=tuple(
      dataclasses.replace(s, reasoning=annotate(episode.task, s))
      for s in episode.transitions))


class Actor:
  """One episode's behaviour, given the expert's advice at every step."""

  def __init__(
      self, behaviour: str, task: types.Task, expert: Expert,
      rehearse: behaviours_lib.Rehearse, rng: np.random.Generator,
      errands: behaviours_lib.Errands | None = None,
  ):
    self._behaviour, self._task, self._expert = behaviour, task, expert
    self._rng = rng
    self._step = -1
    self._course = self._plan = self._errand = None
    if behaviour in behaviours_lib.ON_COURSE:
      self._course = rehearse(task)
      self._plan = behaviours_lib.make_plan(rng, self._course.n_steps)
    if behaviour == behaviours_lib.ERRAND:
      if errands is None:
        raise ValueError(f'no {behaviour} is known here: collect.behaviours')
      self._errand = errands(rng)

  def act(self, state: str) -> tuple[str, str]:
    """(thought, action); the thought only where the expert's advice is taken.

    A near miss goes on with its course as if nothing had happened: an expert
    that looked again would mend it, and few episodes would fail at the end.
    """
    self._step += 1
    thought, wanted = self._expert(self._task, state)
    advice = wanted
    following = ''
    if self._course:
      advice = self._course.act(self._step, state) or wanted
      following = self._course.act(
          self._step + 1, behaviours_lib.imagine(state, advice))
    if self._errand:
      advice = self._errand(state) or wanted
    action = behaviours_lib.choose(
        self._behaviour, advice, state, self._task.instruction, self._rng,
        step=self._step, plan=self._plan, next_action=following)
    return thought if action == wanted else '', action


def by_script(expert: Expert) -> behaviours_lib.Rehearse:
  """The course of one page: what `script` says, whatever the page shows."""

  def rehearse(task: types.Task) -> behaviours_lib.Course:
    actions = script(task, expert)
    return behaviours_lib.Course(
        len(actions), lambda t, state: ''.join(actions[t:t + 1]))

  return rehearse


def script(task: types.Task, expert: Expert) -> list[str]:
  """What the expert would do if every action did just the obvious."""
  state, actions = task.initial_state, []
  while len(actions) < _MAX_SCRIPT:
    actions.append(expert(task, state)[1])
    imagined = behaviours_lib.imagine(state, actions[-1])
    if imagined == state:
      break
    state = imagined
  return actions


def collect(
    world: types.World, tasks: Sequence[types.Task],
    behaviours: Sequence[str], expert: Expert,
    rehearse: behaviours_lib.Rehearse,
    accepts: Callable[[types.Task], bool], annotate: Annotate,
    max_elements: int, seed: int, rows: int,
    on_step: Callable[[int], None] = lambda n: None,
    errands: behaviours_lib.Errands | None = None,
) -> Collected:
  """One episode of each behaviour on every task.

  Args:
    world: a real one.
    tasks: (family, seed) pages.
    behaviours: of `envs.behaviours`; one may stand twice.
    expert: (task, state) -> (thought, action), from text alone.
    rehearse: the course of a task for near misses, e.g. `by_script(expert)`.
    accepts: whether a page is in the domain.
    annotate: R* of a true transition.
    max_elements: pages with more lines are passed over.
    seed: of all behaviours; an episode's choices depend on (seed, page,
      behaviour) alone.
    rows: episodes at once.
    on_step: called with the number of steps just taken.
    errands: what an 'errand' is about; raises ValueError where one is wanted
      and none is known.
  """
  passed_over: Counter[str] = Counter()
  episodes: list[types.Episode] = []
  jobs = [(task, i, name) for task in tasks
          for i, name in enumerate(behaviours)]
  # Rows of one family follow each other, so that pages need not be reloaded.
  jobs.sort(key=lambda job: job[0].family)
  for start in range(0, len(jobs), rows):
    batch = jobs[start:start + rows]
    live = world.reset([task for task, _, _ in batch])
    kept = []
    for r, task in enumerate(live):
      n_elements = len(states.parse(task.initial_state))
      if n_elements <= max_elements and accepts(task):
        kept.append(r)
      elif batch[r][1] == 0:
        passed_over[task.family] += 1
    episodes += _play(
        world, live, batch, kept, expert, rehearse, annotate, seed, on_step,
        errands)
  return Collected(episodes, dict(passed_over))


def _play(
    world, live, batch, kept, expert, rehearse, annotate, seed, on_step,
    errands,
) -> list[types.Episode]:
  actors, steps, errors = {}, {r: [] for r in kept}, {}
  now = {r: live[r].initial_state for r in kept}
  for r in kept:
    _, index, name = batch[r]
    # Generated tasks have negative seeds.
    rng = np.random.default_rng((seed, live[r].seed % 2**32, index))
    actors[r] = Actor(name, live[r], expert, rehearse, rng, errands)
  active = list(kept)
  while active:
    chosen = [actors[r].act(now[r]) for r in active]
    seen = world.step(active, [action for _, action in chosen])
    on_step(len(active))
    going = []
    for r, (thought, action), o in zip(active, chosen, seen, strict=True):
      step = types.Transition(now[r], action, o.state, o.reward, o.done,
                              o.is_invalid, thought=thought)
      if o.error:
        errors[r] = o.error
      else:
        step = dataclasses.replace(step, reasoning=annotate(live[r], step))
      steps[r].append(step)
      now[r] = o.state
      if not o.done:
        going.append(r)
    active = going
  return [
      types.Episode(live[r], tuple(steps[r]), types.REAL, batch[r][2],
                    f'{live[r].task_id}#{batch[r][1]}',
                    error=errors.get(r, ''), annotator=types.RULE)
      for r in kept]
