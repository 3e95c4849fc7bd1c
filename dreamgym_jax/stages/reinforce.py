"""GRPO in any world: the dream, the browser, or one after the other.

One iteration: choose J tasks, roll out G attempts at each, drop the groups
that tie, update the policy on exactly the tokens it sampled, tell the pool
what it learned. Everything that changes is in one checkpoint.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from dreamgym_jax import (
    checkpoint,
    cost,
    learner,
    losses,
    rollouts,
    types,
)
from dreamgym_jax.data import batches
from dreamgym_jax.models import lora
from dreamgym_jax.stages import judge, tasks
from dreamgym_jax.stages import run as runs

# Metrics of updates that are reported as the mean over an iteration.
_MEANS = ('loss', 'entropy', 'kl', 'approx_kl', 'clip_share', 'grad_norm')
_MAX_SKIPPED = 5


class DivergedError(RuntimeError):
  """Too many updates in a row were not finite."""


class Settings(NamedTuple):
  """One GRPO training."""

  name: str                  # of the stage; its checkpoints and metrics
  source: str                # types.REAL or types.DREAMED
  allowed: Sequence[str]     # families that may be played
  max_synthetic: float       # lambda
  stream: int                # sub-stream of the run's seed
  rows: int | None = None    # episodes at once; None: the whole batch


class Progress(NamedTuple):
  """What a training changes."""

  state: types.TrainState
  book: tasks.Book
  iteration: int = 0
  transitions: int = 0
  seconds: float = 0.0       # of learning, without compiling


# Called after each iteration with its attempts, e.g. to enrich the replay.
OnAttempts = Callable[[Sequence[rollouts.Attempt]], None]
# (progress) -> whether to stop
Until = Callable[[Progress], bool]


def train(
    run: runs.Run, player: judge.Player, params: types.Params,
    reference: types.Params, world: types.World, book: tasks.Book,
    settings: Settings, until: Until,
    propose: tasks.Propose | None = None,
    on_attempts: OnAttempts = lambda attempts: None,
    host_state: Callable[[], dict] = dict,
    load_host_state: Callable[[dict], None] = lambda host: None,
    at_marks: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
  """GRPO until `until` says so; resumes from the stage's last checkpoint.

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
    on_attempts: sees every iteration's attempts.
    host_state, load_host_state: what else the checkpoint keeps (the replay).
    at_marks: called at the start and after every iteration, e.g. to keep the
      policy at a given budget.
  """
  c = run.config.rl
  cfg = run.model_config(player.prompt.tok.vocab_size)
  optimizer = learner.make_optimizer(
      c.lr, total_steps=1, warmup_steps=2, max_grad_norm=c.max_grad_norm,
      schedule=learner.warmup_constant)
  step_fn = learner.make_grpo_step(
      cfg, optimizer, c.clip_low, c.clip_high, c.kl_coef, c.entropy_coef,
      aggregate=losses.token_mean)
  frozen, params = lora.split(params)
  step_fn = functools.partial(step_fn, frozen=frozen)
  progress = Progress(learner.init_state(params, optimizer), book)
  saver = checkpoint.Checkpointer(
      run.workdir / 'checkpoints' / settings.name)
  restored = saver.restore({'state': progress.state, 'pool': book.pool})
  if restored:
    host = restored.host
    progress = Progress(
        restored.arrays['state'],
        tasks.from_host(book, restored.arrays['pool'], host['book']),
        restored.step, host['transitions'], host['seconds'])
    load_host_state(host['more'])
    run.say(f'   goes on after iteration {restored.step}')
  skipped = 0
  compiling = cost.CompileClock()
  at_marks(progress)
  with run.bar(None, 'steps') as bar:
    while not until(progress):
      start, compiled = time.monotonic(), compiling.seconds
      progress, metrics = _iterate(
          run, player, frozen, reference, world, settings, step_fn, progress,
          propose, on_attempts, bar.update)
      # Compiling is paid once per machine; learning is compared warm.
      seconds = time.monotonic() - start - (compiling.seconds - compiled)
      progress = progress._replace(seconds=progress.seconds + seconds)
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
      if is_due or until(progress):
        _save(saver, progress, host_state())
  return progress


def _save(saver, progress: Progress, more: dict) -> None:
  saver.save(
      progress.iteration,
      {'state': progress.state, 'pool': progress.book.pool},
      {'book': tasks.to_host(progress.book), 'more': more,
       'transitions': progress.transitions, 'seconds': progress.seconds})


def _iterate(
    run, player, frozen, reference, world, settings, step_fn, progress,
    propose, on_attempts, on_step,
) -> tuple[Progress, dict[str, float]]:
  c = run.config
  key = jax.random.fold_in(jax.random.fold_in(
      jax.random.key(c.seed), settings.stream), progress.iteration)
  task_key, roll_key, new_key = jax.random.split(key, 3)
  book = progress.book
  if propose and progress.iteration % c.curriculum.every == 0:
    book = tasks.extend(run, book, propose, new_key, settings.allowed)
  slots = tasks.choose(
      book, task_key, c.rl.tasks, settings.allowed, settings.max_synthetic)
  group = [book.tasks[i] for i in slots for _ in range(c.rl.group)]
  attempts = judge.play(
      player, lora.join(frozen, progress.state.params), world, group,
      roll_key, c.rl.temperature, settings.source,
      f'{settings.name}-{progress.iteration}', settings.rows, on_step)
  on_attempts(attempts)
  success_JxG, valid_JxG, reward_JxG = outcomes(
      attempts, c.rl.group, c.rl.invalid_penalty)
  data = learner.grpo_streams(
      [a.token_T for a in attempts], [a.is_written_T for a in attempts],
      [a.logp_T for a in attempts], reward_JxG, success_JxG, valid_JxG)
  state, metrics = _update(run, step_fn, progress.state, reference,
                           data.streams, c.rl.updates)
  book = tasks.observe(book, slots, success_JxG, valid_JxG)
  n_steps = sum(len(a.episode.transitions) for a in attempts)
  metrics |= {
      'success': float(success_JxG[valid_JxG].mean()) if valid_JxG.any()
                 else 0.0,
      'zero_variance_share': data.zero_variance_share,
      'malformed_share': float(1 - valid_JxG.mean()),
      'invalid_share': sum(a.n_invalid for a in attempts) / n_steps,
      'reply_tokens': float(np.mean([a.is_written_T.sum()
                                     for a in attempts])),
      'synthetic_share': float(np.mean(
          [book.tasks[i] is not None
           and book.tasks[i].source == types.GENERATED for i in slots])),
  }
  return progress._replace(
      state=state, book=book, iteration=progress.iteration + 1,
      transitions=progress.transitions + n_steps), metrics


def outcomes(
    attempts: Sequence[rollouts.Attempt], group: int, invalid_penalty: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(success, valid, reward), each [J, G].

  The reward is the outcome, less a penalty where any action was invalid.
  """
  success = np.array([a.episode.success for a in attempts], np.float32)
  valid = np.array([not (a.episode.is_malformed or a.episode.error)
                    for a in attempts])
  invalid = np.array([a.n_invalid > 0 for a in attempts], np.float32)
  shape = (-1, group)
  return (success.reshape(shape), valid.reshape(shape),
          (success - invalid_penalty * invalid).reshape(shape))


