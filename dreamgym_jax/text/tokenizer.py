"""The subword tokenizer: the only crossing between text and token ids.

A sentencepiece BPE model with byte fallback, so that any name on a page can be
copied. Three things make copying easy for a small model:

- the same word is always the same pieces: punctuation at the edges of words is
  set apart before encoding (`"Ok",` -> `" Ok " ,`) and closed up afterwards;
- `[7]` is one piece wherever it stands, and a line break is implied by it;
- tags are control pieces: text can never contain one, whatever a page says.
"""

import functools
import io
import pathlib
import re
from collections.abc import Iterable, Sequence

import sentencepiece

from dreamgym_jax.text import states

TAGS = ('<task>', '<seed>', '<page>', '<think>', '<act>', '<hit>', '<demo>',
        '<edit>', '<cont>', '<win>', '<lose>', '<end>')
MAX_ELEMENTS = 40
_ELEMENT_PIECES = [f'▁[{i}]' for i in range(1, MAX_ELEMENTS + 1)]
_LEADING = '"(\''
_TRAILING = '",.!?)\''
_ROLE = re.compile(r'\w+:')


class TokenizerError(ValueError):
  """No usable tokenizer model, or none that can be trained."""


def spaced(text: str) -> str:
  """Sets punctuation at the edges of words apart; line breaks become spaces."""
  words = []
  for word in text.split():
    if _ROLE.fullmatch(word):      # `button:` stays one word
      words.append(word)
      continue
    head, tail = [], []
    while len(word) > 1 and word[0] in _LEADING:
      head.append(word[0])
      word = word[1:]
    while len(word) > 1 and word[-1] in _TRAILING:
      tail.append(word[-1])
      word = word[:-1]
    words += [*head, word, *reversed(tail)]
  return ' '.join(words)


def tight(text: str) -> str:
  """Closes up what `spaced` set apart; the inverse on ordinary writing."""
  out, glue, open_quote = '', False, {'"': False, "'": False}
  for word in text.split():
    is_open = False
    if word in open_quote:
      open_quote[word] = is_open = not open_quote[word]
    attach = glue or (word in '",.!?)\'' and not is_open)
    out += word if attach or not out else ' ' + word
    glue = is_open or word == '('
  return out


class Tokenizer:
  """Text to ids and back. Ids of tags are attributes of `tag`."""

  def __init__(self, model: bytes):
    self._sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.model = model
    self.vocab_size = self._sp.vocab_size()
    self.pad = self._sp.pad_id()
    self.tag = {t.strip('<>'): self._sp.piece_to_id(t) for t in TAGS}
    # `[1]`, `[2]`, ... are one token each.
    self.element_ids = [self._sp.piece_to_id(p) for p in _ELEMENT_PIECES]
    self._name = {i: t for t, i in self.tag.items()}

  def encode(self, text: str) -> list[int]:
    return self._sp.encode(spaced(text)) if text else []

  def decode(self, ids: Sequence[int]) -> str:
    """Text of a segment; tags and padding are left out."""
    return states.lines(tight(self._sp.decode([int(i) for i in ids])))

  def split(self, ids: Sequence[int]) -> list[tuple[str, str]]:
    """[(tag, text up to the next tag)]; the first tag is '' if none leads."""
    parts, name, segment = [], '', []
    for i in map(int, ids):
      if i in self._name:
        if name or segment:
          parts.append((name, self.decode(segment)))
        name, segment = self._name[i], []
      elif i != self.pad:
        segment.append(i)
    return [*parts, (name, self.decode(segment))]

  def show(self, ids: Sequence[int]) -> str:
    """Everything, tags included, for people."""
    return ' '.join(
        (f'<{name}> ' if name else '') + text.replace('\n', ' ')
        for name, text in self.split(ids))


@functools.lru_cache(4096)
def reread(tok: Tokenizer, text: str) -> str:
  """The text as it comes back from tokens; kept, for names recur."""
  return tok.decode(tok.encode(text))


def train(
    texts: Iterable[str], vocab_size: int, phrases: Sequence[str] = ()
) -> Tokenizer:
  """Learns the pieces from texts; each of `phrases` is one whatever they say.

  The model is a function of its arguments alone.
  """
  model = io.BytesIO()
  lines = sorted({spaced(t) for t in texts if t})
  options = dict(
      sentence_iterator=iter(lines), model_writer=model,
      vocab_size=vocab_size, model_type='bpe', character_coverage=1.0,
      byte_fallback=True, split_digits=True, hard_vocab_limit=False,
      normalization_rule_name='identity', max_sentencepiece_length=16,
      pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=list(TAGS),
      user_defined_symbols=_ELEMENT_PIECES + [
          '▁' + p.replace(' ', '▁') for p in phrases],
      num_threads=1, minloglevel=2)
  try:
    sentencepiece.SentencePieceTrainer.train(**options)
  except RuntimeError as error:
    raise TokenizerError(
        f'cannot train with tokenizer.vocab_size={vocab_size}: {error}'
    ) from None
  return Tokenizer(model.getvalue())


def load(path: pathlib.Path) -> Tokenizer:
  try:
    tok = Tokenizer(pathlib.Path(path).read_bytes())
  except (OSError, RuntimeError, TypeError) as error:   # empty: a TypeError
    raise TokenizerError(f'no sentencepiece model at {path}: {error}') from None
  if not tok.vocab_size:
    raise TokenizerError(f'no sentencepiece model at {path}: it is empty')
  return tok
