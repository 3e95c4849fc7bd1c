"""WebShop's reward, term by term, on purchases worked out by hand."""

import dataclasses

import pytest

from dreamgym_jax.envs import webshop_catalogue as shop
from dreamgym_jax.envs import webshop_reward as reward

RUG = shop.Product(
    asin='B000000001', name='Brandt Area Rugs Tide, Solid Wood, Hand Woven',
    description='A rug for every floor.', bullets=('SOFT: rests the feet.',),
    category='garden', query='area rugs',
    product_category='Home › Decor › Area Rugs', price=45.5,
    price_tag='$45.5', options=(('color', ('red', 'navy blue')),),
    attributes=('solid wood', 'hand woven'))
GOAL = shop.Goal(
    asin=RUG.asin, instruction='', name=RUG.name, category='garden',
    query='area rugs', product_category=RUG.product_category,
    attributes=('solid wood', 'hand woven'), options=('navy blue', 'large'),
    price_upper=50.)
TEN = 'Oak Elm Ash Fir Yew Box Bay Fig Gum Tea'    # ten nouns


def other(**changes):
  """A product that shares nothing with GOAL but what is said."""
  return dataclasses.replace(RUG, **{
      'name': 'Zeta Kettle', 'query': 'kettles', 'attributes': (),
      'bullets': (), 'description': '', 'product_category': 'A › B'} | changes)


def test_the_goals_own_product_wins():
  score = reward.score(GOAL, RUG, ['navy blue', 'large'])
  assert score == (1., 1., 2, 2, True, True, True, 1.)
  assert score.is_success


@pytest.mark.parametrize('options, price, expected', [
    (['navy blue'], 45.5, 4 / 5),          # 2 attributes, 1 option, price
    ([], 45.5, 3 / 5),
    ([], 50.01, 2 / 5),
    (['navy blue', 'large'], 50., 1.),     # at the limit is within it
    (['navy blue', 'large'], 50.01, 4 / 5),
    (['large', 'navy blue'], 45.5, 1.),    # which option it is does not matter
    (['red', 'small'], 45.5, 3 / 5),
    (['red', 'large', 'navy blue'], 45.5, 1.),
])
def test_options_and_price(options, price, expected):
  product = dataclasses.replace(RUG, price=price)
  score = reward.score(GOAL, product, options)
  assert score.reward == pytest.approx(expected)
  assert score.is_success == (expected == 1)


def test_the_type_scales_the_whole():
  goal = dataclasses.replace(GOAL, name=TEN, query='q', product_category='C')
  product = other(name='Oak Elm Hut', attributes=('solid wood',), price=60.)
  score = reward.score(goal, product, ['dark red', 'large'])
  # title 2 / 10: no match; 1 attribute, the size, not the colour, not the price
  assert score[:5] == (.5 * 2 / 5, .5, 1, 1, False)


def test_a_goal_without_options_counts_attributes_and_price():
  goal = dataclasses.replace(GOAL, options=())
  product = dataclasses.replace(
      RUG, attributes=('solid wood',), name='Brandt Area Rugs Tide')
  assert reward.score(goal, product, ['red']).reward == 2 / 3


@pytest.mark.parametrize('name, query, path, expected', [
    ('Oak Elm Ash', 'kettles', 'A › B', 1.),      # 3 of 10 nouns
    ('Oak Elm', 'kettles', 'A › B', .5),          # 2 of 10: not above a fifth
    ('Oak', 'kettles', 'A › B', .5),              # 1 of 10: not below a tenth
    ('Oak', 'area rugs', 'A › B', 1.),            # the query
    ('Oak', 'kettles', 'Decor › Home', 1.),       # two parts, in any order
    ('Oak', 'kettles', 'Home › Garden', .5),      # one part
    ('Oak', 'kettles', 'Home › Home', .5),        # the same part twice
    ('Zeta', 'area rugs', RUG.product_category, 0.),   # no noun, all else
    ('the of with', 'area rugs', 'A › B', 0.),
])
def test_type_reward(name, query, path, expected):
  goal = dataclasses.replace(GOAL, name=TEN)
  product = other(name=name, query=query, product_category=path)
  assert reward.type_match(goal, product)[0] == expected


