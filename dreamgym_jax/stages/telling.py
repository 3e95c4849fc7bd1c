"""The end of a run: the table, summary.json, report.html."""

import pathlib
import time
from collections.abc import Sequence

from dreamgym_jax import checkpoint, cost, evaluate, types
from dreamgym_jax.data import endpoint, trajectories
from dreamgym_jax.report import html, table, writer
from dreamgym_jax.stages import domains, judge, tasks
from dreamgym_jax.stages import run as runs

_NAMES = {
    'warmup': 'warm-up', 'dream': 'DreamGym', 'transfer': 'DreamGym-S2R',
    'real_updates': 'real GRPO, equal updates',
    'real_clock': 'real GRPO, equal time'}
_WARNINGS = ('entropy', 'kl', 'approx_kl', 'clip_share', 'ratio_max',
             'logp_mismatch', 'zero_variance_share', 'invalid_share',
             'malformed_share', 'halted_share', 'reply_tokens',
             'synthetic_share')
_STAGES = ('collect', 'base', 'experience', 'warmup', 'gate', 'dream',
           'transfer', 'real_grpo', 'evaluate', 'audit')


def ledger(run: runs.Run) -> cost.Ledger:
  """Every real transition that any part of the run learned from."""
  book = cost.Ledger()
  card = trajectories.card(run.offline())
  demos = _result(run, 'warmup').get(
      'transitions', shipped_card(run).get('demo_transitions', 0))
  book.add('pretraining' if run.config.shipped else 'real_offline',
           card['transitions'] - demos)
  book.add('pretraining', shipped_card(run).get('remedy_transitions', 0))
  book.add('real_demo', demos)
  book.add('real_gate', _result(run, 'gate').get('real_gate', 0))
  for stage in ('transfer', 'real_grpo'):
    book.add(f'online/{stage}', _result(run, stage).get('real_online', 0))
  book.add('real_online', book['online/transfer'])
  book.add('dreamed', _result(run, 'dream').get('dreamed', 0))
  t = run.config.teacher
  taught = endpoint.read_usage(run.workdir / runs.TEACHER)
  book.add('teacher/calls', taught.calls)
  book.add('teacher/prompt_tokens', taught.prompt_tokens)
  book.add('teacher/completion_tokens', taught.completion_tokens)
  book.add('teacher/dollars',
           taught.dollars(t.prompt_price, t.completion_price))
  return book


def shipped_card(run: runs.Run) -> dict:
  """The card of the shipped weights; {} where nothing shipped is used."""
  if not run.config.shipped:
    return {}
  return checkpoint.read_json(
      runs.SHIPPED / run.config.shipped / 'card.json')


def report_stage(run: runs.Run) -> None:
  """Prints the table; writes summary.json and report.html."""
  c = run.config
  counts = ledger(run)
  results = _results(run, counts)
  seconds = {s: run.stages.seconds(s) for s in _STAGES
             if run.stages.is_done(s)}
  gates = list(_result(run, 'gate').get('gates', []))
  audit = _result(run, 'audit')
  short = {k: counts[k] for k in writer.LEDGER}
  short = {k: int(v) for k, v in short.items()}
  memory = cost.peak_memory().total
  writer.write_summary(
      run.workdir / 'summary.json', config=c.to_dict(), commit=run.commit,
      seed=c.seed, stages=_stage_scores(run),
      gate=_kept_gate(run), fidelity=audit.get('fidelity', {}),
      ledger=short, seconds=seconds, peak_rss_bytes=memory)
  rows = writer.read_metrics(run.workdir)
  data = html.ReportData(
      title=f'DreamGym: {c.name}, {c.size}, seed {c.seed}',
      when=time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
      command=run.command, results=results,
      comparisons=_comparisons(run), config=c.to_dict(), commit=run.commit,
      seed=c.seed, ledger=short, seconds=seconds, peak_rss_bytes=memory,
      curve=_curve(run, rows, counts), exploitation=_exploitation(run, rows),
      gates=gates + ([audit['gate']] if audit else []),
      replays=audit.get('replays', []), generated=_generated(run),
      fidelity=audit.get('fidelity', {}),
      warnings={name: series for name in _WARNINGS
                if (series := writer.series(rows, name, 'dream'))},
      fell_short=_fell_short(run))
  html.save(run.workdir / 'report.json', data)
  html.write_report(run.workdir / 'report.html', data)
  run.say('\n' + table.result_table(results))
  run.say('\n' + table.ledger_table(short))
  spent = {s: used for s in ('dream', 'transfer', 'real_grpo')
           if (used := _result(run, s).get('spent'))}
  if spent:
    run.say('\n' + table.spent_table(spent))
  if counts['teacher/calls']:
    run.say(f"   teacher: {counts['teacher/calls']:,} answers, "
            f"{counts['teacher/prompt_tokens']:,} + "
            f"{counts['teacher/completion_tokens']:,} tokens, "
            f"${counts['teacher/dollars']:,.2f}")
  for line in data['fell_short']:
    run.say(f'   note: {line}')
  run.say(f'\n   {run.workdir / "report.html"}')


