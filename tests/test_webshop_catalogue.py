"""What the shop sells: the generated catalogue, and files of official shape.

The files are written by hand here; nothing of the official data is used.
"""

import dataclasses
import itertools
import json
import random
import re

import pytest

from dreamgym_jax.envs import webshop_catalogue as shop
from dreamgym_jax.envs import webshop_files, webshop_reward

ASKED = re.compile(
    r'Find me [^:]+( with [\w ]+: [^:]+(, and [\w ]+: [^:]+)?)?'
    r', and price lower than \d+0\.00 dollars')
ITEMS = [
    {'asin': 'B000000001', 'name': 'Zeta Bowl', 'category': 'garden',
     'query': ' Bowls ', 'product_category': 'Home › Bowls',
     'full_description': 'Round.', 'small_description': ['Deep.', 'Blue.'],
     'pricing': '$1,012.50', 'images': ['x'],
     'customization_options': {
         'Color': [{'value': ' Red/Blue ', 'image': None}, {'value': 'Green'}],
         'Size': None}},
    {'asin': 'B000000001', 'name': 'the same again'},
    {'asin': 'nan'},
    {'asin': 'B0000000012', 'name': 'too long'},
    {'asin': 'B000000002', 'name': 'Zeta Cup', 'category': 'garden',
     'query': 'cups', 'product_category': 'Home › Cups',
     'full_description': None, 'small_description': 'One line.',
     'pricing': '$10.00$20.00', 'customization_options': ''},
    {'asin': 'B000000003', 'name': 'Zeta Jug', 'category': 'grocery',
     'query': 'jugs', 'product_category': 'Home › Jugs',
     'full_description': '', 'small_description': [], 'pricing': '',
     'customization_options': {'size': [{'value': '1'}, {'value': '2'}],
                               'color': [{'value': 'red'}]}},
]
ASKS = {
    'B000000001': {'attributes': ['deep'], 'instruction': None},
    'B000000003': {'attributes': ['tall', 'thin'],
                   'instruction': 'Find me tall jugs',
                   'instruction_attributes': ['tall']},
}
HUMAN = {
    'B000000002': [
        {'instruction': 'i want a cup.', 'instruction_attributes': ['small'],
         'instruction_options': ['red']},
        {'instruction': 'skipped', 'instruction_attributes': [],
         'instruction_options': []}],
    'B000000009': [],
}


@pytest.fixture(scope='module')
def made():
  return shop.generate(0)


@pytest.fixture
def write(tmp_path):
  def write(name, data):
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path
  return write


def test_the_seed_is_the_catalogue(made):
  assert shop.generate(0) == made
  assert shop.generate(1) != made


def test_it_is_large_and_of_five_categories(made):
  assert len(made.products) >= 1000
  assert len({p.asin for p in made.products}) == len(made.products)
  assert {p.category for p in made.products} == set(shop.CATEGORIES)
  assert len(shop.CATEGORIES) == 5
  assert all(re.fullmatch('B0[0-9A-Z]{8}', p.asin) for p in made.products)


def test_goals_are_worded_officially_and_are_those_of_their_product(made):
  products = {p.asin: p for p in made.products}
  for goal in made.goals[::7]:
    assert ASKED.fullmatch(goal.instruction), goal.instruction
    product = products[goal.asin]
    assert goal.instruction.startswith(
        f'Find me {", ".join(goal.attributes)} {product.query}')
    assert 0 < goal.price_upper - product.price <= 40
    assert goal.price_upper % 10 == 0
    assert webshop_reward.score(goal, product, goal.options).is_success


def test_a_goal_for_every_combination_of_options(made):
  product = next(p for p in made.products if len(p.options) == 2)
  values = dict(product.options)
  wanted = set(itertools.product(*(values[n] for n in sorted(values))))
  goals = [g for g in made.goals if g.asin == product.asin]
  assert {g.options for g in goals} == wanted and len(goals) == len(wanted)
  assert len({g.price_upper for g in goals}) == 1


def test_near_duplicates_lose(made):
  """Of the products of a query only the goal's own has all it asks for."""
  for goal in made.goals[::101]:
    alike = [p for p in made.products if p.query == goal.query]
    assert len(alike) == 18
    wins = {p.asin for p in alike
            if webshop_reward.score(goal, p, goal.options).is_success}
    assert wins == {goal.asin}
    close = [p for p in alike if webshop_reward.score(
        goal, p, goal.options).reward > .5]
    assert len(close) > 2


def test_attributes_are_told_apart_by_the_reward():
  for category in shop.CATEGORIES:
    for a, b in itertools.permutations(shop.attributes(category), 2):
      assert not webshop_reward.is_like(a, b) and a not in b