@pytest.mark.parametrize('query', ['area rugs', 'kettles'])
def test_less_than_a_tenth_of_the_title_is_a_tenth_whatever_matches(query):
  goal = dataclasses.replace(GOAL, name=f'{TEN} Sage')
  product = other(name='Oak', query=query)
  assert reward.type_match(goal, product) == (
      .1, query == 'area rugs', False, 1 / 11)


@pytest.mark.parametrize('query, expected', [('area rugs', 1.), ('q', .5)])
def test_a_goal_title_without_nouns_scores_a_fifth(query, expected):
  goal = dataclasses.replace(GOAL, name='The 2 of 3')
  kind, *_, score = reward.type_match(goal, other(query=query))
  assert (kind, score) == (expected, .2)


def test_repeated_nouns_weigh_in_the_goals_title_alone():
  goal = dataclasses.replace(GOAL, name='Oak Oak Oak Elm')
  assert reward.type_match(goal, other(name='Oak Oak'))[-1] == 1 / 4


def test_title_nouns_leave_out_numbers_function_words_and_adjectives():
  title = "Men's 2 Wireless, Portable USB-C Cables for Nine"
  assert reward.title_nouns(title) == (
      "men's", 'usb', 'cables', 'nine')


@pytest.mark.parametrize('attribute, where, hit', [
    ('solid wood', {'attributes': ('wood, solid',)}, True),   # any order
    ('solid wood', {'attributes': ('solid woods',)}, True),   # 20 of 21 letters
    ('solid wood', {'attributes': ('solid wood frame',)}, True),   # all tokens
    ('solid wood', {'attributes': ('solid steel',)}, False),
    ('solid wood', {'name': 'Stand of SOLID WOOD'}, True),
    ('solid wood', {'bullets': ('of solid', 'wood')}, True),   # joined by ' '
    ('solid wood', {'description': 'Solid wooden.'}, True),    # a substring
    ('solid wood', {'description': 'Wood, solid.'}, False),
    ('Solid Wood', {'description': 'Solid Wood.'}, False),   # goals as written
    ('Solid Wood', {'attributes': ('SOLID-WOOD',)}, True),   # ratios fold case
])
def test_attribute_hits(attribute, where, hit):
  assert reward.attribute_hits([attribute], other(**where)) == hit


def test_every_attribute_counts_once():
  product = other(attributes=('solid wood', 'solid wood'), name='solid wood')
  assert reward.attribute_hits(['solid wood', 'non slip'], product) == 1


@pytest.mark.parametrize('wanted, chosen, hit', [
    ('navy blue', 'light blue', True),    # both are blue
    ('light red', 'light', True),         # 'light' stands before 'red'
    ('dark red', 'red', False),
    ('large', 'x-large', True),           # a subset of its tokens
    ('large', 'medium', False),
    ('pack of 12', '12 pack of', True),
    ('pack of 12', 'pack of 6', True),    # so are most of its letters
    ('12 pack', '6 pack', False),
])
def test_option_hits(wanted, chosen, hit):
  assert reward.option_hits([wanted], [chosen]) == hit
  assert reward.option_hits([wanted], ['zeta', chosen]) == hit


def test_one_choice_may_serve_several_wishes():
  assert reward.option_hits(['red', 'dark grey', 'red'], ['red']) == 2


@pytest.mark.parametrize('common, length, alike', [
    (17, 20, False),    # 85
    (23, 27, False),    # 85.2, in whole per cent 85
    (18, 21, True),     # 85.7
])
def test_the_bound_is_86_per_cent_rounded(common, length, alike):
  a, b = ('x' * common + c * (length - common) for c in 'ab')
  assert reward.is_like(a, b) == alike


def test_latin_letters_do_not_count():
  assert reward.is_like('caf\u00e9 au lait', 'caf au lait')
  assert not reward.is_like('', '')


def test_colours_are_found_inside_values():
  assert reward.to_colour('shredded') == 'red'
  assert reward.to_colour('6 feet') == '6 feet'
  assert list(reward.COLOURS) == sorted(reward.COLOURS)
