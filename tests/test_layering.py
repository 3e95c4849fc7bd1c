"""Which way imports go, and what may be imported or called where.

`problems` reads sources, not the installed package, so a module that cannot be
imported is checked too, and so are bad ones made up here to see it complain.
"""

import ast
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = 'dreamgym_jax'

# Modules and folders from the lowest layer up. A file imports from lower layers
# alone; files of one folder also import one another, one way.
LAYERS = (
    ('types',),
    ('config', 'text'),
    ('data', 'envs'),
    ('models',),
    ('sampling', 'distributed'),
    ('collect', 'corpus', 'rollouts', 'experience', 'prompted', 'verified',
     'replay', 'curriculum', 'losses', 'advantages', 'accumulation',
     'clusters', 'preemption'),
    ('learner', 'checkpoint'),
    ('learners', 'sft', 'evaluate', 'audit', 'cost', 'report', 'planning'),
    ('stages',),
    ('train',),
    ('plan',),
    ('main',),
)
LAYER_OF = {unit: i for i, units in enumerate(LAYERS) for unit in units}

# What only some files import: (library, where, must it be inside a function).
CONFINED = (
    ('flax.linen', ('models/transformer.py',), False),
    ('scann', ('replay.py',), True),
    ('tensorflow_datasets', ('data/trajectories.py',), True),
    ('textworld', ('envs/',), False),
    ('fast_downward', ('envs/',), False),
    ('alfworld', ('envs/',), False),
    ('browsergym', ('envs/',), False),
    ('openai', ('data/endpoint.py',), True),
    ('absl.flags', ('main.py',), False),
    ('ml_collections.config_flags', ('main.py',), False),
    ('ml_collections', ('config.py', 'stages/', 'train.py', 'main.py'), False),
    ('playwright', ('envs/',), False),
    ('rapidfuzz', ('envs/',), False),
)
BANNED_IMPORTS = (
    'pickle', 'cloudpickle', 'dill', 'shelve', 'marshal',
    'chex', 'einops', 'jaxtyping', 'clu', 'distrax',
    'torch', 'tensorflow',
)
BANNED_CALLS = ('eval', 'exec', 'os.system', 'os.popen')
BANNED_KEYWORDS = ('shell', 'allow_pickle')
DRAWERS = ('utils', 'util', 'helpers', 'common', 'misc')
MAX_LINES = 400


class Import(NamedTuple):
  target: str      # dotted; for `from a import b`: 'a.b'
  source: str      # for `from a import b`: 'a'; otherwise the target
  is_lazy: bool    # inside a function
  line: int


def find_imports(
    tree: ast.AST, package: str, is_lazy: bool = False
) -> Iterator[Import]:
  """Every import below `tree`; `package` resolves the relative ones."""
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield Import(alias.name, alias.name, is_lazy, node.lineno)
    elif isinstance(node, ast.ImportFrom):
      source = node.module or ''
      if node.level:
        parts = package.split('.')
        above = parts[:len(parts) - node.level + 1]
        source = '.'.join(above + ([source] if source else []))
      for alias in node.names:
        yield Import(f'{source}.{alias.name}', source, is_lazy, node.lineno)
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    yield from find_imports(node, package, is_lazy or is_function)


def is_within(name: str, library: str) -> bool:
  return name == library or name.startswith(library + '.')


def direction_problems(
    module: str, imports: list[Import], modules: set[str]
) -> Iterator[str]:
  """Imports of `module` (dotted, without the package) against LAYERS."""
  unit = module.split('.')[0]
  for item in imports:
    if not is_within(item.target, PACKAGE):
      continue
    target = item.target[len(PACKAGE) + 1:]
    source = item.source[len(PACKAGE) + 1:]
    other = target.split('.')[0]
    if other not in LAYER_OF:
      yield f'line {item.line}: imports {target}, which has no layer'
    elif unit != other and LAYER_OF[other] >= LAYER_OF[unit]:
      yield (
          f'line {item.line}: layer {LAYER_OF[unit]} imports {target}'
          f' of layer {LAYER_OF[other]}'
      )
    if source in modules and target != source:
      name = target.rsplit('.', 1)[-1]
      if not name[0].isupper() or name.isupper():  # types are excepted
        yield f'line {item.line}: imports the name {target}, not the module'


