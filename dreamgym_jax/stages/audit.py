"""After training: how far the dream was true, episode by episode."""

import dataclasses
from collections.abc import Sequence

from dreamgym_jax import types
from dreamgym_jax.audit import fidelity, gate


def replay_in(
    real: types.World, episodes: Sequence[types.Episode], rows: int
) -> list[types.Episode]:
  """The dreamed episodes' actions, carried out in the real world.

  World-to-real consistency (Word2World, arXiv 2512.18832). Tasks must be real
  pages; an action after the real end is not sent.
  """
  replayed = []
  for start in range(0, len(episodes), rows):
    batch = episodes[start:start + rows]
    live = real.reset([e.task for e in batch])
    steps = [[] for _ in batch]
    now = [t.initial_state for t in live]
    errors = [''] * len(batch)
    active = list(range(len(batch)))
    while active:
      acting = [i for i in active
                if len(steps[i]) < len(batch[i].transitions)]
      written = [batch[i].transitions[len(steps[i])].action for i in acting]
      seen = real.step(acting, written) if acting else []
      active = []
      for i, action, o in zip(acting, written, seen, strict=True):
        steps[i].append(types.Transition(
            now[i], action, o.state, o.reward, o.done, o.is_invalid))
        now[i], errors[i] = o.state, o.error
        if not o.done:
          active.append(i)
    replayed += [
        dataclasses.replace(e, task=live[i], transitions=tuple(steps[i]),
                            source=types.REAL, error=errors[i])
        for i, e in enumerate(batch)]
  return replayed


def summarise(
    pairs: Sequence[gate.StepPair],
    replays: Sequence[tuple[types.Episode, types.Episode]],
) -> dict:
  """epsilon_R, epsilon_P by horizon step, consistency, Theorem 1's terms."""
  return fidelity.summary(pairs, [p for p in replays if not p[1].error])
