"""The accessibility tree of a page as a state of a few lines.

A live page has hundreds of elements; a state shows the three to ten that
matter. `read` turns the tree into candidates in page order, `select` picks
among them, `render` writes `[id] role: description` (text/states) and says
which element of BrowserGym (its bid) an id stands for.

The rule of selection, `by_rule`: the ten candidates with the most points, in
page order; of equals the upper one.

  3 each   word of the goal in its text, three words at most
  3        it changed, or appeared, with the last action
  2        input can go to it; 1 more if it holds a value (fields say what has
           been entered already)
  2        at least half of it is in the window
  2        it has the focus
  1        it is within two places of one that changed or has the focus
"""

import collections
import functools
import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dreamgym_jax.text import states

LIMIT = 10
_MAX_NAME, _MAX_VALUE, _MAX_ROW = 60, 120, 160   # characters
_MAX_OPTIONS = 40
_MAX_ID = 999
_READABLE_BY_MODEL = 120    # candidates that a model is shown at most
_ROLES = {
    'button': 'button', 'link': 'link', 'textbox': 'textbox',
    'searchbox': 'textbox', 'spinbutton': 'textbox', 'combobox': 'combobox',
    'listbox': 'combobox', 'checkbox': 'checkbox', 'switch': 'checkbox',
    'menuitemcheckbox': 'checkbox', 'radio': 'radio', 'menuitemradio': 'radio',
    'tab': 'tab', 'heading': 'text', 'option': 'clickable',
    'menuitem': 'clickable', 'treeitem': 'clickable',
}
_HOLDERS = ('textbox', 'textarea', 'combobox')
_BOXES = ('checkbox', 'radio')
_WORD = re.compile(r'[a-z0-9]{2,}')
_COMMON = frozenset(
    'the and for with from that this what which who how are was were has have '
    'had its all any can you your our their them than then into not out off '
    'tell show give find get list open click select enter page new one of in '
    'on to at by is it an as or be my me do'.split())
_NUMBERS = re.compile(r'\s*\d+(?:[\s,]+\d+)*[\s.]*')
_ASK = '''A web agent has this goal:
{goal}

The elements of the present page:
{lines}

Name the {limit} elements or fewer that matter most for the next steps, also \
those that show what has been done. Answer with their numbers alone, separated \
by commas.'''


class Candidate(NamedTuple):
  """One line that a state could have."""

  key: str                # the bid, or bid#n where it has several lines
  bid: str                # BrowserGym's name of the element
  body: str               # `role: description`
  is_control: bool        # input can go to it
  is_visible: bool        # at least half of it is in the window
  is_focused: bool
  is_changed: bool        # not so on the page before the last action
  options: Mapping[str, str] = {}    # of a list: as shown -> as the page has it

  @property
  def role(self) -> str:
    return self.body.partition(':')[0]


# (goal, candidates in page order) -> indices of those to show
Select = Callable[[str, Sequence[Candidate]], Sequence[int]]


class Shown(NamedTuple):
  """A state and what its ids stand for."""

  state: str
  bid_of: dict[int, str]
  id_of: dict[str, int]     # of keys, those shown earlier on the page too
  options: dict[int, Mapping[str, str]]    # of lists: as shown -> as they are


class _Draft:
  """A candidate while its texts are still being collected."""

  def __init__(self, bid: str, role: str, node: Mapping[str, Any],
               texts: Sequence[str] = (), limit: int = _MAX_NAME):
    self.bid, self.role, self.node = bid, role, node
    self.texts, self.limit = list(texts), limit
    self.options: dict[str, str] = {}     # as shown -> as the page has it


