"""RL in any world: the dream, the browser, or one after the other.

One iteration: choose J tasks, roll out G attempts at each, let the algorithm
(`rl.algorithm`) update the policy on exactly the tokens it sampled, tell the
pool what it learned. Everything that changes is in one checkpoint.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from dreamgym_jax import (
    checkpoint,
    cost,
    distributed,
    preemption,
    rollouts,
    sampling,
    types,
)
from dreamgym_jax.audit import fidelity
from dreamgym_jax.envs import budget
from dreamgym_jax.models import lora, serving
from dreamgym_jax.stages import algorithms, judge, spending, tasks
from dreamgym_jax.stages import run as runs

_MAX_SKIPPED = 5


class DivergedError(RuntimeError):
  """Too many updates in a row were not finite."""


class Settings(NamedTuple):
  """One training."""

  name: str                  # of the stage; its checkpoints and metrics
  source: str                # types.REAL or types.DREAMED
  allowed: Sequence[str]     # families that may be played
  max_synthetic: float       # lambda
  stream: int                # sub-stream of the run's seed
  rows: int | None = None    # episodes at once; None: the whole batch
  budget: int = 0            # ends after as many transitions; 0: has none
  lr: float = 0.0            # 0: that of the config
  after: str = ''            # the stage whose optimiser goes on; '': a new one


class Progress(NamedTuple):
  """What a training changes."""

  state: Any                 # of the algorithm
  book: tasks.Book
  iteration: int = 0
  transitions: int = 0
  spent: spending.Spent = {}    # tokens by role, operations, seconds

  @property
  def seconds(self) -> float:
    """Of learning, without compiling."""
    return self.spent.get(spending.SECONDS, 0.0)


# Called after each iteration with its attempts, e.g. to enrich the replay.
OnAttempts = Callable[[Sequence[rollouts.Attempt]], None]
# (progress) -> whether to stop
Until = Callable[[Progress], bool]


def train(
    run: runs.Run, player: judge.Player, params: types.Params,
    reference: types.Params, world: types.World, book: tasks.Book,
    settings: Settings, until: Until = lambda progress: False,
    propose: tasks.Propose | None = None,
    dreamer: sampling.Sampler | None = None,
    on_attempts: OnAttempts = lambda attempts: None,
    host_state: Callable[[], dict] = dict,
    load_host_state: Callable[[dict], None] = lambda host: None,
    at_marks: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
  """RL until `until` says so or a budget is spent; a killed one goes on.

  Args:
    run: config, metrics, workdir.
    player: sampler and prompts of the policy.
    params: where the policy starts; adapters alone are trained if it has any.
    reference: of the KL term.
    world: real or dreamed; J*G rows, or `settings.rows` at a time.
    book: the curriculum.
    settings: see there.
    until: stops the training.
    propose: M_task, or None for real tasks alone.
    dreamer: the sampler of M_exp and M_task, whose tokens are counted too.
    on_attempts: sees every iteration's attempts.
    host_state, load_host_state: what else the checkpoint keeps (the replay).
    at_marks: called at the start and after every iteration, e.g. to keep the
      policy at a given budget.

  Raises preemption.Stopped where it was asked to stop, after a checkpoint.
  """
  algorithm = algorithms.make(
      _at_rate(run.config, settings.lr),
      run.model_config(player.prompt.tok.vocab_size))
  frozen, params = lora.split(params)
  reference = serving.freeze(reference, player.sampler.cfg)
  progress = Progress(algorithm.start(params), book)
  if settings.after:
    progress = progress._replace(
        state=_last_state(run, settings.after, progress))
  saver = checkpoint.Checkpointer(
      run.workdir / 'checkpoints' / settings.name)
  restored = saver.restore({'state': progress.state, 'pool': book.pool})
  if restored:
    host = restored.host
    progress = Progress(
        restored.arrays['state'],
        tasks.from_host(book, restored.arrays['pool'], host['book']),
        restored.step, host['transitions'], host['spent'])
    load_host_state(host['more'])
    run.say(f'   goes on after iteration {restored.step}')
  if settings.budget:
    world = budget.Budgeted(world, settings.budget, progress.transitions)

  def is_over(progress: Progress) -> bool:
    return (until(progress) or 0 < settings.budget <= progress.transitions
            or spending.is_over(progress.spent, run.config))

  samplers = {spending.POLICY: player.sampler}
  if dreamer:
    samplers[spending.EXPERIENCE] = dreamer
  meter, skipped = spending.Meter(samplers), 0
  compiling = cost.CompileClock()
  at_marks(progress)
  with run.bar(None, 'steps') as bar, preemption.hold():
    while not is_over(progress):
      start, compiled = time.monotonic(), compiling.seconds
      progress, metrics, attempts = _iterate(
          run, player, frozen, reference, world, settings, algorithm, progress,
          propose, on_attempts, bar.update, samplers.values())
      # Compiling is paid once per machine; learning is compared warm.
      # The first process's clock counts: all must stop together.
      seconds = distributed.of_first('seconds', time.monotonic() - start - (
          compiling.seconds - compiled))
      progress = progress._replace(spent=spending.add(
          progress.spent, meter.read(), attempts, seconds, player.sampler.cfg))
      metrics['seconds'] = progress.seconds
      metrics['transitions'] = progress.transitions
      run.metrics.write(settings.name, progress.iteration, metrics)
      bar.set_postfix(iteration=progress.iteration,
                      success=f'{metrics["success"]:.2f}')
      skipped = skipped + 1 if metrics['skipped'] else 0
      if skipped >= _MAX_SKIPPED:
        raise DivergedError(
            f'{settings.name}: updates of {skipped} iterations in a row were '
            'not finite; lower config.rl.lr and resume from the checkpoint')
      at_marks(progress)
      is_due = progress.iteration % run.config.checkpoint_every == 0
      is_asked = preemption.is_asked()
      if is_due or is_asked or is_over(progress):
        _save(saver, progress, host_state())
      if is_asked:
        saver.wait()
        raise preemption.Stopped
    saver.wait()
  return progress


def _at_rate(
    c: ml_collections.ConfigDict, lr: float
) -> ml_collections.ConfigDict:
  """The config with another learning rate, if one is given."""
  if not lr:
    return c
  c = c.copy_and_resolve_references()
  c.rl.lr = lr
  return c


def _last_state(run: runs.Run, name: str, progress: Progress) -> Any:
  """State and optimiser that a stage ended with; new if it made no update."""
  saver = checkpoint.Checkpointer(run.workdir / 'checkpoints' / name)
  restored = saver.restore(
      {'state': progress.state, 'pool': progress.book.pool})
  return restored.arrays['state'] if restored else progress.state


def _save(saver, progress: Progress, more: dict) -> None:
  saver.begin(
      progress.iteration,
      {'state': progress.state, 'pool': progress.book.pool},
      {'book': tasks.to_host(progress.book), 'more': more,
       'transitions': progress.transitions, 'spent': progress.spent})


def _iterate(
    run, player, frozen, reference, world, settings, algorithm, progress,
    propose, on_attempts, on_step, samplers,
) -> tuple[Progress, dict[str, float], list[rollouts.Attempt]]:
  c = run.config
  key = jax.random.fold_in(jax.random.fold_in(
      jax.random.key(c.seed), settings.stream), progress.iteration)
  task_key, roll_key, new_key = jax.random.split(key, 3)
  book = progress.book
  if propose and progress.iteration % c.curriculum.every == 0:
    book = tasks.extend(run, book, propose, new_key, settings.allowed)
  slots = tasks.choose(
      book, task_key, algorithm.tasks, settings.allowed,
      settings.max_synthetic)
  group = [book.tasks[i] for i in slots for _ in range(algorithm.group)]
  attempts = judge.play(
      player, lora.join(frozen, progress.state.params), world, group,
      roll_key, c.rl.temperature, settings.source,
      f'{settings.name}-{progress.iteration}', settings.rows, on_step)
  on_attempts(attempts)
  for sampler in samplers:
    sampler.release()
  played = algorithms.played(
      attempts, algorithm.group, c.rl.invalid_penalty)
  state, metrics = algorithm.update(
      progress.state, played, reference, frozen)
  book = tasks.observe(book, slots, *algorithm.groups(played))
  won, valid = played.success_JxG, played.valid_JxG
  n_steps = budget.taken([a.episode for a in attempts])
  metrics |= {
      'success': float(won[valid].mean()) if valid.any() else 0.0,
      'malformed_share': float(1 - valid.mean()),
      'halted_share': float(np.mean(
          [fidelity.is_halted(a.episode) for a in attempts])),
      'invalid_share': sum(a.n_invalid for a in attempts) / n_steps,
      'reply_tokens': float(np.mean([a.is_written_T.sum()
                                     for a in attempts])),
      'synthetic_share': float(np.mean(
          [book.tasks[i] is not None
           and book.tasks[i].source == types.GENERATED for i in slots])),
  }
  return progress._replace(
      state=state, book=book, iteration=progress.iteration + 1,
      transitions=progress.transitions + n_steps), metrics, attempts


def admitted(
    attempts: Sequence[rollouts.Attempt],
) -> list[types.Episode]:
  """Episodes that may enrich the replay: none crashed or malformed."""
  return [a.episode for a in attempts
          if not (a.episode.is_malformed or a.episode.error)]
