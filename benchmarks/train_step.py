"""An optimiser step: ours beside PyTorch on equal weights and tokens.

  python -m benchmarks.train_step [--model=small] [--rounds=5]

Two steps of the models of benchmarks/rollout.py, each with AdamW behind a clip
of the gradient norm, on rows of 256 random tokens:

  SFT  the loss is on every token
  RL   GRPO's clipped surrogate on the 30 % of tokens that are actions; ours
       computes the head for those alone, PyTorch all logits and then gathers,
       as its trainers do

PyTorch runs transformers' own model without dropout or a cache. The first
losses must agree. The ceiling is float32 products of 2,048 x 2,048 matrices
measured in the same rounds, and a step's work the analytic FLOPs of forward and
backward pass that its loss needs (remat and the head's recomputation count as
time and not as work; for PyTorch the logits it wastes are not work either).
Writes train_step-<model>.json and .md beside the script.

  pip install -r requirements-torch.txt                         # torch
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks import rollout, rounds
from dreamgym_jax import config, learner
from dreamgym_jax.data import batches
from dreamgym_jax.models import families, huggingface, transformer
from dreamgym_jax.planning import roofline

_T, _ACTIONS, _LR, _GEMM = 256, 0.3, 1e-4, 2048
_ROWS = {'small': 32, '135m': 4}
_Step = Callable[[], float]     # one update; its loss


def _batch(V: int, B: int, share: float) -> batches.Batch:
  """B full rows; a share of the positions carries loss."""
  rng = np.random.default_rng(0)
  tok_BxT = rng.integers(1, V, (B, _T)).astype(np.int32)
  predicts = np.flatnonzero(np.tile(np.arange(_T) < _T - 1, B))
  P = round(share * len(predicts))
  index_P = np.sort(rng.choice(predicts, P, replace=False)).astype(np.int32)
  return batches.Batch(
      tok_BxT, np.tile(np.arange(_T, dtype=np.int32), (B, 1)),
      np.ones_like(tok_BxT), index_P, tok_BxT.reshape(-1)[index_P + 1],
      np.ones(P, np.float32), np.full(P, -np.log(V), np.float32),
      rng.normal(size=P).astype(np.float32), index_P // _T)


def _ours(model: families.Model, make_step, batch) -> _Step:
  optimizer = learner.make_optimizer(
      _LR, 0, 1000, schedule=learner.warmup_constant)
  step = make_step(model.cfg, optimizer)
  state = learner.init_state(model.params, optimizer)

  def run() -> float:
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready(state)
    return float(metrics['loss'])

  return run


def _torch(path: pathlib.Path, loss_of, batch) -> _Step:
  import torch
  import transformers

  torch.set_num_threads(rollout.THREADS)
  model = transformers.AutoModelForCausalLM.from_pretrained(path).train()
  optimizer = torch.optim.AdamW(
      model.parameters(), _LR, betas=(.9, .95), weight_decay=0.)
  batch = batches.Batch(*map(torch.from_numpy, map(np.array, batch)))

  def run() -> float:
    z_BxTxV = model(batch.tok_BxT.long(), use_cache=False).logits
    loss = loss_of(z_BxTxV, batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())

  return run


def _torch_sft(z_BxTxV, batch):
  import torch
  z = z_BxTxV[:, :-1].reshape(-1, z_BxTxV.shape[-1])
  return torch.nn.functional.cross_entropy(
      z, batch.tok_BxT[:, 1:].reshape(-1).long())


def _torch_rl(z_BxTxV, batch):
  import torch
  logp = z_BxTxV[:, :-1].log_softmax(-1).gather(
      2, batch.tok_BxT[:, 1:, None].long())[..., 0]
  logp = torch.nn.functional.pad(logp, (0, 1)).reshape(-1)[
      batch.index_P.long()]
  ratio = (logp - batch.logp_P).exp()
  return -torch.minimum(
      ratio * batch.adv_P, ratio.clamp(.8, 1.28) * batch.adv_P).mean()


def _gemm() -> Callable[[], int]:
  product = jax.jit(jnp.dot)
  x = jax.random.normal(jax.random.key(0), (_GEMM, _GEMM))

  def run() -> int:
    for _ in range(8):
      product(x, x).block_until_ready()
    return 8 * 2 * _GEMM ** 3

  return run


def _work(cfg: transformer.ModelConfig, batch: batches.Batch) -> float:
  layers, head = roofline.forward_flops(
      cfg, batch.tok_BxT.size, _T / 2, len(batch.index_P))
  return 3 * (layers + head)


def main(_) -> None:
  name = rollout.MODEL.value
  cfg = rollout.MODELS[name]
  kinds = {'SFT': (1.0, learner.make_sft_step, _torch_sft),
           'RL': (_ACTIONS, learner.make_grpo_step, _torch_rl)}
  steps, work = {}, {}
  losses: dict[str, list[float]] = {}
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / 'model'
    huggingface.export(path, transformer.init(jax.random.key(0), cfg), cfg)
    for kind, (share, make_step, loss_of) in kinds.items():
      batch = _batch(cfg.V, _ROWS[name], share)
      work[kind] = _work(cfg, batch)
      model = huggingface.load(path)
      steps[f'{kind}, ours'] = _ours(model._replace(cfg=dataclasses.replace(
          model.cfg, unroll=config.defaults().model.unroll)), make_step, batch)
      steps[f'{kind}, torch'] = _torch(path, loss_of, batch)

  def counted(label: str, step: _Step) -> Callable[[], int]:
    def run() -> int:
      losses.setdefault(label, []).append(step())
      return _ROWS[name] * _T

    return run

  found = rounds.interleave(
      {label: counted(label, step) for label, step in steps.items()}
      | {'gemm': _gemm()}, rollout.ROUNDS.value)
  for kind in kinds:
    np.testing.assert_allclose(
        losses[f'{kind}, ours'][0], losses[f'{kind}, torch'][0],
        rtol=1e-3, atol=1e-5)
  ceiling = found['gemm'].rate
  rows = [('step', 'tokens/s', 'ours is', 'cold s', 'warm s',
           'of GEMM ceiling')]
  for label in steps:
    kind, m = label.partition(',')[0], found[label]
    rows.append((
        label, f'{m.rate:,.0f}',
        f'{found[f"{kind}, ours"].rate / m.rate:.2f}×', f'{m.cold:.1f}',
        f'{m.seconds:.2f}', f'{100 * work[kind] / m.seconds / ceiling:.0f} %'))
  rounds.save(
      str(pathlib.Path(__file__).with_name(f'train_step-{name}')),
      f'Train step, {name} model, {_ROWS[name]} rows of {_T}; ceiling '
      f'{ceiling / 1e9:.0f} GFLOP/s', rows,
      {'rounds': {k: m._asdict() for k, m in found.items()},
       'work_flops': work, 'losses': losses})


if __name__ == '__main__':
  app.run(main)
