"""The stages evaluate and audit: the real world has the last word."""

import jax
import numpy as np

from dreamgym_jax import collect, types
from dreamgym_jax.audit import gate
from dreamgym_jax.report import html
from dreamgym_jax.stages import audit, domains, gating, judge, memory, tasks
from dreamgym_jax.stages import cast as casts
from dreamgym_jax.stages import run as runs

POLICIES = ('warmup', 'dream', 'transfer', 'real_updates', 'real_clock')
_CURVE_PAGES = 6       # gate pages of each family, for a point of the curve


def evaluate_stage(run: runs.Run, cast: casts.Cast) -> None:
  """Every policy of the run on the test split, in the browser."""
  with run.stage('evaluate') as result:
    for name in POLICIES:
      if not run.path(f'{name}.safetensors').exists():
        continue
      params = run.params(name, cast.model_config)
      result[name] = judge.judge(run, name, cast.player, params, cast.real)
      sampled = result[name]['sampled']
      run.say(f'   {name}: ' + ', '.join(
          f'{split} {sampled[split]["successes"]}/'
          f'{sampled[split]["episodes"]}'
          for split in (judge.SEEDS, judge.TASKS)))


def audit_stage(run: runs.Run, cast: casts.Cast) -> None:
  """The final policy in both worlds; dreamed episodes beside real ones."""
  c = run.config
  with run.stage('audit') as result:
    model = run.params('experience', cast.model_config)
    policy = run.params('dream', cast.model_config)
    store = cast.open_replay()
    dream = cast.dream(model, store, runs.AUDIT)
    measured = gating.measure(
        run, 'audit', cast.player, policy, dream, cast.real)
    result['gate'] = gating.summary(run, measured.table, 'after the dream')
    run.say(gate.render(measured.table, gate.decide(
        measured.table, gating.thresholds(run))))
    families = run.stages.result('gate')['passed']
    pages = _with_pages(run, cast, [
        t for t in gating.gate_tasks(run) if t.family in families])
    key = jax.random.fold_in(jax.random.key(c.seed), runs.AUDIT)
    attempts = judge.play(
        cast.player, policy, dream, pages, key, c.rl.temperature,
        types.DREAMED, 'audit', c.env.rows)
    dreamed = [a.episode for a in attempts if not a.episode.is_malformed]
    lived = audit.replay_in(cast.real, dreamed, c.env.rows)
    both = list(zip(dreamed, lived, strict=True))
    result['fidelity'] = audit.summarise(measured.pairs, both)
    result['replays'] = [html.replay(d, r, _demo_texts(cast, store, d))
                         for d, r in _chosen(both, c.report.episodes)]
    result['curve'] = _curve(run, cast, families)
    result['solved'] = _solved(run, cast)


def _solved(run: runs.Run, cast: casts.Cast) -> list[bool | None]:
  """Of every proposal, whether an expert solves it in the real world.

  None where the world cannot play it: by rule, or because it never does.
  """
  c, domain = run.config, domains.of(run.config)
  proposed = [tasks.proposed(i, entry) for i, entry in enumerate(
      run.stages.result('dream')['proposals'])]
  posed = [t for t in proposed
           if domain.poses and t.initial_state and domain.accepts(t)]
  played = collect.collect(
      cast.real, posed, ('expert',), domain.advise, domain.rehearse,
      lambda t: True, lambda t, s: '', c.env.max_elements, c.seed, c.env.rows)
  won = {e.task.task_id: e.success for e in played.episodes}
  return [won.get(t.task_id) for t in proposed]


def _with_pages(
    run: runs.Run, cast: casts.Cast, blank: list[types.Task]
) -> list[types.Task]:
  """The tasks with instruction and s_0, as the browser shows them."""
  rows = run.config.env.rows
  return [t for start in range(0, len(blank), rows)
          for t in cast.real.reset(blank[start:start + rows])]


def _chosen(both, n: int):
  """n pairs: one a family in turn, those that differ first."""
  def differs(pair) -> bool:
    dreamed, real = pair
    return [(s.next_state, s.reward) for s in dreamed.transitions] != [
        (s.next_state, s.reward) for s in real.transitions]

  by_family: dict[str, list] = {}
  for pair in sorted(both, key=lambda p: not differs(p)):
    by_family.setdefault(pair[0].task.family, []).append(pair)
  chosen = []
  while len(chosen) < min(n, len(both)):
    for pairs in by_family.values():
      if pairs and len(chosen) < n:
        chosen.append(pairs.pop(0))
  return chosen


def _demo_texts(cast, store, episode: types.Episode) -> list[list[str]]:
  """What was retrieved beside each action, for people."""
  steps = episode.transitions
  retrieve = memory.make_retrieve(store, cast.run.config.replay.k)
  found = retrieve([episode.task] * len(steps), [s.state for s in steps],
                   [s.action for s in steps])
  ends = {(True, True): 'win', (True, False): 'lose'}
  return [[f'{d.action} ({d.grounded}) -> {d.edit} '
           f'[{ends.get((d.done, d.reward > 0), "cont")}]' for d in demos]
          for demos in found]


def _curve(run, cast, families) -> list[dict]:
  """Snapshots of the dreamed policy, in the real world, on gate pages.

  Measured after training and deciding nothing, so not one of these
  transitions is in the ledger.
  """
  c = run.config
  pages = [types.Task(f, s) for f in families
           for s in domains.pages(c, f, 'gate')[:_CURVE_PAGES]]
  key = jax.random.fold_in(jax.random.key(c.seed), runs.AUDIT + 1)
  points = []
  named = {0: 'warmup'} | {
      int(p.stem.removeprefix('dream-')): p.stem
      for p in run.workdir.glob('dream-*.safetensors')}
  for iteration, name in sorted(named.items()):
    params = run.params(name, cast.model_config)
    attempts = judge.play(
        cast.player, params, cast.real, pages, key, c.rl.temperature,
        types.REAL, f'curve-{iteration}', c.env.rows)
    wins = [a.episode.success for a in attempts]
    points.append({'iteration': iteration, 'successes': int(np.sum(wins)),
                   'episodes': len(wins)})
  return points

