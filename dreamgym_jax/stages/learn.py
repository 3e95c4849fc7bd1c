"""The stages gate, dream, transfer and real_grpo."""

import math
from typing import NamedTuple

import numpy as np

from dreamgym_jax import (
  checkpoint,
  corpus,
  distributed,
  replay,
  sft,
  types,
)
from dreamgym_jax.audit import fidelity, gate
from dreamgym_jax.data import batches
from dreamgym_jax.models import encoder
from dreamgym_jax.stages import (
  audit,
  gating,
  memory,
  pretrain,
  reinforce,
  spending,
  tasks,
)
from dreamgym_jax.stages import cast as casts
from dreamgym_jax.stages import run as runs

_OFFLINE_SHARE = 4        # offline episodes for each of the policy's own
_SNAPSHOTS = 4            # policies kept along the dream, to be judged later
_PARTINGS = 8             # kinds of actions that a refusal names


class _Round(NamedTuple):
  """An experience model and what the gate says of it."""

  model: types.Params
  measured: gating.Measured
  verdicts: dict[str, gate.Verdict]

  @property
  def table(self) -> gate.GateTable:
    return self.measured.table

  @property
  def passed(self) -> tuple[str, ...]:
    return gate.passing(self.verdicts)

  @property
  def standing(self) -> tuple[int, int]:
    """Families that pass, then steps dreamed right (of the same ones)."""
    every = self.table.rows[gate.ALL]
    return len(self.passed), every.next_state.hits + every.unforeseen.hits


def gate_stage(run: runs.Run, cast: casts.Cast) -> None:
  """Measures the dream; mends it; says which families may be dreamed.

  The best of the rounds is kept: a remedy for some families may cost others.
  """
  c = run.config
  with run.stage('gate') as result:
    policy = run.params('warmup', cast.model_config)
    model = run.params('experience', cast.model_config)
    store = cast.open_replay()
    retrieve = memory.make_retrieve(store, c.replay.k)
    limits = gating.thresholds(run)
    tried: list[_Round] = []
    n_gate = n_remedy = 0
    for round_ in range(c.gate.remedies + 1):
      measured = gating.measure(
          run, f'gate{round_}', cast.player, policy,
          cast.dream(model, store, runs.GATE), cast.real, retrieve)
      n_gate += measured.n_real
      tried.append(_Round(
          model, measured, gate.decide(measured.table, limits)))
      run.say(gate.render(tried[-1].table, tried[-1].verdicts))
      if measured.unforeseen:
        run.say(gating.told(measured.unforeseen))
      failed = [f for f in c.env.families if f not in tried[-1].passed]
      if not failed or round_ == c.gate.remedies:
        break
      run.say(f'   remedy for {", ".join(failed)}')
      own = gating.own_steps(run, cast.player, policy, cast.real, failed,
                             round_)
      n_remedy += sum(len(e.transitions) for e in own)
      model = _remedy(run, cast, model, own, round_)
    kept = max(range(len(tried)), key=lambda i: (tried[i].standing, i))
    best = tried[kept]
    result.update(
        gates=[gating.summary(run, t.table, f'gate{i}') | {
            'unforeseen': {kind: u.to_json() for kind, u in
                           t.measured.unforeseen.items()}}
               for i, t in enumerate(tried)],
        kept=kept, passed=list(best.passed), real_gate=n_gate + n_remedy,
        remedy_transitions=n_remedy, enforced=c.gate.enforce)
    if not best.passed and c.gate.enforce:
      run.say(_replayed(run, cast, best.measured.twins))
      raise gate.GateRefused(best.table, best.verdicts)
    if kept:    # only now: a killed stage measures the same again
      run.save_params('experience', best.model, cast.model_config,
                      recipe=f'experience + {kept} remedies')
    if not best.passed:
      run.say('   the gate refuses every family; gate.enforce=False goes on')
      result['passed'] = list(c.env.families)
    run.say(f'   round {kept} is kept; dreamed: {", ".join(result["passed"])}')


def _replayed(
    run: runs.Run, cast: casts.Cast, dreamed: list[types.Episode]
) -> str:
  """How a refused dream goes on in the real world, in words."""
  whole = [e for e in dreamed if not e.is_malformed]
  lived = audit.replay_in(cast.real, whole, run.config.env.rows)
  found = fidelity.consistency(list(zip(whole, lived, strict=True)))
  rates = {name: f'{rate.hits}/{rate.n}' for name, rate in (
      ('episodes', found.equal_episodes), ('steps', found.equal_steps),
      ('outcomes', found.equal_success), ('wins kept', found.wins_kept))}
  parted = ', '.join(f'{kind} {n}' for kind, n in
                     list(found.partings.items())[:_PARTINGS])
  return ('   dreamed episodes replayed in the real world, alike: '
          + ', '.join(f'{name} {rate}' for name, rate in rates.items())
          + (f'; first parted at: {parted}' if parted else ''))


def _remedy(
    run: runs.Run, cast: casts.Cast, model: types.Params,
    own: list[types.Episode], round_: int,
) -> types.Params:
  """SFT of M_exp on the policy's own steps among offline ones."""
  c = run.config
  rng = np.random.default_rng((c.seed, round_))
  n = min(len(cast.offline), _OFFLINE_SHARE * len(own))
  chosen = rng.choice(len(cast.offline), n, replace=False)
  episodes = [cast.offline[i] for i in chosen]
  streams = pretrain.experience_streams(
      run, cast.prompt, episodes + [e for e in own if corpus.is_usable(e)])
  shape = batches.Shape(c.batch.rows, c.batch.length, c.batch.positions)
  with run.bar(c.gate.remedy_steps, 'updates') as bar:
    model = sft.fit(
        model, streams, cast.model_config, shape, c.gate.remedy_steps,
        c.experience.lr / 2, c.seed + round_,
        run.workdir / 'checkpoints' / f'remedy{round_}',
        on_step=lambda step, loss, n_tokens: bar.update(step - bar.n))
  return model


