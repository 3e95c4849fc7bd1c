"""Actions as text, with BrowserGym's names and WebArena's `[id]` arguments.

    click [3]            fill [1] Renda          select_option [2] Bobine
    press [1] Enter      hover [3]               noop
    goto http://…        scroll 0 200            go_back      answer 42

The same grammar rules both worlds: what does not parse is invalid in the dream
as it is in the browser, by rule and not by imagination.
"""

import re
from typing import NamedTuple

from dreamgym_jax.text import states

# verb -> (takes an element, takes an argument)
VERBS = {
    'click': (True, False),
    'dblclick': (True, False),
    'hover': (True, False),
    'focus': (True, False),
    'clear': (True, False),
    'fill': (True, True),
    'select_option': (True, True),
    'press': (True, True),
    'noop': (False, False),
    # Of live sites alone; elsewhere they cannot be carried out.
    'scroll': (False, True),
    'goto': (False, True),
    'go_back': (False, False),
    'answer': (False, True),
}
NO_ELEMENT, NO_OPTION = 'no such element', 'no such option'
# Longer names are titles: more to copy than a small model copies right.
_MAX_NAME = 40
_ACTION = re.compile(r'(\w+)(?: \[(\d{1,3})\])?(?: (.*))?')


class Action(NamedTuple):
  verb: str
  element: int = 0     # 0 for verbs without an element
  argument: str = ''

  def __str__(self) -> str:
    takes_element, takes_argument = VERBS[self.verb]
    text = self.verb
    if takes_element:
      text += f' [{self.element}]'
    if takes_argument:
      text += f' {self.argument}'
    return text.rstrip()


class ActionError(ValueError):
  """The text is not an action; the message says what is wrong with it."""


def parse(text: str) -> Action:
  """Reads one action; raises ActionError naming what is wrong."""
  match = _ACTION.fullmatch(text.strip())
  if not match:
    raise ActionError(f'not an action: {text[:60]!r}; want e.g. "click [3]"')
  verb, element, argument = match[1], match[2], (match[3] or '').strip()
  if verb not in VERBS:
    raise ActionError(f'unknown verb {verb!r}; know {", ".join(VERBS)}')
  takes_element, takes_argument = VERBS[verb]
  if takes_element != (element is not None):
    raise ActionError(f'{verb} takes {"an" if takes_element else "no"} [id]')
  if argument and not takes_argument:
    raise ActionError(f'{verb} takes no argument, got {argument[:30]!r}')
  if verb in ('scroll', 'goto', 'answer') and not argument:
    raise ActionError(f'{verb} takes an argument, e.g. "answer 42"')
  if verb == 'press' and not argument:
    raise ActionError('press takes a key, e.g. "press [1] Enter"')
  return Action(verb, int(element or 0), argument)


def argument(text: str) -> str:
  """What the action types or chooses; '' if nothing, or if malformed."""
  try:
    return parse(text).argument
  except ActionError:
    return ''


def names(state: str) -> dict[str, int]:
  """What elements may be called in place of their ids: name -> id.

  A name that is one element's alone, and short.
  """
  bearers: dict[str, list[int]] = {}
  for element in states.parse(state):
    bearers.setdefault(element.name, []).append(element.id)
  return {name: ids[0] for name, ids in bearers.items()
          if 0 < len(name) <= _MAX_NAME and len(ids) == 1}


def by_name(text: str, state: str) -> tuple[str, str]:
  """The action without its id, and the name of the element that it acts on.

  Where that has no name of its own, the action as it is and ''.
  """
  try:
    action = parse(text)
  except ActionError:
    return text, ''
  for name, id_ in names(state).items():
    if id_ == action.element:
      return f'{action.verb} {action.argument}'.strip(), name
  return text, ''


def ground(text: str, state: str) -> str:
  """The line of the element the action names, shown beside the action.

  Spares the experience model the look-up id -> element, which small models
  learn late. For lists, whether they have the option stands for the options.
  A button is shown with what its page holds, as a browser sends a form: where
  a click ends the episode, the verdict is about these values.
  '' for malformed actions and verbs without an element.
  """
  try:
    action = parse(text)
  except ActionError:
    return ''
  if not VERBS[action.verb][0]:
    return ''
  elements = states.parse(state)
  for element in elements:
    if element.id == action.element:
      if action.verb == 'click' and element.role == 'button':
        return ' ; '.join([element.body, *states.held(elements)])
      line = element.body.partition(' options ')[0]
      is_known = not element.options or action.argument in element.options
      if action.verb == 'select_option' and not is_known:
        line += f' ; {NO_OPTION}'
      return line
  return NO_ELEMENT
