"""WebShop's reward: how well a purchase serves a goal, in [0, 1].

  r = r_type * (attribute hits + option hits + [price <= P])
             / (|attributes| + |options| + 1)

after Yao et al., "WebShop" (arXiv 2207.01206), Eq. 1, and the authors' code,
whose exact conditions are kept. Two things are not theirs:

* the nouns of a title. They tag parts of speech with spaCy; `title_nouns` takes
  the words of a title that are neither numbers, function words nor, by their
  ending, adjectives. Titles are runs of capitalised words, nearly
  all of which a tagger calls (proper) nouns as well.
* the list of colour words, `COLOURS`. Theirs also has things after which
  colours are named ("asphalt", "merlot"); only such values read otherwise.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz import fuzz
from rapidfuzz import utils as fuzz_text

from dreamgym_jax.envs import webshop_catalogue

_MATCH = 85              # a token set ratio, in per cent, above which texts hit
_SHARED_CATEGORIES = 2   # parts of the category path that make a type match
_UNKNOWN_TITLE = .2      # the title score where the goal's title has no nouns

# The first of these inside a value stands for the value, so order matters.
COLOURS = tuple(
    'aqua azure beige black blue bronze brown burgundy champagne charcoal '
    'copper coral cream dark fuchsia gold gray green grey indigo ivory khaki '
    'lavender light lilac lime magenta maroon mauve mint multicolor mustard '
    'navy olive orange peach pink plum purple rainbow red rose rust silver '
    'tan taupe teal turquoise violet white yellow'.split())

_LATIN = dict.fromkeys(range(128, 256))   # letters that a match leaves out
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_FUNCTION_WORDS = frozenset(
    'a an the and or nor but of for to from in into on onto at by with without '
    'as is are be it its this that these those your you our my we i per plus '
    'up out off over under all any each more most no not non new'.split())
_NOT_NOUN = re.compile(r'.{2,}(?:able|ible|ful|less|ous|tive|sive)')


class Score(NamedTuple):
  """The reward of a purchase and what it is made of."""

  reward: float          # in [0, 1]; 1 is success
  type_reward: float     # r_type: 1, .5, .1 or 0
  attribute_hits: int
  option_hits: int
  is_affordable: bool
  is_query_match: bool
  is_category_match: bool
  title_score: float     # share of the goal title's nouns in the other title

  @property
  def is_success(self) -> bool:
    return self.reward == 1


def score(
    goal: webshop_catalogue.Goal, product: webshop_catalogue.Product,
    options: Sequence[str] = (),
) -> Score:
  """The official reward of buying `product` with the chosen option values."""
  type_reward, *why = type_match(goal, product)
  n_attributes = attribute_hits(goal.attributes, product)
  n_options = option_hits(goal.options, options)
  is_affordable = product.price <= goal.price_upper
  total = n_attributes + n_options + is_affordable
  wanted = len(goal.attributes) + len(goal.options) + 1
  return Score(type_reward * (total / wanted), type_reward, n_attributes,
               n_options, is_affordable, *why)


def type_match(
    goal: webshop_catalogue.Goal, product: webshop_catalogue.Product,
) -> tuple[float, bool, bool, float]:
  """(r_type, same query, shared categories, title score).

  1 where the query, two parts of the category path or more than a fifth of the
  goal title's nouns are shared, else .5; whatever matches, .1 where less than
  a tenth of the nouns is shared and 0 where none is.
  """
  is_query_match = product.query == goal.query
  is_category_match = len(
      _parts(product.product_category) & _parts(goal.product_category)
  ) >= _SHARED_CATEGORIES
  wanted = title_nouns(goal.name)
  title_score = _UNKNOWN_TITLE
  if wanted:
    shared = set(wanted) & set(title_nouns(product.name))
    title_score = len(shared) / len(wanted)
  reward = 1.
  if not (is_query_match or is_category_match or title_score > .2):
    reward = .5
  if title_score < .1:
    reward = .1
  if title_score == 0:
    reward = 0.
  return reward, is_query_match, is_category_match, title_score


def attribute_hits(
    attributes: Sequence[str], product: webshop_catalogue.Product
) -> int:
  """How many are like an attribute of the product, or stand in its texts."""
  texts = [product.name.lower(), ' '.join(product.bullets).lower(),
           product.description.lower()]
  return sum(
      any(is_like(own, wanted) for own in product.attributes)
      or any(wanted in text for text in texts)
      for wanted in attributes)


def option_hits(wanted: Sequence[str], chosen: Sequence[str]) -> int:
  """How many of the wanted values one of the chosen is like.

  The names of the options do not matter, only their values.
  """
  return sum(any(is_same_option(w, c) for c in chosen) for w in wanted)


def is_same_option(wanted: str, chosen: str) -> bool:
  return is_like(to_colour(chosen), to_colour(wanted))


def is_like(a: str, b: str) -> bool:
  """Whether the token set ratio, in whole per cent, is above 85.

  As the authors' library has it: case, marks and Latin-1 letters do not count.
  """
  ratio = fuzz.token_set_ratio(
      a.translate(_LATIN), b.translate(_LATIN),
      processor=fuzz_text.default_process)
  return round(ratio) > _MATCH


def to_colour(value: str) -> str:
  """The first colour word inside the value; the value itself if none is."""
  return next((c for c in COLOURS if c in value), value)


@functools.lru_cache(4096)
def title_nouns(title: str) -> tuple[str, ...]:
  """Words of a title that stand for its nouns, lower case, with repeats."""
  words = (w.lower() for w in _WORD.findall(title))
  return tuple(w for w in words if len(w) > 1 and w not in _FUNCTION_WORDS
               and not _NOT_NOUN.fullmatch(w))


def _parts(product_category: str) -> set[str]:
  return {part.strip() for part in product_category.split('›')}
