"""phi: unit vectors, the same everywhere, near for what is alike."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym_jax.models import encoder

PAGE = ('[1] textbox: Username =\n[2] textbox: Password =\n'
        '[3] button: Login')
OTHER = '[1] link: News\n[2] link: About\n[3] button: Buy now'


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=5))
def test_rows_are_unit_and_do_not_depend_on_the_batch(texts):
  encode = encoder.make_hash_encoder(64)
  got = encode(texts)
  assert got.shape == (len(texts), 64) and got.dtype == np.float32
  np.testing.assert_allclose((got ** 2).sum(-1), np.ones(len(texts)), rtol=1e-5)
  fresh = encoder.make_hash_encoder(64, cache=0)
  for i in reversed(range(len(texts))):
    np.testing.assert_array_equal(fresh([texts[i]])[0], got[i])


def test_one_line_by_hand():
  # One word and one pair with the start of the line; '>' marks the first line.
  want = np.zeros(8)
  for feature in (b'>ok', b'>> ok'):
    at = zlib.crc32(feature) % 16
    want[at % 8] += 1 if at < 8 else -1
  want = np.sign(want) * np.sqrt(np.abs(want))
  want /= np.linalg.norm(want)
  got = encoder.make_hash_encoder(8)(['OK'])[0]
  np.testing.assert_allclose(got, want, rtol=1e-6)
  # Thrice the same word counts as its square root.
  at = zlib.crc32(b'>ok') % 128 % 64
  once, thrice = encoder.make_hash_encoder(64, ngrams=1)(['ok b', 'ok ok ok b'])
  assert abs(once[at]) == pytest.approx(0.5 ** 0.5)
  assert abs(thrice[at]) == pytest.approx((3 / 4) ** 0.5)


def test_another_process_gives_the_same_vectors():
  program = (
      'from dreamgym_jax.models import encoder\n'
      'x = encoder.make_hash_encoder(32)(["click button: ok\\nlink: a b"])\n'
      'print(x.tobytes().hex())')
  run = subprocess.run([sys.executable, '-c', program], check=True, text=True,
                       capture_output=True, env={'PYTHONHASHSEED': '7',
                                                 'PYTHONPATH': '.'})
  want = encoder.make_hash_encoder(32)(['click button: ok\nlink: a b'])
  assert bytes.fromhex(run.stdout.strip()) == want.tobytes()


def test_cancelled_features_still_give_a_unit_vector():
  encode = encoder.make_hash_encoder(1, cache=0)   # one bucket: all collide
  rows = encode([f'word{i}' for i in range(40)] + ['act\nb c d'])
  np.testing.assert_array_equal(np.abs(rows), np.ones((41, 1)))


def test_the_same_deed_on_the_same_page_is_nearest():
  encode = encoder.make_hash_encoder(512)
  queries = encode([encoder.key_text(PAGE, 'click [3]')])
  keys = encode([
      encoder.key_text(PAGE.replace('[3]', '[7]'), 'click [7]'),  # renumbered
      encoder.key_text(PAGE, 'click [1]'),
      encoder.key_text(OTHER, 'click [3]'),
      encoder.key_text(OTHER, 'fill [1] a')])
  score = (queries @ keys.T)[0]
  np.testing.assert_allclose(score[0], 1, rtol=1e-6)
  assert score[0] > score[1] > score[3] and score[0] > score[2] > score[3]


def test_a_long_page_does_not_drown_the_action():
  encode = encoder.make_hash_encoder(2048)
  page = '\n'.join(f'[{i}] link: item number {i}' for i in range(1, 60))
  click, noop = encode([encoder.key_text(page, 'click [3]'),
                        encoder.key_text(page, 'noop')])
  # Half of the weight is the same page, half are two different actions.
  assert 0.4 < click @ noop < 0.6


def test_the_order_of_lines_does_not_matter():
  encode = encoder.make_hash_encoder(64)
  one, two = encode(['act\na b\nc d', 'act\nc d\na b'])
  np.testing.assert_allclose(one, two, rtol=1e-6)
  assert encode(['a\nb'])[0] @ encode(['b\na'])[0] < 0.9


@pytest.mark.parametrize('state, action, want', [
    (PAGE, 'fill [1] Renda', 'fill textbox: Username = Renda\n'),
    (PAGE, 'click [9]', 'click no such element\n'),
    (PAGE, 'noop', 'noop\n'),
    (PAGE, 'clack  the\nbutton', 'clack the button\n'),   # stays one line
    ('! invalid action\n' + PAGE, 'click [3]', 'click button: Login\n')])
def test_key_text(state, action, want):
  page = 'textbox: Username =\ntextbox: Password =\nbutton: Login'
  assert encoder.key_text(state, action) == want + page


def test_key_text_of_what_is_no_page():
  assert encoder.key_text('a <b>', 'click [3]') == 'click [3]\na <b>'
  assert encoder.key_text('over', 'noop') == 'noop\nover'


def test_sizes_are_checked():
  for bad in ({'E': 0}, {'E': 8, 'ngrams': 0}):
    with pytest.raises(ValueError, match='must be positive'):
      encoder.make_hash_encoder(**bad)
