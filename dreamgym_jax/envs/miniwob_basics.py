"""MiniWoB++ pages of one screen: a click, or fields and a submit.

Pages on which shipped models were trained: their goals, thoughts and verdicts
stay as they are.
"""

import re
from collections.abc import Callable

from dreamgym_jax.envs import miniwob_goals as base

_ROLE_OF_WIDGET = {'text': 'textbox', 'textarea': 'textarea',
                   'button': 'button', 'checkbox': 'checkbox',
                   'radio': 'radio'}


def _pick_widget(match: re.Match, elements: base.Elements) -> base.Goal:
  role = _ROLE_OF_WIDGET[match[1]]
  targets = base.with_role(elements, role)
  if not targets:
    raise base.GoalError(f'no {role}')
  return base.Goal(finish=targets[0].id, need=role, have_of=lambda e: e.role)


def _pick_only(match: re.Match, elements: base.Elements) -> base.Goal:
  del match
  target = base.one(base.with_role(elements, 'button'), 'buttons')
  return base.Goal(finish=target.id, need='button', have_of=lambda e: e.role)


def _focus(match: re.Match, elements: base.Elements) -> base.Goal:
  boxes = base.with_role(elements, 'textbox')
  nth = int(match[1]) if match.re.groups else 1
  if not 1 <= nth <= len(boxes):
    raise base.GoalError(f'no textbox number {nth}')
  target = boxes[nth - 1].id
  return base.Goal(finish=target, need=f'[{target}]',
                   have_of=lambda e: f'[{e.id}]')


def _fill_all(*labels: str) -> Callable:
  """Fill textboxes by label (one textbox needs none), then submit."""

  def read(match: re.Match, elements: base.Elements) -> base.Goal:
    boxes = base.with_role(elements, 'textbox')
    if len(boxes) != len(labels):
      raise base.GoalError(f'{len(boxes)} textboxes, want {len(labels)}')
    values = match.groups()
    fields = []
    for i, label in enumerate(labels):
      box = boxes[0] if not label else base.one(
          [b for b in boxes if b.name == label], f'textboxes named {label!r}')
      fields.append(
          base.text_field(label, box, values[min(i, len(values) - 1)]))
    return base.Goal(tuple(fields), base.submit(elements))

  return read


_log_in = _fill_all('Username', 'Password')


def _log_in_later(match: re.Match, elements: base.Elements) -> base.Goal:
  """A question may come up on the way; its OK leaves the page."""
  cancel = base.named(elements, 'Cancel', 'button')
  if cancel is None:
    return _log_in(match, elements)
  return base.Goal(move=base.click(cancel, 'need'),
                   items=(('question', 'cancelled', 'open'),))


def _read_table(match: re.Match, elements: base.Elements) -> base.Goal:
  texts = [e.description for e in base.with_role(elements, 'text')]
  keys = [i for i, t in enumerate(texts[:-1]) if t == match[1] and i % 2 == 0]
  if len(keys) != 1:
    raise base.GoalError(f'{len(keys)} rows named {match[1]!r}')
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  field = base.text_field(match[1], box, texts[keys[0] + 1])
  return base.Goal((field,), base.submit(elements))


def _choose(match: re.Match, elements: base.Elements) -> base.Goal:
  box = base.one(base.with_role(elements, 'combobox'), 'lists')
  if match[1] not in box.options:
    raise base.GoalError(f'no option {match[1]!r}')
  return base.Goal(
      (base.text_field('', box, match[1]),), base.submit(elements))


def _option(match: re.Match, elements: base.Elements) -> base.Goal:
  radios = base.with_role(elements, 'radio')
  target = base.one([r for r in radios if r.name == match[1]],
                    f'radios named {match[1]!r}')
  checked = [r.name for r in radios if r.is_checked]
  have = checked[0] if checked else base.NONE
  field = base.Field('', target.id, match[1], have)
  return base.Goal((field,), base.submit(elements))


_MOVIE = (('genre', 1), ('director', 2), ('year', 3))


def _movie(match: re.Match, elements: base.Elements) -> base.Goal:
  boxes = base.with_role(elements, 'textbox')
  fields = []
  for key, group in _MOVIE:
    words = ('year', 'date') if key == 'year' else (key,)
    box = base.one(
        [b for b in boxes if any(w in b.name.lower() for w in words)],
        f'textboxes for {key}')
    fields.append(base.text_field(key, box, match[group]))
  # Some layouts draw their button from a plain block.
  finish = base.one(
      base.with_role(elements, 'button', 'clickable'), 'ways to submit')
  return base.Goal(tuple(fields), finish.id)


_BUTTON = base.pick('button')
_DIALOG = base.pick('button', 'x', 'Close')
_TEXT = r'Enter "(.*)" into the text field and press Submit\.'
_LOGIN = (r'Enter the username "(.*)" and the password "(.*)" into the text '
          r'fields and press login\.')
_SELECT = r'Select (.*) and click Submit\.'
_SEARCH = r'Search for (.*) movies directed by (.*) from year (\d+)\.'

FAMILIES = (
    base.family('click-test', r'Click the button\.', _pick_only, 'button'),
    base.family('click-test-2', r'Click button (\w+)\.', _BUTTON, 'button'),
    base.family('click-test-transfer', r'Click button (\w+)\.', _BUTTON,
                'button'),
    base.family('click-button', r'Click on the "(.*)" button\.', _BUTTON,
                'button textbox'),
    base.family('unicode-test', r'Click on the "(.*)" button\.', _BUTTON,
                'button textbox'),
    base.family('click-link', r'Click on the link "(.*)"\.', base.pick('link'),
                'link'),
    base.family('click-dialog',
                r'Close the dialog box by clicking the "(x)"\.', _DIALOG,
                'button text'),
    base.family('click-dialog-2',
                r'Click the button in the dialog box labeled "(.*)"\.',
                _DIALOG, 'button text'),
    base.family('click-tab', r'Click on (Tab #\d+)\.', base.pick('tab'),
                'tab'),
    base.family('click-widget', r'Click on a "(\w+)" widget\.', _pick_widget,
                'button textbox textarea checkbox radio'),
    base.family('focus-text', r'Focus into the textbox\.', _focus, 'textbox'),
    base.family('focus-text-2', r'Focus into the (\d+)\w\w input textbox\.',
                _focus, 'textbox'),
    base.family('enter-text', _TEXT, _fill_all(''), 'textbox button'),
    base.family('enter-text-dynamic', _TEXT, _fill_all(''), 'textbox button'),
    base.family('login-user', _LOGIN, _log_in, 'textbox button'),
    base.family('login-user-popup', _LOGIN, _log_in_later,
                'textbox button text'),
    base.family('enter-password',
                r'Enter the password "(.*)" into both text fields and press '
                r'submit\.', _fill_all('Password', 'Verify password'),
                'textbox button'),
    base.family('read-table',
                r'Enter the value of (.*) into the text field and press '
                r'Submit\.', _read_table, 'text textbox button'),
    base.family('choose-list', r'Select (.*) from the list and click Submit\.',
                _choose, 'combobox button'),
    base.family('click-option', _SELECT, _option, 'radio button'),
    base.family('click-checkboxes', _SELECT, base.checkboxes,
                'checkbox button'),
    base.family('click-checkboxes-transfer', _SELECT, base.checkboxes,
                'checkbox button'),
    base.family('click-checkboxes-large', _SELECT, base.checkboxes,
                'checkbox button'),
    base.family('multi-layouts', _SEARCH, _movie, 'textbox button clickable'),
    base.family('multi-orderings', _SEARCH, _movie,
                'textbox button clickable'),
)
