"""Memory of an RL step: our head on action tokens, beside all logits at once.

  python -m benchmarks.memory

Compiles the same GRPO step twice for a vocabulary of 128k tokens, 30 % of them
actions: as the learner has it (the head sees the action tokens alone, 512 at a
time, and is computed again backward), and as is usual elsewhere (logits
[B, T, V], log-softmax, then gather). Bytes are XLA's own account of what the
compiled step needs beside its arguments and results; nothing is run. Gradients
of the weights are among them and are the same in both, so they are given too.
Writes memory.json and .md beside the script.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks import rounds
from dreamgym_jax import learner, losses
from dreamgym_jax.data import batches
from dreamgym_jax.models import transformer

_V, _ACTIONS, _T = 128_256, 0.3, 1024
_SIZES = {
    '135M, 4 rows': (dict(D=576, N=30, H=9, K=3, d=64, F=1536), 4),
    '135M, 16 rows': (dict(D=576, N=30, H=9, K=3, d=64, F=1536), 16),
    '1B, 4 rows': (dict(D=2048, N=16, H=32, K=8, d=64, F=8192), 4),
    '1B, 16 rows': (dict(D=2048, N=16, H=32, K=8, d=64, F=8192), 16)}


def _all_logits(cfg: transformer.ModelConfig) -> learner.LossFn:
  """The loss of `make_grpo_step` with every logit at hand."""
  def loss_fn(params, batch, ref_params):
    del ref_params
    z_BxTxV = transformer.forward(
        params, batch.tok_BxT, batch.pos_BxT, batch.segment_BxT, cfg)
    logp_BxTxV = jax.nn.log_softmax(z_BxTxV)
    entropy_BxT = -(jnp.exp(logp_BxTxV) * logp_BxTxV).sum(-1)
    next_BxT = jnp.roll(batch.tok_BxT, -1, 1)
    logp_BxT = jnp.take_along_axis(logp_BxTxV, next_BxT[..., None], 2)[..., 0]
    logp_P = logp_BxT.reshape(-1)[batch.index_P]
    surrogate = losses.clipped_surrogate(
        logp_P, batch.logp_P, batch.adv_P, batch.weight_P, 0.2, 0.28)
    loss = losses.token_mean(
        surrogate.loss_P, batch.weight_P, batch.sequence_P)
    return loss, {'entropy': losses.masked_mean(
        entropy_BxT.reshape(-1)[batch.index_P], batch.weight_P)}

  return loss_fn


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


def main(_) -> None:
  optimizer = learner.make_optimizer(1e-5, 10, 100)
  rows = [('model, T=1,024', 'gradients MB', 'all logits MB', 'ours MB',
           'ours is')]
  report = {}
  for name, (sizes, B) in _SIZES.items():
    cfg = transformer.ModelConfig(V=_V, remat='block', **sizes)
    params = transformer.shapes(cfg)
    state = jax.eval_shape(
        lambda p: learner.init_state(p, optimizer), params)
    theirs = learner.make_update(_all_logits(cfg), optimizer)
    full = _bytes(jax.jit(lambda s, b, f=theirs: f(s, b, None),
                          donate_argnums=0), state, _batch(B))
    ours = _bytes(learner.make_grpo_step(cfg, optimizer), state, _batch(B))
    gradients = 4 * transformer.n_params(params)
    report[name] = {'gradients': gradients, 'all_logits': full, 'ours': ours}
    rows.append((name, *(f'{n / 1e6:,.0f}' for n in (gradients, full, ours)),
                 f'1/{full / ours:.1f}'))
    print(name, rows[-1], flush=True)
  rounds.save(__file__, 'Temporaries of a GRPO step, V=128k, float32, 30 % '
              'action tokens, remat', rows, report)


if __name__ == '__main__':
  app.run(main)
