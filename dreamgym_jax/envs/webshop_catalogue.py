"""What WebShop sells and what its shoppers ask for.

A catalogue comes from code (`generate`) or from the official files, which are
not part of this repository (webshop_files). Goals are made as the authors'
code makes them: "Find me {attributes} {query} with color: x, and size: y, and
price lower than P dollars", one for every combination of a product's options,
or the instructions that people wrote. P is the larger of two of the next four
whole tens above the price.

A generated catalogue has three near-duplicates of everything: same maker, same
name, but one of three attributes is another, one is dearer, and one lacks half
of the options. Goals name as many attributes as tell them apart by title.
"""

import dataclasses
import itertools
import random
import string
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# How the authors shuffle goals, so that test goals 0-499 are theirs.
_GOAL_SEED = 233
_TENS = [10. * i for i in range(1, 100)]
_NO_LIMIT = 1_000_000.   # price_upper where no two tens are above the price
_NO_PRICE = 100.         # what an item without a price costs
Options = tuple[tuple[str, tuple[str, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Product:
  """One item, under the names that the authors' code gives its parts."""

  asin: str
  name: str                   # the title
  description: str
  bullets: tuple[str, ...]    # 'Features'
  category: str               # e.g. 'fashion'
  query: str                  # what one would search for, e.g. 'area rugs'
  product_category: str       # a path: 'Home › Bedding › Area Rugs'
  price: float                # what it costs, in dollars
  price_tag: str              # what the page shows: '$12.5', '$10.0 to $20.0'
  options: Options            # (name, values), e.g. ('color', ('red', 'blue'))
  attributes: tuple[str, ...]
  rating: str = 'N.A.'
  reviews: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Goal:
  """What a shopper asks for; the reward compares a purchase with it."""

  asin: str                   # of the product it was made from
  instruction: str
  name: str                   # that product's title, category, ...
  category: str
  query: str
  product_category: str
  attributes: tuple[str, ...]
  options: tuple[str, ...]    # values wanted, in the order of the instruction
  price_upper: float


@dataclasses.dataclass(frozen=True)
class Catalogue:
  products: tuple[Product, ...]
  goals: tuple[Goal, ...]     # in the official order


class Ask(NamedTuple):
  """How the goals of one product begin, and the attributes they name."""

  instruction: str
  attributes: tuple[str, ...]


class _Shelf(NamedTuple):
  root: str
  sections: tuple[str, ...]
  queries: str       # separated by '|', as are the following
  attributes: str
  options: tuple[tuple[str, str], ...]


_COLOURS = ('black|white|navy blue|light blue|dark green|red|heather grey|'
            'rose gold|purple|olive|orange|yellow stripe')
_SHELVES = {
    'fashion': _Shelf(
        'Clothing, Shoes & Jewelry', ('Everyday', 'Sports', 'Outdoor'),
        "men's dress shirts|women's running shoes|men's hooded jackets|"
        "women's summer dresses|men's cargo shorts|women's yoga leggings|"
        "men's wool socks|women's knit sweaters|men's swim trunks|"
        "women's rain coats|men's polo shirts|women's sandals",
        'machine wash|hand wash|slim fit|button closure|quick drying|'
        'elastic waist|moisture wicking|soft cotton|stretch fabric|'
        'water resistant|everyday wear|wrinkle free|breathable mesh|'
        'recycled polyester',
        (('color', _COLOURS),
         ('size', 'x-small|small|medium|large|x-large|xx-large'))),
    'beauty': _Shelf(
        'Beauty & Personal Care', ('Skin Care', 'Hair Care', 'Makeup'),
        'face moisturizer|hair conditioner|lip balm|nail polish|eye cream|'
        'body lotion|makeup brushes|hair dye|face masks|bath bombs|'
        'shaving cream|hand soap',
        'cruelty free|paraben free|fragrance free|sulfate free|alcohol free|'
        'vegan formula|long lasting|travel friendly|natural ingredients|'
        'sensitive skin|clinically tested|deep hydrating|dermatologist made|'
        'refillable bottle',
        (('scent', 'lavender|citrus|vanilla|rosewater|coconut|unscented|'
                   'green tea|cedar|mint'),
         ('size', '1.7 ounce|3.4 ounce|8 ounce|16 ounce|2 count|6 count'))),
    'electronics': _Shelf(
        'Electronics', ('Accessories', 'Audio & Video', 'Computers'),
        'phone cases|usb cables|bluetooth speakers|screen protectors|'
        'wall chargers|over ear headphones|laptop sleeves|tv mounts|'
        'security cameras|computer mice|watch bands|hdmi adapters',
        'fast charging|noise cancelling|water proof|high definition|'
        'plug and play|easy install|hands free|aluminum alloy|gold plated|'
        'carbon fiber|low power|heavy duty|tempered glass|voice control',
        (('color', _COLOURS),
         ('style', '3 feet|6 feet|10 feet|single|twin set|family kit'))),
    'garden': _Shelf(
        'Home & Kitchen', ('Furniture', 'Bedding', 'Decor'),
        'bar stools|throw pillows|area rugs|night stands|bed frames|'
        'window curtains|desk lamps|storage ottomans|dining tables|'
        'picture frames|shower curtains|coffee mugs',
        'easy assemble|solid wood|memory foam|space saving|stainless steel|'
        'non slip|eco friendly|storage drawers|faux leather|mid century|'
        'fade resistant|wall mounted|double sided|hand woven',
        (('color', _COLOURS),
         ('size', '18 inch|24 inch|36 inch|full|queen|king'))),
    'grocery': _Shelf(
        'Grocery & Gourmet Food', ('Snacks', 'Pantry', 'Breakfast'),
        'protein bars|potato chips|green tea|ground coffee|trail mix|'
        'dark chocolate|fruit snacks|beef jerky|almond butter|olive oil|'
        'pasta sauce|breakfast cereal',
        'gluten free|sugar free|dairy free|non gmo|low carb|keto friendly|'
        'plant based|high protein|usda organic|kosher certified|small batch|'
        'soy allergen safe|real fruit|artificial color free',
        (('flavor name', 'sea salt|honey|chili|cinnamon|original|maple|'
                         'peanut|cocoa|berry'),
         ('size', '4 ounce|12 ounce|2 pound|3 pack|6 pack|12 pack'))),
}
CATEGORIES = tuple(_SHELVES)
_MAKERS = ('Brandt|Calder|Dovelle|Elmsworth|Fennick|Garrow|Hollis|Ibarra|'
           'Juniper|Kestrel|Lindqvist|Marlowe|Norrland|Oakhurst|Pinnock|'
           'Quillon|Ravensby|Solano|Tamsin|Umbria')
_SERIES = ('Alder|Breeze|Comet|Drift|Ember|Fjord|Grove|Harbor|Iris|Jetty|'
           'Knoll|Lark|Meadow|Nova|Orbit|Prairie|Quest|Ridge|Summit|Tide')
_GROUPS, _TITLE_ATTRIBUTES = 6, 3   # groups of three near-duplicates a query
_VERDICTS = ('Just as described', 'Would buy again', 'Not what I hoped for',
             'A fine gift', 'Arrived late but works')


def queries(category: str) -> tuple[str, ...]:
  """What a generated catalogue sells in a category; () if it has no such."""
  shelf = _SHELVES.get(category)
  return tuple(shelf.queries.split('|')) if shelf else ()


def attributes(category: str) -> tuple[str, ...]:
  """Every attribute that titles of the category may name."""
  return tuple(_SHELVES[category].attributes.split('|'))


def option_names(category: str) -> tuple[str, ...]:
  """The options that products of the category may have."""
  return tuple(name for name, _ in _SHELVES[category].options)


def generate(seed: int = 0) -> Catalogue:
  """1,080 products in five categories; the same seed gives the same.

  Every product has distinct title attributes among those of its query, so that
  the results page tells what an item page must only confirm.
  """
  rng = random.Random(f'webshop {seed}')
  products: list[Product] = []
  asks: dict[str, Ask] = {}
  for category, shelf in _SHELVES.items():
    for i, query in enumerate(shelf.queries.split('|')):
      alike = _make_query(rng, category, shelf, i, query, asks)
      products += alike
      for product in alike:
        named = _telling(rng, product, alike)
        asks[product.asin] = Ask(
            f'Find me {", ".join(named)} {query}', named)
  rng.shuffle(products)
  goals = made_up_goals(products, asks, rng)
  return Catalogue(tuple(products), shuffled(goals))


def made_up_goals(
    products: Iterable[Product], asks: dict[str, Ask], rng: random.Random
) -> list[Goal]:
  """A goal for every combination of the options of every product asked for."""
  goals = []
  for product in products:
    if product.asin not in asks:
      continue
    ask = asks[product.asin]
    upper, price_text = price_limit(product.price, rng)
    named = sorted(product.options)
    for values in itertools.product(*(values for _, values in named)):
      wanted = ', and '.join(
          f'{name}: {value}'
          for (name, _), value in zip(named, values, strict=True))
      text = ask.instruction + (f' with {wanted}' if wanted else '')
      goals.append(make_goal(
          product, text + price_text, ask.attributes, values, upper))
  return goals


def make_goal(
    product: Product, instruction: str, named: tuple[str, ...],
    values: tuple[str, ...], upper: float,
) -> Goal:
  return Goal(product.asin, instruction, product.name, product.category,
              product.query, product.product_category, named, values, upper)


def price_limit(price: float, rng: random.Random) -> tuple[float, str]:
  """P and how the instruction says it; '' where prices are out of range."""
  above = [ten for ten in _TENS if ten > price][:4]
  if len(above) < 2:
    return _NO_LIMIT, ''
  upper = max(rng.sample(above, 2))
  return upper, f', and price lower than {upper:.2f} dollars'


def price_and_tag(
    prices: Sequence[float], rng: random.Random
) -> tuple[float, str]:
  """What it costs and what the page shows; a range is drawn from."""
  if len(prices) < 2:
    price = prices[0] if prices else _NO_PRICE
    return price, f'${price}'
  return rng.uniform(*prices[:2]), f'${prices[0]} to ${prices[1]}'


def shuffled(goals: Sequence[Goal]) -> tuple[Goal, ...]:
  """The official order of goals."""
  goals = list(goals)
  random.Random(_GOAL_SEED).shuffle(goals)
  return tuple(goals)


# -- the generated catalogue --------------------------------------------------


def _make_query(
    rng: random.Random, category: str, shelf: _Shelf, index: int, query: str,
    taken: Iterable[str],
) -> list[Product]:
  """Groups of three near-duplicates that one query finds."""
  pool = rng.sample(shelf.attributes.split('|'), 9)
  sets = list(itertools.combinations(pool, _TITLE_ATTRIBUTES))
  rng.shuffle(sets)
  section = shelf.sections[index % len(shelf.sections)]
  path = f'{shelf.root} › {section} › {string.capwords(query)}'
  asins, products = set(taken), []
  for _ in range(_GROUPS):
    maker = rng.choice(_MAKERS.split('|'))
    series = rng.choice(_SERIES.split('|'))
    own = sets.pop()
    # Near-duplicates share all but one attribute with the first of the group.
    near = [s for s in sets if len(set(s) & set(own)) == 2][:2]
    for s in near:
      sets.remove(s)
    price = rng.uniform(6, 150)
    options = _options(rng, shelf)
    halves = tuple((name, values[:(len(values) + 1) // 2])
                   for name, values in options)
    dearer = price * rng.uniform(1.3, 2.)
    for named, cost, choice in ((own, price, options),
                                (near[0], dearer, options),
                                (near[1], price * rng.uniform(.8, 1.2),
                                 halves)):
      asin = _asin(rng, asins)
      asins.add(asin)
      title = f'{maker} {string.capwords(query)} {series}, ' + ', '.join(
          string.capwords(a) for a in named)
      factors = (1.,) if rng.random() < .92 else (.9, 1.1)
      cost, tag = price_and_tag([round(cost * f, 2) for f in factors], rng)
      extra = tuple(rng.sample(('gift ready', 'family owned', 'award winning',
                                'factory direct', 'best seller'), 2))
      bullets = [f'{a.upper()}: made for those who ask for {a}.'
                 for a in rng.sample(named, len(named))]
      bullets.append(f'{maker.upper()} PROMISE: {", ".join(extra)}.')
      stars = [rng.randint(1, 5) for _ in range(rng.randint(0, 2))]
      products.append(Product(
          asin, title, f'The {series} line by {maker}: {query} that last. '
          f'Made with care and shipped within {rng.randint(1, 5)} days.',
          tuple(bullets), category, query, path, cost, tag, choice,
          (*named, *extra),
          f'{sum(stars) / len(stars):.1f}' if stars else 'N.A.',
          tuple(f'"{rng.choice(_VERDICTS)}" {n} of 5' for n in stars)))
  return products


def _options(rng: random.Random, shelf: _Shelf) -> Options:
  """Mostly two options of several values; sometimes one or none."""
  names = rng.choices((0, 1, 2), (1, 3, 16))[0]
  chosen = sorted(rng.sample(range(len(shelf.options)), names))
  options = []
  for name, pool in (shelf.options[i] for i in chosen):
    values = pool.split('|')
    kept = sorted(rng.sample(range(len(values)), rng.randint(3, 5)))
    options.append((name, tuple(values[k] for k in kept)))
  return tuple(options)


def _telling(
    rng: random.Random, product: Product, alike: Sequence[Product]
) -> tuple[str, ...]:
  """Two attributes that no other product of the query has, or all three."""
  own = product.attributes[:_TITLE_ATTRIBUTES]
  pairs = list(itertools.combinations(own, _TITLE_ATTRIBUTES - 1))
  rng.shuffle(pairs)
  for pair in pairs:
    if sum(set(pair) <= set(p.attributes) for p in alike) == 1:
      return pair
  return own


def _asin(rng: random.Random, taken: set[str]) -> str:
  while True:
    letters = rng.choices(string.digits + string.ascii_uppercase, k=8)
    asin = 'B0' + ''.join(letters)
    if asin not in taken:
      return asin