def read(
    observation: Mapping[str, Any], before: Mapping[str, str] | None = None
) -> list[Candidate]:
  """Every element of a page that could be shown, in page order.

  Args:
    observation: of BrowserGym, with `axtree_object`,
      `extra_element_properties` and `focused_element_bid`.
    before: key -> body of the candidates before the last action; None if
      the page is new.
  """
  properties = observation['extra_element_properties']
  seen = collections.Counter()
  candidates = []
  for draft in _name_fields(list(_walk(observation['axtree_object']))):
    known = properties.get(draft.bid, {})
    is_clickable = draft.role == 'text' and bool(known.get('clickable'))
    role = 'clickable' if is_clickable and len(draft.texts) == 1 else draft.role
    body = _describe(role, draft)
    if body == 'text:' or not draft.bid:
      continue
    seen[draft.bid] += 1
    n = seen[draft.bid]
    key = draft.bid if n == 1 else f'{draft.bid}#{n}'
    candidates.append(Candidate(
        key, draft.bid, body, role != 'text',
        (known.get('visibility') or 0) >= .5,
        draft.bid == observation['focused_element_bid'],
        before is not None and before.get(key) != body, draft.options))
  return candidates


def by_rule(
    goal: str, candidates: Sequence[Candidate], limit: int = LIMIT
) -> list[int]:
  """The choice that the module's docstring describes."""
  wanted = set(_WORD.findall(goal.lower())) - _COMMON
  active = [i for i, c in enumerate(candidates)
            if c.is_changed or c.is_focused]
  near = {j for i in active for j in range(i - 2, i + 3)} - set(active)

  def points(i: int) -> int:
    c = candidates[i]
    words = wanted & set(_WORD.findall(c.body.partition(':')[2].lower()))
    return (3 * min(len(words), 3) + 3 * c.is_changed + 2 * c.is_control
            + (c.role in _HOLDERS) + 2 * c.is_visible + 2 * c.is_focused
            + (i in near))

  best = sorted(range(len(candidates)), key=lambda i: (-points(i), i))
  return sorted(best[:limit])


def by_model(
    complete: Callable[[str], str], goal: str, candidates: Sequence[Candidate],
    limit: int = LIMIT,
) -> list[int]:
  """The choice of a language model; `functools.partial(by_model, complete)`.

  `complete` gives the answer to a prompt, e.g. an OpenAI-compatible endpoint's.
  Of long pages it is shown the 120 elements that are first by rule. An answer
  that is not numbers of these elements is logged and the rule's choice taken.
  """
  shown = by_rule(goal, candidates, _READABLE_BY_MODEL)
  if len(shown) <= limit:
    return shown
  lines = '\n'.join(f'{n}. {candidates[i].body}' for n, i in enumerate(shown))
  answer = complete(_ASK.format(goal=goal, lines=lines, limit=limit))
  numbers = []
  if _NUMBERS.fullmatch(answer):
    numbers = [int(n) for n in re.findall(r'\d+', answer)][:limit]
  if not numbers or max(numbers) >= len(shown):
    logging.getLogger(__name__).warning(
        'not a choice of elements, took the rule\'s: %.80r', answer)
    return by_rule(goal, candidates, limit)
  return sorted({shown[n] for n in numbers})


def render(
    candidates: Sequence[Candidate], chosen: Sequence[int],
    id_of: Mapping[str, int],
) -> Shown:
  """The chosen lines; raises ValueError for a choice that is none.

  `id_of` has the ids of the page so far: elements keep theirs as long as the
  page stays, new ones take the next number. Past 999 all are numbered afresh.
  """
  chosen = sorted(set(chosen))
  if chosen and not 0 <= chosen[0] <= chosen[-1] < len(candidates):
    raise ValueError(f'chose {chosen} of {len(candidates)} elements')
  lines = [candidates[i] for i in chosen]
  known = dict(id_of)
  for is_fresh in (False, True):
    known = {} if is_fresh else known
    for line in lines:
      known.setdefault(line.key, max(known.values(), default=0) + 1)
    if max(known.values(), default=0) <= _MAX_ID:
      break
  state = '\n'.join(f'[{known[c.key]}] {c.body}' for c in lines)
  states.parse(state)       # raises StateError if the text broke the grammar
  return Shown(state, {known[c.key]: c.bid for c in lines}, known,
               {known[c.key]: c.options for c in lines if c.options})


