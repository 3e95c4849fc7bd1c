"""Data made from data: renamed episodes, and look-ups on their pages.

Renaming gives the same episode other names. Small models memorise names before
they learn to copy. An episode in which every name is exchanged, in
instruction, states, actions and reasoning alike, is as true as the first (a
page does not care what its buttons are called), and leaves copying as the only
way to lower the loss.

A look-up is an element drawn at random, the thought that names it with its id
and the action that hits it. It teaches name -> id and says nothing of what a
task wants: where policies begin as small models, they know what they need long
before they find it on the page.
"""

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from dreamgym_jax import types
from dreamgym_jax.text import actions, states

# Names on more than this share of a family's pages belong to the page's
# template ('Submit', 'Username') and are tied to the instruction's wording.
_STRUCTURAL_SHARE = 0.2
_WORD = re.compile(r"\w[\w']*")
_LETTERS = string.ascii_letters + string.digits


def entities(episode: types.Episode) -> set[str]:
  """Names, values and options that an episode shows or types."""
  found = set()
  for step in episode.transitions:
    for element in states.parse(step.state) + states.parse(step.next_state):
      found |= {element.name, element.value, *element.options}
    try:
      found.add(actions.parse(step.action).argument)
    except actions.ActionError:
      continue
  return {e for e in found if e and not e.isdigit()}


@dataclasses.dataclass(frozen=True)
class Renamer:
  """What may be renamed, and to what."""

  structural: dict[str, frozenset[str]]   # family -> names to keep
  pool: tuple[str, ...]                   # names seen anywhere

  def rename(
      self, episode: types.Episode, rng: np.random.Generator
  ) -> types.Episode:
    """The episode with each of its free names exchanged for another."""
    keep = self.structural.get(episode.task.family, frozenset())
    old = sorted(entities(episode) - keep, key=len, reverse=True)
    if not old:
      return episode
    new: dict[str, str] = {}
    taken = set(old) | keep
    for name in old:
      for _ in range(20):
        candidate = self.draw(rng)
        if candidate not in taken:
          break
      else:
        return episode
      taken.add(candidate)
      new[name] = candidate
    pattern = re.compile(
        r'(?<!\w)(?:' + '|'.join(map(re.escape, old)) + r')(?!\w)')

    def swap(text: str) -> str:
      return pattern.sub(lambda m: new[m[0]], text)

    def swap_state(text: str) -> str:
      # Roles and the words of the grammar must not be taken for names.
      return '\n'.join(
          head + mark + swap(tail) if mark else line
          for line in text.split('\n')
          for head, mark, tail in [line.partition(': ')])

    task = dataclasses.replace(
        episode.task, instruction=swap(episode.task.instruction),
        initial_state=swap_state(episode.task.initial_state))
    steps = tuple(dataclasses.replace(
        s, state=swap_state(s.state), next_state=swap_state(s.next_state),
        action=swap(s.action), reasoning=swap(s.reasoning),
        thought=swap(s.thought)) for s in episode.transitions)
    return dataclasses.replace(episode, task=task, transitions=steps)

  def draw(self, rng: np.random.Generator) -> str:
    """A name: a known one, two spliced, or letters."""
    kind = rng.integers(3)
    if kind == 0:
      return self._name(rng)
    if kind == 1:    # as a policy writes that copies badly
      head, tail = self._name(rng), self._name(rng)
      return (head[:rng.integers(1, len(head) + 1)]
              + tail[rng.integers(len(tail)):]).strip()
    size = rng.integers(2, 7)
    return ''.join(rng.choice(list(_LETTERS), size))

  def _name(self, rng: np.random.Generator) -> str:
    return self.pool[rng.integers(len(self.pool))]


# Words that stand for something in the grammar of actions, states or
# reasoning: never a name to be exchanged, nor one to exchange for.
_RESERVED = frozenset(
    {*actions.VERBS, 'options', 'checked', 'selected', 'expanded', 'need',
     'have', 'yes', 'no', 'on', 'off', 'none', 'page', 'same', 'over',
     'remove', 'invalid', 'nothing', 'link', 'button', 'radio', 'checkbox',
     'textbox', 'textarea', 'combobox', 'tab', 'text', 'turns', 'takes',
     'such', 'element', 'option', 'changes', 'value', 'replaced', 'finish',
     'the', 'and', 'from', 'into', 'field', 'list', 'x'})


def make_renamer(episodes: Sequence[types.Episode]) -> Renamer:
  """Learns each family's structural names and the pool from episodes."""
  pages: dict[str, dict[str, set[str]]] = {}
  for episode in episodes:
    page = pages.setdefault(episode.task.family, {})
    # The instruction's words count too: those of its template are on every
    # page, and a policy may well have typed one of them.
    page.setdefault(episode.task.task_id, set(
        _WORD.findall(episode.task.instruction))).update(entities(episode))
  structural, pool = {}, set()
  for family, by_page in pages.items():
    counts = Counter(n for names in by_page.values() for n in names)
    limit = max(_STRUCTURAL_SHARE * len(by_page), 1)
    fixed = {n for n, count in counts.items() if count > limit}
    structural[family] = frozenset(fixed | _RESERVED)
    pool |= set(counts) - fixed
  return Renamer(structural, tuple(sorted(_plain(pool - _RESERVED))))


def _plain(names: Iterable[str]) -> Iterable[str]:
  return (n for n in names if len(n) <= 16 and n == n.strip())


def moved(state: str, rng: np.random.Generator) -> str:
  """The page with its things, `mug 1 in drawer 2`, in one another's places."""
  lines = [line.partition(' in ') for line in state.split('\n')]
  inside = [i for i, (_, found, _) in enumerate(lines) if found]
  for i, j in zip(inside, rng.permutation(inside), strict=True):
    lines[i] = (*lines[i][:2], state.split('\n')[j].partition(' in ')[2])
  return '\n'.join(map(''.join, lines))


def lookup(
    state: str, text: str, rng: np.random.Generator
) -> tuple[str, str]:
  """(thought, action) for an element drawn at random; ('', '') if none is.

  Args:
    state: the page.
    text: what to type, should it be a textbox.
    rng: of the choice.
  """
  elements = states.parse(state)
  found = [p for e in elements for p in _namings(e, elements, text, rng)]
  return found[rng.integers(len(found))] if found else ('', '')


def _namings(
    element: states.Element, elements: Sequence[states.Element], text: str,
    rng: np.random.Generator,
) -> list[tuple[str, str]]:
  """Ways to need the element, in the thoughts' language."""
  name, role = element.name, element.role
  is_only = sum(e.role == role for e in elements) == 1
  has_own_name = name and [e.name for e in elements].count(name) == 1
  click = str(actions.Action('click', element.id))
  if role == 'text':
    return []
  found = [(f'need {role}: {element.label}', click)] if is_only else []
  if role in ('textbox', 'textarea', 'combobox'):
    found.append((f'need [{element.id}]', click))
    verb = 'select_option' if role == 'combobox' else 'fill'
    if element.options:
      text = element.options[rng.integers(len(element.options))]
    # A box without a name may be meant for one of the texts beside it.
    texts = [e.name for e in elements if e.role == 'text'] or ['']
    label = element.label if name else texts[rng.integers(len(texts))]
    if has_own_name or is_only:
      found.append((f'{label} need {text}'.strip(),
                    str(actions.Action(verb, element.id, text))))
  elif role == 'checkbox' and has_own_name:
    wish = 'off' if element.is_checked else 'on'
    found.append((f'{element.label} need {wish}', click))
  elif has_own_name:
    found.append((f'need {element.label}', click))
  return found
