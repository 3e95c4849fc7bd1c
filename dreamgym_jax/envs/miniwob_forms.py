"""MiniWoB++ pages where something is read, worked out and typed."""

import datetime
import re
from collections.abc import Callable

from dreamgym_jax.envs import miniwob_goals as base
from dreamgym_jax.text import actions

_COLORS = {
    'black': '000000', 'white': 'ffffff', 'aqua': '00ffff', 'blue': '0000ff',
    'gray': '808080', 'green': '008000', 'lime': '00ff00', 'maroon': '800000',
    'navy': '000080', 'olive': '808000', 'purple': '800080', 'red': 'ff0000',
    'silver': 'c0c0c0', 'teal': '008080', 'yellow': 'ffff00', 'pink': 'ffc0cb',
    'magenta': 'ff00ff', 'gold': 'ffd700', 'orange': 'ffa500'}


def _enter(want_of: Callable[[re.Match, base.Elements], str]) -> Callable:
  """Type what is asked for into the only textbox, then submit."""

  def read(match: re.Match, elements: base.Elements) -> base.Goal:
    box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
    field = base.text_field('', box, want_of(match, elements))
    return base.Goal((field,), base.submit(elements))

  return read


def _date(match: re.Match, elements: base.Elements) -> str:
  del elements
  return f'{match[3]}-{match[1]}-{match[2]}'     # as the field holds it


def _time(match: re.Match, elements: base.Elements) -> str:
  del elements
  clock = datetime.datetime.strptime(match[1], '%I:%M %p')
  return f'{clock:%H:%M}'


def _cased(match: re.Match, elements: base.Elements) -> str:
  del elements
  return match[1].upper() if match[2] == 'upper' else match[1].lower()


def _shown(match: re.Match, elements: base.Elements) -> str:
  del match
  return base.one(base.with_role(elements, 'text'), 'texts').description


def _arithmetic(match: re.Match, elements: base.Elements) -> str:
  del match
  box = base.with_role(elements, 'textbox')[0]
  problem = re.fullmatch(r'(\d) ([-+x]) (\d)', box.name)
  if not problem:
    raise base.GoalError(f'no problem in {box.name!r}')
  a, b = int(problem[1]), int(problem[3])
  return str({'+': a + b, '-': a - b, 'x': a * b}[problem[2]])


def _algebra(match: re.Match, elements: base.Elements) -> str:
  del match
  text = ' '.join(e.description for e in base.with_role(elements, 'text'))
  problem = re.fullmatch(r'(x|\d) ([-+]) (x|\d) = (\d+)', text)
  if not problem:
    raise base.GoalError(f'no equation in {text!r}')
  left, sign, right, total = problem.groups()
  if left == 'x':
    return str(int(total) - int(right) * (1 if sign == '+' else -1))
  rest = int(total) - int(left)
  return str(rest if sign == '+' else -rest)


def _letters(text: str) -> str:
  return re.sub(r'[^a-zA-Z0-9]', '', text)


def _word(words_of: Callable[[base.Elements], list[str]]) -> Callable:
  """Type one word of a text; signs in what was typed do not count."""

  def read(match: re.Match, elements: base.Elements) -> base.Goal:
    words = words_of(elements)
    nth = int(match[1]) - 1 if match.re.groups else len(words) - 1
    if not 0 <= nth < len(words):
      raise base.GoalError(f'no word number {nth + 1}')
    box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
    want = _letters(words[nth])
    have = _letters(box.value) or base.NONE
    return base.Goal((base.Field('', box.id, want, have),),
                     base.submit(elements))

  return read


def _paragraph(elements: base.Elements) -> list[str]:
  return base.one(
      base.with_role(elements, 'text'), 'texts').description.split()


def _area(elements: base.Elements) -> list[str]:
  return base.one(base.with_role(elements, 'textarea'), 'areas').value.split()


def _two_rows(match: re.Match, elements: base.Elements) -> base.Goal:
  """Each textbox is named like a row of the table."""
  del match
  texts = [e.description for e in base.with_role(elements, 'text')]
  rows = dict(zip(texts[::2], texts[1::2], strict=False))
  boxes = base.with_role(elements, 'textbox')
  for box in boxes:
    if box.name not in rows:
      raise base.GoalError(f'no row named {box.name!r}')
  return base.Goal(
      tuple(base.text_field(b.name, b, rows[b.name]) for b in boxes),
      base.submit(elements))


