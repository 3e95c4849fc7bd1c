"""The replay buffer, and retrieval of demonstrations from it (paper, Eq. 4).

`{d_j} = Top_k cos(phi(s_t, a_t), phi(s_i, a_i))` over single transitions of a
fixed-capacity store: seeded with offline real ones, enriched with dreamed ones
that were admitted. What the paper leaves open is an argument here: admission,
eviction, quotas, family restriction. The leak rule is not: a demonstration is
never of the episode that asks, nor, if the caller names it, of its page.
"""

import collections
import hashlib
import heapq
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dreamgym_jax import types
from dreamgym_jax.models import encoder, sharding
from dreamgym_jax.text import states

_EMPTY, _ANY, _UNKNOWN = -1, -1, -2   # ids of rows, and of queries
_log = logging.getLogger(__name__)


class ReplayError(ValueError):
  """Sizes that do not fit, named."""


class Entry(NamedTuple):
  """A stored transition and where it came from."""

  transition: types.Transition
  family: str
  task_id: str
  trajectory: str        # episode_id
  source: str            # 'real' or 'dreamed'
  score: float = 1.0     # similarity to the query, where it answers one


class Bank(NamedTuple):
  """What is searched; an empty row has id -1 in every field."""

  key_MxE: np.ndarray
  family_M: np.ndarray
  trajectory_M: np.ndarray
  task_M: np.ndarray


class Query(NamedTuple):
  key_BxE: np.ndarray
  family_B: np.ndarray       # only this family; -1: any
  trajectory_B: np.ndarray   # never this trajectory; -1: none
  task_B: np.ndarray         # never this task; -1: none


class Hits(NamedTuple):
  """Best first; row -1 and score -inf where fewer than R are allowed."""

  row_BxR: np.ndarray
  score_BxR: np.ndarray


class TopK(Protocol):
  """An index over a bank. Call `update` after rows of the bank changed."""

  def update(self, bank: Bank, rows: Sequence[int]) -> None:
    """Takes over the given rows of the bank."""

  def search(self, query: Query, k: int) -> Hits:
    """The k allowed rows nearest to each query."""


def make_exact_top_k(max_batch: int = 64) -> TopK:
  """All rows on the device, scored in one matmul.

  Compiles once per k and power of two of the batch, up to max_batch.
  """
  return _Exact(max_batch)


def make_scann_top_k(
    min_rows: int = 2048, over_fetch: int = 8, reorder: int = 200
) -> TopK:
  """ScaNN (quantised scores, the best `reorder` rescored), upserts in place.

  Family and leak rule are applied to over_fetch * k neighbours; a query left
  with fewer than k is answered exactly, as are all below min_rows: ScaNN
  trains on the rows, so it cannot start empty. Built anew after as many
  changes as it was built from. Raises ReplayError where scann is missing.
  """
  try:
    import scann  # noqa: F401
  except ImportError as e:
    raise ReplayError(
        'retrieval by ScaNN needs the package scann (Linux x86_64); '
        'choose exact retrieval instead') from e
  return _Scann(min_rows, over_fetch, reorder)


class _Exact:

  def __init__(self, max_batch: int):
    self._max_batch = max_batch
    self._search = jax.jit(_search, static_argnames='k')
    self._host = self._device = None

  def update(self, bank: Bank, rows: Sequence[int]) -> None:
    del rows   # uploaded whole before the next search: once per iteration
    self._host, self._device = bank, None

  def search(self, query: Query, k: int) -> Hits:
    if self._device is None:
      self._device = jax.tree.map(sharding.put_rows, self._host)
    k = min(k, len(self._host.family_M))
    hits = []
    for start in range(0, len(query.family_B), self._max_batch):
      n = min(self._max_batch, len(query.family_B) - start)
      pad = (1 << (n - 1).bit_length()) - n
      padded = Query(*(np.pad(x[start:start + n],
                              [(0, pad)] + [(0, 0)] * (x.ndim - 1))
                       for x in query))
      found = jax.device_get(self._search(self._device, padded, k=k))
      hits.append([x[:n] for x in found])
    return Hits(*map(np.concatenate, zip(*hits, strict=True)))