def test_limits_are_among_the_next_four_tens_but_never_the_first():
  rng = random.Random(0)
  seen = {shop.price_limit(45.5, rng)[0] for _ in range(200)}
  assert seen == {60., 70., 80.}
  assert shop.price_limit(50., rng)[0] in (70., 80., 90.)
  assert shop.price_limit(975., rng) == (
      990., ', and price lower than 990.00 dollars')
  assert shop.price_limit(985., rng) == (1_000_000., '')


def test_official_products_are_read(write):
  made = webshop_files.load(write('items.json', ITEMS),
                            write('asks.json', ASKS))
  bowl, cup, jug = made.products
  assert dataclasses.astuple(bowl) == (
      'B000000001', 'Zeta Bowl', 'Round.', ('Deep.', 'Blue.'), 'garden',
      'bowls', 'Home › Bowls', 1012.5, '$1012.5',
      (('color', ('red | blue', 'green')),), ('deep',), 'N.A.', ())
  assert cup.bullets == ('One line.',) and cup.options == ()
  assert cup.price_tag == '$10.0 to $20.0' and 10 <= cup.price <= 20
  assert cup.attributes == ('DUMMY_ATTR',) and cup.description == ''
  assert (jug.price, jug.price_tag) == (100., '$100.0')


def test_official_instructions_are_combined_with_options(write):
  paths = write('items.json', ITEMS), write('asks.json', ASKS)
  made = webshop_files.load(*paths)
  assert webshop_files.load(*paths) == made
  upper = made.goals[0].price_upper
  assert upper in (120., 130., 140.)
  assert sorted(g.instruction for g in made.goals) == [
      f'Find me tall jugs with color: red, and size: {n}, '
      f'and price lower than {upper:.2f} dollars' for n in '12']
  assert {g.options for g in made.goals} == {('red', '1'), ('red', '2')}
  assert made.goals[0].attributes == ('tall',)


def test_human_instructions_are_read(write):
  made = webshop_files.load(
      write('items.json', ITEMS), write('asks.json', ASKS),
      write('human.json', HUMAN))
  (goal,) = made.goals
  assert goal.instruction == (
      f'i want a cup, and price lower than {goal.price_upper:.2f} dollars')
  assert (goal.attributes, goal.options) == (('small',), ('red',))


def test_a_limit_takes_products_from_the_front(write):
  made = webshop_files.load(write('items.json', ITEMS),
                            write('asks.json', ASKS), limit=4)
  assert [p.name for p in made.products] == ['Zeta Bowl']


def test_goals_are_in_the_official_order():
  """That of random.seed(233); random.shuffle(goals)."""
  random.seed(233)
  expected = list(range(20))
  random.shuffle(expected)
  assert shop.shuffled(range(20)) == tuple(expected)


@pytest.mark.parametrize('name, spoil, complaint', [
    ('items', lambda d: d[0].pop('full_description'),
     "items.json: item 0 has no key 'full_description'"),
    ('items', lambda d: d[4].pop('query'), "item 4 has no key 'query'"),
    ('items', lambda d: d.insert(0, 'rubbish'), "item 0 has no key 'asin'"),
    ('items', lambda d: d[0]['customization_options']['Color'][1].clear(),
     "item 0, 'Color' has no key 'value'"),
    ('items', lambda d: d[0].update(pricing='$free'), "item 0, key 'pricing'"),
    ('asks', lambda d: d['B000000003'].pop('instruction_attributes'),
     "asks.json: B000000003 has no key 'instruction_attributes'"),
    ('asks', lambda d: d.update(B000000003=3), 'asks.json: B000000003'),
    ('human', lambda d: d['B000000002'][0].pop('instruction_options'),
     'human.json: B000000002, instruction 0 has no key .instruction_options'),
])
def test_errors_name_the_file_and_the_key(write, name, spoil, complaint):
  data = json.loads(json.dumps(
      {'items': ITEMS, 'asks': ASKS, 'human': HUMAN}))
  spoil(data[name])
  human = write('human.json', data['human']) if name == 'human' else None
  with pytest.raises(webshop_files.CatalogueError, match=complaint):
    webshop_files.load(write('items.json', data['items']),
                       write('asks.json', data['asks']), human)


@pytest.mark.parametrize('text', ['{', '{}', '"x"'])
def test_files_that_are_not_json_of_the_shape_are_named(write, text):
  with pytest.raises(webshop_files.CatalogueError, match='items.json'):
    webshop_files.load(write('items.json', text), write('asks.json', ASKS))
  with pytest.raises(webshop_files.CatalogueError, match='nowhere.json'):
    webshop_files.load('nowhere.json', write('asks.json', ASKS))
