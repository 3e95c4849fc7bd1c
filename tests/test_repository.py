"""What a visitor reads and clones: the README's claims, sizes, stray paths."""

import pathlib
import re
import subprocess
import tomllib

import pytest

from dreamgym_jax import types

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'dreamgym_jax'
MAX_BYTES = 4 * 2**20
MAX_WEIGHTS = 4_300_000   # of a million float32 parameters
# Places on somebody's machine, or beside the checkout; put together here so
# that this file does not contain them.
STRAY = re.compile('|'.join((
    r'(?<![\w.$}])/(?:wo' r'rk|ro' r'ot|Us' r'ers)/',
    r'(?<![\w.$}])/ho' r'me/\w',
    r'\.\./sha' r'red',
)))


def list_files() -> list[pathlib.Path]:
  """Files that are, or would be, committed; the whole tree without git."""
  done = subprocess.run(
      ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
      cwd=ROOT, capture_output=True, text=True)
  if done.returncode == 0:
    files = [ROOT / name for name in done.stdout.split('\0') if name]
    return [f for f in files if f.is_file()]
  hidden = {'.git', '.venv', '__pycache__', 'runs', 'build', 'dist'}
  return [
      f for f in ROOT.rglob('*')
      if f.is_file() and not hidden & set(f.relative_to(ROOT).parts)
  ]


def read_blocks(name: str) -> list[str]:
  """The fenced blocks of a Markdown file."""
  return re.findall(r'^```\w*\n(.*?)^```', (ROOT / name).read_text(),
                    flags=re.DOTALL | re.MULTILINE)


def read_tree(block: str) -> list[str]:
  """Paths of an indented tree, two spaces a level, a folder's name ends in /.

  A name and what follows it are apart by two or more spaces.
  """
  paths, above = [], []
  for line in block.splitlines():
    name = line.split()[0]
    depth = (len(line) - len(line.lstrip())) // 2
    above = above[:depth] + [name]
    paths.append(''.join(above))
  return paths


def test_the_tree_is_read_with_its_folders():
  block = 'a/\n  b.py   what\n  c/\n    d.py\n  e.py\nf/   more\n'
  assert read_tree(block) == [
      'a/', 'a/b.py', 'a/c/', 'a/c/d.py', 'a/e.py', 'f/']


def test_the_readmes_tree_is_the_real_one():
  trees = [b for b in read_blocks('README.md') if b.startswith(PACKAGE.name)]
  assert len(trees) == 1
  named = read_tree(trees[0])
  absent = [name for name in named if not (ROOT / name).exists()]
  assert not absent, f'README names what is not there: {absent}'
  modules = {
      str(p.relative_to(ROOT)) for p in PACKAGE.rglob('*.py')
      if p.name != '__init__.py'
  }
  unnamed = modules - set(named)
  assert not unnamed, f'README leaves out {sorted(unnamed)}'


def test_the_readme_opens_with_the_two_commands():
  commands = [
      line.split('#')[0].strip()
      for line in read_blocks('README.md')[0].splitlines()
  ]
  assert commands[:2] == ['bash launch/local.sh', 'bash launch/test.sh']


def test_the_legend_of_shapes_is_the_same_in_both_places():
  lines = [x for x in types.__doc__.splitlines() if re.match(r'  \w ', x)]
  assert len(lines) >= 5
  assert '\n'.join(lines) + '\n' in read_blocks('README.md')


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md'])
def test_links_to_files_lead_somewhere(name: str):
  links = re.findall(r'\]\(([^)#]+)\)', (ROOT / name).read_text())
  local = [link for link in links if '://' not in link]
  assert local
  assert [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md'])
def test_scripts_and_tests_that_are_named_exist(name: str):
  text = (ROOT / name).read_text()
  named = set(re.findall(r'(?:launch|tests|configs)/\w+\.\w+', text))
  assert named
  assert [n for n in sorted(named) if not (ROOT / n).exists()] == []


def test_nothing_mentions_a_place_on_somebodys_machine():
  found = []
  for path in list_files():
    try:
      text = path.read_text()
    except UnicodeDecodeError:  # weights and pictures
      continue
    for match in STRAY.finditer(text):
      line = text.count('\n', 0, match.start()) + 1
      found.append(f'{path.relative_to(ROOT)}:{line}: {match.group()}')
  assert not found, found


@pytest.mark.parametrize('text', [
    'cd /wo' 'rk/main', '"/ro' 'ot/x"', '/ho' 'me/ada/y', '../sha' 'red/a'])
def test_such_places_would_be_seen(text: str):
  assert STRAY.search(text)


@pytest.mark.parametrize('text', [
    '/usr/lib/chromium', 'net' '/wo' 'rk', 'https://a.b/home', '$HOME/work/'])
def test_other_paths_are_let_be(text: str):
  assert not STRAY.search(text)


def test_files_are_small_enough_to_clone():
  files = list_files()
  assert ROOT / 'README.md' in files
  big = {
      str(f.relative_to(ROOT)): f.stat().st_size for f in files
      if f.stat().st_size >= (
          MAX_WEIGHTS if f.suffix == '.safetensors' else MAX_BYTES)
  }
  assert not big, f'{MAX_BYTES} bytes or more: {big}'


def test_everything_that_is_not_code_is_packaged():
  """A wheel without the page script or the shipped weights would not run."""
  meta = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  patterns = meta['tool']['setuptools']['package-data'][PACKAGE.name]
  packaged = {p for pattern in patterns for p in PACKAGE.glob(pattern)}
  inside = [f for f in list_files() if PACKAGE in f.parents]
  assert inside
  lost = [
      str(f.relative_to(ROOT)) for f in inside
      if f.suffix != '.py' and f not in packaged
  ]
  assert not lost, f'add to package-data: {lost}'
  folders = {f.parent for f in inside if f.suffix == '.py'}
  assert [d for d in folders if not (d / '__init__.py').exists()] == []


def read_requirements(name: str) -> list[str]:
  """`package>=bound` of each line, without markers and comments."""
  lines = (ROOT / name).read_text().splitlines()
  return [re.split('[ ;#]', i)[0] for i in lines if i and i[0] != '#']


def to_numbers(version: str) -> list[int]:
  return [int(part) for part in re.findall(r'\d+', version)]


def to_key(package: str) -> str:
  return package.lower().replace('_', '-')


def test_every_requirement_is_pinned_at_or_above_its_bound():
  pins = dict(r.split('==') for r in read_requirements('constraints.txt'))
  pins = {to_key(package): version for package, version in pins.items()}
  assert not {'torch', 'tensorflow'} & set(pins)
  for name in ('', '-web', '-webshop', '-teacher', '-models', '-dev'):
    for line in read_requirements(f'requirements{name}.txt'):
      package, bound = line.split('>=')
      assert to_numbers(bound) <= to_numbers(pins[to_key(package)]), line


def test_the_tested_version_in_the_comment_is_the_pinned_one():
  pins = dict(r.split('==') for r in read_requirements('constraints.txt'))
  pins = {to_key(package): version for package, version in pins.items()}
  for name in ('', '-web', '-webshop', '-teacher', '-models', '-dev'):
    for line in (ROOT / f'requirements{name}.txt').read_text().splitlines():
      if match := re.match(r'([\w-]+)>=.*# tested ([\d.]*\d)', line):
        assert pins[to_key(match[1])] == match[2], line


def test_the_licence_is_apache_2():
  text = (ROOT / 'LICENSE').read_text()
  assert 'Apache License\n                           Version 2.0' in text
  assert 'END OF TERMS AND CONDITIONS' in text
