"""phi: texts -> unit vectors, whose inner product is their similarity.

The paper calls phi "an arbitrary semantic encoder" (arXiv 2511.03773), so
every encoder is a function of one signature (`Encode`). The one here needs no
weights: words and word pairs, hashed with a sign (Weinberger et al., arXiv
0902.2206). minilm.py has a pretrained one.
"""

import functools
import itertools
import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from dreamgym_jax.text import actions, states

# encode(texts) -> [n, E] float32, rows of length 1.
Encode = Callable[[Sequence[str]], np.ndarray]
_WORD = re.compile(r'\w+|[^\w\s]')
_ID = re.compile(r'^\[\d{1,3}\] ', re.MULTILINE)


def key_text(state: str, action: str) -> str:
  """What is embedded for phi(s, a): the grounded action, then the page.

  Element ids are left out: 'click [3]' names another element on every page,
  'click button: okay' does not. A malformed action stands as it was written.
  """
  page = _ID.sub('', states.body(state))
  try:
    parsed = actions.parse(action)
    hit = actions.ground(action, state)
  except (actions.ActionError, states.StateError):
    return f'{" ".join(action.split())}\n{page}'
  words = (parsed.verb, hit, parsed.argument)
  return f'{" ".join(w for w in words if w)}\n{page}'


def make_hash_encoder(E: int, ngrams: int = 2, cache: int = 65536) -> Encode:
  """Bags of the words and word n-grams of each line, hashed into E buckets.

  The first line (of `key_text`: the action) and the lines after it are two
  bags of equal weight, so that a long page does not drown what was done on it;
  the order of the page's lines does not matter. The vectors of the `cache`
  texts used last, and the buckets of as many lines, are kept.
  """
  if E < 1 or ngrams < 1:
    raise ValueError(f'E and ngrams must be positive, got {E}, {ngrams}')

  @functools.lru_cache(cache)
  def buckets(line: str, start: str) -> list[int]:
    """Signed buckets of a line's features, as indices into 2 E.

    `start` begins every feature: a word of the action is not one of the page.
    """
    words = [start, *_WORD.findall(line.lower())]  # pairs with the start, too
    features = words[1:] or words                 # an empty line has one
    for n in range(2, ngrams + 1):
      features += [' '.join(words[i:i + n]) for i in range(len(words) - n + 1)]
    # crc32 and not hash(): the same in every process and on every machine.
    return [zlib.crc32((start + f).encode('utf-8', 'surrogatepass')) % (2 * E)
            for f in features]

  def bag(at: list[int]) -> np.ndarray:
    count_2xE = np.bincount(at, minlength=2 * E).reshape(2, E)
    count_E = (count_2xE[0] - count_2xE[1]).astype(np.float32)
    # Square roots: the word on every line must not outweigh the rare one.
    return _unit(np.copysign(np.sqrt(np.abs(count_E)), count_E))

  @functools.lru_cache(cache)
  def encode_one(text: str) -> np.ndarray:
    first, *rest = text.split('\n')
    vector_E = bag(buckets(first, '>'))
    if rest:
      page = itertools.chain.from_iterable(buckets(line, '|') for line in rest)
      vector_E = _unit(vector_E + bag(list(page)))
    vector_E.flags.writeable = False   # shared by the cache
    return vector_E

  def encode(texts: Sequence[str]) -> np.ndarray:
    out_nxE = np.empty((len(texts), E), np.float32)
    for i, text in enumerate(texts):
      out_nxE[i] = encode_one(text)
    return out_nxE

  return encode


def _unit(vector_E: np.ndarray) -> np.ndarray:
  norm = np.sqrt(vector_E @ vector_E)
  if norm:
    return vector_E / norm
  # All features cancelled: any fixed direction keeps the length.
  return np.eye(1, len(vector_E), dtype=np.float32)[0]
