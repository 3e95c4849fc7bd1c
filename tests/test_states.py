"""The grammar of states and the exactness of edits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym_jax.text import actions, states

WORDS = st.sampled_from(
    ['Ok', 'no', 'Tab #1', 'checked', '= =', 'a ; b', 'options', '', 'x'])


@st.composite
def elements(draw):
  role = draw(st.sampled_from(
      ['button', 'checkbox', 'radio', 'textbox', 'combobox', 'tab', 'text']))
  body = f'{role}: {draw(WORDS)}'
  if role in ('textbox', 'combobox'):
    body = f'{role}: {draw(WORDS)} = {draw(WORDS)}'
  if role == 'combobox':
    body += ' options Ok ; no'
  if role in ('checkbox', 'radio') and draw(st.booleans()):
    body += ' checked'
  return ' '.join(body.split())


@st.composite
def pages(draw):
  bodies = draw(st.lists(elements(), max_size=5))
  page = '\n'.join(f'[{i}] {b}' for i, b in enumerate(bodies, 1))
  return states.invalid(page) if draw(st.booleans()) else page


@given(pages(), pages())
def test_edit_is_exact(old, new):
  assert states.apply(old, states.diff(old, new)) == new


@given(pages(), pages(), WORDS)
def test_edit_is_exact_whatever_was_typed(old, new, typed):
  edit = states.diff(old, new, typed)
  assert states.apply(old, edit, typed) == new


def test_edits_that_know_the_action_or_the_group():
  filled = PAGE.replace('Username =', 'Username = Renda')
  assert states.diff(PAGE, filled, 'Renda') == '[1] typed'
  assert states.apply(PAGE, '[1] typed', 'Renda') == filled
  radios = '[1] radio: a checked\n[2] radio: b\n[3] checkbox: c checked'
  other = '[1] radio: a\n[2] radio: b checked\n[3] checkbox: c checked'
  assert states.diff(radios, other) == '[2] checked'
  assert states.apply(radios, '[2] checked') == other


def test_a_line_of_text_parts_groups_of_radios():
  page = '[1] text: {}\n[2] radio: a{}\n[3] radio: b{}\n' \
         '[4] text: size\n[5] radio: c{}\n[6] button: Go'
  first = page.format('hue', ' checked', '', ' checked')
  then = page.format('hue', '', ' checked', ' checked')
  assert states.diff(first, then) == '[3] checked'
  assert states.radio_group(states.parse(first), 3) == [2, 3]
  assert states.radio_group(states.parse(first), 5) == [5]
  assert states.radio_group(states.parse(first), 6) == []


@given(pages())
def test_edit_to_the_end_and_to_an_invalid_action(old):
  assert states.apply(old, states.diff(old, states.OVER)) == states.OVER
  assert states.diff(old, states.invalid(old)) == 'invalid'


PAGE = ('[1] textbox: Username =\n[2] checkbox: fzz\n'
        '[3] combobox: = A options A ; B\n[4] button: Submit')


@pytest.mark.parametrize('new, edit', [
    (PAGE, 'same'),
    (PAGE.replace('Username =', 'Username = Renda'), '[1] = Renda'),
    (PAGE.replace('fzz', 'fzz checked'), '[2] checked'),
    (PAGE.replace('= A', '= B'), '[3] = B'),
    (PAGE.replace('\n[4] button: Submit', ''), 'remove [4]'),
    (PAGE.replace('button: Submit', 'link: more'), '[4] link: more'),
    (PAGE + '\n[5] text: hi', '[5] text: hi'),
])
def test_edits_are_short(new, edit):
  assert states.diff(PAGE, new) == edit
  assert states.apply(PAGE, edit) == new


@pytest.mark.parametrize('edit', [
    '[9] checked', '[4] checked', '[4] = text', 'remove [9]', 'rubbish',
    '[1]', 'page\nrubbish', '', '[1] button: a\n[1] = b', 'page\n[1] link: a\n'
    '[1] link: b'])
def test_a_bad_edit_is_an_error(edit):
  with pytest.raises(states.StateError):
    states.apply(PAGE, edit)


def test_element_fields():
  box = states.parse('[3] combobox: Size = A b options A b ; C')[0]
  assert (box.name, box.value, box.options) == ('Size', 'A b', ('A b', 'C'))
  check = states.parse('[2] checkbox: checked')[0]
  assert (check.name, check.is_checked) == ('', True)
  tab = states.parse('[1] tab: Tab #1 selected')[0]
  assert tab.name == 'Tab #1'


def test_one_line_text_is_cut_into_lines():
  assert states.lines(PAGE.replace('\n', ' ')) == PAGE
  edit = 'remove [2]\n[1] = Renda\n[3] unchecked'
  assert states.lines(edit.replace('\n', ' ')) == edit
  assert states.lines(f'page {PAGE}') == f'page\n{PAGE}'


@pytest.mark.parametrize('text', [
    'click [3]', 'fill [1] Renda Smith', 'fill [1]', 'noop',
    'select_option [2] a ; b', 'press [1] Enter'])
def test_actions_round_trip(text):
  assert str(actions.parse(text)) == text


@pytest.mark.parametrize('text, message', [
    ('', 'not an action'), ('tap [1]', 'unknown verb'), ('click', r'\[id\]'),
    ('noop [1]', r'\[id\]'), ('click [1] now', 'no argument'),
    ('press [1]', 'key'), ('click [x]', 'takes an'),
    ('click [1]; rm -rf', 'takes an')])
def test_bad_actions_say_why(text, message):
  with pytest.raises(actions.ActionError, match=message):
    actions.parse(text)


def test_grounding():
  assert actions.ground('click [1]', PAGE) == PAGE.split('\n')[0][4:]
  assert actions.ground('click [9]', PAGE) == actions.NO_ELEMENT
  assert actions.ground('noop', PAGE) == ''
  assert actions.ground('select_option [3] B', PAGE) == 'combobox: = A'
  assert actions.ground('select_option [3] Z', PAGE) == (
      'combobox: = A ; no such option')
  assert actions.ground('rubbish', PAGE) == ''


def test_a_button_is_shown_with_what_its_page_holds():
  page = ('[1] textbox: User = Renda\n[2] textbox: Pass =\n'
          '[3] checkbox: b\n[4] checkbox: c d checked\n[5] radio: e checked\n'
          '[6] combobox: = A options A ; B\n[7] tab: T selected\n'
          '[8] button: Go\n[9] link: more')
  assert actions.ground('click [8]', page) == (
      'button: Go ; User = Renda ; c d checked ; e checked ; = A')
  # Only a click sends; other elements and verbs show their own line.
  assert actions.ground('hover [8]', page) == 'button: Go'
  assert actions.ground('click [9]', page) == 'link: more'


def test_streams_show_ids_behind_names():
  page = ('[1] textbox: User = Renda Smith\n[2] textbox: =\n'
          '[3] checkbox: c d checked\n[4] combobox: Size = A options A ; B\n'
          '[5] tab: Tab #1 selected\n[6] button:')
  shown = ('textbox: User [1] = Renda Smith\ntextbox: [2] =\n'
           'checkbox: c d [3] checked\n'
           'combobox: Size [4] = A options A ; B\n'
           'tab: Tab #1 [5] selected\nbutton: [6]')
  assert states.ids_last(page) == shown
  assert states.ids_last(states.invalid(page)) == f'! invalid action\n{shown}'


@given(pages())
def test_no_word_is_lost_behind_names(page):
  for line, shown in zip(states.body(page).split('\n'),
                         states.ids_last(states.body(page)).split('\n'),
                         strict=True):
    assert sorted(line.split()) == sorted(shown.split())
