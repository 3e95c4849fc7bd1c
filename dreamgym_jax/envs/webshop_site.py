"""The pages of the shop: what stands on them and where every click leads.

A `Place` says all there is to say about where a visitor stands; `Site.page`
gives the page of a place, and of each of its elements the place that a click on
it leads to. Both are values: a site is shared by any number of visitors, and
pages are kept once made.

Lines are `[id] role: description` of text/states.py, in the official order:

  search    textbox Search, button Search
  results   Back to Search, 'Page 1 (Total results: 50)', < Prev, Next >, and
            up to ten links `asin title $price` (PAGE_SIZE)
  item      Back to Search, < Prev; every option's name and a radio for each of
            its values; `item = title`, `price = $9.5` and rating; a button for
            each subpage; Buy Now
  subpage   Back to Search, < Prev, texts (the description, ...)
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamgym_jax.envs import webshop_catalogue

SEARCH, RESULTS, ITEM, DONE = 'search', 'results', 'item', 'done'
DO_SEARCH, BACK, BUY = 'Search', 'Back to Search', 'Buy Now'
NEXT, PREVIOUS = 'Next >', '< Prev'
ITEM_IS, PRICE_IS = 'item', 'price'     # status lines of a product's page
# The authors show Attributes only with show_attrs, which is off by default.
SUBPAGES = ('Description', 'Features', 'Reviews', 'Attributes')
MAX_RESULTS, PAGE_SIZE = 50, 10
_MAX_VALUES = 900        # ids have three digits; more radios are not shown
_KEPT_PAGES, _KEPT_QUERIES = 20_000, 20_000
_WORD = re.compile(r'\w+')
# Those of the authors' search engine (Lucene).
_STOP_WORDS = frozenset(
    'a an and are as at be but by for if in into is it no not of on or such '
    'that the their then there these they this to was will with'.split())


class Place(NamedTuple):
  """Where a visitor stands. Places that look alike are equal."""

  page: str = SEARCH               # SEARCH, RESULTS, ITEM, DONE or a subpage
  typed: str = ''                  # in the search box
  words: str = ''                  # searched for, lower case
  number: int = 1                  # of the page of results, from 1
  asin: str = ''
  chosen: tuple[tuple[str, str], ...] = ()   # (option, value), as on the page


class Page(NamedTuple):
  """A page as text; element i + 1 has roles[i] and leads to targets[i]."""

  state: str
  roles: tuple[str, ...]
  targets: tuple[Place | None, ...]   # None where a click does nothing


class Index:
  """BM25 as Lucene scores it, of token lists; `k1` and `b` as in the authors'.

  Not the library bm25s, whose scores these are: importing it runs a program on
  JAX's default device, which a worker process beside a trainer must not touch.
  """

  def __init__(
      self, documents: Sequence[Sequence[str]], k1: float = .9, b: float = .4
  ):
    self._n = len(documents)
    lengths = np.array([len(d) for d in documents])
    slack = k1 * (1 - b + b * lengths / max(lengths.mean(), 1))
    counts: dict[str, dict[int, int]] = {}
    for i, document in enumerate(documents):
      for token in document:
        of_token = counts.setdefault(token, {})
        of_token[i] = of_token.get(i, 0) + 1
    self._weights = {}   # token -> (documents, what it adds to their scores)
    for token, of_token in counts.items():
      rows, count = np.array(list(of_token)), np.array(list(of_token.values()))
      idf = np.log1p((self._n - len(rows) + .5) / (len(rows) + .5))
      self._weights[token] = rows, idf * count / (count + slack[rows])

  def scores(self, wanted: Sequence[str]) -> np.ndarray:
    """A score for every document; a token that stands twice counts twice."""
    total = np.zeros(self._n)
    for token in wanted:
      if token in self._weights:
        rows, weights = self._weights[token]
        total[rows] += weights
    return total


class Site:
  """The pages over one catalogue."""

  def __init__(
      self, catalogue: webshop_catalogue.Catalogue,
      subpages: Sequence[str] = SUBPAGES, page_size: int = PAGE_SIZE,
  ):
    """`subpages`: those of SUBPAGES that an item page has buttons for."""
    self.products = {p.asin: p for p in catalogue.products}
    self._subpages, self._page_size = tuple(subpages), page_size
    self._asins = tuple(self.products)
    self._index = Index(
        [tokens(_document(p)) for p in self.products.values()])
    self.page = functools.lru_cache(_KEPT_PAGES)(self._page)
    self.search = functools.lru_cache(_KEPT_QUERIES)(self._search)

  def _search(self, words: str) -> tuple[str, ...]:
    """Asins of at most 50 products, best first; ties in catalogue order."""
    scores = self._index.scores(tokens(words))
    order = (-scores).argsort(kind='stable')[:MAX_RESULTS]
    return tuple(self._asins[i] for i in order if scores[i] > 0)

  def _page(self, place: Place) -> Page:
    if place.page == SEARCH:
      lines = _search_lines(place)
    elif place.page == RESULTS:
      lines = self._result_lines(place)
    elif place.page == ITEM:
      lines = self._item_lines(place)
    else:
      lines = self._subpage_lines(place)
    roles, texts, targets = zip(
        *((role, text, to) for role, text, to in lines if text), strict=True)
    state = '\n'.join(
        f'[{i}] {role}: {text}'
        for i, (role, text) in enumerate(zip(roles, texts, strict=True), 1))
    return Page(state, roles, targets)

  def _result_lines(self, place: Place) -> list:
    found = self.search(place.words)
    end = place.number * self._page_size
    lines = [('button', BACK, Place()),
             ('text', f'Page {place.number} (Total results: {len(found)})',
              None)]
    if place.number > 1:
      lines.append(('button', PREVIOUS,
                    place._replace(number=place.number - 1)))
    if end < len(found):
      lines.append(('button', NEXT, place._replace(number=place.number + 1)))
    for asin in found[end - self._page_size:end]:
      product = self.products[asin]
      lines.append(('link', f'{asin} {label(product.name)} {product.price_tag}',
                    place._replace(page=ITEM, asin=asin)))
    return lines

  def _item_lines(self, place: Place) -> list:
    product, chosen = self.products[place.asin], dict(place.chosen)
    lines = [('button', BACK, Place()),
             ('button', PREVIOUS,
              place._replace(page=RESULTS, asin='', chosen=()))]
    n_values = 0
    for name, values in product.options:
      lines.append(('text', label(name), None))
      for value in values[:max(_MAX_VALUES - n_values, 0)]:
        mark = ' checked' if chosen.get(name) == value else ''
        after = tuple((n, v) for n, _ in product.options
                      if (v := value if n == name else chosen.get(n)))
        lines.append(('radio', radio_label(value) + mark,
                      place._replace(chosen=after)))
      n_values += len(values)
    # What a purchase is judged by stands beside every click (`states.held`).
    lines += [('status', f'{ITEM_IS} = {label(product.name)}', None),
              ('status', f'{PRICE_IS} = {product.price_tag}', None),
              ('text', f'Rating: {product.rating}', None)]
    lines += [('button', name, place._replace(page=name))
              for name in self._subpages]
    return [*lines, ('button', BUY, place._replace(page=DONE))]

  def _subpage_lines(self, place: Place) -> list:
    product = self.products[place.asin]
    texts = {
        'Description': (product.description,),
        'Features': product.bullets,
        'Reviews': product.reviews or ('No reviews found',),
        'Attributes': (*product.attributes, product.category, product.query,
                       product.product_category),
    }[place.page]
    return [('button', BACK, Place()),
            ('button', PREVIOUS, place._replace(page=ITEM)),
            *(('text', label(text), None) for text in texts)]


def label(text: str) -> str:
  """The text in one line; square brackets, which stand for ids, are round."""
  return ' '.join(text.split()).replace('[', '(').replace(']', ')')


def radio_label(value: str) -> str:
  """An option value; in quotes where it would read as a mark."""
  text = label(value)
  return f'"{text}"' if f' {text}'.endswith(' checked') else text


def tokens(text: str) -> list[str]:
  """Words for the search engine: lower case, no stop words, no plural s.

  The authors' engine stems by Porter's rules; only plurals are dealt with here.
  """
  return [w[:-1] if len(w) > 3 and w[-1] == 's' and w[-2] not in 'su' else w
          for w in _WORD.findall(text.lower()) if w not in _STOP_WORDS]


def _search_lines(place: Place) -> list:
  found = Place(RESULTS, words=place.typed.lower()) if place.typed else None
  return [('textbox', f'Search = {place.typed}'.rstrip(), place),
          ('button', DO_SEARCH, found)]


def _document(product: webshop_catalogue.Product) -> str:
  """What is searched of a product, as in the authors' index."""
  options = ', and '.join(
      f'{name}: {", ".join(values)}' for name, values in product.options)
  return ' '.join([product.name, product.description, *product.bullets[:1],
                   options])
