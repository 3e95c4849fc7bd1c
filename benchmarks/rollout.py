"""Multi-turn generation: ours beside transformers and google-tunix.

  python -m benchmarks.rollout [--model=small] [--turns=20] [--rows=32] \
      [--play=ours --play=transformers --play=tunix]

Every row is an episode of `turns` turns: 24 tokens of a page come in, an answer
goes out that ends at one of V / 16 stop tokens (16 tokens in the mean, 48 at
most), sampled at temperature 1. All contenders have the same random weights
(a Qwen3, written once as safetensors and read by each), the same pages and the
same two threads. The peers are used as their own trainers use them: the whole
history goes in again each turn, and the batch waits for its longest row.

What counts is useful tokens a second: those up to each row's stop token.
Before anything is timed, the greedy continuations of all contenders are
compared. Peers that are not installed are left out, and the report says so:

  pip install -r requirements-torch.txt                         # torch
  pip install --no-deps google-tunix==0.1.7 qwix jaxtyping wadler_lindig \
      google-metrax clu perfetto pandas

Writes rollout-<model>-<turns>.json and .md beside the script.
"""

import functools
import importlib.util
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from benchmarks import rounds
from dreamgym_jax import sampling
from dreamgym_jax.models import decoding, huggingface, transformer

MODEL = flags.DEFINE_enum('model', 'small', ['small', '135m'], 'Its sizes.')
TURNS = flags.DEFINE_integer('turns', 20, 'Turns of an episode.')
_ROWS = flags.DEFINE_integer('rows', 32, 'Episodes at once.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Counted rounds of each.')
MAX_NEW, THREADS = 48, 2
_PROMPT, _PAGE, _ANSWER = 64, 24, 16
MODELS = {
    'small': transformer.ModelConfig(
        V=4096, D=192, N=6, H=6, K=2, d=32, F=512, qk_norm=True,
        norm_eps=1e-6, rope_theta=1e6),
    '135m': transformer.ModelConfig(
        V=49152, D=576, N=30, H=9, K=3, d=64, F=1536, qk_norm=True,
        norm_eps=1e-6, rope_theta=1e6)}


class Workload(NamedTuple):
  """What comes in: pages[t][i] are the tokens of row i's turn t."""

  pages: list[list[list[int]]]
  stop: list[int]

  @property
  def longest(self) -> int:
    return _PROMPT + len(self.pages) * (_PAGE + MAX_NEW)


# (workload, seed, temperature) -> (answers by turn and row, seconds by turn)
Play = Callable[[Workload, int, float],
                tuple[list[list[list[int]]], list[float]]]


def make_workload(V: int, turns: int, rows: int) -> Workload:
  rng = np.random.default_rng(0)
  stop = rng.choice(np.arange(1, V), V // _ANSWER, replace=False)
  words = np.setdiff1d(np.arange(1, V), stop)     # 0 pads
  return Workload(
      [rng.choice(words, (rows, _PAGE if t else _PROMPT)).tolist()
       for t in range(turns)], sorted(stop.tolist()))


def make_ours(path: pathlib.Path, load: Workload) -> Play:
  model = huggingface.load(path)
  rows = range(len(load.pages[0]))
  sampler = sampling.Sampler(model.cfg, len(rows), load.longest)

  def play(load, seed, temperature):
    sampler.start(len(rows))
    answers, seconds = [], []
    for t, pages in enumerate(load.pages):
      start = time.perf_counter()
      turns = sampler.turn(
          model.params, rows, pages, key=jax.random.key(seed * 1000 + t),
          streams=rows, temperature=temperature, max_new=MAX_NEW,
          stop=load.stop)
      seconds.append(time.perf_counter() - start)
      answers.append([turn.tokens.tolist() for turn in turns])
    return answers, seconds

  return play


def _again(generate, load, seed, temperature):
  """An episode by a sampler that takes whole histories and keeps nothing."""
  history = [[] for _ in load.pages[0]]
  stop, answers, seconds = set(load.stop), [], []
  for t, pages in enumerate(load.pages):
    start = time.perf_counter()
    history = [h + p for h, p in zip(history, pages, strict=True)]
    answers.append([
        _until(written, stop) for written in generate(
            history, load.stop, seed * 1000 + t, temperature)])
    history = [h + a for h, a in zip(history, answers[-1], strict=True)]
    seconds.append(time.perf_counter() - start)
  return answers, seconds


def _until(tokens: list[int], stop: set[int]) -> list[int]:
  """The tokens up to the first that stops, with it."""
  end = next((i + 1 for i, t in enumerate(tokens) if t in stop), len(tokens))
  return tokens[:end]


def make_transformers(path: pathlib.Path, load: Workload) -> Play:
  import torch
  import transformers

  del load
  torch.set_num_threads(THREADS)
  model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()

  def generate(history, stop, seed, temperature):
    torch.manual_seed(seed)
    longest = max(map(len, history))
    ids = torch.tensor([[0] * (longest - len(h)) + h for h in history])
    sampled = dict(do_sample=True, temperature=temperature, top_k=0,
                   top_p=1.0) if temperature else dict(do_sample=False)
    out = model.generate(
        input_ids=ids, attention_mask=(ids > 0).long(), pad_token_id=0,
        max_new_tokens=MAX_NEW, eos_token_id=stop, **sampled)
    return out[:, longest:].tolist()

  return functools.partial(_again, generate)


class _Numbers:
  """Token ids as text, for a sampler that takes nothing else."""

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids) -> str:
    return ' '.join(map(str, ids))

  def bos_id(self) -> int | None:
    return None

  def eos_id(self) -> int:
    return 1

  def pad_id(self) -> int:
    return 0


