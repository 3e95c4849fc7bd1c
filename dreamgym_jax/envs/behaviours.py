"""Ways to act for the offline data: expert, noisy, near miss, random, errand.

An experience model that only ever saw right actions learns to copy the goal
and calls every last click a success. So most episodes hold actions that are
wrong in a small and telling way: a letter, a neighbour, one step too early. A
near miss slips once; a careless actor slips again and again, as an untrained
policy does, so that several of the things asked for are wrong together. An
errand is skilled and about something else, possible or not: what a world
forbids shows where someone means to do it.

Pure functions of text and a numpy generator; the real page judges the result.
"""

import re
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.text import actions as actions_lib
from dreamgym_jax.text import states

EXPERT, NOISY, NEAR_MISS, RANDOM = 'expert', 'noisy', 'near_miss', 'random'
CARELESS, ERRAND = 'careless', 'errand'
BEHAVIOURS = (EXPERT, NOISY, NEAR_MISS, CARELESS, RANDOM, ERRAND)
ON_COURSE = (NEAR_MISS, CARELESS)    # they go on as if nothing had happened
FIELDS = ('textbox', 'textarea')
KINDS = (
    'wrong_object',   # another element of the same role
    'neighbour',      # the element one line above or below
    'absent',         # an id that is not on the page
    'typo',           # the right text but for one letter
    'other_value',    # another value of the page or the goal
    'wrong_verb',     # the right element, handled the wrong way
    'too_early',      # the last button, now
    'skip',           # the step after this one
    'bad_option',     # an option that the list does not have
    'other_field',    # the right value in another field
)
# Those after which an episode goes on much as before.
_SLIPS = ('wrong_object', 'neighbour', 'typo', 'other_value', 'skip')
_SLIP_SHARE = .5
_QUOTED = re.compile(r'"([^"]*)"')
_WORD = re.compile(r"[\w@#./'-]*\w")
_KEYS = ('Enter', 'Tab', 'Escape', 'Space', 'Backspace', 'ArrowDown')


class Plan(NamedTuple):
  """Where and how an episode of 'near_miss' goes wrong, drawn at its start."""

  step: int
  kind: str


def make_plan(rng: np.random.Generator, n_steps: int) -> Plan:
  """Uniform over the steps an expert needs, and over the kinds of misses.

  With `n_steps` above the expert's true number some episodes go unspoilt.
  """
  return Plan(int(rng.integers(max(n_steps, 1))), str(rng.choice(KINDS)))


class Course(NamedTuple):
  """What a near miss does apart from its one slip."""

  n_steps: int                       # the slip is one of them
  act: Callable[[int, str], str]     # (step, state) -> action; '' past the end


# The course of a task, given its initial state
Rehearse = Callable[[types.Task], Course]
# The errands of one episode: state -> the next action; '' where there is none
Errands = Callable[[np.random.Generator], Callable[[str], str]]


def choose(
    behaviour: str,
    expert_action: str,
    state: str,
    instruction: str,
    rng: np.random.Generator,
    *,
    step: int = 0,
    plan: Plan | None = None,
    next_action: str = '',
    noise: float = .3,
) -> str:
  """The action of a behaviour at one step.

  Args:
    expert_action: what is meant to be done; by 'errand', the errand's.
    step: steps of the episode so far; compared with `plan.step`.
    plan: of `make_plan`; wanted for 'near_miss'.
    next_action: what the expert does after this step (ask it about
      `imagine(state, expert_action)`); '' if unknown: no 'skip' then.
    noise: share of random actions of 'noisy'.
  """
  if behaviour in (EXPERT, ERRAND):
    return expert_action
  if behaviour == RANDOM:
    return random_action(state, instruction, rng)
  if behaviour == NOISY:
    is_random = rng.random() < noise
    return random_action(state, instruction, rng) if is_random else (
        expert_action)
  if behaviour == NEAR_MISS:
    if plan is None:
      raise ValueError(f'{NEAR_MISS} wants a plan, see make_plan')
    if step != plan.step:
      return expert_action
    return near_miss(
        plan.kind, expert_action, state, instruction, rng, next_action)
  if behaviour == CARELESS:
    if rng.random() >= _SLIP_SHARE:
      return expert_action
    return near_miss(str(rng.choice(_SLIPS)), expert_action, state,
                     instruction, rng, next_action)
  raise ValueError(f'unknown behaviour {behaviour!r}; know {BEHAVIOURS}')


