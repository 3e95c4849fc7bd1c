"""Notebooks: clean in the repository, and they run from top to bottom.

They run as they would in a fresh kernel, from what is shipped and without a
browser, in processes of their own. Those that take minutes are marked
`notebook`: `-m 'not notebook'` leaves them out.
"""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'colabs').glob('*.ipynb'))
LIMIT = 600                       # seconds, as the quickstart promises
LONG_LIMIT = 1800                 # of those that train, on a busy machine
# Executes the code cells of a notebook in one namespace, as a kernel does; then
# the namespace answers for what came out, by an expression over it.
RUN = '''
import json, pathlib, sys
book = json.loads(pathlib.Path(sys.argv[1]).read_text())
names = {'__name__': '__main__'}
for i, cell in enumerate(book['cells']):
  if cell['cell_type'] == 'code':
    print(f'== cell {i}', flush=True)
    exec(compile(''.join(cell['source']), f'cell {i}', 'exec'), names)
names['drawn'] = len(names['plt'].get_fignums())
print('RESULT', json.dumps(eval(sys.argv[2], names)))
'''
QUICKSTART = '''{
    'success': success,
    'dreamed': progress.transitions,
    'demos': len(demos),
    'malformed': [a.episode.is_malformed for a in attempts],
    'proposals': [p.error for p in proposals],
    'reasoning': seen.reasoning,
    'workdir': sorted(p.name for p in run.workdir.iterdir()),
    'drawn': drawn,
}'''
EXPERIENCE = '''{
    'rows': {when: table.to_json() for when, table in tables.items()},
    'losses': losses,
    'known': sorted({e.task.seed for e in known}),
    'asked': sorted({e.task.seed for e in asked}),
    'names': [[e.task.instruction for e in some] for some in (
        cast.offline, asked)],
    'families': list(families),
    'demo': demo.edit,
    'drawn': drawn,
}'''
VENDING = '''{
    'collected': card['transitions'],
    'gate': refusal.table.to_json() if refusal else
            run.stages.result('gate')['gates'][-1]['rows'],
    'passed': not refusal and run.stages.result('gate')['passed'],
    'dreamed': not refusal and dreamed['dreamed'],
    'success': not refusal and success,
    'families': list(families),
    'judged': {name: result['sampled']['families']
               for name, result in judged.items()},
    'drawn': drawn,
}'''


def cells(path: pathlib.Path, kind: str) -> list[dict]:
  book = json.loads(path.read_text())
  return [c for c in book['cells'] if c['cell_type'] == kind]


def test_the_notebooks_are_there():
  assert [p.name for p in NOTEBOOKS] == [
      'bring_your_own_environment.ipynb', 'experience_model.ipynb',
      'quickstart.ipynb']


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_is_clean(path):
  book = json.loads(path.read_text())
  assert (book['nbformat'], book['nbformat_minor']) == (4, 5)
  ids = [c['id'] for c in book['cells']]
  assert len(ids) == len(set(ids))
  for cell in cells(path, 'code'):
    assert cell['outputs'] == [] and cell['execution_count'] is None
    assert all(len(line.rstrip()) <= 80 for line in cell['source'])


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.name)
def test_a_notebook_defines_nothing_of_its_own(path):
  """What is worth defining belongs into the package."""
  for cell in cells(path, 'code'):
    for node in ast.walk(ast.parse(''.join(cell['source']))):
      assert not isinstance(node, ast.ClassDef | ast.FunctionDef), node.name


