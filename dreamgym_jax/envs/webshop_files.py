"""The official WebShop files as a catalogue; the user has to bring them.

They hold scraped data, so neither they nor anything made of them is part of
this repository. Shapes:

  items   [{asin, name, full_description, small_description: [str] or str,
            category, query, product_category: 'A › B › C',
            pricing: '$9.99' or '$9.99$19.99' or '',
            customization_options: {name: [{value, ...}] or null}, ...}]
  asks    {asin: {attributes: [str], instruction: 'Find me ...' or null,
                  instruction_attributes: [str]}}
  human   {asin: [{instruction, instruction_attributes: [str],
                   instruction_options: [str]}]}

The files of reviews are not read: as in the authors' own default every product
has the rating 'N.A.' and no reviews.
"""

import json
import pathlib
import random
import re
from collections.abc import Iterable
from typing import Any

from dreamgym_jax.envs import checks
from dreamgym_jax.envs import webshop_catalogue as shop

_ASIN_LENGTH = 10   # longer ones are no products


class CatalogueError(checks.EnvError):
  """A file is not in the official shape; names the file and the key."""


def load(
    items: str | pathlib.Path, asks: str | pathlib.Path,
    human: str | pathlib.Path | None = None, limit: int | None = None,
    seed: int = 0,
) -> shop.Catalogue:
  """The official data, which the user has to bring.

  Args:
    items: items_shuffle_1000.json or items_shuffle.json.
    asks: items_ins_v2_1000.json or items_ins_v2.json.
    human: items_human_ins.json; None makes goals of the attributes instead.
    limit: products to take, from the front; None for all.
    seed: of the price limits, and of prices that are given as a range (the
      authors draw both unseeded).

  Raises:
    CatalogueError: a file is not JSON of the official shape.
  """
  rng = random.Random(f'prices {seed}')
  about = _read(asks, dict)
  for asin, entry in about.items():
    if not isinstance(entry, dict):
      raise CatalogueError(f'{asks}: {asin} is no object')
  products: dict[str, shop.Product] = {}
  for i, item in enumerate(_read(items, list)[:limit]):
    asin = _key(items, f'item {i}', item, 'asin')
    if asin == 'nan' or len(asin) > _ASIN_LENGTH or asin in products:
      continue
    products[asin] = _product(items, f'item {i}', item, about, rng)
  kept = list(products.values())
  if human is not None:
    goals = _human(human, _read(human, dict), kept, rng)
  else:
    begun = {
        asin: shop.Ask(
            text, tuple(_key(asks, asin, entry, 'instruction_attributes')))
        for asin, entry in about.items()
        if (text := entry.get('instruction')) is not None}
    goals = shop.made_up_goals(kept, begun, rng)
  return shop.Catalogue(tuple(kept), shop.shuffled(goals))


def _human(
    path, told: dict, products: Iterable[shop.Product], rng: random.Random
) -> list[shop.Goal]:
  goals = []
  for product in products:
    for i, entry in enumerate(told.get(product.asin, ())):
      where = f'{product.asin}, instruction {i}'
      named, text, values = (
          _key(path, where, entry, key) for key in
          ('instruction_attributes', 'instruction', 'instruction_options'))
      if not named:
        continue
      if isinstance(values, dict):
        values = values.values()
      upper, price_text = shop.price_limit(product.price, rng)
      goals.append(shop.make_goal(
          product, text.strip('.') + price_text, tuple(named), tuple(values),
          upper))
  return goals


def _read(path: str | pathlib.Path, kind: type) -> Any:
  try:
    data = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise CatalogueError(f'{path}: cannot be read as JSON: {error}') from error
  if not isinstance(data, kind):
    raise CatalogueError(
        f'{path}: want a JSON {"object" if kind is dict else "array"}')
  return data


def _key(path, where: str, entry: Any, key: str) -> Any:
  if not isinstance(entry, dict) or key not in entry:
    raise CatalogueError(f'{path}: {where} has no key {key!r}')
  return entry[key]


def _product(
    path, where: str, item: Any, about: dict, rng: random.Random
) -> shop.Product:
  def key(name):
    return _key(path, where, item, name)

  bullets = key('small_description')
  options = {}
  for name, values in (key('customization_options') or {}).items():
    if values is not None:
      options[name.lower()] = tuple(
          _key(path, f'{where}, {name!r}', v, 'value').strip()
          .replace('/', ' | ').lower() for v in values)
  tags = re.findall(r'\$([^$]*)', item.get('pricing') or '')
  try:
    prices = [float(re.sub(r'[^\d.]', '', tag)) for tag in tags]
  except ValueError as error:
    raise CatalogueError(
        f"{path}: {where}, key 'pricing': {error}") from error
  price, tag = shop.price_and_tag(prices, rng)
  asin = key('asin')
  return shop.Product(
      asin, key('name'), key('full_description') or '',
      tuple(bullets if isinstance(bullets, list) else [bullets or '']),
      key('category'), key('query').lower().strip(), key('product_category'),
      price, tag, tuple(options.items()),
      tuple(about.get(asin, {}).get('attributes', ('DUMMY_ATTR',))))
