"""MiniWoB++ pages that are solved by clicks: sections, menus, trees, lists."""

import re
from collections.abc import Callable

from dreamgym_jax.envs import miniwob_goals as base
from dreamgym_jax.text import actions, states

# The page's own lists of words that mean much the same.
_SYNONYMS = tuple(map(str.split, '''
big large huge enormous gigantic
small tiny little mini petite
red scarlet crimson vermillion
happy cheerful joyful gleeful delighted
sad unhappy sorrowful miserable tragic
angry mad furious irritated
evil wicked immoral sinful corrupt depraved
wrong incorrect mistaken erroneous
real genuine actual
strange odd peculiar unusual weird
stop cease halt end finish
scared terrified panicked fearful frightened afraid
quiet calm peaceful serene mild
old aged archaic
love like adore favor
kill murder assassinate
keep retain preserve sustain maintain
hide conceal camouflage
hate despise loathe detest dislike
funny humorous amusing comical laughable
fat fleshy plump chubby
stupid dumb dull unwise
delicious savory delectable appetizing
cut slice carve chop
brave courageous fearless
begin start initiate launch
answer reply response
television televisions TV TVs
house home houses homes
fire flame fires flames
pig pork swine
rabbit rabbits bunny bunnies
car cars automobile automobiles vehicle vehicles
water'''.strip().splitlines()))


def _similar(match: re.Match, elements: base.Elements) -> base.Goal:
  wanted = {w for word in match[1].split(', ') for group in _SYNONYMS
            if word in group for w in group}
  return base.boxes_goal(elements, wanted)


def _next_section(elements: base.Elements, role: str) -> states.Element:
  """The one behind the section that is open, round to the first."""
  sections = base.with_role(elements, role)
  if not sections:
    raise base.GoalError(f'no {role}')
  is_open = [s.description != s.name for s in sections]
  return sections[(is_open.index(True) + 1) % len(sections)
                  if any(is_open) else 0]


def _in_sections(role: str) -> Callable:
  """Click the link, which may be in a section that is not open."""

  def read(match: re.Match, elements: base.Elements) -> base.Goal:
    name = match[1]
    target = base.named(elements, name, 'link')
    move = None if target else base.click(
        _next_section(elements, role), f'find {name}:')
    return base.Goal(finish=target.id if target else 0, need=name, move=move,
                     have_of=lambda e: e.name or base.NONE)

  return read


def _other_tab(match: re.Match, elements: base.Elements) -> base.Goal:
  """The link if it is on this tab; else the tab itself ends the episode."""
  target = base.named(elements, match[1], 'link') or _next_section(
      elements, 'tab')
  return base.Goal(finish=target.id, need=target.name,
                   have_of=lambda e: e.name or base.NONE)


def _expand(match: re.Match, elements: base.Elements) -> base.Goal:
  del match
  header = base.one(base.with_role(elements, 'header'), 'headers')
  is_open = header.description != header.name
  field = base.Field(
      header.name, header.id, 'expanded', 'expanded' if is_open else 'closed')
  return base.Goal((field,), base.submit(elements))


def _sequence(match: re.Match, elements: base.Elements) -> base.Goal:
  """First the one button, then the other; what was pushed has the focus."""
  buttons = {b.name.removesuffix(' focused'): b
             for b in base.with_role(elements, 'button')}
  first, then = match.groups()
  if not {first, then} <= set(buttons):
    raise base.GoalError(f'no buttons {first!r} and {then!r}')
  pushed = [name for name, b in buttons.items() if b.name != name]
  have = pushed[0] if pushed else base.NONE
  move = None if have == first else base.click(buttons[first], 'need')
  return base.Goal(
      finish=buttons[then].id, need=then, move=move,
      have_of=lambda e: e.name.removesuffix(' focused'),
      items=(('first', first, have),))


def _menu(match: re.Match, elements: base.Elements) -> base.Goal:
  """The last item of the path that is shown; hovering opens what follows."""
  path = match[1].split('>')
  shown = [base.named(elements, name, 'clickable') for name in path]
  target = next((e for e in reversed(shown) if e), None)
  if target is None:
    raise base.GoalError(f'no item of {match[1]!r}')
  move = None if shown[-1] else (
      f'find {path[-1]}: {target.label}', actions.Action('hover', target.id))
  return base.Goal(finish=target.id, need=path[-1], move=move,
                   have_of=lambda e: e.name or base.NONE)


def _menu_button(match: re.Match, elements: base.Elements) -> base.Goal:
  name = match[1]
  target = base.named(elements, name, 'clickable')
  opener = base.named(elements, 'Playback', 'clickable') or base.named(
      elements, 'Menu', 'button')
  if not (target or opener):
    raise base.GoalError('no menu')
  move = None if target else base.click(opener, f'find {name}:')
  return base.Goal(finish=target.id if target else 0, need=name, move=move,
                   have_of=lambda e: e.name or base.NONE)


def _tree(match: re.Match, elements: base.Elements) -> base.Goal:
  """The file or folder, else the first folder that is not open yet."""
  name = match[1]
  target = base.named(elements, name, 'clickable', 'header')
  move = None
  if not target:
    closed = [e for e in base.with_role(elements, 'header')
              if e.description == e.name]
    if not closed:
      raise base.GoalError(f'no file named {name!r}')
    move = base.click(closed[0], f'find {name}:')
  return base.Goal(finish=target.id if target else 0, need=name, move=move,
                   have_of=lambda e: e.name or base.NONE)


