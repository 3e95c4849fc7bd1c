"""MiniWoB++ pages with a calendar to click through: dates and flights."""

import re

from dreamgym_jax.envs import miniwob_goals as base
from dreamgym_jax.text import actions, states

_MONTHS = ('January', 'February', 'March', 'April', 'May', 'June', 'July',
           'August', 'September', 'October', 'November', 'December')


def _pick_date(
    elements: base.Elements, box: states.Element, date: str
) -> tuple[str, actions.Action] | None:
  """The next click towards a date MM/DD/YYYY; None once the box holds it."""
  if box.value == date:
    return None
  month, day, year = map(int, date.split('/'))
  for e in base.with_role(elements, 'text'):
    title = re.fullmatch(r'(\w+) (\d{4})', e.description)
    if title and title[1] in _MONTHS:
      shown = int(title[2]), _MONTHS.index(title[1]) + 1
      break
  else:
    return base.click(box, f'need {date}:')
  name = str(day) if shown == (year, month) else (
      'Prev' if shown > (year, month) else 'Next')
  target = base.named(elements, name, 'link')
  if target is None:
    raise base.GoalError(f'no {name} in the calendar')
  return base.click(target, f'need {date}:')


def _date(match: re.Match, elements: base.Elements) -> base.Goal:
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  return base.Goal(
      finish=base.submit(elements), move=_pick_date(elements, box, match[1]),
      items=(('', match[1], box.value or base.NONE),))


def _is_place(text: str, wanted: str) -> bool:
  """Whether `City, ST (CODE)` is the city or the code asked for."""
  city, _, code = text.partition(' (')
  return wanted in (city, code.removesuffix(')'))


def _pick_place(
    elements: base.Elements, box: states.Element, wanted: str
) -> tuple[str, actions.Action] | None:
  if '(' in box.value and _is_place(box.value, wanted):
    return None
  for e in base.with_role(elements, 'clickable'):
    if _is_place(e.name, wanted):
      return base.click(e, f'need {wanted}:')
  return (f'{box.label} need {wanted}',
          actions.Action('fill', box.id, wanted))


def _results(
    match: re.Match, elements: base.Elements
) -> base.Goal:
  """The best offer; the heading tells what was searched for."""
  route, _, date = base.with_role(
      elements, 'text')[0].description.partition(' | ')
  column = 0 if match[1] == 'cheapest' else 1
  target = min(base.offers(elements, r'Book flight for \$(\d+)'),
               key=lambda offer: offer[column])[2]
  back = base.named(elements, 'Back', 'button')
  items = [('date', match[4], date)]
  # The heading names places by their codes alone.
  for what, wanted, have in zip(
      ('from', 'to'), match.groups()[1:3], route.split(' to '), strict=False):
    if re.fullmatch(r'[A-Z0-9]{3}', wanted):
      items.append((what, wanted, have))
  is_wrong = any(want != have for _, want, have in items)
  return base.Goal(
      finish=target.id, need=target.name, items=tuple(items),
      have_of=lambda e: e.name or base.NONE,
      move=base.click(back, 'search again:') if is_wrong and back else None)


def _flight(match: re.Match, elements: base.Elements) -> base.Goal:
  if base.named(elements, 'Back', 'button'):
    return _results(match, elements)
  boxes = {e.name: e for e in base.with_role(elements, 'textbox')}
  search = base.named(elements, 'Search', 'button')
  if search is None or not {'From', 'To', 'Departure Date'} <= set(boxes):
    raise base.GoalError('no form to search with')
  move = (_pick_place(elements, boxes['From'], match[2])
          or _pick_place(elements, boxes['To'], match[3])
          or _pick_date(elements, boxes['Departure Date'], match[4]))
  return base.Goal(finish=search.id, move=move)


_DATE = r'Select (\d\d/\d\d/\d{4}) as the date and hit submit\.'
_BOOK = (r'Book the (cheapest|shortest) one-way flight from: (.*) to: (.*) on '
         r'(\d\d/\d\d/\d{4})\.')

FAMILIES = (
    *(base.family(name, _DATE, _date, 'textbox button') for name in (
        'choose-date', 'choose-date-easy', 'choose-date-medium',
        'choose-date-nodelay')),
    *(base.family(name, _BOOK, _flight, 'text textbox button') for name in (
        'book-flight', 'book-flight-nodelay')),
)
