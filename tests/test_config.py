"""Configs: every key is checked, every key is read by somebody."""

import ast
import importlib.util
import pathlib

import pytest

from dreamgym_jax import config

ROOT = pathlib.Path(__file__).parents[1]
KEYS = dict(config.leaves(config.defaults()))


def preset(size):
  spec = importlib.util.spec_from_file_location(
      'webarena', ROOT / 'configs' / 'webarena.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(size)


def changed(**values):
  """The defaults with `section__key` changed."""
  c = config.defaults()
  for name, value in values.items():
    *path, key = name.split('__')
    at = c
    for section in path:
      at = at[section]
    at[key] = value
  return c


@pytest.mark.parametrize('size', config.SIZES)
def test_every_size_is_sound_and_overrides_known_keys_only(size):
  c = preset(size)
  config.validate(c)
  assert c.size == size
  assert dict(config.leaves(c)).keys() == KEYS.keys()


def test_an_unknown_size_names_those_there_are():
  with pytest.raises(config.ConfigError, match='tiny, scratch, smoke'):
    preset('huge')


@pytest.mark.parametrize('key, value', [
    ('base__rename', 1.5), ('replay__max_dreamed_share', -0.1),
    ('curriculum__max_synthetic', 1.01), ('gate__next_state', 2.0),
    ('size', 'huge'), ('env__mode', 'mouse'), ('replay__index', 'faiss'),
    ('model__remat', 'all'), ('experience__init', 'none'),
    ('warmup__init', ''), ('rl__lr', 0.0), ('rl__lr', -1.0),
    ('rl__group', 0), ('model__D', -8), ('env__rows', 0),
    ('evaluate__temperature', -0.1), ('curriculum__every', 0),
    ('env__held_out_families', ('click-button',)),
    ('replay__encoder', 'bert'), ('replay__embedding', -1),
    ('sampler__buckets', 'few'), ('model__lora_rank', -1),
    ('mesh__data', 0), ('mesh__tensor', -2),
])
def test_errors_name_the_key(key, value):
  with pytest.raises(config.ConfigError) as error:
    config.validate(changed(**{key: value}))
  assert str(error.value).startswith(key.replace('__', '.'))


def test_pairs_take_neither_parts_nor_a_cap():
  config.validate(changed(rl__accumulate=4, rl__importance_cap=2.0))
  for key, value in (('accumulate', 2), ('importance_cap', 2.0)):
    with pytest.raises(config.ConfigError, match="rl.algorithm='dpo'"):
      config.validate(changed(rl__algorithm='dpo', **{f'rl__{key}': value}))
  with pytest.raises(config.ConfigError, match=r'rl\.importance_cap=0\.5'):
    config.validate(changed(rl__importance_cap=0.5))
  with pytest.raises(config.ConfigError, match=r'rl\.accumulate=0'):
    config.validate(changed(rl__accumulate=0))


def test_one_axis_of_the_mesh_may_be_what_is_left():
  config.validate(changed(mesh__data=-1, mesh__fsdp=2))
  with pytest.raises(config.ConfigError, match='only one axis may be -1'):
    config.validate(changed(mesh__data=-1, mesh__fsdp=-1))


def test_minilm_has_a_width_of_its_own():
  with pytest.raises(config.ConfigError, match='replay.embedding: .*384'):
    config.validate(changed(replay__encoder='minilm'))
  config.validate(changed(replay__encoder='minilm', replay__embedding=384))


@pytest.mark.parametrize('key', ['experience', 'warmup'])
def test_nothing_shipped_means_nothing_to_start_from(key):
  other = {'experience': 'warmup', 'warmup': 'experience'}[key]
  bad = changed(shipped='', **{f'{other}__init': 'base'})
  with pytest.raises(config.ConfigError, match=f'{key}.init'):
    config.validate(bad)


@pytest.mark.parametrize('train, gate, test', [
    ((0, 100_001), (100_000, 200_000), (200_000, 300_000)),
    ((0, 100_000), (150_000, 250_000), (200_000, 300_000)),
    ((5, 5), (100_000, 200_000), (200_000, 300_000)),
    ((0, 10), (20, 30), (9, 12)),
])
def test_seeds_of_pages_must_be_disjoint(train, gate, test):
  with pytest.raises(config.ConfigError, match='env.*seeds'):
    config.validate(changed(env__train_seeds=train, env__gate_seeds=gate,
                            env__test_seeds=test))


def test_zero_is_fine_where_it_means_off():
  config.validate(changed(
      seed=0, replay__k=0, rl__kl_coef=0.0, gate__remedies=0,
      evaluate__temperature=0.0, dream__iterations=0,
      base__rename=0.0, curriculum__max_synthetic=0.0))


def test_unknown_keys_and_other_types_are_refused():
  c = config.defaults().lock()    # as `main` does
  with pytest.raises((AttributeError, KeyError), match='lrr'):
    c.rl.lrr = 1.0
  for name, value in (('lr', 'much'), ('group', 2.5), ('group', '8')):
    with pytest.raises(TypeError, match=name):
      setattr(c.rl, name, value)
  with pytest.raises(TypeError):
    c.env.families = 'click-button'


def test_leaves_are_dotted_and_complete():
  assert KEYS['rl.group'] == config.defaults().rl.group
  assert KEYS['checkpoint_every'] > 0
  assert not any(hasattr(v, 'keys') for v in KEYS.values())


# -- every key is read ---------------------------------------------------------


class _Reads(ast.NodeVisitor):
  """Dotted keys that a module reads off a config.

  `run.config`, `c` and `config` are the config; what is assigned from it
  (`r = run.config.rl`) stands for that part inside the function.
  """

  def __init__(self):
    self.found = set()
    self._alias = [{'c': '', 'config': ''}]

  def key(self, node):
    """The dotted key a node stands for ('' = the config), or None."""
    if isinstance(node, ast.Name):
      return self._alias[-1].get(node.id)
    if isinstance(node, ast.Attribute):
      if node.attr == 'config':
        return ''
      above = self.key(node.value)
      if above is not None:
        return f'{above}.{node.attr}'.lstrip('.')
    return None

  def visit_FunctionDef(self, node):
    self._alias.append(dict(self._alias[-1]))
    self.generic_visit(node)
    self._alias.pop()

  def visit_Assign(self, node):
    self.visit(node.value)
    key = self.key(node.value)
    for target in node.targets:
      if isinstance(target, ast.Name) and key is not None:
        self._alias[-1][target.id] = key

  def visit_Attribute(self, node):
    if isinstance(node.ctx, ast.Load) and self.key(node):
      self.found.add(self.key(node))
    self.generic_visit(node)


def reads(source):
  visitor = _Reads()
  visitor.visit(ast.parse(source))
  return visitor.found


def test_the_reader_of_reads():
  found = reads('def f(run):\n  r = run.config.rl\n  c = run.config\n'
                '  return r.lr, lambda: c.env.rows\n'
                'def g(self, r):\n  r.clip\n  self.run.config.seed\n')
  assert found == {'rl', 'rl.lr', 'env', 'env.rows', 'seed'}


def test_every_key_is_read_somewhere():
  """A key that nobody reads is a promise that nobody keeps."""
  found = set()
  for path in (ROOT / 'dreamgym_jax').rglob('*.py'):
    if path.name != 'config.py':
      found |= reads(path.read_text(encoding='utf-8'))
  assert not set(KEYS) - found
  known = set(KEYS) | {k.partition('.')[0] for k in KEYS}
  sections = {k.partition('.')[0] for k in KEYS if '.' in k}
  unknown = {k for k in found if k.partition('.')[0] in sections
             and '.'.join(k.split('.')[:2]) not in known}
  assert not unknown