def near_miss(
    kind: str,
    expert_action: str,
    state: str,
    instruction: str,
    rng: np.random.Generator,
    next_action: str = '',
) -> str:
  """The expert's action gone wrong in the given way.

  Where the kind does not apply (no other button, no text to misspell) one that
  does is drawn; never gives the expert's action itself.
  """
  kinds = [kind, *rng.permutation([k for k in KINDS if k != kind])]
  for name in kinds:
    options = misses(
        str(name), expert_action, state, instruction, rng, next_action)
    options = [o for o in options if o != expert_action]
    if options:
      return _pick(options, rng)
  return str(actions_lib.Action('noop'))


def misses(
    kind: str,
    expert_action: str,
    state: str,
    instruction: str,
    rng: np.random.Generator,
    next_action: str = '',
) -> list[str]:
  """Every near miss of one kind; empty where the kind does not apply."""
  try:
    action = actions_lib.parse(expert_action)
  except actions_lib.ActionError:
    return []
  elements = states.parse(state)
  by_id = {e.id: e for e in elements}
  target = by_id.get(action.element)

  def at(*ids: int) -> list[str]:
    return [str(action._replace(element=i)) for i in ids]

  def say(*arguments: str) -> list[str]:
    return [str(action._replace(argument=a)) for a in arguments if a]

  if kind == 'too_early':
    buttons = [e.id for e in elements if e.role == 'button']
    return [f'click [{buttons[-1]}]'] if buttons else []
  if kind == 'skip':
    return [next_action] if next_action else []
  if target is None:
    return []
  if kind == 'wrong_object':
    return at(*(e.id for e in elements
                if e.role == target.role and e.id != target.id))
  if kind == 'neighbour':
    return at(*(i for i in (target.id - 1, target.id + 1) if i in by_id))
  if kind == 'absent':
    return at(*(max(by_id) + n for n in (1, 2, 3)))
  if kind == 'wrong_verb':
    return _wrong_verbs(action, target, values(state, instruction))
  if kind == 'other_field' and action.verb in ('fill', 'select_option'):
    same = FIELDS if action.verb == 'fill' else ('combobox',)
    return at(*(e.id for e in elements
                if e.role in same and e.id != target.id))
  if kind == 'typo' and action.verb == 'fill':
    return say(typo(action.argument, rng))
  if kind == 'other_value' and action.verb == 'fill':
    return say(*values(state, instruction))
  if kind == 'other_value' and action.verb == 'select_option':
    return say(*target.options)
  if kind == 'bad_option' and action.verb == 'select_option':
    wrong = (typo(action.argument, rng), *values(state, instruction))
    return say(*(w for w in wrong if w not in target.options))
  return []


def random_action(
    state: str, instruction: str, rng: np.random.Generator
) -> str:
  """An action that mostly makes sense on this page, and sometimes does not."""
  elements = states.parse(state)
  if not elements or rng.random() < .03:
    return str(actions_lib.Action('noop'))
  if rng.random() < .05:
    absent = max(e.id for e in elements) + int(rng.integers(1, 4))
    return f'click [{absent}]'
  # Static text takes no input: clicking it is seldom worth a step.
  active = [e for e in elements if e.role != 'text']
  if active and rng.random() < .95:
    elements = active
  element = elements[int(rng.integers(len(elements)))]
  words = values(state, instruction)
  if rng.random() < .08:
    action = actions_lib.Action('click', element.id)
    return _pick(_wrong_verbs(action, element, words), rng)
  if element.role in FIELDS and words and rng.random() < .8:
    word = _pick(words, rng)
    if rng.random() < .2:
      word = typo(word, rng)
    return str(actions_lib.Action('fill', element.id, word))
  if element.options and rng.random() < .9:
    option = _pick(element.options, rng)
    return str(actions_lib.Action('select_option', element.id, option))
  return f'click [{element.id}]'


