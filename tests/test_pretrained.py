"""Pretrained tokenizers behind our interface; a small one is made here."""

import json

import pytest
import tokenizers
import transformers

from dreamgym_jax.text import pretrained, prompts, tokenizer

CHAT = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>"
        "assistant\n{% endif %}")
TEXTS = ['click [3] button: okay', 'fill [1] "Renda", then type <b> naïve 日本',
         'a\nb  c\n[1] link: <|im_end|> <extra_3> <task>', ' leads and trails ']


def make(n_extra):
  """Byte-level BPE with chat tokens and `n_extra` special ones to spare."""
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  bpe.decoder = tokenizers.decoders.ByteLevel()
  extra = [f'<extra_{i}>' for i in range(n_extra)]
  bpe.train_from_iterator(TEXTS, tokenizers.trainers.BpeTrainer(
      vocab_size=320, show_progress=False,
      special_tokens=['<|end|>', '<|im_start|>', '<|im_end|>', *extra],
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=bpe, eos_token='<|im_end|>', pad_token='<|end|>')
  fast.chat_template = CHAT
  return fast


@pytest.fixture(params=[14, 5])
def tok(request):
  return pretrained.Pretrained(make(request.param))


def test_text_there_and_back_is_exact_and_never_a_special(tok):
  special = set(tok.fast.added_tokens_decoder)
  for text in TEXTS:
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert not special & set(ids)
  assert tok.encode('') == [] and tok.element_ids == []


def test_tags_are_specials_of_their_own(tok):
  names = {t.strip('<>') for t in tokenizer.TAGS}
  assert tok.tag.keys() == names and len(set(tok.tag.values())) == len(names)
  used = {tok.fast.convert_tokens_to_ids(t)
          for t in ('<|end|>', '<|im_start|>', '<|im_end|>')}
  assert not used & set(tok.tag.values())
  assert max(tok.tag.values()) < tok.vocab_size
  # Spare ones are taken first; only what is missing grows the vocabulary.
  spare = [i for i, t in tok.fast.added_tokens_decoder.items()
           if t.content.startswith('<extra')]
  assert set(spare[:12]) <= set(tok.tag.values())
  assert tok.vocab_size == len(make(len(spare))) + 12 - min(12, len(spare))


def test_rows_of_the_embedding_beyond_the_tokens_are_counted():
  fast = make(14)
  assert pretrained.Pretrained(fast, 400).vocab_size == 400
  assert pretrained.Pretrained(fast, 7).vocab_size == len(fast)


def test_streams_are_parsed_as_with_our_own_tokenizer(tok):
  prompt = prompts.Prompts(tok)
  ids = [tok.tag['page'], *tok.encode('a\nb'), tok.tag['act'],
         *tok.encode('click [3]'), tok.tag['end'], tok.pad]
  assert tok.split(ids) == [('page', 'a\nb'), ('act', 'click [3]'), ('end', '')]
  assert tok.show(ids) == '<page> a b <act> click [3] <end> '
  reply = prompt.policy_reply('the okay button', 'click [3]')
  assert prompt.parse_reply(reply.ids) == ('the okay button', 'click [3]')
  named = prompts.Prompts(tok, names=True)
  page = '[1] button: No\n[3] button: Okay'
  reply = named.policy_reply('the okay button [3]', 'click [3]', page)
  shown = 'the okay button <act> click <hit> Okay'
  assert tok.show(reply.ids).startswith(shown)
  assert named.parse_reply(reply.ids, page) == ('the okay button', 'click [3]')


def test_chat_is_what_transformers_makes_of_it(tok):
  messages = [{'role': 'user', 'content': 'click [3]'}]
  tok.encode('plain text before')
  want = tok.fast.apply_chat_template(
      messages, add_generation_prompt=True, return_dict=False)
  assert tok.chat(messages) == want
  assert tok.fast.convert_tokens_to_ids('<|im_start|>') in want
  tok.fast.chat_template = None
  with pytest.raises(tokenizer.TokenizerError, match='no chat template'):
    tok.chat(messages)


def test_saved_and_loaded_it_is_the_same(tok, tmp_path):
  tok.save(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps(
      {'model_type': 'llama', 'vocab_size': 512, 'eos_token_id': 1}))
  (tmp_path / 'generation_config.json').write_text('{"eos_token_id": [2, 0]}')
  again = pretrained.load(tmp_path)
  assert again.tag == tok.tag
  assert (again.vocab_size, again.eos, again.pad) == (512, [2, 0], tok.pad)
  for text in TEXTS:
    assert again.encode(text) == tok.encode(text)
  messages = [{'role': 'user', 'content': 'hi'}]
  assert again.chat(messages) == tok.chat(messages)


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
  with pytest.raises(tokenizer.TokenizerError, match=str(tmp_path)):
    pretrained.load(tmp_path)
