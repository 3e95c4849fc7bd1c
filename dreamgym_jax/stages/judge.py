"""Playing a policy in a world, and judging it in the real one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from dreamgym_jax import evaluate, rollouts, sampling, types
from dreamgym_jax.stages import domains
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import prompts

SEEDS, TASKS = 'held-out seeds', 'held-out tasks'


class Player(NamedTuple):
  """What it takes to act: everything of a policy but its weights."""

  sampler: sampling.Sampler
  prompt: prompts.Prompts
  rows: int                 # episodes at once, at most
  max_new: int
  refill: int = 1           # see rollouts.Settings
  parts: int = 1


def play(
    player: Player, params: types.Params, world: types.World,
    tasks: Sequence[types.Task], key: jax.Array, temperature: float,
    source: str, label: str, rows: int | None = None,
    on_step: Callable[[int], None] = lambda n: None,
    lots: Callable[[Sequence[types.Task]], list[list[int]]]
    = domains.together,
) -> list[rollouts.Attempt]:
  """One attempt at each task, at most `rows` at once, lot after lot.

  The same key and tasks give the policy the same luck in every world, however
  many rows there are.
  """
  settings = rollouts.Settings(
      player.max_new, temperature, player.refill, player.parts)
  attempts = {}
  for lot in lots(tasks):
    played = rollouts.rollout(
        params, player.sampler, player.prompt, world, [tasks[i] for i in lot],
        jax.random.fold_in(key, lot[0]), settings, source,
        f'{label}-{lot[0]}', on_step, rows or player.rows)
    attempts.update(zip(lot, played, strict=True))
  return [attempts[i] for i in range(len(tasks))]


def test_tasks(run: runs.Run) -> list[types.Task]:
  """Held-out pages of the trained families, then of the held-out ones."""
  c = run.config
  families = (*c.env.families, *c.env.held_out_families)
  return [types.Task(f, s) for f in families
          for s in domains.pages(c, f, 'test')[:c.evaluate.pages]]


def judge(
    run: runs.Run, name: str, player: Player, params: types.Params,
    world: types.World,
) -> dict:
  """Success of a policy on the test split, in the real world.

  The episodes are kept in `episodes/<name>-*.jsonl.gz`. Evaluation decides
  nothing, so its transitions are not in the ledger of what training used.
  """
  c = run.config
  settings = {'sampled': c.evaluate.temperature}
  if c.evaluate.greedy:
    settings['greedy'] = 0.0
  tasks = test_tasks(run)
  key = jax.random.fold_in(jax.random.key(c.seed), runs.EVALUATE)
  results = {}
  for label, temperature in settings.items():
    with run.bar(None, 'steps') as bar:
      attempts = play(player, params, world, tasks, key, temperature,
                      types.REAL, f'{name}-{label}', c.env.rows, bar.update,
                      domains.of(c).lots)
    episodes = [a.episode for a in attempts]
    run.write(
        run.workdir / 'episodes' / f'{name}-{label}.jsonl.gz', episodes)
    results[label] = scores(episodes, c.env.held_out_families)
    results[label]['temperature'] = temperature
  return results


def scores(
    episodes: Sequence[types.Episode], held_out_families: Sequence[str]
) -> dict:
  """Scores on held-out seeds and held-out tasks, and by family."""
  held_out = [e for e in episodes if e.task.family in held_out_families]
  trained = [e for e in episodes if e.task.family not in held_out_families]
  n_steps = sum(len(e.transitions) for e in episodes)
  return {
      SEEDS: evaluate.score(trained).to_json(),
      TASKS: evaluate.score(held_out).to_json(),
      'families': {f: s.to_json()
                   for f, s in evaluate.by_family(episodes).items()},
      'invalid_share': sum(s.is_invalid for e in episodes
                           for s in e.transitions) / max(n_steps, 1),
      'errors': sum(bool(e.error) for e in episodes),
  }