def _choose_all(match: re.Match, elements: base.Elements) -> base.Goal:
  """Every option listed, in a list where each choice is a switch."""
  box = base.one(base.with_role(elements, 'combobox'), 'lists')
  chosen = [o for o in box.options if o in box.value.split(', ')]
  wanted = [o for o in box.options if o in match[1].split(', ')]
  if base.listed(sorted(wanted)) != base.listed(sorted(match[1].split(', '))):
    raise base.GoalError(f'not all of {match[1]!r} are on the list')
  differ = [o for o in box.options if (o in wanted) != (o in chosen)]
  move = None
  if differ:
    move = (f'need {differ[0]}',
            actions.Action('select_option', box.id, differ[0]))
  return base.Goal(
      finish=base.submit(elements), move=move,
      items=(('', base.listed(wanted), base.listed(chosen)),))


def _greatest(match: re.Match, elements: base.Elements) -> base.Goal:
  """The cards' numbers are in the page's text, also of those face down."""
  del match
  cards = base.with_role(elements, 'radio')
  if not cards:
    raise base.GoalError('no cards')
  target = max(cards, key=lambda e: int(e.name))
  have = next((c.name for c in cards if c.is_checked), base.NONE)
  return base.Goal((base.Field('', target.id, target.name, have),),
                   base.submit(elements))


_TICKETS = {'cheapest cost': (min, 0), 'most expensive cost': (max, 0),
            'shortest duration': (min, 1), 'longest duration': (max, 1)}


def _ticket(match: re.Match, elements: base.Elements) -> base.Goal:
  """Of the buttons with a price, each behind the line of its duration."""
  best, column = _TICKETS[match[1]]
  offers = base.offers(elements, r'Book for \$(\d+)')
  target = best(offers, key=lambda offer: offer[column])[2]
  return base.Goal(finish=target.id, need=target.name,
                   have_of=lambda e: e.name or base.NONE)


def _parity(match: re.Match, elements: base.Elements) -> base.Goal:
  del match
  rows: list[tuple[str, base.Elements]] = []
  for e in elements:
    if e.role == 'text':
      rows.append((e.description, []))
    elif e.role == 'radio' and rows:
      rows[-1][1].append(e)
  fields, items = [], []
  for number, radios in rows:
    want = 'Odd' if int(number) % 2 else 'Even'
    target = base.named(radios, want, 'radio')
    if target is None:
      raise base.GoalError(f'{number} cannot be {want}')
    have = next((r.name for r in radios if r.is_checked), base.NONE)
    fields.append(base.Field('', target.id, want, have))
    items.append((number, want, have))
  return base.Goal(tuple(fields), base.submit(elements), items=tuple(items))


_TAB = (r'Switch between the tabs to find and click on the link "(.*)"\.')
_SECTION = (r'Expand the sections? below,? (?:to find and click on the link '
            r'"(.*)"|and click submit)\.')
_SELECT = r'Select words similar to (.*) and click Submit\.'

FAMILIES = (
    base.family('click-button-sequence',
                r'Click button (\w+), then click button (\w+)\.', _sequence,
                'button'),
    base.family('click-checkboxes-soft', _SELECT, _similar, 'checkbox button'),
    base.family('click-collapsible', _SECTION, _expand, 'header button'),
    base.family('click-collapsible-nodelay', _SECTION, _expand,
                'header button'),
    base.family('click-collapsible-2', _SECTION, _in_sections('header'),
                'header'),
    base.family('click-collapsible-2-nodelay', _SECTION,
                _in_sections('header'), 'header'),
    base.family('click-tab-2', _TAB, _in_sections('tab'), 'tab link'),
    base.family('click-tab-2-easy', _TAB, _in_sections('tab'), 'tab link'),
    base.family('click-tab-2-medium', _TAB, _other_tab, 'tab link'),
    base.family('click-tab-2-hard', _TAB, _in_sections('tab'), 'tab link'),
    base.family('click-color', r'Click on the (\w+) colored box\.',
                base.pick('clickable'), 'clickable'),
    base.family('click-menu', r'Select (.*)', _menu, 'clickable'),
    base.family('click-menu-2',
                r'Click the "Menu" button, and then find and click on the '
                r'item labeled "(.*)"\.', _menu_button, 'button'),
    base.family('click-scroll-list',
                r'Select (.*) from the scroll list and click Submit\.',
                _choose_all, 'combobox button'),
    base.family('navigate-tree',
                r'Navigate through the file tree\. Find and click on the '
                r'folder or file named "(.*)"\.', _tree, 'clickable header'),
    base.family('find-greatest',
                r'Find and pick the card with the greatest number, then press '
                r'submit\.', _greatest, 'radio button'),
    base.family('buy-ticket', r'Buy the ticket with the (.*)\.', _ticket,
                'text button'),
    base.family('odd-or-even',
                r'Mark the numbers below as odd or even and press submit when '
                r'done\.', _parity, 'text radio button'),
)
