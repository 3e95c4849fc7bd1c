"""MiniWoB++ pages that are small sites: search, contacts, posts, a menu."""

import re
from collections.abc import Callable

from dreamgym_jax.envs import miniwob_goals as base
from dreamgym_jax.text import actions, states

_PER_PAGE = 3      # results of a search


def _pages(elements: base.Elements) -> dict[str, states.Element]:
  """The links to other pages by name; the one shown is 'selected'."""
  links = {}
  for e in base.with_role(elements, 'link'):
    number = e.name.removesuffix(' selected')
    if number.isdigit() or number in ('<', '>'):
      links[number] = e
      if number != e.name:
        links['selected'] = e
  return links


def _search(match: re.Match, elements: base.Elements) -> base.Goal:
  """Search, go to the page of the nth result, click it.

  That result is named like the search; where it is not, the results are those
  of an earlier one.
  """
  wanted, nth = match[1], int(match[2]) - 1
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  go = base.named(elements, 'Search', 'button')
  if go is None:
    raise base.GoalError('no button Search')
  pages = _pages(elements)
  results = [e for e in base.with_role(elements, 'link')
             if e not in pages.values()]
  page, place = divmod(nth, _PER_PAGE)
  shown = pages['selected'].name.split()[0] if 'selected' in pages else ''
  is_there = shown == str(page + 1) and place < len(results)
  move = None
  if box.value.lower() != wanted.lower():
    move = (f'need {wanted}', actions.Action('fill', box.id, wanted))
  elif not pages:
    move = base.click(go, f'find {wanted}:')
  elif shown != str(page + 1):
    if str(page + 1) not in pages:
      raise base.GoalError(f'no page {page + 1}')
    move = base.click(pages[str(page + 1)], f'find {wanted}:')
  elif is_there and results[place].name != wanted:
    move = base.click(go, f'find {wanted}:')

  def have(e: states.Element) -> str:
    if e not in results:
      return base.NONE
    number = _PER_PAGE * (int(shown or 1) - 1) + results.index(e) + 1
    return f'{number} {e.name}'

  return base.Goal(
      finish=results[place].id if is_there else 0, move=move,
      need=f'{nth + 1} {wanted}', have_of=have,
      items=(('text', wanted.lower(), box.value.lower() or base.NONE),))


def _contact(match: re.Match, elements: base.Elements) -> base.Goal:
  """Leaf through the contacts; from the last one back, page by page."""
  person, what = match[1], match[2]
  shown = base.one(base.with_role(elements, 'text'), 'names').description
  target = next((e for e in base.with_role(elements, 'link')
                 if e.name.startswith(f'{what}: ')), None)
  move = None
  if shown != person:
    pages = _pages(elements)
    way = pages.get('>') or pages.get('<')
    if way is None:
      raise base.GoalError('no other page')
    move = base.click(way, f'find {person}:')
  return base.Goal(
      finish=target.id if target else 0, need=what, move=move,
      have_of=lambda e: e.name.partition(': ')[0],
      items=(('name', person, shown),))


def _posts(elements: base.Elements) -> list[tuple[str, base.Elements]]:
  """(user, what belongs to the post) of each."""
  posts: list[tuple[str, base.Elements]] = []
  for e in elements:
    user = re.search(r'@\S+$', e.description) if e.role == 'text' else None
    if user:
      posts.append((user[0], []))
    elif posts and e.name != 'Submit':
      posts[-1][1].append(e)
  return posts


def _post(match: re.Match, elements: base.Elements) -> base.Goal:
  """One button of one post, most of them in a menu behind More."""
  user, action = match.groups()
  posts = _posts(elements)
  mine = [part for name, part in posts if name == user]
  # Others' menus may be open; the words of some end in the user's name.
  found = [e for part in mine for e in part
           if e.name in (action, f'{action} {user}')]
  more = [e for part in mine for e in part if e.name == 'More']
  if not mine or not (found or more):
    raise base.GoalError(f'no posts by {user}')

  def have(target: states.Element) -> str:
    owner = next((n for n, part in posts if target in part), base.NONE)
    return f'{target.name.removesuffix(f" {owner}")} {owner}'

  return base.Goal(
      finish=found[0].id if found else 0, need=f'{action} {user}',
      have_of=have,
      move=None if found else base.click(more[0], f'find {action}:'))


