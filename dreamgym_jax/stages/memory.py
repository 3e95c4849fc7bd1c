"""The replay buffer of a run, and retrieval as the roles ask for it."""

import functools
from collections.abc import Sequence

import numpy as np

from dreamgym_jax import corpus, distributed, experience, replay, types
from dreamgym_jax.models import encoder, minilm
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import prompts


class _OfFirst:
  """The first process's index: two that ScaNN trains need not be equal."""

  def __init__(self, index: replay.TopK):
    self._index = index

  def update(self, bank: replay.Bank, rows: Sequence[int]) -> None:
    self._index.update(bank, rows)

  def search(self, query: replay.Query, k: int) -> replay.Hits:
    hits = self._index.search(query, k)
    row_BxR, score_BxR = distributed.of_first(
        'retrieval', [x.tolist() for x in hits])
    return replay.Hits(np.array(row_BxR, np.int32),
                       np.array(score_BxR, np.float32))


_INDEX = {'exact': replay.make_exact_top_k,
          'scann': lambda: _OfFirst(replay.make_scann_top_k())}
_BATCH = 512


def make_encode(run: runs.Run) -> encoder.Encode:
  """Phi, as the config has it."""
  c = run.config.replay
  return _encoder(c.encoder, c.embedding)


@functools.cache
def _encoder(name: str, E: int) -> encoder.Encode:
  """One for all stages: weights are read once, and vectors kept."""
  if name == 'minilm':
    return minilm.make_encoder(minilm.find())
  return encoder.make_hash_encoder(E)


def open_replay(
    run: runs.Run, episodes: Sequence[types.Episode]
) -> replay.Replay:
  """A store seeded with offline real transitions."""
  c = run.config.replay
  store = replay.Replay(
      c.capacity, c.embedding, make_encode(run),
      _INDEX[c.index](), replay.make_admission(c.min_confidence),
      max_dreamed_share=c.max_dreamed_share,
      max_real_share=1 - c.max_dreamed_share / 2)
  # Shuffled, so that what does not fit is missing from every family alike.
  rng = np.random.default_rng(run.config.seed)
  order = rng.permutation(len(episodes))
  store.add([episodes[i] for i in order if not episodes[i].error])
  return store


def make_retrieve(store: replay.Replay, k: int) -> prompts.Retrieve:
  """Top-k of the same family for steps of a dream, never of the same page."""
  if not k:
    return experience.no_retrieval

  def retrieve(
      tasks: Sequence[types.Task], states: Sequence[str],
      actions: Sequence[str],
  ) -> list[list[prompts.Demo]]:
    texts = [encoder.key_text(s, a)
             for s, a in zip(states, actions, strict=True)]
    pages = [t.task_id for t in tasks]
    found = store.query(texts, k, pages, [t.family for t in tasks], pages)
    return [[corpus.make_demo(e.transition, s, a) for e in entries]
            for entries, s, a in zip(found, states, actions, strict=True)]

  return retrieve


def retrieve_all(
    run: runs.Run, episodes: Sequence[types.Episode]
) -> corpus.RetrieveAll:
  """Top-k for every step of training episodes, by the same rule."""
  k = run.config.replay.k
  if not k:
    return corpus.no_demos
  retrieve = make_retrieve(open_replay(run, episodes), k)

  def all_steps(
      asked: Sequence[types.Episode],
  ) -> list[list[list[prompts.Demo]]]:
    steps = [(e.task, s) for e in asked for s in e.transitions]
    flat: list[list[prompts.Demo]] = []
    for start in range(0, len(steps), _BATCH):
      part = steps[start:start + _BATCH]
      flat += retrieve([t for t, _ in part], [s.state for _, s in part],
                       [s.action for _, s in part])
    demos = iter(flat)
    return [[next(demos) for _ in e.transitions] for e in asked]

  return all_steps
