"""The gate before the dream, and its remedy.

M_exp is measured on the current policy's own real rollouts over the gate's
pages, family by family. A family that fails gets its remedy: M_exp is trained
on the policy's own real steps on training pages, and measured again. Families
that still fail are not dreamed; if none passes, RL refuses with the table.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from dreamgym_jax import collect, experience, types
from dreamgym_jax.audit import fidelity, gate
from dreamgym_jax.stages import domains, judge, teaching
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import actions, prompts, states


def predict(
    dream: types.Dream, episodes: Sequence[types.Episode],
    rows: int, is_determined: Callable[[types.Episode, int], bool],
    retrieve: prompts.Retrieve = experience.no_retrieval,
) -> list[gate.StepPair]:
  """M_exp's one-step predictions along real episodes.

  Every step is asked from the real state; what M_exp said before stays in its
  stream, as it would in a dream. `retrieve` is the dream's, and tells of what
  is not determined whether it was shown.
  """
  pairs = []
  for start in range(0, len(episodes), rows):
    batch = episodes[start:start + rows]
    dream.reset([e.task for e in batch])
    for t in range(max(len(e.transitions) for e in batch)):
      live = [i for i, e in enumerate(batch) if t < len(e.transitions)]
      real = [batch[i].transitions[t] for i in live]
      dream.follow(live, [s.state for s in real])
      seen = dream.step(live, [s.action for s in real])
      known = [is_determined(batch[i], t) for i in live]
      asked = [i for i, is_known in zip(live, known, strict=True)
               if not is_known]
      steps = [batch[i].transitions[t] for i in asked]
      shown = dict(zip(asked, retrieve(
          [batch[i].task for i in asked], [s.state for s in steps],
          [s.action for s in steps]) if asked else (), strict=True))
      for i, step, o, is_known in zip(live, real, seen, known, strict=True):
        dreamed = types.Transition(
            step.state, step.action, '' if o.is_malformed else o.state,
            o.reward, o.done, o.is_invalid, o.reasoning,
            success_prob=o.success_prob)
        pairs.append(gate.StepPair(
            batch[i].task.family, batch[i].episode_id, t, step, dreamed,
            t + 1 == len(batch[i].transitions),
            is_known, any(_makes(demo, step) for demo in shown.get(i, ()))))
  return pairs


def _makes(demo: prompts.Demo, step: types.Transition) -> bool:
  """Whether what a demonstration shows is what the step led to."""
  try:
    return states.apply(step.state, demo.edit, actions.argument(
        step.action)) == step.next_state
  except states.StateError:
    return False


def annotated(
    episodes: Sequence[types.Episode], annotate: collect.Annotate
) -> list[types.Episode]:
  """With R* on every step; crashed ones left out."""
  return [collect.explained(e, annotate) for e in episodes if not e.error]


def thresholds(run: runs.Run) -> gate.Thresholds:
  g = run.config.gate
  return gate.Thresholds(g.next_state, g.unforeseen, g.invalid_recall,
                         g.false_wins, g.gap, g.min_n)


def summary(run: runs.Run, table: gate.GateTable, label: str) -> dict:
  return gate.summary(table, thresholds(run)) | {'label': label}


def told(found: dict[str, fidelity.Unforeseen]) -> str:
  """What became of the steps that nothing before them tells, in words."""
  lines = [
      f'   {kind}: {u.shown.n} steps that nothing before them tells, '
      f'{u.shown.hits} of them retrieved; dreamed right {u.taken.hits} of '
      f'these, {u.guessed.hits} of the others' for kind, u in found.items()]
  return '\n'.join(lines)


def gate_tasks(run: runs.Run) -> list[types.Task]:
  c = run.config
  return [types.Task(f, s) for f in c.env.families
          for s in domains.pages(c, f, 'gate')[:c.gate.pages]]


class Measured(NamedTuple):
  """What measuring a dream gave, and took."""

  table: gate.GateTable
  pairs: list[gate.StepPair]
  # by kind of action: steps that nothing before them tells
  unforeseen: dict[str, fidelity.Unforeseen]
  n_real: int                      # transitions taken
  twins: list[types.Episode]       # dreamed, of the same pages and luck


def measure(
    run: runs.Run, label: str, player: judge.Player, policy: types.Params,
    dream: types.Dream, real: types.World,
    retrieve: prompts.Retrieve = experience.no_retrieval,
) -> Measured:
  """Plays the policy in both worlds, and M_exp along the real episodes.

  The policy has the same luck in both worlds (one key), so that the dream gap
  is the dream's doing alone.
  """
  c = run.config
  tasks = gate_tasks(run)
  key = jax.random.fold_in(jax.random.key(c.seed), runs.GATE)
  with run.bar(None, 'steps') as bar:
    lived = judge.play(player, policy, real, tasks, key, c.rl.temperature,
                       types.REAL, f'{label}-real', c.env.rows, bar.update)
  # A page that crashed says nothing of either world: left out of both.
  episodes = annotated([a.episode for a in lived],
                       domains.of(c).annotate)
  n_real = sum(len(e.transitions) for e in episodes)
  run.write(run.workdir / 'episodes' / f'{label}.jsonl.gz', episodes)
  pairs = predict(dream, episodes, player.rows,
                  domains.of(c).is_determined, retrieve)
  # The pages' texts are known now: the dream starts from the same s0.
  with run.bar(None, 'dreamed steps') as bar:
    dreamed = judge.play(
        player, policy, dream, [a.episode.task for a in lived], key,
        c.rl.temperature, types.DREAMED, f'{label}-dream', c.env.rows,
        bar.update)
  twins = [d.episode for d, a in zip(dreamed, lived, strict=True)
           if not a.episode.error]
  table = gate.measure(pairs, _successes(twins), _successes(episodes))
  return Measured(table, pairs, fidelity.unforeseen(pairs), n_real, twins)


def _successes(
    episodes: Sequence[types.Episode],
) -> dict[str, tuple[int, int]]:
  wins, n = Counter(), Counter()
  for episode in episodes:
    n[episode.task.family] += 1
    wins[episode.task.family] += episode.success
  return {f: (wins[f], n[f]) for f in n}


def own_steps(
    run: runs.Run, player: judge.Player, policy: types.Params,
    real: types.World, families: Sequence[str], round_: int,
) -> list[types.Episode]:
  """The policy's own real rollouts on training pages, annotated: the remedy.

  Their pages are the last of the training range, those of the offline set the
  first, so that M_exp sees new ones.
  """
  c = run.config
  n = c.gate.remedy_pages
  tasks = [types.Task(f, s) for f in families
           for s in domains.pages(c, f, 'train')[::-1][round_ * n:][:n][::-1]]
  key = jax.random.fold_in(jax.random.key(c.seed), runs.GATE + 100 + round_)
  with run.bar(None, 'steps') as bar:
    attempts = judge.play(player, policy, real, tasks, key, c.rl.temperature,
                          types.REAL, f'remedy{round_}', c.env.rows,
                          bar.update)
  return teaching.annotate(run, annotated(
      [a.episode for a in attempts], domains.of(c).annotate))
