"""Notebooks: clean in the repository, and they run from top to bottom.

The quickstart runs as it would in a fresh kernel, from the shipped weights and
without a browser, in a process of its own.
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
LIMIT = 600                       # seconds, as the notebook promises
# Executes the code cells of a notebook in one namespace, as a kernel does;
# then the namespace answers for what came out.
RUN = '''
import json, pathlib, sys
book = json.loads(pathlib.Path(sys.argv[1]).read_text())
names = {'__name__': '__main__'}
for i, cell in enumerate(book['cells']):
  if cell['cell_type'] == 'code':
    print(f'== cell {i}', flush=True)
    exec(compile(''.join(cell['source']), f'cell {i}', 'exec'), names)
print('RESULT', json.dumps({
    'success': names['success'],
    'dreamed': names['progress'].transitions,
    'demos': len(names['demos']),
    'malformed': [a.episode.is_malformed for a in names['attempts']],
    'proposals': [p.error for p in names['proposals']],
    'reasoning': names['seen'].reasoning,
    'workdir': sorted(p.name for p in names['run'].workdir.iterdir()),
}))
'''


def cells(path: pathlib.Path, kind: str) -> list[dict]:
  book = json.loads(path.read_text())
  return [c for c in book['cells'] if c['cell_type'] == kind]


def test_the_quickstart_is_there():
  assert 'quickstart.ipynb' in [p.name for p in NOTEBOOKS]


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


@pytest.fixture(scope='module')
def executed(tmp_path_factory) -> dict:
  """What the quickstart's names hold after its last cell."""
  empty = tmp_path_factory.mktemp('bin')     # a PATH without a browser
  environment = os.environ | {
      'MPLBACKEND': 'Agg', 'PATH': str(empty),
      'JAX_COMPILATION_CACHE_DIR': str(ROOT / 'runs' / '.compile_cache'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2'}
  done = subprocess.run(
      [sys.executable, '-c', RUN, str(ROOT / 'colabs' / 'quickstart.ipynb')],
      cwd=ROOT / 'colabs', env=environment, capture_output=True, text=True,
      timeout=LIMIT)
  assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
  last = done.stdout.rstrip().splitlines()[-1]
  return json.loads(last.removeprefix('RESULT ')) | {'printed': done.stdout}


def test_the_quickstart_learns_in_the_dream(executed):
  assert [step for step, _ in executed['success']] == [1, 2, 3, 4, 5, 6]
  assert all(0 <= rate <= 1 for _, rate in executed['success'])
  assert any(rate > 0 for _, rate in executed['success'])
  assert executed['dreamed'] >= 6 * 8 * 8
  assert 'metrics.jsonl' in executed['workdir']


def test_the_quickstart_shows_what_it_promises(executed):
  assert executed['demos'] == 1 and executed['reasoning']
  assert not all(executed['malformed'])
  assert not all(executed['proposals'])      # some could be read
  for words in ('retrieved: ', 'reasoning: ', 'dreamed: ', 'real: ', 'new: '):
    assert words in executed['printed'], words