def library_problems(path: str, imports: list[Import]) -> Iterator[str]:
  for item in imports:
    for library in BANNED_IMPORTS:
      if is_within(item.target, library):
        yield f'line {item.line}: imports {library}'
    for library, places, must_be_lazy in CONFINED:
      if not is_within(item.target, library):
        continue
      if not path.startswith(places):
        yield f'line {item.line}: imports {library}, kept to {places}'
      elif must_be_lazy and not item.is_lazy:
        yield f'line {item.line}: imports {library} outside a function'


def call_problems(path: str, tree: ast.AST) -> Iterator[str]:
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    name = ast.unparse(node.func)
    if name in BANNED_CALLS:
      yield f'line {node.lineno}: calls {name}'
    if name == 'jax.config.update' and path != 'main.py':
      yield f'line {node.lineno}: only main.py sets switches of JAX'
    for keyword in node.keywords:
      if keyword.arg in BANNED_KEYWORDS and (
          not isinstance(keyword.value, ast.Constant) or keyword.value.value
      ):
        yield f'line {node.lineno}: {keyword.arg}=True'


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
  """Modules that import one another in a ring; [] when there is none."""
  done: set[str] = set()

  def visit(module: str, trail: list[str]) -> list[str]:
    if module in trail:
      return trail[trail.index(module):] + [module]
    if module in done or module not in graph:
      return []
    for other in sorted(graph[module]):
      if ring := visit(other, trail + [module]):
        return ring
    done.add(module)
    return []

  for module in sorted(graph):
    if ring := visit(module, []):
      return ring
  return []


def module_name(path: str) -> str:
  """'text/states.py' -> 'text.states'; 'text/__init__.py' -> 'text'."""
  return path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def problems(sources: dict[str, str]) -> list[str]:
  """What is wrong with a package, given as {path inside it: source}."""
  found = []
  files = {p: s for p, s in sources.items() if p != '__init__.py'}
  modules = {module_name(p) for p in files if not p.endswith('__init__.py')}
  graph: dict[str, set[str]] = {}
  for path, source in files.items():
    module = module_name(path)
    if module.split('.')[0] not in LAYER_OF:
      found.append(f'{path}: has no layer; give it one in LAYERS')
      continue
    folder = '/'.join([PACKAGE, *path.split('/')[:-1]]).replace('/', '.')
    tree = ast.parse(source)
    imports = list(find_imports(tree, folder))
    within = [i for i in imports if is_within(i.target, PACKAGE)]
    names = [n[len(PACKAGE) + 1:] for i in within for n in (i.target, i.source)]
    graph[module] = {n for n in names if n in modules}
    found += [f'{path}: {p}' for p in (
        *direction_problems(module, imports, modules),
        *library_problems(path, imports),
        *call_problems(path, tree),
    )]
  if ring := find_cycle(graph):
    found.append(f'imports go round: {" -> ".join(ring)}')
  root = sources.get('__init__.py', '')
  if any(is_within(i.target, PACKAGE)
         for i in find_imports(ast.parse(root), PACKAGE)):
    found.append('__init__.py: imports the package it opens')
  return found


def read_package() -> dict[str, str]:
  base = ROOT / PACKAGE
  return {
      str(p.relative_to(base)): p.read_text() for p in base.rglob('*.py')
  }


def test_the_package_keeps_its_layers():
  sources = read_package()
  assert 'types.py' in sources, 'looked in the wrong place'
  assert not problems(sources), '\n' + '\n'.join(problems(sources))


def test_files_are_short_and_own_a_noun():
  folders = (PACKAGE, 'tests', 'configs', 'launch')
  files = [
      p for f in folders for p in (ROOT / f).rglob('*')
      if p.suffix in ('.py', '.sh', '.js')
  ]
  assert files
  long = {
      str(p.relative_to(ROOT)): n for p in files
      if (n := len(p.read_text().splitlines())) > MAX_LINES
  }
  assert not long, f'more than {MAX_LINES} lines: {long}'
  drawers = [p for p in files if {p.stem, p.parent.name} & set(DRAWERS)]
  assert not drawers, f'name what it owns: {drawers}'


