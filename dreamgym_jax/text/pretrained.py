"""Tokenizers of pretrained models, with the interface of tokenizer.Tokenizer.

They come from a Hugging Face directory or from a GGUF file's metadata, and the
libraries `tokenizers` and `transformers` do the work, chat templates included.
What is added here is what the streams need:

- our tags are special tokens that the model knows and its chat does not use,
  in order of their ids, so that nothing grows and each tag has a vector of its
  own; if there are too few, new ones are added after the last token;
- the text of a page never becomes a special token, whatever it says;
- text is kept as it is, line breaks and all: no ids are one token (hence
  `element_ids` is empty), and `decode` undoes `encode`.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dreamgym_jax.text import tokenizer

# How GGUF's `tokenizer.ggml.pre` cuts text before merging; the patterns are
# those of the models' own tokenizer.json.
_DIGITS = 'digits'          # each digit alone, then GPT-2's pattern
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s|"
    r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')
_PRE = {
    'gpt-2': None,
    'smollm': _DIGITS,
    'llama-bpe': _PATTERN % '{1,3}',
    'qwen2': _PATTERN % '',
}
_CONTROL, _USER_DEFINED = 3, 4   # GGUF's types of tokens beside plain ones


class Pretrained(tokenizer.Tokenizer):
  """Text to ids and back, with a pretrained model's own pieces."""

  def __init__(self, fast: Any, vocab_size: int = 0, eos: Sequence[int] = ()):
    """Takes over tags.

    Args:
      fast: a transformers.PreTrainedTokenizerFast.
      vocab_size: rows of the model's embedding, which may be more than there
        are tokens; 0 if unknown.
      eos: tokens that end an answer (default: the tokenizer's own).
    """
    self.fast = fast
    tags = _free(fast)[:len(tokenizer.TAGS)]
    missing = tokenizer.TAGS[len(tags):]
    if missing:
      fast.add_special_tokens({'additional_special_tokens': list(missing)},
                              replace_extra_special_tokens=False)
      tags += fast.convert_tokens_to_ids(list(missing))
    self._text = fast.backend_tokenizer
    self.tag = dict(zip(
        (t.strip('<>') for t in tokenizer.TAGS), tags, strict=True))
    self._name = {i: t for t, i in self.tag.items()}
    self.vocab_size = max(vocab_size, len(fast))
    self.element_ids: list[int] = []
    self.eos = list(eos) or [fast.eos_token_id]
    self.pad = self.eos[0] if fast.pad_token_id is None else fast.pad_token_id

  def encode(self, text: str) -> list[int]:
    """Ids of plain text: specials in it are spelt out, none are added."""
    self._text.encode_special_tokens = True
    return self._text.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text; tags, padding and other specials are left out."""
    return self._text.decode([int(i) for i in ids], skip_special_tokens=True)

  def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Ids of a conversation, up to where the assistant's answer begins.

    Rendered by the model's own template (in transformers' jinja2 sandbox), in
    which specials count, those in a message's `content` too: for people's own
    words, not for pages.
    """
    if not self.fast.chat_template:
      raise tokenizer.TokenizerError('this tokenizer has no chat template')
    self._text.encode_special_tokens = False
    text = self.fast.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True)
    return self._text.encode(text, add_special_tokens=False).ids

  def save(self, path: pathlib.Path) -> None:
    """Writes the files that `load` and transformers.AutoTokenizer read."""
    self._text.encode_special_tokens = False
    self.fast.save_pretrained(path)


def load(path: str | pathlib.Path) -> Pretrained:
  """From a Hugging Face directory or a .gguf file; else TokenizerError."""
  path = pathlib.Path(path)
  if path.suffix == '.gguf':
    return _from_gguf(path)
  import transformers

  try:
    fast = transformers.AutoTokenizer.from_pretrained(path, use_fast=True)
    config = _read(path / 'config.json')
    eos = (_read(path / 'generation_config.json') or config).get(
        'eos_token_id')
  except (OSError, ValueError) as error:
    raise tokenizer.TokenizerError(
        f'no tokenizer in {path}: {error}') from error
  if not fast.is_fast:
    raise tokenizer.TokenizerError(f'{path}: its tokenizer has no fast form')
  return Pretrained(fast, config.get('vocab_size', 0), (
      eos if isinstance(eos, list) else [] if eos is None else [eos]))


def _read(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text()) if path.exists() else {}


def _free(fast: Any) -> list[int]:
  """Special tokens that neither the chat nor the ends of texts need."""
  template = fast.chat_template or ''
  used = {fast.bos_token_id, fast.eos_token_id, fast.pad_token_id,
          fast.unk_token_id}
  return [i for i, token in sorted(fast.added_tokens_decoder.items())
          if token.special and i not in used and token.content not in template]


def _from_gguf(path: pathlib.Path) -> Pretrained:
  """Byte-level BPE out of the metadata; the weights are not touched."""
  try:
    import gguf
  except ImportError as error:
    raise tokenizer.TokenizerError(
        f'{path}: GGUF files need the package gguf: pip install gguf'
    ) from error
  try:
    fields = gguf.GGUFReader(path).fields
  except (OSError, ValueError, KeyError, IndexError) as error:
    raise tokenizer.TokenizerError(f'cannot read {path}: {error}') from error

  def field(name, default=None):
    return fields[name].contents() if name in fields else default

  model, pre = (field(f'tokenizer.ggml.{n}') for n in ('model', 'pre'))
  if model != 'gpt2' or pre not in _PRE:
    raise tokenizer.TokenizerError(
        f'{path}: a tokenizer of model {model!r}, pre {pre!r} is not '
        f"supported; 'gpt2' with one of {', '.join(_PRE)} is")
  tokens = field('tokenizer.ggml.tokens')
  kinds = field('tokenizer.ggml.token_type', [1] * len(tokens))
  fast = _byte_level(tokens, kinds, field('tokenizer.ggml.merges', []), pre)
  for name in ('bos', 'eos', 'padding', 'unknown'):
    i = field(f'tokenizer.ggml.{name}_token_id')
    if i is not None:
      short = {'padding': 'pad', 'unknown': 'unk'}.get(name, name)
      setattr(fast, f'{short}_token', tokens[i])
  fast.chat_template = field('tokenizer.chat_template')
  return Pretrained(fast, len(tokens))


def _byte_level(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str],
    pre: str,
) -> Any:
  import tokenizers
  import transformers
  from tokenizers import decoders, models, normalizers, pre_tokenizers

  bpe = tokenizers.Tokenizer(models.BPE(
      vocab={t: i for i, t in enumerate(tokens)},
      merges=[tuple(m.split(' ', 1)) for m in merges],
      # Llama 3 takes a word that is a token whole, merges or not.
      ignore_merges=pre == 'llama-bpe'))
  pattern = _PRE[pre]
  if pattern is None or pattern is _DIGITS:
    digits = [pre_tokenizers.Digits(individual_digits=True)] if pattern else []
    steps = [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
  else:
    steps = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  if pre == 'qwen2':
    bpe.normalizer = normalizers.NFC()
  bpe.pre_tokenizer = pre_tokenizers.Sequence(steps)
  bpe.decoder = decoders.ByteLevel()
  bpe.add_special_tokens([tokenizers.AddedToken(t, special=True)
                          for t, k in zip(tokens, kinds, strict=True)
                          if k == _CONTROL])
  bpe.add_tokens([tokenizers.AddedToken(t, normalized=False)
                  for t, k in zip(tokens, kinds, strict=True)
                  if k == _USER_DEFINED])
  return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe)