def _result(run: runs.Run, stage: str) -> dict:
  return run.stages.result(stage) if run.stages.is_done(stage) else {}


def _kept_gate(run: runs.Run) -> dict:
  """The table of the experience model that was dreamed with."""
  gate = _result(run, 'gate')
  return gate['gates'][gate['kept']] if gate.get('gates') else {}


def _online(counts: cost.Ledger, run: runs.Run, name: str) -> int:
  marks = _result(run, 'real_grpo').get('marks', {})
  if name in marks:
    return int(marks[name]['real_online'])
  return int(counts['online/transfer']) if name == 'transfer' else 0


def _results(run: runs.Run, counts: cost.Ledger) -> list[table.Result]:
  offline = sum(int(counts[k]) for k in (
      'pretraining', 'real_offline', 'real_demo'))
  results = []
  for name, judged in _result(run, 'evaluate').items():
    online = _online(counts, run, name)
    # Only a dreamed policy owes the gate's transitions.
    gate = int(counts['real_gate']) if name in ('dream', 'transfer') else 0
    for decoding, scores in judged.items():
      label = (f'T={scores["temperature"]:g}' if decoding == 'sampled'
               else decoding)
      for split in (judge.SEEDS, judge.TASKS):
        results.append(table.Result(
            method=_NAMES[name], split=split, decoding=label,
            real_online=online, real_all=offline + gate + online,
            **scores[split]))
  return results


def _stage_scores(run: runs.Run) -> dict:
  judged = _result(run, 'evaluate')
  names = {'warmup': 'warmup', 'dream': 'dream', 'transfer': 'transfer',
           'real_grpo': 'real_updates'}
  return {stage: judged[name]['sampled'][judge.SEEDS]
          for stage, name in names.items() if name in judged}


def _episodes(
    workdir: pathlib.Path, name: str, decoding: str = 'sampled'
) -> list[types.Episode]:
  return trajectories.read_jsonl(
      workdir / 'episodes' / f'{name}-{decoding}.jsonl.gz')


def _split(
    run: runs.Run, episodes: Sequence[types.Episode], split: str
) -> list[types.Episode]:
  held_out = set(run.config.env.held_out_families)
  return [e for e in episodes
          if (e.task.family in held_out) == (split == judge.TASKS)]


def _comparisons(run: runs.Run) -> list[html.Comparison]:
  judged = _result(run, 'evaluate')
  if 'warmup' not in judged:
    return []
  before = _episodes(run.workdir, 'warmup')
  comparisons = []
  for name in judged:
    after = _episodes(run.workdir, name)
    for split in (judge.SEEDS, judge.TASKS) if name != 'warmup' else ():
      pair = evaluate.paired_difference(
          _split(run, before, split), _split(run, after, split))
      comparisons.append(html.Comparison(
          label=f'{_NAMES[name]} against warm-up, {split}', diff=pair.diff,
          ci95=pair.ci95,
          note=f'paired over {pair.n} pages, one seed; McNemar '
               f'p = {pair.mcnemar_p:.2g}'))
  return comparisons


