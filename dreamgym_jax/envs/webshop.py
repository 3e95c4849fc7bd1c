"""WebShop (Yao et al., arXiv 2207.01206) as a World, in pure Python.

Pages are those of webshop_site, the outcome is that of webshop_reward. A
family is a product category ('shop-fashion') or 'shop', all of them; the seed
is the goal's number in the official order, counted within the family. Goals of
different seeds differ, so disjoint ranges of seeds are disjoint splits; the
authors test on 0-499 of 'shop', validate on 500-1,499 and train on the rest.

An episode ends with Buy Now or after 15 steps. `Observation.reward` is the
success, 1 where the official reward is 1; `purchases` has the official reward.

House actions and the official ones stand for each other:

  search[words]    fill [box] words, then click [Search] or press [box] Enter;
                   on other pages, click [Back to Search] first
  click[text]      click [id] of the button, link (its asin) or radio (its
                   value) with that text, in any case; the last of several
  (nothing)        fill, clear, hover, focus and noop, which send no request

`WebShop(read=read_official)` is played in official strings, one step each.
Invalid actions change nothing, and are answered with the notice.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dreamgym_jax import types
from dreamgym_jax.envs import (
    checks,
    webshop_catalogue,
    webshop_reward,
    webshop_site,
)
from dreamgym_jax.text import actions as actions_lib
from dreamgym_jax.text import states

Task, Observation = types.Task, types.Observation
Place = webshop_site.Place

EVERYTHING = 'shop'
MAX_STEPS = 15
_OFFICIAL = re.compile(r'(search|click)\[(.+)\]')
_LINK = re.compile(r'(\S+) (.*?) (\$[\d.]+(?: to \$[\d.]+)?)')
EnvError = checks.EnvError
_SEPARATOR = ' [SEP] '
# (action text, state) -> the house actions that one step carries out
Read = Callable[[str, str], list[actions_lib.Action]]


class Purchase(NamedTuple):
  """What was bought and the official reward for it."""

  product: webshop_catalogue.Product
  options: dict[str, str]
  score: webshop_reward.Score


@dataclasses.dataclass
class _Row:
  goal: webshop_catalogue.Goal
  place: Place = dataclasses.field(default_factory=Place)
  steps: int = 0
  is_over: bool = False
  purchase: Purchase | None = None


def family_of(category: str) -> str:
  return f'{EVERYTHING}-{category}'


def read_house(text: str, state: str) -> list[actions_lib.Action]:
  """One action of text/actions.py; raises ActionError."""
  del state
  return [actions_lib.parse(text)]


def read_official(text: str, state: str) -> list[actions_lib.Action]:
  """The house actions that do what an official one does on this page.

  Raises ActionError for what is not `search[words]` or `click[text]`, or names
  nothing on the page.
  """
  match = _OFFICIAL.fullmatch(text.strip())
  if not match or not match[2].strip():
    raise actions_lib.ActionError(
        f'not search[words] or click[text]: {text[:60]!r}')
  verb, argument = match[1], ' '.join(match[2].lower().split())
  elements = states.parse(state)
  if verb == 'search':
    to_box = [actions_lib.Action('click', e.id) for e in elements
              if e.role == 'button' and e.name == webshop_site.BACK]
    return [*to_box, actions_lib.Action('fill', 1, argument),
            actions_lib.Action('click', 2)]
  # Values hide buttons and links of the same text.
  elements.sort(key=lambda e: e.role == 'radio')
  named = [e.id for e in elements if _official_name(e) == argument]
  if not named:
    raise actions_lib.ActionError(f'nothing here is called {argument[:60]!r}')
  return [actions_lib.Action('click', named[-1])]


def to_official(text: str, state: str) -> str:
  """The official action for a house action on a page; '' if there is none.

  Raises ActionError for what does not parse.
  """
  action = actions_lib.parse(text)
  elements = states.parse(state)
  target = next((e for e in elements if e.id == action.element), None)
  if target is None:
    return ''
  is_enter = action.verb == 'press' and action.argument == 'Enter'
  if action.verb not in ('click', 'dblclick') and not is_enter:
    return ''
  box = next((e.value for e in elements if e.role == 'textbox'), '')
  if target.role == 'button' and target.name == webshop_site.DO_SEARCH or (
      target.role == 'textbox' and is_enter):
    return f'search[{box}]' if box else ''
  name = _official_name(target)
  return f'click[{name}]' if name else ''


def to_official_text(state: str, instruction: str) -> str:
  """The page as the official text observation: visible texts and [SEP]."""
  texts = ['Instruction:', instruction]
  for element in states.parse(state):
    if element.role == 'textbox':
      texts.insert(0, 'WebShop')
    elif element.role == 'link':
      texts += _LINK.fullmatch(element.description).groups()
    else:
      texts.append(element.name.strip('"') if element.role == 'radio'
                   else element.description)
  return _SEPARATOR.join(texts)


class WebShop:
  """A types.World of one shop; rows are visitors of the same pages."""

  def __init__(
      self,
      load: Callable[[], webshop_catalogue.Catalogue] = (
          webshop_catalogue.generate),
      max_steps: int = MAX_STEPS,
      read: Read = read_house,
      subpages: Sequence[str] = webshop_site.SUBPAGES,
      page_size: int = webshop_site.PAGE_SIZE,
      pose: Callable[[Task], webshop_catalogue.Goal] | None = None,
  ):
    """Opens the shop.

    Args:
      load: makes the catalogue, e.g. partial(webshop_files.load, items, asks).
      max_steps: longer episodes end without a purchase.
      read: what an action text means; read_house or read_official.
      subpages: buttons of an item page, of webshop_site.SUBPAGES; the authors'
        default is the first three.
      page_size: links on a page of results; the authors show ten.
      pose: the goal of a generated task; None refuses them.
    """
    catalogue = load()
    self.max_steps, self._read, self._pose = max_steps, read, pose
    self.site = webshop_site.Site(catalogue, subpages, page_size)
    self.goals = {EVERYTHING: list(catalogue.goals)}
    for goal in catalogue.goals:
      self.goals.setdefault(family_of(goal.category), []).append(goal)
    self._rows: dict[int, _Row] = {}

  @property
  def purchases(self) -> list[Purchase | None]:
    """What each row bought in the present episodes; None if nothing yet."""
    return [row.purchase for row in self._rows.values()]

  def reset(
      self, tasks: Sequence[Task], rows: Sequence[int] | None = None
  ) -> list[Task]:
    """As types.World; raises EnvError for a task it has not."""
    begun = [_Row(self._goal(task)) for task in tasks]
    if rows is None:
      self._rows, rows = {}, range(len(tasks))
    self._rows.update(zip(rows, begun, strict=True))
    start = self.site.page(Place()).state
    return [
        dataclasses.replace(
            task, instruction=row.goal.instruction, initial_state=start)
        for task, row in zip(tasks, begun, strict=True)
    ]

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[Observation]:
    """Acts in the rows; raises ValueError for a finished row."""
    checks.check_rows(rows, lambda i: self._rows[i].is_over)
    return [self._step(self._rows[i], text)
            for i, text in zip(rows, actions, strict=True)]

  def close(self) -> None:
    """Forgets the kept pages; harmless when done twice."""
    self.site.page.cache_clear()
    self.site.search.cache_clear()

  def _goal(self, task: Task) -> webshop_catalogue.Goal:
    if task.source == types.GENERATED:
      if self._pose is None:
        raise EnvError(f'{task.task_id}: a generated task, and no `pose` that '
                       'says what it asks for')
      return self._pose(task)
    if task.family not in self.goals:
      raise EnvError(f'no goals of a family {task.family!r}'
                     + checks.did_you_mean(task.family, self.goals))
    goals = self.goals[task.family]
    if not 0 <= task.seed < len(goals):
      raise EnvError(f'{task.task_id}: seeds of {task.family!r} are below '
                     f'{len(goals)}')
    return goals[task.seed]

  def _step(self, row: _Row, text: str) -> Observation:
    row.steps += 1
    row.is_over = row.steps >= self.max_steps
    state = self.site.page(row.place).state
    try:
      place = row.place
      for action in self._read(text, state):
        place = _after(self.site.page(place), place, action)
    except actions_lib.ActionError:
      return Observation(
          states.invalid(state), done=row.is_over, is_invalid=True)
    row.place = place
    if place.page != webshop_site.DONE:
      return Observation(self.site.page(place).state, done=row.is_over)
    product, row.is_over = self.site.products[place.asin], True
    row.purchase = Purchase(
        product, dict(place.chosen), webshop_reward.score(
            row.goal, product, [value for _, value in place.chosen]))
    return Observation(
        states.OVER, float(row.purchase.score.is_success), done=True)


def _after(
    page: webshop_site.Page, place: Place, action: actions_lib.Action
) -> Place:
  """Where an action leads; raises ActionError if it cannot be carried out."""
  verb, index = action.verb, action.element - 1
  if verb == 'noop':
    return place
  if not 0 <= index < len(page.roles):
    raise actions_lib.ActionError(actions_lib.NO_ELEMENT)
  role, target = page.roles[index], page.targets[index]
  if verb in ('hover', 'focus'):
    return place
  if verb in ('fill', 'clear') and role == 'textbox':
    return place._replace(typed=' '.join(action.argument.split()))
  if verb == 'press' and action.argument == 'Enter':
    if role == 'textbox':
      target = page.targets[page.roles.index('button')]
    verb = 'click'
  if verb not in ('click', 'dblclick') or target is None:
    raise actions_lib.ActionError(f'{role} takes no {verb} here')
  return target


def _official_name(element: states.Element) -> str:
  """What `click[...]` calls an element; '' if it cannot be clicked so."""
  if element.role == 'button' and element.name != webshop_site.DO_SEARCH:
    return element.name.lower()
  if element.role == 'link':
    return element.name.split(' ')[0].lower()
  if element.role == 'radio':
    return element.name.strip('"').lower()
  return ''
