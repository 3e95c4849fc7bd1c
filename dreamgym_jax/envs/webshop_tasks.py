"""What is known about shopping tasks: goal, expert, verdict, realism.

Everything here reads text only (an instruction and a state), as miniwob_tasks
does, and never decides an outcome: the shop does, and where what stands on an
item page disagrees with it the annotator says so (`annotate` gives '').

The expert searches for what the instruction asks, takes the product whose title
names all of it at a possible price, chooses the options and buys. It remembers
nothing, so it goes by titles and never opens Features or Attributes. It reads
made-up instructions ("Find me ..."); what people wrote is an InstructionError.
Of goods that a generated catalogue does not sell it takes the likeliest title.
"""

import dataclasses
import math
import re
from collections.abc import Callable

from dreamgym_jax import types
from dreamgym_jax.envs import (
    behaviours,
    goals,
    webshop,
    webshop_catalogue,
    webshop_reward,
    webshop_site,
)
from dreamgym_jax.text import actions, states

GoalError, InstructionError = goals.GoalError, goals.InstructionError
NONE = goals.NONE
START = '[1] textbox: Search =\n[2] button: Search'

_ASKED = re.compile(
    r'Find me (.+?)(?: with ((?:(?! with )[^:,])+: .+?))?'
    r'(?:, and price lower than (\d+\.\d\d) dollars)?')
_OPTION = re.compile(r'([^:,]+): (.+)')
_LINK = re.compile(r'(\S+) (.*?) \$([\d.]+)(?: to \$[\d.]+)?')
_PRICE = re.compile(r'\$([\d.]+)(?: to \$[\d.]+)?')
_WORD = re.compile(r"[\w']+")


@dataclasses.dataclass(frozen=True)
class Goal:
  """What an instruction asks for."""

  words: str                            # attributes and query, as written
  query: str                            # '' if it is none of the catalogue's
  attributes: tuple[str, ...]           # () if the query is not known
  options: tuple[tuple[str, str], ...]  # (name, value)
  price_upper: float

  def lacks(self, title: str) -> list[str]:
    """What of the query and the attributes the title does not name."""
    return [w for w in (self.query, *self.attributes)
            if w not in title.lower()]

  def likeness(self, title: str) -> float:
    """Share of the words that are in the title."""
    words = set(_WORD.findall(self.words.lower()))
    return len(words & set(_WORD.findall(title.lower()))) / len(words)


@dataclasses.dataclass(frozen=True)
class Item:
  """What an item page shows."""

  title: str
  price: float                          # the lower end of a range
  price_tag: str
  radios: tuple[tuple[str, states.Element], ...]   # (option name, radio)

  def chosen(self, name: str) -> str:
    return next((_value(r) for n, r in self.radios
                 if n == name and r.is_checked), NONE)


@dataclasses.dataclass(frozen=True)
class Family:
  """A category of the shop; '' is all of them."""

  name: str
  category: str

  def goal(self, instruction: str) -> Goal:
    """Raises InstructionError where it does not read "Find me ..."."""
    match = _ASKED.fullmatch(instruction.strip())
    if not match:
      raise InstructionError(f'{self.name}: cannot read {instruction[:80]!r}')
    words, wanted, upper = match.groups()
    options = []
    for part in (wanted or '').split(', and ') if wanted else ():
      option = _OPTION.fullmatch(part)
      if not option:
        raise InstructionError(f'{self.name}: no option in {part[:80]!r}')
      options.append((option[1], option[2]))
    known = [q for c in self.categories for q in webshop_catalogue.queries(c)
             if f' {words}'.endswith(f' {q}')]
    query = max(known, key=len, default='')
    named = words.removesuffix(query).strip() if query else ''
    return Goal(words, query, tuple(named.split(', ')) if named else (),
                tuple(options), float(upper) if upper else math.inf)

  @property
  def categories(self) -> tuple[str, ...]:
    return (self.category,) if self.category else webshop_catalogue.CATEGORIES

  def expert(
      self, instruction: str, state: str, choose: 'Choose'
  ) -> tuple[str, str]:
    """(thought, action) of an expert that sees only the text.

    `choose` says what to do on an item page.
    """
    goal = self.goal(instruction)
    elements = states.parse(state)
    page = page_of(elements)
    if page == webshop_site.SEARCH:
      box, button = elements
      if box.value != goal.words:
        return (f'{box.label} need {goal.words}',
                f'fill [{box.id}] {goal.words}')
      return f'finish {button.label}', f'click [{button.id}]'
    if page == webshop_site.RESULTS:
      return _pick(goal, elements)
    if page == webshop_site.ITEM:
      return choose(goal, _item(elements), elements)
    return _click('back', elements, webshop_site.PREVIOUS)

  def explain(self, instruction: str, step: types.Transition) -> str:
    """R*: why the true transition is what it is; '' where the rules differ."""
    # Not by `done`: the step limit ends episodes on pages that are not over.
    if step.next_state != states.OVER:
      return _explain_step(step.state, step.action, step.next_state)
    try:
      goal, item = self.goal(instruction), _item(states.parse(step.state))
    except GoalError:
      return ''
    items = verdict_items(goal, item)
    agrees = all(want == have for _, want, have in items) == (step.reward > 0)
    return goals.verdict(items) if agrees else ''

  def accepts(self, instruction: str, state: str) -> bool:
    """Whether a generated catalogue's goals could have this one.

    By the template, and by goods, attributes and names of options that exist.
    """
    if not self.reads(instruction, state):
      return False
    goal = self.goal(instruction)
    sold = [c for c in self.categories
            if goal.query in webshop_catalogue.queries(c)]
    if not sold or len(set(goal.attributes)) < max(2, len(goal.attributes)):
      return False
    names = [name for name, _ in goal.options]
    return (set(goal.attributes) <= set(webshop_catalogue.attributes(sold[0]))
            and names == sorted(set(names))
            and set(names) <= set(webshop_catalogue.option_names(sold[0]))
            and (goal.price_upper == math.inf or goal.price_upper % 10 == 0))

  def reads(self, instruction: str, state: str) -> bool:
    """Whether the instruction can be read and the page is where tasks start."""
    try:
      self.goal(instruction)
    except GoalError:
      return False
    return state == START