def execute(name: str, answers: str, path: pathlib.Path, limit: int) -> dict:
  """What a notebook answers after its last cell, and what it printed.

  `path` is the PATH: an empty directory, so that there is no browser.
  """
  environment = os.environ | {
      'MPLBACKEND': 'Agg', 'PATH': str(path),
      'JAX_COMPILATION_CACHE_DIR': str(ROOT / 'runs' / '.compile_cache'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2'}
  done = subprocess.run(
      [sys.executable, '-c', RUN, str(ROOT / 'colabs' / name), answers],
      cwd=ROOT / 'colabs', env=environment, capture_output=True, text=True,
      timeout=limit)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
  last = done.stdout.rstrip().splitlines()[-1]
  return json.loads(last.removeprefix('RESULT ')) | {'printed': done.stdout}


@pytest.fixture(scope='module')
def executed(tmp_path_factory) -> dict:
  """The quickstart."""
  return execute('quickstart.ipynb', QUICKSTART,
                 tmp_path_factory.mktemp('bin'), LIMIT)


def test_the_quickstart_learns_in_the_dream(executed):
  assert [step for step, _ in executed['success']] == [1, 2, 3, 4, 5, 6]
  assert all(0 <= rate <= 1 for _, rate in executed['success'])
  assert any(rate > 0 for _, rate in executed['success'])
  assert executed['dreamed'] >= 6 * 8 * 8
  assert 'metrics.jsonl' in executed['workdir'] and executed['drawn'] == 1


def test_the_quickstart_shows_what_it_promises(executed):
  assert executed['demos'] == 1 and executed['reasoning']
  assert not all(executed['malformed'])
  assert not all(executed['proposals'])      # some could be read
  for words in ('retrieved: ', 'reasoning: ', 'dreamed: ', 'real: ', 'new: '):
    assert words in executed['printed'], words


@pytest.mark.notebook
def test_an_experience_model_gets_better_on_pages_nobody_has_seen(tmp_path):
  found = execute('experience_model.ipynb', EXPERIENCE, tmp_path, LONG_LIMIT)
  assert not set(found['known']) & set(found['asked'])
  offline, asked = map(set, found['names'])
  assert len(asked - offline) > .8 * len(asked)    # other names
  before, after = found['rows']['before'], found['rows']['after']
  assert set(after) == {*found['families'], 'all'} and len(after) == 4
  for family in after:
    for name in ('next_state', 'flag', 'reasoning'):
      was, now = before[family][name], after[family][name]
      assert was['n'] == now['n'] >= 60
      if family == 'all':
        assert now['rate'] > was['rate'] + .05, (name, was, now)
  assert after['all']['invalid_recall']['rate'] > (
      before['all']['invalid_recall']['rate'])
  assert found['rows']['no demos']['all']['next_state']['rate'] > .5
  first, *_, last = [loss for _, loss in found['losses']]
  assert last < .7 * first
  assert found['drawn'] == 3 and found['demo']
  for words in ('<demo>', 'retrieved: ', 'predicted: ', 'true: ', 'k = 0: ',
                'steps are still wrong'):
    assert words in found['printed'], words


@pytest.mark.notebook
def test_an_environment_from_outside_goes_through_the_stages(tmp_path):
  found = execute('bring_your_own_environment.ipynb', VENDING, tmp_path,
                  LONG_LIMIT)
  printed = found['printed']
  assert 'streams do not fit' not in printed
  assert 'next state' in printed and 'false wins' in printed   # the gate
  assert found['collected'] > 5_000
  for family in ('all', *found['families'][:2]):
    rates = found['gate'][family]
    assert rates['next_state']['rate'] > .9 and rates['flag']['rate'] > .85
  if found['passed']:
    assert set(found['passed']) <= set(found['families'][:2])
    assert found['dreamed'] >= 10 * 16 * 8
    assert [step for step, _ in found['success']] == list(range(1, 11))
  else:
    assert 'refused: nobody learns' in printed
  assert set(found['judged']) == {'warmup'} | (
      {'dream'} if found['passed'] else set())
  for name, judged in found['judged'].items():
    assert set(judged) == set(found['families'])
    for family, score in judged.items():
      assert score['episodes'] == 40 and 0 <= score['successes'] <= 40
      assert f"'{family}': '{score['successes']}/40'" in printed, name
  assert sum(s['successes'] for s in found['judged']['warmup'].values()) > 0
  assert found['drawn'] == 2 + bool(found['passed'])
