"""Making the shipped directory from a finished `:scratch` run."""

import shutil
import time

from dreamgym_jax import checkpoint, config
from dreamgym_jax.audit import gate
from dreamgym_jax.data import trajectories
from dreamgym_jax.models import weights
from dreamgym_jax.stages import domains
from dreamgym_jax.stages import run as runs

DATA = (runs.OFFLINE,)
FILES = (*DATA, runs.TOKENIZER, 'base.safetensors',
         'experience.safetensors', 'warmup.safetensors')


def ship_stage(run: runs.Run) -> None:
  """Copies data and weights to `shipped/` and writes their card.

  Of a run that ended after `collect` (--until=collect) the data alone.
  """
  has_weights = run.stages.is_done('base')
  files = FILES if has_weights else DATA
  domain = domains.of(run.config)
  name = domain.shipped
  target = runs.SHIPPED / name
  if not has_weights and (target / FILES[-1]).exists():
    raise config.ConfigError(
        f'--mode=ship: {target} has weights that were made from other data, '
        'and this run has none of its own: run the stages to the gate first')
  target.mkdir(parents=True, exist_ok=True)
  for file in files:
    source = run.need(file)
    if source != target / file:     # what the run took as shipped stays
      shutil.copyfile(source, target / file)
  card = {
      'name': name, 'environment': domain.title,
      'date': time.strftime('%Y-%m-%d', time.gmtime()),
      'command': run.command, 'commit': run.commit,
      'config': run.config.to_dict(),
      'data': trajectories.card(run.offline()),
      'sha256': {f: weights.sha256(target / f) for f in files},
  } | (_of_weights(run) if has_weights else {})
  checkpoint.write_json_atomic(target / 'card.json', card)
  text = _card_text if has_weights else _data_text
  (target / 'README.md').write_text(text(card), encoding='utf-8')
  run.say(f'   shipped to {target}')


def _of_weights(run: runs.Run) -> dict:
  """What the card says of the models."""
  stages = {s: run.stages.result(s)
            for s in ('base', 'experience', 'warmup', 'gate')}
  gated = stages['gate']
  return {
      'demo_transitions': stages['warmup']['transitions'],
      'remedy_transitions': (
          gated['remedy_transitions'] if gated['kept'] else 0),
      'recipe': {s: stages[s] for s in ('base', 'experience', 'warmup')},
      'seconds': {s: run.stages.seconds(s) for s in (
          'collect', 'base', 'experience', 'warmup', 'gate')},
      'gate': gated['gates'][gated['kept']],
  }


def _data_text(card: dict) -> str:
  """The card of data alone, for people."""
  return '\n'.join([
      *_made(card, 'Shipped data'),
      'after the same with `--until=collect` for `--mode=ship`.', '',
      f'`{runs.OFFLINE}` holds {_size(card)}', 'No model comes with them.', '',
      *_by_behaviour(card['data']), '', *_sums(card)]) + '\n'


def _made(card: dict, title: str) -> list[str]:
  return [f'# {title}: {card["name"]}', '',
          f'Made on {card["date"]} at commit {card["commit"][:12]} by', '',
          f'    {card["command"]}', '']


def _size(card: dict) -> str:
  data = card['data']
  return (f'{data["episodes"]:,} real episodes, {data["transitions"]:,} real '
          f'transitions of {card["environment"]}, training pages only, '
          f'annotated by {", ".join(data["by_annotator"])}.')


def _sums(card: dict) -> list[str]:
  return ['SHA-256:', '',
          *(f'    {h}  {f}' for f, h in card['sha256'].items())]


def _by_behaviour(data: dict) -> list[str]:
  rows = [('behaviour', 'episodes', 'transitions', 'successes'),
          ('---', '---:', '---:', '---:')]
  rows += [(name, *(f'{n[k]:,}' for k in rows[0][1:]))
           for name, n in data['by_behaviour'].items()]
  return ['| ' + ' | '.join(row) + ' |' for row in rows]


def _card_text(card: dict) -> str:
  """The card for people."""
  table = gate.from_json(card['gate']['rows'])
  limits = gate.Thresholds(**card['gate']['thresholds'])
  recipe = card['recipe']
  lines = [
      *_made(card, 'Shipped data and weights'),
      f'- `{runs.OFFLINE}`: {_size(card)}',
      f'- `base.safetensors`: {recipe["base"]["parameters"]:,} parameters, '
      f'{recipe["base"]["steps"]:,} updates on all tokens of all roles.',
      f'- `experience.safetensors`: M_exp and M_task, '
      f'{recipe["experience"]["steps"]:,} updates (Eq. 5, Eq. 6), then '
      f'{card["remedy_transitions"]:,} real transitions of the policy.',
      f'- `warmup.safetensors`: the policy before RL, cloned from '
      f'{recipe["warmup"]["demos"]} demonstrations '
      f'({card["demo_transitions"]} transitions)' + (
          f' and {recipe["warmup"]["recitals"]:,} recitals.'
          if recipe['warmup'].get('recitals') else '.'), '',
      'Seconds on 2 CPU cores: ' + ', '.join(
          f'{k} {v:.0f}' for k, v in card['seconds'].items()) + '.', '',
      'The gate, on the warm-up policy\'s own real rollouts:', '', '```',
      gate.render(table, gate.decide(table, limits)), '```', '',
      *_sums(card)]
  return '\n'.join(lines) + '\n'