Choose = Callable[[Goal, Item, list[states.Element]], tuple[str, str]]
# Steps of an expert on a generated catalogue: fill, search, open, choose, buy.
EXPERT_STEPS = 6
FAMILIES: dict[str, Family] = {
    f.name: f for f in (
        Family(webshop.EVERYTHING, ''),
        *(Family(webshop.family_of(c), c)
          for c in webshop_catalogue.CATEGORIES))}


@goals.or_wait
def advise(task: types.Task, state: str) -> tuple[str, str]:
  """(thought, action) of the expert of the task's family.

  Raises InstructionError where the instruction cannot be read.
  """
  return FAMILIES[task.family].expert(task.instruction, state, _choose)


@goals.or_wait
def carry_on(task: types.Task, state: str) -> tuple[str, str]:
  """`advise`, but blind to what has gone wrong on an item page.

  It buys what is in front of it, with whatever has been chosen of each option:
  the expert for near misses, whose slips a heedful one would mend.
  """
  return FAMILIES[task.family].expert(task.instruction, state, _carry_on)


def rehearse(task: types.Task) -> behaviours.Course:
  """The course of near misses."""
  return behaviours.Course(
      EXPERT_STEPS, lambda t, state: carry_on(task, state)[1])


def is_determined(episode: types.Episode, t: int) -> bool:
  """False where step t opens a list or a product not seen before.

  What they show is the shop's to say, and nothing before it tells.
  """
  step = episode.transitions[t]
  page = states.body(step.next_state)
  if page == states.OVER or page in {
      states.body(s.state) for s in episode.transitions[:t + 1]}:
    return True
  kind, before = (page_of(states.parse(p)) for p in (page, step.state))
  return kind == webshop_site.SEARCH or (
      kind == before == webshop_site.ITEM)     # an option was chosen


def pose(task: types.Task) -> webshop_catalogue.Goal:
  """The goal of a task that was made up, so that the shop can judge it.

  Raises InstructionError where the instruction cannot be read.
  """
  goal = FAMILIES[task.family].goal(task.instruction)
  return webshop_catalogue.Goal(
      '', task.instruction, goal.query, '', goal.query, '', goal.attributes,
      tuple(value for _, value in goal.options), goal.price_upper)


def accepts(task: types.Task) -> bool:
  """Whether a generated catalogue could have made the task."""
  return FAMILIES[task.family].accepts(task.instruction, task.initial_state)


def reads(task: types.Task) -> bool:
  """Whether the expert can read the task: `accepts` for official files."""
  return FAMILIES[task.family].reads(task.instruction, task.initial_state)


def annotate(task: types.Task, step: types.Transition) -> str:
  """R* of a real transition, played in house actions."""
  return FAMILIES[task.family].explain(task.instruction, step)


def page_of(elements: list[states.Element]) -> str:
  """Which kind of page it is; '' for a subpage. Raises GoalError if none."""
  names = [e.name for e in elements if e.role == 'button']
  if [e.role for e in elements] == ['textbox', 'button']:
    return webshop_site.SEARCH
  if webshop_site.BUY in names:
    return webshop_site.ITEM
  if webshop_site.BACK in names:
    is_list = elements[1].role == 'text'
    return webshop_site.RESULTS if is_list else ''
  raise GoalError('no page of the shop')