def _update(
    run: runs.Run, step_fn, state: types.TrainState, reference: types.Params,
    streams: list[batches.Stream], n_updates: int,
) -> tuple[types.TrainState, dict[str, float]]:
  """A pass over the streams in about `n_updates` optimiser steps."""
  if not streams:
    return state, {name: 0.0 for name in _MEANS} | {
        'ratio_max': 1.0, 'logp_mismatch': 0.0, 'skipped': 0}
  b = run.config.batch
  length, rows = b.length, shape_rows(streams, b.length, n_updates)
  every = []
  packed = batches.pack_evenly(streams, rows, length, rows * length)
  for batch in packed:
    state, metrics = step_fn(state, batch, reference)
    every.append(metrics)
  every = jax.device_get(every)
  means = {name: float(np.mean([m[name] for m in every])) for name in _MEANS}
  return state, means | {
      'ratio_max': float(max(m['ratio_max'] for m in every)),
      # Before the first update sampler and scorer must agree.
      'logp_mismatch': float(every[0]['logp_mismatch']),
      'skipped': int(sum(m['skipped'] for m in every))}


def shape_rows(
    streams: Sequence[batches.Stream], length: int, n_updates: int
) -> int:
  """Rows of a batch, a power of two so that few shapes compile."""
  n_tokens = sum(len(s.tokens) for s in streams)
  rows = max(1, n_tokens / (0.9 * length * n_updates))
  return 2 ** int(np.ceil(np.log2(rows)))


def admitted(
    attempts: Sequence[rollouts.Attempt],
) -> list[types.Episode]:
  """Episodes that may enrich the replay: none crashed or malformed."""
  return [a.episode for a in attempts
          if not (a.episode.is_malformed or a.episode.error)]