def dream_stage(run: runs.Run, cast: casts.Cast) -> None:
  """GRPO in the dream: not one real step."""
  c = run.config
  with run.stage('dream') as result:
    allowed = run.stages.result('gate')['passed']
    policy = run.params('warmup', cast.model_config)
    model = run.params('experience', cast.model_config)
    store = cast.open_replay()
    dream = cast.dream(model, store, runs.DREAM)
    every = max(1, c.dream.iterations // _SNAPSHOTS)

    def snapshot(progress: reinforce.Progress) -> None:
      if progress.iteration and progress.iteration % every == 0:
        run.save_params(f'dream-{progress.iteration}', progress.state.params,
                        cast.model_config, iteration=progress.iteration)

    progress = reinforce.train(
        run, cast.player, policy, policy, dream,
        tasks.open_book(run, cast.offline),
        reinforce.Settings('dream', types.DREAMED, allowed,
                           c.curriculum.max_synthetic, runs.DREAM),
        until=lambda p: p.iteration >= c.dream.iterations,
        propose=cast.proposer(model), dreamer=cast.dream_sampler,
        on_attempts=lambda a: store.add(reinforce.admitted(a)),
        host_state=lambda: store.state_dict()['host'] | {
            'dream': dream.counts},
        load_host_state=lambda host: _reload(run, store, dream, host),
        at_marks=snapshot)
    run.save_params('dream', progress.state.params, cast.model_config)
    result.update(
        dreamed=progress.transitions, iterations=progress.iteration,
        seconds_learning=progress.seconds, spent=progress.spent,
        families=list(allowed),
        answers=dict(dream.counts), replay=store.counts(),
        proposals=progress.book.log)


def _reload(
    run: runs.Run, store: replay.Replay, dream: types.Dream,
    host: dict,
) -> None:
  """The replay's texts from a checkpoint; their embeddings follow."""
  dream.counts.update(host['dream'])
  rows = host['rows']
  c = run.config.replay
  key_MxE = np.zeros((c.capacity, c.embedding), np.float32)
  texts = [encoder.key_text(r['transition']['state'], r['transition']['action'])
           for r in rows]
  key_MxE[[r['row'] for r in rows]] = memory.make_encode(run)(texts)
  store.load_state_dict({'host': host, 'arrays': {'key_MxE': key_MxE}})


def transfer_stage(run: runs.Run, cast: casts.Cast) -> None:
  """DreamGym-S2R: the dreamed policy goes on in the browser."""
  c = run.config
  with run.stage('transfer') as result:
    progress = _real(
        run, cast,
        _on_real(run, 'transfer', runs.TRANSFER)._replace(
            budget=c.transfer.transitions, lr=c.transfer.lr,
            after='dream' if c.transfer.optimizer == 'kept' else ''),
        run.params('dream', cast.model_config),
        run.params(c.transfer.reference, cast.model_config))
    run.save_params('transfer', progress.state.params, cast.model_config)
    result.update(real_online=progress.transitions,
                  iterations=progress.iteration, spent=progress.spent,
                  seconds_learning=progress.seconds)


def real_grpo_stage(run: runs.Run, cast: casts.Cast) -> None:
  """The reference: GRPO in the browser, for as many updates and as long."""
  dreamed = run.stages.result('dream')
  n, seconds = dreamed['iterations'], dreamed['seconds_learning']
  with run.stage('real_grpo') as result:
    marks = result.setdefault('marks', {})
    most = int(n * run.config.real_grpo.max_ratio)
    limit = run.config.real_grpo.transitions or math.inf
    saved = run.workdir / 'real_marks.json'
    if saved.exists():    # of a run that died between the two
      marks.update(checkpoint.read_json(saved))

    def mark(progress: reinforce.Progress) -> None:
      is_spent = progress.transitions >= limit or spending.is_over(
          progress.spent, run.config)
      reached = {'real_updates': is_spent or progress.iteration >= n,
                 'real_clock': is_spent or progress.seconds >= seconds
                 or progress.iteration >= most}
      for name, is_reached in reached.items():
        if is_reached and name not in marks:
          run.save_params(name, progress.state.params, cast.model_config)
          marks[name] = {'real_online': progress.transitions,
                         'iterations': progress.iteration,
                         'seconds_learning': progress.seconds}
          if distributed.is_first():
            checkpoint.write_json_atomic(saved, marks)

    start = run.params('warmup', cast.model_config)
    settings = _on_real(run, 'real_grpo', runs.REAL)._replace(
        budget=run.config.real_grpo.transitions)
    progress = _real(
        run, cast, settings, start, start,
        until=lambda p: (len(marks) == 2 or p.iteration >= most),
        at_marks=mark)
    result['spent'] = progress.spent


def _on_real(run: runs.Run, name: str, stream: int) -> reinforce.Settings:
  return reinforce.Settings(
      name, types.REAL, run.stages.result('gate')['passed'], 0.0, stream,
      run.config.env.rows)


def _real(run, cast, settings, start, reference, **more):
  return reinforce.train(
      run, cast.player, start, reference, cast.real,
      tasks.open_book(run, cast.offline), settings, **more)