def verdict_items(goal: Goal, item: Item) -> list[tuple[str, str, str]]:
  """(what, want, have) for all that the goal asks of a purchase.

  A price or an option that is not the one named but as good stands with what
  it is for, so that wanted and had read alike exactly where they agree.
  """
  lacks = goal.lacks(item.title)
  items = [('', w, NONE if w in lacks else w)
           for w in (goal.query, *goal.attributes) if w]
  chosen = [_value(r) for _, r in item.radios if r.is_checked]
  for name, want in goal.options:
    have = item.chosen(name)
    if any(webshop_reward.is_same_option(want, c) for c in chosen):
      items.append((name if have == want else f'{name} {have}', want, want))
    else:
      items.append((name, want, have))
  if goal.price_upper < math.inf:
    limit = f'{goal.price_upper:.2f}'
    side = 'below' if item.price <= goal.price_upper else 'above'
    items.append((f'price {item.price_tag}', f'below {limit}',
                  f'{side} {limit}'))
  return items


def _pick(goal: Goal, elements: list[states.Element]) -> tuple[str, str]:
  """The product whose title names all, else the next page, else a new try."""
  fitting = []
  for element in elements:
    match = _LINK.fullmatch(element.description)
    if element.role == 'link' and match and (
        float(match[3]) <= goal.price_upper and not goal.lacks(match[2])):
      fitting.append((goal.likeness(match[2]), element))
  if fitting:
    _, link = max(fitting, key=lambda f: f[0])
    # The price is what stands next to the id, and seldom stands twice.
    return (f'need {link.description.split()[-1]} [{link.id}]',
            f'click [{link.id}]')
  if any(e.name == webshop_site.NEXT for e in elements):
    return _click('not here', elements, webshop_site.NEXT)
  return _click('not found', elements, webshop_site.BACK)


def _choose(
    goal: Goal, item: Item, elements: list[states.Element]
) -> tuple[str, str]:
  """Chooses what is wanted and there, then buys; leaves what does not fit."""
  if goal.lacks(item.title) or item.price > goal.price_upper:
    return _click('not this', elements, webshop_site.PREVIOUS)
  for name, want in goal.options:
    for option, radio in item.radios:
      if option == name and _value(radio) == want and not radio.is_checked:
        return f'{name} need {want} [{radio.id}]', f'click [{radio.id}]'
  return _click('finish', elements, webshop_site.BUY)


def _carry_on(
    goal: Goal, item: Item, elements: list[states.Element]
) -> tuple[str, str]:
  for name, want in goal.options:
    for option, radio in item.radios:
      if option == name and _value(radio) == want and (
          item.chosen(name) == NONE):
        return f'{name} need {want} [{radio.id}]', f'click [{radio.id}]'
  return _click('finish', elements, webshop_site.BUY)


def _item(elements: list[states.Element]) -> Item:
  """Raises GoalError where it is no item page."""
  group, radios, said = '', [], {}
  for element in elements:
    if element.role == 'radio':
      radios.append((group, element))
    elif element.role == 'text':
      group = element.description
    elif element.role == 'status':
      name, _, value = element.description.partition(' = ')
      said[name] = value
  tag = said.get(webshop_site.PRICE_IS, '')
  price = _PRICE.fullmatch(tag)
  if not price or webshop_site.BUY not in {e.name for e in elements}:
    raise GoalError('no item page')
  return Item(said.get(webshop_site.ITEM_IS, ''), float(price[1]), tag,
              tuple(radios))


def _value(radio: states.Element) -> str:
  return radio.name.strip('"')


def _click(
    why: str, elements: list[states.Element], name: str
) -> tuple[str, str]:
  for element in elements:
    if element.role == 'button' and element.name == name:
      return (f'{why} {element.label}',
              str(actions.Action('click', element.id)))
  raise GoalError(f'no button {name!r}')


def _explain_step(state: str, action: str, next_state: str) -> str:
  try:
    parsed = actions.parse(action)
  except actions.ActionError:
    return actions.NO_ELEMENT
  target = next((e for e in states.parse(state) if e.id == parsed.element),
                None)
  if next_state == states.invalid(state):
    if target is None:
      return actions.NO_ELEMENT
    if target.name == webshop_site.DO_SEARCH and parsed.verb in (
        'click', 'dblclick', 'press'):
      return 'nothing to search for'
    return f'{target.role} takes no {parsed.verb}'
  if next_state == states.body(state) or target is None:
    return 'nothing changes'
  if target.role == 'radio':
    return 'turns on'
  if target.role == 'textbox' and parsed.verb in ('fill', 'clear'):
    return 'value replaced' if target.value else 'changes'
  if target.role == 'link':
    return f'opens {target.name.split()[0]}'
  page = page_of(states.parse(next_state))
  return f'opens {page or target.name.lower()}'