GOOD = {
    '__init__.py': '"""The package."""\n__version__ = "0"',
    'types.py': 'import jax\nfrom flax import struct',
    'text/__init__.py': '',
    'text/states.py': 'from dreamgym_jax.types import Task',
    'text/actions.py': 'from dreamgym_jax.text import states',
    'data/trajectories.py': 'def f():\n  import tensorflow_datasets as tfds',
    'envs/miniwob.py': 'from playwright import sync_api',
    'models/transformer.py': 'from flax import linen as nn',
    'replay.py': 'def f():\n  import scann',
    'train.py': 'import dreamgym_jax.replay\nfrom dreamgym_jax import types',
    'main.py': 'from absl import flags\nimport jax\njax.config.update("a", 1)',
}


def test_a_good_package_has_no_problems():
  assert problems(GOOD) == []


@pytest.mark.parametrize('path, source, complaint', [
    ('types.py', 'from dreamgym_jax import cost', 'of layer 7'),
    ('types.py', 'import dreamgym_jax.cost as c', 'of layer 7'),
    ('types.py', 'def f():\n  from dreamgym_jax import cost', 'of layer 7'),
    ('types.py', 'from . import cost', 'of layer 7'),
    ('text/states.py', 'from .. import cost', 'of layer 7'),
    ('text/states.py', 'from ..models.transformer import Xs', 'of layer 3'),
    ('losses.py', 'from dreamgym_jax import replay', 'of layer 5'),
    ('config.py', 'from dreamgym_jax.text import states', 'of layer 1'),
    ('data/x.py', 'import dreamgym_jax.envs.miniwob', 'of layer 2'),
    ('train.py', 'from dreamgym_jax import nowhere', 'has no layer'),
    ('stray.py', '', 'has no layer'),
    ('__init__.py', 'from dreamgym_jax import types', 'it opens'),
    ('text/states.py', 'from dreamgym_jax.text import actions', 'round'),
    ('text/states.py', 'from .actions import Action', 'round'),
    ('train.py', 'from dreamgym_jax.types import REAL', 'the name'),
    ('train.py', 'from dreamgym_jax.replay import add', 'the name'),
    ('models/lora.py', 'import flax.linen as nn', 'kept to'),
    ('learner.py', 'from flax.linen import Module', 'kept to'),
    ('replay.py', 'import scann', 'outside a function'),
    ('learner.py', 'def f():\n  import scann', 'kept to'),
    ('data/trajectories.py', 'import tensorflow_datasets', 'outside'),
    ('data/batches.py', 'def f():\n  import tensorflow_datasets', 'kept to'),
    ('train.py', 'from absl import flags', 'kept to'),
    ('train.py', 'from ml_collections import config_flags', 'kept to'),
    ('learner.py', 'import ml_collections', 'kept to'),
    ('rollouts.py', 'from playwright.sync_api import Page', 'kept to'),
    ('losses.py', 'import pickle', 'imports pickle'),
    ('losses.py', 'import torch.nn as nn', 'imports torch'),
    ('losses.py', 'y = eval("1")', 'calls eval'),
    ('losses.py', 'exec("1")', 'calls exec'),
    ('losses.py', 'import os\nos.system("ls")', 'calls os.system'),
    ('losses.py', 'f("ls", shell=True)', 'shell=True'),
    ('losses.py', 'load("x", allow_pickle=flag)', 'allow_pickle=True'),
    ('losses.py', 'jax.config.update("a", 1)', 'switches of JAX'),
])
def test_each_breach_is_seen(path: str, source: str, complaint: str):
  found = problems(GOOD | {path: source})
  assert len(found) == 1 and complaint in found[0], found


def test_what_resembles_a_breach_is_let_be():
  source = (
      'page.evaluate("1")\nmodel.eval()\nrun(["ls"], shell=False)\n'
      'import tensorflow_metadata_like\nimport scannable'
  )
  assert problems(GOOD | {'envs/x.py': source}) == []
