"""Memory of an RL step: our head on action tokens, beside all logits at once.

  python -m benchmarks.memory

Compiles the same GRPO step three times for a vocabulary of 128k tokens, 30 % of
them actions: as the learner has it (the head sees the action tokens alone, 512
at a time, and is computed again backward), and with logits [B, T, V], by
log-softmax and gather or, lighter, by gather and logsumexp. Ours gives the
entropy as well, the others do not. Bytes are XLA's own account of what the
compiled step needs beside its arguments and results; nothing is run. Gradients
of the weights are among them and are the same in both, so they are given too.

That account is checked: the smallest size is also run, each variant in a
process of its own, and the last row is how far its resident set rose above
what it held before the step (Linux; the peak is reset after compiling).
Writes memory.json and .md beside the script.
"""

import pathlib
import re
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import rounds
from dreamgym_jax import learner, losses
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer

_VARIANTS = ('log_softmax', 'logsumexp', 'ours')
_RUN = flags.DEFINE_enum(
    'run', '', ['', *_VARIANTS],
    'Only run this variant of the smallest size; print its bytes.')

_V, _ACTIONS, _T = 128_256, 0.3, 1024
_SMALL = '8M, 1 row'
_SIZES = {
    _SMALL: (dict(D=64, N=2, H=2, K=1, d=32, F=128), 1),
    '135M, 4 rows': (dict(D=576, N=30, H=9, K=3, d=64, F=1536), 4),
    '135M, 16 rows': (dict(D=576, N=30, H=9, K=3, d=64, F=1536), 16),
    '1B, 4 rows': (dict(D=2048, N=16, H=32, K=8, d=64, F=8192), 4),
    '1B, 16 rows': (dict(D=2048, N=16, H=32, K=8, d=64, F=8192), 16)}


def _all_logits(
    cfg: transformer.ModelConfig, take: Callable[..., jax.Array]
) -> learner.LossFn:
  """The loss of `make_grpo_step` with every logit at hand."""
  def loss_fn(params, batch, ref_params):
    del ref_params
    z_BxTxV = transformer.forward(
        params, batch.tok_BxT, batch.pos_BxT, batch.segment_BxT, cfg)
    logp_BxT = take(z_BxTxV, jnp.roll(batch.tok_BxT, -1, 1)[..., None])
    surrogate = losses.clipped_surrogate(
        logp_BxT.reshape(-1)[batch.index_P], batch.logp_P, batch.adv_P,
        batch.weight_P, 0.2, 0.28)
    return losses.token_mean(
        surrogate.loss_P, batch.weight_P, batch.sequence_P), {}

  return loss_fn


def _log_softmax(z_BxTxV: jax.Array, next_BxTx1: jax.Array) -> jax.Array:
  return jnp.take_along_axis(
      jax.nn.log_softmax(z_BxTxV), next_BxTx1, 2)[..., 0]


def _logsumexp(z_BxTxV: jax.Array, next_BxTx1: jax.Array) -> jax.Array:
  at_BxT = jnp.take_along_axis(z_BxTxV, next_BxTx1, 2)[..., 0]
  return at_BxT - jax.nn.logsumexp(z_BxTxV, -1)


def _bytes(step, state, batch) -> int:
  compiled = step.lower(state, batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def _batch(B: int) -> batches.Batch:
  tok_BxT = jax.ShapeDtypeStruct((B, _T), np.int32)
  P = int(_ACTIONS * B * _T)
  int_P, float_P = (jax.ShapeDtypeStruct((P,), t)
                    for t in (np.int32, np.float32))
  return batches.Batch(tok_BxT, tok_BxT, tok_BxT, int_P, int_P, float_P,
                       float_P, float_P, int_P)


def _steps(cfg: transformer.ModelConfig, optimizer) -> dict[str, Callable]:
  """Jitted (state, batch) -> (state, metrics), by variant."""
  def usual(take):
    update = learner.make_update(_all_logits(cfg, take), optimizer)
    return jax.jit(lambda s, b: update(s, b, None), donate_argnums=0)

  return {'log_softmax': usual(_log_softmax), 'logsumexp': usual(_logsumexp),
          'ours': learner.make_grpo_step(cfg, optimizer)}


def _config(name: str) -> transformer.ModelConfig:
  return transformer.ModelConfig(V=_V, remat='block', **_SIZES[name][0])


def _resident(key: str) -> int:
  """Bytes of this process: VmRSS now, VmHWM at most since the last reset."""
  status = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(re.search(rf'{key}:\s+(\d+) kB', status)[1])


def _run(variant: str) -> int:
  """How far the resident set rises while the smallest size makes a step."""
  cfg, rng = _config(_SMALL), np.random.default_rng(0)
  shapes = _batch(_SIZES[_SMALL][1])
  batch = batches.Batch(*(
      (rng.integers(0, _T - 1, x.shape) if x.dtype == np.int32
       else rng.normal(size=x.shape)).astype(x.dtype) for x in shapes))
  batch = jax.device_put(batch._replace(
      segment_BxT=np.ones_like(batch.segment_BxT),
      weight_P=np.ones_like(batch.weight_P)))
  optimizer = learner.make_optimizer(1e-5, 10, 100)
  params = jax.jit(transformer.init, static_argnums=1)(
      jax.random.key(0), cfg)
  state = jax.block_until_ready(learner.init_state(params, optimizer))
  step = _steps(cfg, optimizer)[variant].lower(state, batch).compile()
  pathlib.Path('/proc/self/clear_refs').write_text('5')   # VmHWM = VmRSS
  before = _resident('VmRSS')
  jax.block_until_ready(step(state, batch))
  return _resident('VmHWM') - before


def _measure(variant: str) -> int:
  done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.memory', f'--run={variant}'],
      check=True, stdout=subprocess.PIPE, text=True)
  return int(done.stdout.split()[-1])


def main(_) -> None:
  if _RUN.value:
    print(_run(_RUN.value))
    return
  optimizer = learner.make_optimizer(1e-5, 10, 100)
  rows = [('model, T=1,024', 'gradients MB', 'log-softmax MB', 'logsumexp MB',
           'ours MB', 'of log-softmax', 'of logsumexp')]
  report = {}

  def add(name: str, gradients: int, found: dict[str, int]) -> None:
    report[name] = {'gradients': gradients, **found}
    *usual, ours = found.values()
    rows.append((name, *(f'{n / 1e6:,.0f}' for n in (gradients, *usual, ours)),
                 *(f'1/{n / ours:.1f}' for n in usual)))
    print(name, rows[-1], flush=True)

  for name, (_, B) in _SIZES.items():
    cfg = _config(name)
    params = transformer.shapes(cfg)
    state = jax.eval_shape(
        lambda p: learner.init_state(p, optimizer), params)
    add(name, 4 * transformer.n_params(params), {
        variant: _bytes(step, state, _batch(B))
        for variant, step in _steps(cfg, optimizer).items()})
  add(f'{_SMALL}, measured', report[_SMALL]['gradients'],
      {variant: _measure(variant) for variant in _VARIANTS})
  rounds.save(__file__, 'Temporaries of a GRPO step, V=128k, float32, 30 % '
              'action tokens, remat', rows, report)


if __name__ == '__main__':
  app.run(main)