def _curve(run: runs.Run, rows: list[dict], counts: cost.Ledger) -> list:
  """Success while learning, in the world each policy learned in."""
  fixed = sum(int(counts[k]) for k in (
      'pretraining', 'real_offline', 'real_demo', 'real_gate'))
  points = []
  for stage, method, world in (
      ('dream', 'DreamGym', 'dreamed'), ('transfer', 'DreamGym-S2R', 'real'),
      ('real_grpo', 'real GRPO', 'real')):
    for row in rows:
      if row['stage'] == stage and row.get('success') is not None:
        online = row['transitions'] if world == 'real' else 0
        points.append({
            'method': method, 'world': world, 'iteration': row['step'],
            'real_transitions': fixed + online, 'seconds': row['seconds'],
            'success': row['success']})
  seconds = {row['step']: row['seconds'] for row in rows
             if row['stage'] == 'dream'}
  for point in _result(run, 'audit').get('curve', []):
    lo, hi = evaluate.wilson(point['successes'], point['episodes'])
    points.append({
        'method': 'DreamGym', 'world': 'real',
        'iteration': point['iteration'], 'real_transitions': fixed,
        'seconds': seconds.get(point['iteration'], 0.0),
        'success': point['successes'] / point['episodes'],
        'lo': lo, 'hi': hi})
  return points


def _exploitation(run: runs.Run, rows: list[dict]) -> list[dict]:
  dreamed = dict(writer.series(rows, 'success', 'dream'))
  points = []
  for p in _result(run, 'audit').get('curve', []):
    near = [v for step, v in dreamed.items()
            if abs(step - max(p['iteration'], 2)) <= 2]
    if near:
      points.append({'iteration': p['iteration'],
                     'dreamed': sum(near) / len(near),
                     'real': p['successes'] / p['episodes']})
  return points


def _generated(run: runs.Run) -> list[html.Generated]:
  generated, accepts = [], domains.of(run.config).accepts
  proposals = _result(run, 'dream').get('proposals', [])
  solved = _result(run, 'audit').get('solved', [None] * len(proposals))
  for i, entry in enumerate(proposals):
    task = tasks.proposed(i, entry)
    is_readable = bool(entry['initial_state'])
    generated.append(html.Generated(
        instruction=entry['instruction'],
        initial_state=entry['initial_state'], parent=entry['parent'],
        kept=entry['kept'], reason=entry['reason'],
        is_real=accepts(task) if is_readable else None,
        is_solved=solved[i]))
  return generated


def _fell_short(run: runs.Run) -> list[str]:
  """What a reader of the figures should know first."""
  notes = []
  gate = _result(run, 'gate')
  last = _kept_gate(run)
  refused = [f for f, v in last.get('verdicts', {}).items()
             if not v['passed'] and f != 'all']
  if refused:
    notes.append(f'the gate refused {", ".join(refused)}: not dreamed')
  if gate and not gate['enforced']:
    notes.append('the gate was not enforced (gate.enforce=False): the dream '
                 'below may flatter the policy')
  judged = _result(run, 'evaluate')
  errors = sum(s['errors'] for j in judged.values() for s in j.values())
  if errors:
    notes.append(f'{errors} real episodes ended in a crash or time-out; they '
                 'count as failures')
  return notes


def compare_seeds(workdirs: Sequence[pathlib.Path]) -> str:
  """Each method against warm-up over several seeds of one config."""
  for workdir in workdirs:
    if not (workdir / 'summary.json').exists():
      raise runs.MissingError(
          f'{workdir / "summary.json"} is not there: finish that run first '
          '(--mode=run)')
  lines = []
  held_out = {e for w in workdirs for e in checkpoint.read_json(
      w / 'summary.json')['config']['env']['held_out_families']}
  for name, label in _NAMES.items():
    paths = [w / 'episodes' / f'{name}-sampled.jsonl.gz' for w in workdirs]
    if name == 'warmup' or not all(p.exists() for p in paths):
      continue
    for split in (judge.SEEDS, judge.TASKS):
      pairs = []
      for workdir in workdirs:
        pairs.append(tuple(
            [e for e in _episodes(workdir, n)
             if (e.task.family in held_out) == (split == judge.TASKS)]
            for n in ('warmup', name)))
      d = evaluate.seeds_difference(pairs)
      each = ', '.join(f'{100 * x:+.1f}' for x in d.per_seed)
      lines.append(
          f'{label}, {split}: {100 * d.diff:+.1f} points '
          f'[{100 * d.ci95[0]:+.1f}, {100 * d.ci95[1]:+.1f}] over warm-up, '
          f'{len(workdirs)} seeds ({each}), {d.n_tasks} pages')
  return '\n'.join(lines)