def _copy(match: re.Match, elements: base.Elements) -> base.Goal:
  """Also the blank at the end, which is a key of its own: none types it."""
  areas = base.with_role(elements, 'textarea')
  nth = int(match[1]) - 1 if match.re.groups else 0
  if not 0 <= nth < len(areas):
    raise base.GoalError(f'no text area number {nth + 1}')
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  want, have = areas[nth].value, box.value
  if not want.endswith(base.BLANK):    # as every text to be copied does
    return base.Goal(items=(('text area', 'as it was', 'changed'),))
  typed = want.removesuffix(base.BLANK).strip()
  move = None
  if have == typed != want:
    move = 'need a blank', actions.Action('press', box.id, 'Space')
  elif have != want:
    move = f'need {typed}', actions.Action('fill', box.id, typed)
  return base.Goal(finish=base.submit(elements), move=move,
                   items=(('', want, have or base.NONE),))


def _color(match: re.Match, elements: base.Elements) -> base.Goal:
  """The page pays in full for what is as good as the color."""
  if match[1] not in _COLORS:
    raise base.GoalError(f'no color {match[1]!r}')
  want = _COLORS[match[1]]
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  have = box.value.lower()
  if re.fullmatch('[0-9a-f]{6}', have):
    pairs = zip(bytes.fromhex(want), bytes.fromhex(have), strict=True)
    if sum(abs(a - b) for a, b in pairs) / 3 / 255 < .01:
      have = want
  return base.Goal((base.Field('', box.id, want, have or base.NONE),),
                   base.submit(elements))


def _radio_and_text(match: re.Match, elements: base.Elements) -> base.Goal:
  """The page checks the textboxes, and that any radio is on."""
  radios = base.with_role(elements, 'radio')
  boxes = base.with_role(elements, 'textbox')
  nth, number, at = int(match[1]) - 1, match[2], int(match[3]) - 1
  if not (0 <= nth < len(radios) and 0 <= at < len(boxes)):
    raise base.GoalError('too few radios or textboxes')
  chosen = [i for i, r in enumerate(radios) if r.is_checked]
  fields = [base.Field(
      'radio', radios[nth].id, match[1],
      match[1] if chosen == [nth] else base.NONE)]
  for i, box in enumerate(boxes):
    want = number if i == at else ''
    fields.append(base.Field(f'textbox {i + 1}', box.id, want, box.value))
  items = [('radio', 'any', 'any' if chosen else base.NONE)]
  items += [(f.what, f.want or base.NONE, f.have or base.NONE)
            for f in fields[1:]]
  return base.Goal(tuple(fields), base.submit(elements), items=tuple(items))


def _list_and_button(match: re.Match, elements: base.Elements) -> base.Goal:
  box = base.one(base.with_role(elements, 'combobox'), 'lists')
  target = base.named(elements, match[2], 'button')
  if target is None or match[1] not in box.options:
    raise base.GoalError(f'no {match[1]!r} or no {match[2]!r}')
  field = base.text_field('', box, match[1])
  return base.Goal((field,), target.id, need=match[2],
                   items=(('', field.want, field.have),),
                   have_of=lambda e: e.name or base.NONE)


def _cancel(match: re.Match, elements: base.Elements) -> base.Goal:
  del match
  target = base.named(elements, 'Cancel', 'button')
  if target is None:
    raise base.GoalError('no button Cancel')
  return base.Goal(finish=target.id, need='Cancel',
                   have_of=lambda e: e.name or base.NONE)


def _generate(match: re.Match, elements: base.Elements) -> base.Goal:
  """Generate numbers until one is as asked."""
  want = match[1]
  text = base.one(base.with_role(elements, 'text'), 'texts').description
  number = int(text) if text.isdigit() else None
  bound = int(want.split()[-1]) if want[-1].isdigit() else 0
  is_met = number is not None and {
      'less': number < bound, 'greater': number > bound,
      'odd': number % 2 == 1, 'even': number % 2 == 0}[want.split()[0]]
  # To the page, no number at all is even; the expert makes one all the same.
  is_paid = is_met or number is None and want == 'even'
  buttons = {e.name: e for e in base.with_role(elements, 'button')}
  if not {'Generate', 'Submit'} <= set(buttons):
    raise base.GoalError('not both buttons')
  move = None if is_met else base.click(
      buttons['Generate'], f'need {want}:')
  return base.Goal(
      finish=buttons['Submit'].id, move=move,
      items=((text if number is not None else '', want,
              want if is_paid else f'not {want}'),))


# The tree of guesses: number -> (next if lower, next if higher).
_GUESSES = {4: (1, 7), 1: (0, 2), 2: (1, 3), 7: (5, 8), 5: (4, 6), 8: (7, 9)}


