"""Supervised training of any role on streams, resumable to the batch."""

import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from dreamgym_jax import checkpoint, learner, preemption, types
from dreamgym_jax.data import batches
from dreamgym_jax.models import lora, sharding, transformer

# (steps done, mean loss since the last call, tokens trained since)
OnStep = Callable[[int, float, int], None]
_REPORT_EVERY = 20


def fit(
    params: types.Params, streams: Sequence[batches.Stream],
    model_cfg: transformer.ModelConfig, shape: batches.Shape, steps: int,
    lr: float, seed: int, directory: pathlib.Path,
    checkpoint_every: int = 500, on_step: OnStep = lambda *_: None,
) -> types.Params:
  """Trains for a number of steps with warm-up and cosine decay.

  Args:
    params: where to start; not donated. Of adapted weights (models/lora.py)
      the adapters alone are trained and checkpointed.
    streams: training data; too long ones are left out.
    model_cfg: of params.
    shape: of the packed batches; rows and positions divide over the mesh in
      use, if there is one.
    steps: optimiser updates in all.
    lr: peak learning rate.
    seed: of the order of the data.
    directory: checkpoints; a run that died goes on from the last one and ends
      with the parameters of the straight run.
    checkpoint_every: steps.
    on_step: progress.

  Returns:
    The trained parameters.

  Raises:
    preemption.Stopped: asked to stop, after a checkpoint.
  """
  streams, _ = batches.drop_long(streams, shape)
  optimizer = learner.make_optimizer(
      lr, warmup_steps=max(1, min(100, steps // 10)), total_steps=steps,
      weight_decay=0.01)
  step_fn = learner.make_sft_step(model_cfg, optimizer)
  frozen, params = lora.split(params)
  state = learner.init_state(params, optimizer)
  cursor = batches.Cursor(seed)
  saver = checkpoint.Checkpointer(directory, keep=1)
  restored = saver.restore(state)
  if restored:
    state = restored.arrays
    cursor = batches.Cursor(*restored.host['cursor'])
  done = restored.step if restored else 0
  losses: list[jax.Array] = []
  n_tokens = 0
  with preemption.hold():
    for batch, after in batches.epochs(streams, *shape, cursor):
      if done >= steps:
        break
      state, metrics = step_fn(state, sharding.shard_batch(batch), frozen)
      losses.append(metrics['loss'])
      n_tokens += int((batch.segment_BxT > 0).sum())
      done += 1
      is_asked = False
      if done % _REPORT_EVERY == 0 or done == steps:
        on_step(done, float(np.mean(jax.device_get(losses))), n_tokens)
        losses, n_tokens = [], 0
        is_asked = preemption.is_asked()
      if done % checkpoint_every == 0 or done == steps or is_asked:
        saver.begin(done, state, {'cursor': list(after)})
      if is_asked:
        saver.wait()
        raise preemption.Stopped
    saver.wait()
  return lora.join(frozen, state.params)
