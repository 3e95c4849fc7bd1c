"""Every environment that a config can name, and what is missing for one."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from configs import alfworld, webarena, webarena_lite, webshop
from dreamgym_jax import config, types
from dreamgym_jax.envs import alfworld_pages, checks
from dreamgym_jax.stages import domains

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHOP = webshop.get_config('tiny')


def test_every_name_has_a_domain_and_a_requirement_file():
  for name, (_, _, requirements) in domains.DOMAINS.items():
    c = config.defaults()
    c.name = name
    domain = domains.of(c)
    assert domain.title and domain.shipped and domain.dataset
    assert (ROOT / requirements).exists()


@pytest.mark.parametrize('module', [alfworld, webarena, webarena_lite,
                                    webshop])
@pytest.mark.parametrize('size', config.SIZES)
def test_every_size_of_every_config_is_valid(module, size):
  c = module.get_config(size)
  config.validate(c)
  assert domains.of(c)
  assert c.size == size and bool(c.shipped) == (size == 'tiny')


def test_an_unknown_environment_is_named():
  c = config.defaults()
  c.name = 'moon'
  with pytest.raises(config.ConfigError, match='moon.*miniwob.*webshop'):
    domains.of(c)


def test_a_missing_package_says_what_to_install():
  """In a process of its own, where nothing is imported yet."""
  code = ("import sys; sys.modules['rapidfuzz'] = None\n"
          "from configs import webshop\n"
          "from dreamgym_jax.stages import domains\n"
          "domains.of(webshop.get_config('tiny'))")
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT,
                        capture_output=True, text=True, check=False)
  assert "'rapidfuzz' is missing" in done.stderr
  assert 'pip install -r requirements-webshop.txt' in done.stderr


def named(name):
  c = config.defaults()
  c.name = name
  return domains.of(c)


def test_a_domain_from_outside_is_imported_when_it_is_named(
    tmp_path, monkeypatch):
  source = tmp_path / 'moonbase.py'
  source.write_text("""
from dreamgym_jax.stages import domains, on_miniwob
MOON = on_miniwob.DOMAIN._replace(title='the moon')
WORLD = 'cheese'
""")
  assert 'moonbase' not in sys.modules
  monkeypatch.syspath_prepend(str(tmp_path))
  assert named('moonbase:MOON').title == 'the moon'
  assert domains.pages(config.defaults(), 'click-button', 'gate')
  with pytest.raises(config.ConfigError, match="name='moonbase:SUN'.*'SUN'"):
    named('moonbase:SUN')
  with pytest.raises(config.ConfigError, match='name=.*want.*Domain, got str'):
    named('moonbase:WORLD')


@pytest.mark.parametrize('name', [
    'nowhere_at_all:MOON', ':MOON', '.moonbase:MOON', ':'])
def test_a_module_that_cannot_be_imported_is_named(name):
  with pytest.raises(config.ConfigError, match=f'name={name!r}: cannot import'):
    named(name)


def test_what_a_domain_from_outside_lacks_is_named(tmp_path, monkeypatch):
  (tmp_path / 'marsbase.py').write_text('import a_package_of_mars')
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(config.ConfigError, match="'a_package_of_mars'"):
    named('marsbase:MARS')


def test_the_shop_is_the_one_of_the_config():
  world = domains.of(SHOP).world(SHOP)()
  task, = world.reset([types.Task(SHOP.env.families[0], 0)])
  page, = world.step([0], ['fill [1] ' + task.instruction])
  page, = world.step([0], ['click [2]'])
  assert page.state.count('link:') == SHOP.shop.page_size == 3
  for family in (*SHOP.env.families, *SHOP.env.held_out_families):
    for _, high in (SHOP.env.train_seeds, SHOP.env.gate_seeds,
                    SHOP.env.test_seeds):
      world.reset([types.Task(family, high - 1)])


def test_the_house_is_the_one_of_the_config(tmp_path):
  c = alfworld.get_config('scratch')
  c.house.cache = str(tmp_path)
  domain = domains.of(c)
  world = domain.world(c)()
  families = [c.env.families[0], c.env.held_out_families[1]]
  tasks = world.reset([types.Task(f, 0) for f in families])
  for task in tasks:
    places = alfworld_pages.read(task.initial_state).of_kind(
        alfworld_pages.PLACE)
    assert len(places) == c.house.max_places
  posed, = world.reset([dataclasses.replace(tasks[0], source=types.GENERATED)])
  assert domain.poses and posed == dataclasses.replace(
      tasks[0], source=types.GENERATED)
  world.close()


def test_official_games_are_looked_for_where_the_config_says(tmp_path):
  c = alfworld.get_config('scratch')
  c.house.data = str(tmp_path)
  with pytest.raises(checks.EnvError, match=f'{tmp_path}.*alfworld-download'):
    domains.of(c).world(c)().reset([types.Task(c.env.families[0], 0)])


def test_the_official_shop_wants_its_files(tmp_path):
  c = config.defaults()
  c.name = 'webshop-official'
  with pytest.raises(config.ConfigError, match='shop.items'):
    domains.of(c).world(c)
  c.shop.items = str(tmp_path / 'items.json')
  with pytest.raises(config.ConfigError, match='shop.attributes'):
    domains.of(c).world(c)
  c.shop.attributes = str(tmp_path / 'asks.json')
  (tmp_path / 'asks.json').write_text(json.dumps([]))
  with pytest.raises(checks.EnvError, match='asks.json'):
    domains.of(c).world(c)()