def _walk(tree: Mapping[str, Any]) -> Iterator[_Draft]:
  """Drafts in page order; texts inside a control are its name already."""
  nodes = {node['nodeId']: node for node in tree['nodes']}
  drafts: list[_Draft] = []
  # (node, bid of the nearest element, table row it is in, names it is inside)
  stack = [(tree['nodes'][0], '', None, '')] if nodes else []
  while stack:
    node, bid, row, said = stack.pop()
    role, own = node['role']['value'], node.get('browsergym_id', '')
    name, bid = _clean(_value(node, 'name'), _MAX_VALUE), own or bid
    if role == 'StaticText':
      last = drafts[-1] if drafts else None
      if row is not None:
        row.texts.append(name)
      elif name and name not in said:
        if last and last.role == 'text' and last.bid == bid:
          last.texts.append(name)
        else:
          drafts.append(_Draft(bid, 'text', {}, [name]))
      continue
    if own and not node.get('ignored'):
      if role in _ROLES:
        draft = _Draft(bid, _ROLES[role], node, [name])
        drafts.append(draft)
        said = f'{said} {name}'
        if draft.role == 'combobox':
          draft.options = {_clean(o, _MAX_NAME): o for o in itertools.islice(
              _options(node, nodes), _MAX_OPTIONS)}
        if draft.role in _HOLDERS:
          continue          # what is inside is its value
      elif role == 'row':
        row = _Draft(bid, 'text', {}, limit=_MAX_ROW)
        drafts.append(row)
    stack += [(nodes[child], bid, row, said)
              for child in reversed(node.get('childIds', []))
              if child in nodes]
  yield from drafts


def _options(
    node: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
  stack = list(reversed(node.get('childIds', [])))
  while stack:
    child = nodes.get(stack.pop())
    if child is None:
      continue
    if child['role']['value'] == 'option':
      if text := _value(child, 'name'):
        yield text
    else:
      stack += reversed(child.get('childIds', []))


def _name_fields(drafts: Sequence[_Draft]) -> list[_Draft]:
  """Fields without a name take the text right before them for their name."""
  kept: list[_Draft] = []
  for draft in drafts:
    is_bare = draft.role in _HOLDERS and not ''.join(draft.texts)
    if is_bare and kept and kept[-1].role == 'text' and (
        kept[-1].limit == _MAX_NAME and len(kept[-1].texts) == 1):
      draft.texts = kept.pop().texts
    kept.append(draft)
  return kept


def _describe(role: str, draft: _Draft) -> str:
  """`role: description` as in text/states."""
  is_on = functools.partial(_is_on, draft.node)
  name = _clean((' | ' if draft.limit == _MAX_ROW else ' ').join(
      text for text in draft.texts if text), draft.limit)
  if role != 'text' and is_on('disabled'):
    name = f'{name} disabled'
  value = ' '.join(_printable(_value(draft.node, 'value')).split())[:_MAX_VALUE]
  if role == 'combobox' and not draft.options:
    role = 'textbox'        # a field that suggests
  if role == 'textbox' and is_on('multiline'):
    role = 'textarea'
  if role in _HOLDERS:
    name = f'{name.replace("=", "-")} = {value}'
    if draft.options:
      name = f'{name} options {" ; ".join(draft.options)}'
  mark = 'checked' if role in _BOXES else 'selected' if role == 'tab' else ''
  if mark and is_on(mark):
    name = f'{name} {mark}'
  return ' '.join(f'{role}: {name}'.split())


def _value(node: Mapping[str, Any], field: str) -> str:
  found = (node.get(field) or {}).get('value')
  return '' if found is None else str(found)


def _is_on(node: Mapping[str, Any], name: str) -> bool:
  for item in node.get('properties', ()):
    if item['name'] == name:
      return (item.get('value') or {}).get('value') in (True, 'true', 'mixed')
  return False


def _printable(text: str) -> str:
  # Icons are letters of private fonts; they say nothing outside of these.
  return ''.join(c if c.isprintable() else ' ' for c in text)


def _clean(text: str, limit: int) -> str:
  """Text that cannot be mistaken for the grammar around it."""
  text = _printable(text).translate(str.maketrans('[];', '(),'))
  return ' '.join(text.split())[:limit].rstrip(' :=')