def _search(bank: Bank, query: Query, k: int) -> Hits:
  score_BxM = jnp.einsum('BE,ME->BM', query.key_BxE, bank.key_MxE,
                         precision=jax.lax.Precision.HIGHEST)
  score_BxM = jnp.where(_allowed(bank, query), score_BxM, -jnp.inf)
  score_BxR, row_BxR = jax.lax.top_k(score_BxM, k)
  return Hits(*sharding.whole(
      jnp.where(score_BxR > -jnp.inf, row_BxR, _EMPTY), score_BxR))


def _allowed(bank: Bank, query: Query) -> jax.Array:
  """[B, M]: family restriction and leak rule."""
  family_Bx1 = query.family_B[:, None]
  return ((bank.family_M[None] != _EMPTY)
          & ((family_Bx1 == _ANY) | (family_Bx1 == bank.family_M[None]))
          & (query.trajectory_B[:, None] != bank.trajectory_M[None])
          & (query.task_B[:, None] != bank.task_M[None]))


class _Scann:

  def __init__(self, min_rows: int, over_fetch: int, reorder: int):
    self._exact = make_exact_top_k()
    self._min_rows, self._over_fetch = min_rows, over_fetch
    self._reorder, self._has_said_exact = reorder, False
    self._bank, self._index = None, None
    self._changes_left = 0

  def update(self, bank: Bank, rows: Sequence[int]) -> None:
    self._exact.update(bank, rows)
    self._bank = bank
    if self._index is None:
      return
    self._changes_left -= len(rows)
    if self._changes_left < 0:
      self._index = None   # rebuilt by the next search
      return
    known = self._index.docid_to_id
    for row in rows:
      if bank.family_M[row] != _EMPTY:
        self._index.upsert([str(row)], bank.key_MxE[row][None])
      elif str(row) in known:
        self._index.delete([str(row)])

  def search(self, query: Query, k: int) -> Hits:
    rows = np.flatnonzero(self._bank.family_M != _EMPTY)
    if len(rows) < self._min_rows:
      if not self._has_said_exact:
        _log.info('retrieval is exact below %d rows: ScaNN cannot start empty',
                  self._min_rows)
      self._has_said_exact, self._index = True, None
      return self._exact.search(query, k)
    if self._index is None:
      self._build(rows)
    wanted = min(k * self._over_fetch, len(rows))
    found, scores = self._index.search_batched(
        query.key_BxE, final_num_neighbors=wanted,
        pre_reorder_num_neighbors=max(self._reorder, wanted))
    row_BxR = np.full((len(found), k), _EMPTY, np.int32)
    score_BxR = np.full((len(found), k), -np.inf, np.float32)
    for b, (docids, score_F) in enumerate(zip(found, scores, strict=True)):
      row_F = np.array(docids, np.int32)
      near = Bank(*(x[row_F] for x in self._bank))
      one = Query(*(x[b:b + 1] for x in query))
      keep = np.flatnonzero(_allowed(near, one)[0])[:k]
      row_BxR[b, :len(keep)] = row_F[keep]
      score_BxR[b, :len(keep)] = score_F[keep]
    short = np.flatnonzero(row_BxR[:, -1] == _EMPTY)
    if len(short):
      exact = self._exact.search(Query(*(x[short] for x in query)), k)
      row_BxR[short], score_BxR[short] = exact
    return Hits(row_BxR, score_BxR)

  def _build(self, rows: np.ndarray) -> None:
    from scann.scann_ops.py import scann_ops_pybind
    builder = scann_ops_pybind.builder(
        self._bank.key_MxE[rows], self._reorder, 'dot_product')
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
    self._index = builder.reorder(self._reorder).build(
        docids=[str(r) for r in rows])
    self._changes_left = len(rows)
    _log.info('ScaNN index built from %d rows', len(rows))


Admit = Callable[[types.Episode, types.Transition], bool]