def _switches(count_of: Callable[[re.Match, int], tuple]) -> Callable:
  """One kind of switch on some or all posts of a user, and no other."""

  def read(match: re.Match, elements: base.Elements) -> base.Goal:
    action, user, count = count_of(match, 0)
    posts = _posts(elements)
    mine = [e for name, part in posts for e in part
            if name == user and e.name == action]
    if not mine or len(mine) < count:
      raise base.GoalError(f'not {count} posts by {user}')
    count = count or len(mine)
    on = [e for _, part in posts for e in part if e.is_checked]
    # Those on already stay on, as long as there are not too many.
    chosen = sorted(mine, key=lambda e: not e.is_checked)[:count]
    fields = tuple(
        base.box_field(user if e in mine else name, e, e in chosen)
        for name, part in posts for e in part if e.role == 'checkbox')
    items = ((f'{action} {user}', str(count),
              str(sum(e in mine for e in on))),
             ('others', '0', str(sum(e not in mine for e in on))))
    return base.Goal(fields, base.submit(elements), items=items)

  return read


def _all_posts(match: re.Match, count: int) -> tuple[str, str, int]:
  return match[1], match[2], count


def _some_posts(match: re.Match, count: int) -> tuple[str, str, int]:
  del count
  return match[1], match[3], int(match[2])


class _Dish:
  """A line `+ name, type, type x2` of the menu, with its `- name`."""

  def __init__(self, add: states.Element, elements: base.Elements):
    quantity = re.search(r' x(\d+)$', add.name)
    self.count = int(quantity[1]) if quantity else 0
    line = add.name[2:].removesuffix(quantity[0] if quantity else '')
    self.name, *self.types = line.split(', ')
    self.add = add
    self.remove = base.named(elements, f'- {self.name}', 'button')


def _food(match: re.Match, elements: base.Elements) -> base.Goal:
  """One of each dish listed, or a number of dishes of one type."""
  dishes = [_Dish(e, elements) for e in base.with_role(elements, 'button')
            if e.name.startswith('+ ')]
  order = base.named(elements, 'Order!', 'button')
  names = [n.strip() for n in (match[1] or '').split(', ')]
  if match[1]:
    wanted = {d.name: 1 for d in dishes if d.name in names}
    is_known = len(wanted) == len(names)
  else:
    count = int(match[2])
    fitting = [d for d in dishes if match[3] in d.types]
    wanted = {d.name: d.count for d in fitting}
    is_known = bool(fitting)
    if is_known:    # the first dish makes up for what is missing or too much
      rest = count - sum(d.count for d in fitting[1:])
      wanted[fitting[0].name] = max(rest, 0)
      for d in fitting[1:]:
        if rest < 0:
          wanted[d.name] = max(0, d.count + rest)
          rest += d.count - wanted[d.name]
  if not is_known or order is None:
    raise base.GoalError('not all dishes are on the menu')
  move = None
  for d in dishes:
    want = wanted.get(d.name, 0)
    if d.count != want and not move:
      button = d.add if d.count < want else d.remove
      move = base.click(button, f'need {want} {d.name}:')
  if match[1]:
    items = [('', base.listed(sorted(names)), base.listed(sorted(
        d.name if d.count == 1 else f'{d.name} x{d.count}'
        for d in dishes if d.count)))]
  else:
    items = [(match[3], match[2], str(sum(d.count for d in fitting))),
             ('others', '0', str(sum(
                 d.count for d in dishes if d not in fitting)))]
  return base.Goal(finish=order.id, move=move, items=tuple(items))


FAMILIES = (
    base.family('search-engine',
                r'Use the textbox to enter "(.*)" and press "Search", then '
                r'find and click the (\d)\w\w search result\.', _search,
                'textbox button'),
    base.family('phone-book',
                r'Find (.*) in the contact book and click on their '
                r'(phone|email|address)(?: number)?\.', _contact, 'text link'),
    base.family('social-media',
                r'For the user (@.*), click on the "(.*)" button\.', _post,
                'text button'),
    base.family('social-media-all',
                r'Click the "(\w+)" button on all posts by (@.*) and then '
                r'click Submit\.', _switches(_all_posts),
                'text checkbox button'),
    base.family('social-media-some',
                r'Click the "(\w+)" button on (\d+) posts? by (@.*) and then '
                r'click Submit\.', _switches(_some_posts),
                'text checkbox button'),
    base.family('order-food',
                r'Order (?:one of each item: (.*)|(\d) items that are (.*))',
                _food, 'text button'),
)