def make_tunix(path: pathlib.Path, load: Workload) -> Play:
  from tunix.generate import sampler as samplers
  from tunix.models.qwen3 import model as qwen3
  from tunix.models.qwen3 import params

  cfg = huggingface.read_config(path / 'config.json')
  model = params.create_model_from_safe_tensors(str(path), qwen3.ModelConfig(
      num_layers=cfg.N, vocab_size=cfg.V, embed_dim=cfg.D, hidden_dim=cfg.F,
      num_heads=cfg.H, head_dim=cfg.d, num_kv_heads=cfg.K,
      rope_theta=int(cfg.rope_theta), norm_eps=cfg.norm_eps,
      use_tied_embedding=cfg.tied))
  # It pads histories to powers of two.
  size = (1 << (load.longest - 1).bit_length()) + MAX_NEW
  sampler = samplers.Sampler(model, _Numbers(), samplers.CacheConfig(
      size, cfg.N, cfg.K, cfg.d))
  numbers = _Numbers()

  def generate(history, stop, seed, temperature):
    sampled = dict(temperature=temperature, top_p=1.0) if temperature else {}
    out = sampler(
        [numbers.decode(h) for h in history], MAX_NEW,
        eos_tokens=stop, seed=seed, **sampled)
    # It leaves the stop token out.
    return [[*map(int, t), stop[0]] if len(t) < MAX_NEW else list(map(int, t))
            for t in out.tokens]

  return functools.partial(_again, generate)


# name -> (what makes it, what must be importable)
CONTENDERS = {'ours': (make_ours, 'jax'),
              'transformers': (make_transformers, 'torch'),
              'tunix': (make_tunix, 'tunix')}
_PLAY = flags.DEFINE_multi_enum(
    'play', list(CONTENDERS), list(CONTENDERS),
    'Who plays, if installed; ours always.')


def contenders(
    model: str, load: Workload
) -> dict[str, Play]:
  """The installed ones, on equal weights; asserts that they agree."""
  cfg = MODELS[model]
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / 'model'
    huggingface.export(
        path, transformer.init(jax.random.key(0), cfg), cfg, pad=0)
    plays = {}
    for name, (make, package) in CONTENDERS.items():
      if name not in ('ours', *_PLAY.value):
        continue
      if importlib.util.find_spec(package):
        plays[name] = make(path, load)
      else:
        print(f'{name} is left out: {package} is not installed')
    one = load._replace(pages=load.pages[:1])
    greedy = {name: play(one, 0, 0.0)[0][0] for name, play in plays.items()}
  for name, answers in greedy.items():
    # But for the stop token, which tunix does not tell.
    same = [a[:-1] == b[:-1]
            for a, b in zip(answers, greedy['ours'], strict=True)]
    print(f'{name}: {sum(same)} of {len(same)} greedy answers are as ours')
    assert sum(same) >= .9 * len(same), name    # ties may fall otherwise
  return plays


def main(_) -> None:
  load = make_workload(MODELS[MODEL.value].V, TURNS.value, _ROWS.value)
  plays = contenders(MODEL.value, load)
  by_turn: dict[str, list[list[float]]] = {name: [] for name in plays}
  lengths: dict[str, list[float]] = {name: [] for name in plays}

  def runner(name: str, play: Play) -> int:
    answers, seconds = play(load, len(by_turn[name]), 1.0)
    by_turn[name].append(seconds)
    flat = [len(a) for turn in answers for a in turn]
    lengths[name].append(float(np.mean(flat)))
    return sum(flat)

  compiled = []

  def ours() -> int:
    n = runner('ours', plays['ours'])
    compiled.append(decoding.n_compiles())
    return n

  found = rounds.interleave(
      {name: ours if name == 'ours' else functools.partial(runner, name, play)
       for name, play in plays.items()}, ROUNDS.value)
  turns = sorted({3, 10, TURNS.value} & {*range(TURNS.value + 1)})
  rows = [('', 'useful tokens/s', 'ours is', 'cold s', 'warm s', 'mean answer',
           *(f'turn {t} ms' for t in turns))]
  for name, m in found.items():
    cost = [1000 * float(np.median([s[t - 1] for s in by_turn[name][1:]]))
            for t in turns]
    rows.append((name, f'{m.rate:.0f}', f'{found["ours"].rate / m.rate:.1f}×',
                 f'{m.cold:.1f}', f'{m.seconds:.2f}',
                 f'{np.mean(lengths[name]):.1f}', *(f'{c:.0f}' for c in cost)))
  rounds.save(
      str(pathlib.Path(__file__).with_name(
          f'rollout-{MODEL.value}-{TURNS.value}')),
      f'Rollout, {MODEL.value} model, {_ROWS.value} rows of {TURNS.value} '
      f'turns, {ROUNDS.value} warm rounds', rows,
      {'rounds': {name: m._asdict() for name, m in found.items()},
       'seconds_by_turn': by_turn, 'mean_answer': lengths,
       'compiles_after_each_round': compiled})


if __name__ == '__main__':
  app.run(main)