def make_admission(threshold: float = 0.9) -> Admit:
  """The default rule: no crash, nothing malformed or unknown, no wavering.

  A dreamed transition is admitted if P(success) is at least `threshold` or at
  most 1 - threshold; -1 is a verdict by rule and not by dream.
  """
  def admit(episode: types.Episode, transition: types.Transition) -> bool:
    if (episode.is_malformed or episode.error
        or transition.next_state == states.UNKNOWN):
      return False
    p = transition.success_prob
    return (episode.source != types.DREAMED or p < 0
            or p >= threshold or p <= 1 - threshold)
  return admit


class Replay:
  """Owns the store and its index; ages and rows are the same after a resume."""

  def __init__(
      self, capacity: int, E: int, encode: encoder.Encode,
      retrieve: TopK | None = None, admit: Admit | None = None,
      max_dreamed_share: float = 0.5, max_real_share: float = 1.0,
  ):
    """capacity: rows M. Shares: the most of them that a source may hold."""
    if capacity < 1 or not 0 <= max_dreamed_share <= 1 >= max_real_share > 0:
      raise ReplayError(
          f'capacity {capacity}, shares {max_dreamed_share} dreamed and '
          f'{max_real_share} real: want at least 1, and shares up to 1')
    self._quota = {types.REAL: max(int(max_real_share * capacity), 1),
                   types.DREAMED: int(max_dreamed_share * capacity)}
    self._encode = encode
    self._index = retrieve or make_exact_top_k()
    self._admit = admit or make_admission()
    self._clear(capacity, E)

  def _clear(self, M: int, E: int) -> None:
    self._bank = Bank(np.zeros((M, E), np.float32),
                      *(np.full(M, _EMPTY, np.int32) for _ in range(3)))
    self._entries: list[Entry | None] = [None] * M
    self._row_of: dict[str, int] = {}                  # text hash -> row
    self._ages = {types.REAL: {}, types.DREAMED: {}}   # row -> hash, old first
    self._free = list(range(M))                        # a heap: lowest first
    self._ids: dict[str | int, int] = {_ANY: _ANY}

  def __len__(self) -> int:
    return len(self._row_of)

  def entries(self) -> list[Entry]:
    """Real before dreamed, oldest first."""
    return [self._entries[row] for rows in self._ages.values() for row in rows]

  def counts(self) -> dict[str, int]:
    """Rows by source."""
    return {source: len(rows) for source, rows in self._ages.items()}

  def add(self, episodes: Sequence[types.Episode]) -> dict[str, int]:
    """Offers every transition, in order; counts what became of them.

    Counts `added`, `rejected` (not admitted), `duplicate`, `full` (no room
    that a dreamed one may take), `evicted`. A real transition takes the place
    of the same dreamed one, which counts as evicted.
    """
    offers = [
        Entry(t, e.task.family, e.task.task_id, e.episode_id, e.source)
        for e in episodes for t in e.transitions if self._admit(e, t)]
    num_offered = sum(len(e.transitions) for e in episodes)
    counts = collections.Counter(
        added=0, rejected=num_offered - len(offers), duplicate=0, full=0,
        evicted=0)
    keys_NxE = self._encode([
        encoder.key_text(o.transition.state, o.transition.action)
        for o in offers])
    if keys_NxE.shape[1] != self._bank.key_MxE.shape[1]:
      raise ReplayError(f'the encoder gives {keys_NxE.shape[1]} numbers, the '
                        f'store holds {self._bank.key_MxE.shape[1]}')
    changed = set()
    for offer, key_E in zip(offers, keys_NxE, strict=True):
      counts.update(self._offer(offer, key_E, changed))
    if changed:
      self._index.update(self._bank, sorted(changed))
    return dict(counts)

  def _offer(self, entry: Entry, key_E: np.ndarray, changed: set) -> dict:
    """Places one transition; its outcome, and how many were evicted."""
    digest = _digest(entry)
    old = self._row_of.get(digest)
    dreamed, same = self._ages[types.DREAMED], self._ages[entry.source]
    if old is not None and (old not in dreamed or same is dreamed):
      return {'duplicate': 1}
    evicted = [] if old is None else [old]
    # A full store makes room by its oldest dreamed row; where there is none,
    # only a real one may take the place of a real one.
    if len(same) >= self._quota[entry.source]:
      evicted.append(next(iter(same), None))
    elif not self._free and not evicted:
      evicted.append(next(iter(dreamed or same), None))
    if None in evicted:
      return {'full': 1}
    for row in evicted:
      self._evict(row)
    row = heapq.heappop(self._free)
    self._put(row, entry, digest, key_E)
    changed.update(evicted, [row])
    return {'added': 1, 'evicted': len(evicted)}

  def _evict(self, row: int) -> None:
    digest = self._ages[self._entries[row].source].pop(row)
    del self._row_of[digest]
    self._entries[row] = None
    self._bank.key_MxE[row] = 0
    for id_M in self._bank[1:]:
      id_M[row] = _EMPTY
    heapq.heappush(self._free, row)

  def _put(self, row: int, entry: Entry, digest: str, key_E: np.ndarray):
    self._entries[row] = entry
    self._row_of[digest] = row
    self._ages[entry.source][row] = digest
    self._bank.key_MxE[row] = key_E
    names = (entry.family, entry.trajectory, entry.task_id)
    for id_M, name in zip(self._bank[1:], names, strict=True):
      id_M[row] = self._ids.setdefault(name, len(self._ids))

  def query(
      self, texts: Sequence[str], k: int, exclude_trajectory: Sequence[str],
      family: Sequence[str] | None = None,
      exclude_task: Sequence[str] | None = None,
  ) -> list[list[Entry]]:
    """For each text (`encoder.key_text`) up to k entries, nearest first.

    exclude_trajectory, exclude_task: the episode id and, in training, the
    task id that text i must get nothing of. family: gets only this one.
    """
    if not texts or not k or not len(self):
      return [[] for _ in texts]

    def ids(names: Sequence[str] | None) -> np.ndarray:
      names = [_ANY] * len(texts) if names is None else names
      if isinstance(names, str) or len(names) != len(texts):
        raise ReplayError(f'{len(texts)} texts need one each of {names!r:.60}')
      return np.array([self._ids.get(x, _UNKNOWN) for x in names], np.int32)

    wanted = map(ids, (family, exclude_trajectory, exclude_task))
    hits = self._index.search(Query(self._encode(texts), *wanted), k)
    return [[self._entries[row]._replace(score=float(score))
             for row, score in zip(rows, scores, strict=True) if row != _EMPTY]
            for rows, scores in zip(*hits, strict=True)]

  def state_dict(self) -> dict[str, Any]:
    """{'host': JSON-able, 'arrays': {'key_MxE'}}, of fixed shapes."""
    rows = [
        {**(e := self._entries[row])._asdict(), 'row': row,
         'transition': vars(e.transition)}
        for ages in self._ages.values() for row in ages]
    return {'host': {'rows': rows},
            'arrays': {'key_MxE': self._bank.key_MxE.copy()}}

  def load_state_dict(self, state: Mapping[str, Any]) -> None:
    """Replaces all content; raises ReplayError if the sizes differ."""
    key_MxE = np.asarray(state['arrays']['key_MxE'])
    if key_MxE.shape != self._bank.key_MxE.shape:
      raise ReplayError(f'saved with shape {key_MxE.shape}, this store has '
                        f'{self._bank.key_MxE.shape}')
    self._clear(*key_MxE.shape)
    for saved in state['host']['rows']:
      fields = {**saved, 'transition': types.Transition(**saved['transition'])}
      row, entry = fields.pop('row'), Entry(**fields)
      self._put(row, entry, _digest(entry), key_MxE[row])
    self._free = [r for r, e in enumerate(self._entries) if e is None]
    self._index.update(self._bank, range(len(self._entries)))


def _digest(entry: Entry) -> str:
  """Of (state, action, next state).

  One dreamed refusal is enough for a state, whatever the action was: they are
  cheap to dream and would fill the store.
  """
  t = entry.transition
  is_refusal = t.is_invalid and entry.source == types.DREAMED
  text = json.dumps([t.state, '' if is_refusal else t.action, t.next_state])
  return hashlib.sha256(text.encode()).hexdigest()[:32]