def _guess(match: re.Match, elements: base.Elements) -> base.Goal:
  """Halve what is left, which the last answer alone tells."""
  del match
  text = base.one(base.with_role(elements, 'text'), 'texts').description
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  guess, last = 4, None
  if answer := re.search(r'(lower|higher) than (-?\d+)', text):
    is_higher, last = answer[1] == 'higher', int(answer[2])
    near = max(0, min(9, last + (1 if is_higher else -1)))
    guess = _GUESSES.get(last, (near, near))[is_higher]
  field = base.text_field('', box, str(guess))
  # Only the right number ends an episode, and no state tells it before.
  is_open = box.value.isdigit() and int(box.value) != last
  item = ('number', box.value, box.value if is_open else base.NONE)
  return base.Goal((field,), base.submit(elements), items=(item,))


def _completed(match: re.Match, elements: base.Elements) -> base.Goal:
  """An item of a list that opens below what is typed."""
  start, end = match[1], match[2] or ''
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  def fits(text):
    return text.startswith(start) and text.endswith(end)
  offered = [e for e in base.with_role(elements, 'clickable') if fits(e.name)]
  need = f'{start}...{end}'
  move = None
  if not fits(box.value):
    move = base.click(offered[0], f'need {need}:') if offered else (
        f'find {need}', actions.Action('fill', box.id, start))
  have = need if fits(box.value) else box.value or base.NONE
  return base.Goal(finish=base.submit(elements), move=move,
                   items=(('', need, have),))


_ITEM = (r'Enter an item that starts with "(.*?)"(?: and ends with "(.*)")?\.')

FAMILIES = (
    base.family('enter-date',
                r'Enter (\d\d)/(\d\d)/(\d{4}) as the date and hit submit\.',
                _enter(_date), 'textbox button'),
    base.family('enter-time',
                r'Enter (\d+:\d\d [AP]M) as the time and press submit\.',
                _enter(_time), 'textbox button'),
    base.family('enter-text-2',
                r'Type "(.*)" in all (upper|lower) case letters in the text '
                r'input and press Submit\.', _enter(_cased),
                'textbox button'),
    base.family('text-transform',
                r'Type the text below into the text field and press Submit\.',
                _enter(_shown), 'text textbox button'),
    base.family('simple-arithmetic',
                r'Solve the math problem and type your answer into the '
                r'textbox\. Press submit when done\.', _enter(_arithmetic),
                'textbox button'),
    base.family('simple-algebra',
                r'Solve for x and type your answer into the textbox\. Press '
                r'Submit when done\.', _enter(_algebra),
                'text textbox button'),
    base.family('find-word',
                r'Find the (\d+)\w\w word in the paragraph, type that into the '
                r'textbox and press "Submit"\.', _word(_paragraph),
                'text textbox button'),
    base.family('scroll-text',
                r'Find the last word in the text area, enter it into the text '
                r'field and hit Submit\.', _word(_area),
                'textarea textbox button'),
    base.family('read-table-2',
                r'Enter the value that corresponds with each label into the '
                r'form and submit when done\.', _two_rows,
                'text textbox button'),
    base.family('copy-paste',
                r'Copy the text in the textarea below, paste it into the '
                r'textbox and press Submit\.', _copy,
                'textarea textbox button'),
    base.family('copy-paste-2',
                r'Copy the text from the (\d)\w\w text area below and paste it '
                r'into the text input, then press Submit\.', _copy,
                'textarea textbox button'),
    base.family('use-colorwheel',
                r'Select (\w+) with the color picker and hit Submit\.', _color,
                'textbox button'),
    base.family('form-sequence-2',
                r'Check the (\d)\w\w radio button and enter the number '
                r'"(-?\d+)" into the (\d)\w\w textbox\.', _radio_and_text,
                'radio textbox button'),
    base.family('form-sequence-3',
                r'Choose (.*) from the dropdown, then click the button labeled '
                r'"(\w+)"\.', _list_and_button, 'combobox button'),
    base.family('sign-agreement', r'Click the cancel button\.', _cancel,
                'text textarea textbox button'),
    base.family('generate-number',
                r'Generate (?:a|an) (?:number )?(less than \d+|greater than '
                r'\d+|odd|even)(?: number)?, then press submit\.', _generate,
                'text button'),
    base.family('guess-number',
                r'Guess the number between 0-9 and press Submit\. Use the '
                r'feedback below to find the right number\.', _guess,
                'text textbox button'),
    base.family('use-autocomplete', _ITEM, _completed, 'textbox button'),
    base.family('use-autocomplete-nodelay', _ITEM, _completed,
                'textbox button'),
)