def values(state: str, instruction: str) -> list[str]:
  """Texts one might type: of the goal and of the page, each once."""
  found = _QUOTED.findall(instruction)
  found += _WORD.findall(_QUOTED.sub(' ', instruction))
  for element in states.parse(state):
    found += [element.name, element.value, *element.options]
  return [v for v in dict.fromkeys(v.strip() for v in found) if v]


def typo(text: str, rng: np.random.Generator) -> str:
  """The text with one letter substituted, dropped, doubled, swapped or recased.

  '' if the text is empty; otherwise never the text itself.
  """
  wrong = []
  for i, char in enumerate(text):
    alphabet = string.digits if char.isdigit() else (
        string.ascii_uppercase if char.isupper() else string.ascii_lowercase)
    other = _pick([c for c in alphabet if c != char], rng)
    swapped = text[:i] + text[i + 1:i + 2] + char + text[i + 2:]
    wrong.append([
        text[:i] + other + text[i + 1:],
        text[:i] + text[i + 1:],
        text[:i] + 2 * char + text[i + 1:],
        swapped,
        text[:i] + char.swapcase() + text[i + 1:],
    ])
  if not wrong:
    return ''
  # The way first, then the place: else a long text is hardly ever recased.
  for way in rng.permutation(len(wrong[0])):
    spoilt = [w[way] for w in wrong if w[way].strip() not in ('', text.strip())]
    if spoilt:
      return _pick(spoilt, rng)
  return text + text[-1]


def imagine(state: str, action_text: str) -> str:
  """The state if the action does only the obvious: a box, a value, a choice.

  For asking an expert about the step after next; unchanged for clicks whose
  effect the page alone knows.
  """
  try:
    action = actions_lib.parse(action_text)
  except actions_lib.ActionError:
    return states.body(state)
  lines, elements = [], states.parse(state)
  is_click = action.verb == 'click'
  radios = states.radio_group(elements, action.element) if is_click else []
  for element in elements:
    body, role = element.body, element.role
    if element.id == action.element:
      if is_click and role in ('checkbox', 'radio'):
        if not element.is_checked:
          body = f'{body} checked'
        elif role == 'checkbox':
          body = body.removesuffix(' checked')
      elif action.verb in ('fill', 'clear') and role in FIELDS:
        head = body.partition('=')[0].strip()
        body = f'{head} = {action.argument}'.strip()
      elif action.verb == 'select_option' and action.argument in (
          element.options):
        head, _, tail = body.partition('=')
        options = tail.partition(' options ')[2]
        body = f'{head.strip()} = {action.argument} options {options}'
    elif element.id in radios:
      body = body.removesuffix(' checked')   # one of a group is checked
    lines.append(f'[{element.id}] {body}')
  return '\n'.join(lines)


def _wrong_verbs(
    action: actions_lib.Action,
    target: states.Element,
    words: Sequence[str],
) -> list[str]:
  word = action.argument or (words[0] if words else 'x')
  ways = {
      'click': '', 'dblclick': '', 'hover': '', 'focus': '', 'clear': '',
      'fill': word, 'select_option': word, 'press': 'Enter'}
  if target.role in ('checkbox', 'button', 'link'):
    ways['press'] = _KEYS[target.id % len(_KEYS)]
  del ways[action.verb]
  return [str(actions_lib.Action(verb, target.id, argument))
          for verb, argument in ways.items()]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
  return options[int(rng.integers(len(options)))]
