"""Append-only token streams of the three roles, and the strict parsers.

Policy (writes thought and action):
  <task> instruction <page> s0 <think> THOUGHT <act> ACTION <end>
  <page> s1 <think> THOUGHT <act> ACTION <end> ...
  (with `reminds`, <task> instruction again in front of each <think>; with
  `names`, ACTION is `verb argument <hit> name` where the element acted on has
  a name of its own, and then THOUGHT has no id)
Experience model (Eq. 4; writes reasoning R, the edit to s' and a flag):
  <task> instruction <page> s0
  <act> a0 <hit> grounded a0 <demo> d1 ... <think> R0 <edit> EDIT <cont>
  <page> s1 <act> a1 ... <think> R1 <edit> over <win>
  (without `repeat_pages`, s1 only where it is not what the answer said;
  with `refers`, d1 begins with `here` where it is of this very page and action,
  and EDIT may be `shown`: that of d1)
Task generator (Eq. 6; the experience model's parameters):
  <seed> instruction <page> s0 ... <task> INSTRUCTION <page> S0 <end>

What a role writes is in capitals; the rest is printed by the harness, pages
with each id behind its name (`states.ids_last`), but for M_task's. Nothing
is ever re-tokenised: each piece is encoded once and appended. `done` and
`success` are one flag of three values: <cont> goes on, <win> and <lose> end.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dreamgym_jax import types
from dreamgym_jax.text import actions, states
from dreamgym_jax.text import tokenizer as tokenizers

# What a token is, so that losses can weigh the parts of a stream apart.
CONTEXT, REASONING, STATE, FLAG, THOUGHT, ACTION, TASK = range(7)
N_KINDS = 7
# What demonstrations and answers say with `refers`.
HERE, SHOWN = 'here', 'shown'
_ID = re.compile(r' ?\[\d{1,3}\]')
_ITEM = re.compile(r'.*?need (.*) have (.*) (yes|no)')
_COMPARED = re.compile(r'(?:.*?need (.*) have|(.*) at) (.*)')


class ParseError(ValueError):
  """A model's output breaks the grammar; the message says where."""


class Piece(NamedTuple):
  """A run of tokens, and the kind of each."""

  ids: list[int]
  kinds: list[int]

  def __add__(self, other: 'Piece') -> 'Piece':
    return Piece(self.ids + other.ids, self.kinds + other.kinds)


def _piece(ids: list[int], kind: int) -> Piece:
  return Piece(ids, [kind] * len(ids))


class Demo(NamedTuple):
  """A retrieved transition d_j, as shown beside an action."""

  action: str
  grounded: str
  edit: str
  reward: float
  done: bool
  is_here: bool = False    # of the very page and action that are asked about


# Demos of each (task, state, action), by the rule against leaks.
Retrieve = Callable[
    [Sequence[types.Task], Sequence[str], Sequence[str]], list[list[Demo]]]


class Answer(NamedTuple):
  """What the experience model wrote, parsed."""

  reasoning: str
  next_state: str
  reward: float
  done: bool
  is_invalid: bool
  is_shown: bool = False   # the edit is that of a demonstration


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Encodes and parses the streams with one tokenizer."""

  tok: tokenizers.Tokenizer
  demo_tokens: int = 24      # at most, of the edit that a demo shows
  # Whether a changed page is shown whole: else as its edit where that is
  # short, and to the experience model, which wrote the edit, not at all.
  repeat_pages: bool = True
  # Whether the task and the element acted on are said once more right before
  # an answer. Small models copy what is near.
  restates: bool = False
  # Whether a demonstration of this very page and action is marked, and an
  # answer may take over the edit of the nearest one by a word: what a small
  # model would have to copy a hundred tokens for.
  refers: bool = False
  # Whether the policy is told the task once more each time before it writes.
  reminds: bool = False
  # Whether the policy says the name of the element it acts on, as the official
  # actions of WebShop and ALFWorld do, and the harness finds its id.
  names: bool = False

  def _tagged(self, tag: str, text: str) -> list[int]:
    return [self.tok.tag[tag], *self.tok.encode(text)]

  # -- both roles -----------------------------------------------------------

  def start(self, instruction: str, initial_state: str) -> list[int]:
    return self._tagged('task', instruction) + self._tagged(
        'page', states.ids_last(initial_state))

  def observe(self, previous: str, state: str) -> list[int]:
    """The page again where it changed, else only the notice or `same`."""
    if states.body(state) == states.body(previous):
      notice = states.INVALID if state.startswith('!') else states.SAME
      return self._tagged('page', notice)
    if not self.repeat_pages:
      edit = states.diff(states.body(previous), states.body(state))
      if 2 * len(edit) < len(state):
        return self._tagged('page', edit)
    return self._tagged('page', states.ids_last(state))

  # -- policy ---------------------------------------------------------------

  def policy_ask(self, instruction: str) -> list[int]:
    """What stands before a thought; `reminds` wants the task again."""
    again = self._tagged('task', instruction) if self.reminds else []
    return [*again, self.tok.tag['think']]

  def policy_reply(
      self, thought: str, action: str, state: str = '') -> Piece:
    """What the policy writes to act so on the page `state`."""
    tag = self.tok.tag
    hit: list[int] = []
    if self.names:
      action, name = actions.by_name(action, state)
      if name:
        thought = _ID.sub('', thought).strip()
        hit = self._tagged('hit', name)
    return _piece(self.tok.encode(thought), THOUGHT) + _piece(
        [tag['act'], *self.tok.encode(action), *hit, tag['end']], ACTION)

  def parse_reply(
      self, ids: Sequence[int], state: str = '') -> tuple[str, str]:
    """(thought, action); the action is '' where the reply is malformed.

    A name that no element of `state` has, or several, makes an action that
    does not parse, and so is invalid in every world.
    """
    parts = self.tok.split(ids)
    if not parts[0][0]:
      (_, thought), *parts = parts
    else:
      thought = ''
    tags = [tag for tag, _ in parts]
    if tags == ['act', 'end']:
      return thought, parts[0][1]
    if tags == ['act', 'hit', 'end'] and self.names:
      return thought, self._meant(parts[0][1], parts[1][1], state)
    return thought, ''

  def _meant(self, text: str, name: str, state: str) -> str:
    """`click` and `Submit` to `click [4]`."""
    ids = {tokenizers.reread(self.tok, n): i
           for n, i in actions.names(state).items()}
    if name not in ids:
      return f'"{name}" {text}'
    verb, _, argument = text.partition(' ')
    return f'{verb} [{ids[name]}] {argument}'.rstrip()

  def policy_stream(self, episode: types.Episode) -> Piece:
    task = episode.task
    stream = _piece(self.start(task.instruction, task.initial_state), CONTEXT)
    for t, step in enumerate(episode.transitions):
      if t:
        previous = episode.transitions[t - 1]
        stream += _piece(self.observe(previous.state, step.state), CONTEXT)
      stream += _piece(self.policy_ask(task.instruction), CONTEXT)
      stream += self.policy_reply(step.thought, step.action, step.state)
    return stream

  # -- experience model -----------------------------------------------------

  def dream_observe(self, previous: str, told: str, state: str) -> list[int]:
    """As `observe`; told is what the stream's last answer made of previous."""
    if not self.repeat_pages and states.body(told) == states.body(state):
      return []
    return self.observe(previous, state)

  def dream_ask(
      self, action: str, grounded: str, demos: Sequence[Demo],
      use_reasoning: bool = True, instruction: str = '',
  ) -> list[int]:
    """The action, and what was retrieved; `restates` wants the task too."""
    tag = self.tok.tag
    ids = self._tagged('act', action) + self._tagged('hit', grounded)
    for demo in demos:
      verb = demo.action.partition(' ')[0]
      here = f'{HERE} ' if self.refers and demo.is_here else ''
      ids += self._tagged('demo', f'{here}{verb} {demo.grounded}')
      ids += self._tagged('edit', demo.edit)[:self.demo_tokens]
      ids.append(self._flag(demo.reward, demo.done))
    if self.restates:
      ids += self._tagged('task', instruction)
      ids += self._tagged('hit', grounded)
    return [*ids, tag['think'] if use_reasoning else tag['edit']]

  @property
  def dream_barred(self) -> tuple[int, ...]:
    """Ids of the tags that no answer of the experience model has."""
    return self._tags_but('edit', 'cont', 'win', 'lose')

  def _tags_but(self, *names: str) -> tuple[int, ...]:
    return tuple(i for name, i in self.tok.tag.items() if name not in names)

  def _flag(self, reward: float, done: bool) -> int:
    name = ('win' if reward > 0 else 'lose') if done else 'cont'
    return self.tok.tag[name]

  @property
  def flags(self) -> tuple[int, int, int]:
    """Ids of <cont>, <win>, <lose>: the stop tokens of the dream."""
    return tuple(self.tok.tag[name] for name in ('cont', 'win', 'lose'))

  def dream_answer(
      self, step: types.Transition, use_reasoning: bool = True,
      demos: Sequence[Demo] = (),
  ) -> Piece:
    text = states.diff(
        step.state, step.next_state, actions.argument(step.action))
    # Edits of one line are short, and follow from the page.
    if self.refers and '\n' in text and demos and demos[0].edit == text:
      text = SHOWN
    edit = self.tok.encode(text)
    # The step limit ends episodes by rule, not because the page is over.
    is_over = step.next_state == states.OVER
    flag = _piece([self._flag(step.reward, is_over)], FLAG)
    if not use_reasoning:
      return _piece(edit, STATE) + flag
    return (_piece(self.tok.encode(step.reasoning), REASONING)
            + _piece([self.tok.tag['edit'], *edit], STATE) + flag)

  def parse_answer(
      self, ids: Sequence[int], state: str, action: str,
      use_reasoning: bool = True, demos: Sequence[Demo] = (),
  ) -> Answer:
    """Reads R, edit and flag strictly; raises ParseError.

    A win that the model's own reasoning contradicts (what was needed is not
    what was there) is a loss: the reasoning outranks the flag, and success is
    never invented. The other way round the flag stands.
    """
    parts = self.tok.split(ids)
    if not use_reasoning:
      parts = [('', ''), ('edit', parts[0][1]), *parts[1:]]
    names = [name for name, _ in parts]
    if names and names[0] == 'edit':
      parts, names = [('', ''), *parts], ['', *names]
    if (len(names) != 3 or names[:2] != ['', 'edit'] or parts[2][1]
        or names[2] not in ('cont', 'win', 'lose')):
      raise ParseError(f'want R <edit> edit flag, got {self.tok.show(ids)!r}')
    reasoning, edit = parts[0][1], parts[1][1]
    is_shown = self.refers and edit == SHOWN
    if is_shown:
      if not demos:
        raise ParseError(f'{SHOWN!r}, and nothing was')
      edit = demos[0].edit
    try:
      next_state = states.apply(state, edit, actions.argument(action))
    except states.StateError as error:
      raise ParseError(f'bad edit: {error}') from None
    done, reward = names[2] != 'cont', float(names[2] == 'win')
    if (next_state == states.OVER) != done:
      raise ParseError(f'{edit[:30]!r} does not go with <{names[2]}>')
    if use_reasoning and refutes(reasoning):
      reward = 0.0
    is_invalid = not done and next_state == states.invalid(state)
    return Answer(reasoning, next_state, reward, done, is_invalid, is_shown)

  def corrected(self, ids: Sequence[int]) -> list[int] | None:
    """An answer up to its first wrong comparison, with the right word there.

    Comparisons in R are `need X have Y yes|no` and `X at Y yes|no`; which of
    the words is right follows from what R itself says before it. None where
    all are right.
    """
    ids, start = list(map(int, ids)), len(self.tok.encode('x'))
    words = {w: self.tok.encode(f'x {w}')[start:] for w in ('yes', 'no')}
    end = ids.index(edit) if (edit := self.tok.tag['edit']) in ids else 0
    for i in range(end):
      for word, piece in words.items():
        after = i + len(piece)
        if ids[i:after] != piece:
          continue
        rest = self.tok.decode(ids[after:end]).strip()
        item = _COMPARED.fullmatch(
            self.tok.decode(ids[:i]).rpartition(' ; ')[2].strip())
        if not item or rest and not rest.startswith(';'):
          continue
        right = 'yes' if (item[1] or item[2]) == item[3] else 'no'
        if word != right:
          return ids[:i] + words[right]
    return None

  def dream_stream(
      self, episode: types.Episode, demos: Sequence[Sequence[Demo]],
      use_reasoning: bool = True,
  ) -> Piece:
    """Eq. 5's targets in one stream; demos[t] were retrieved for step t.

    Malformed actions are invalid by rule in every world, so they are left out.
    """
    task = episode.task
    stream = _piece(self.start(task.instruction, task.initial_state), CONTEXT)
    previous = None
    for step, shown in zip(episode.transitions, demos, strict=True):
      if not is_wellformed(step.action):
        continue
      if previous is not None:
        stream += _piece(self.dream_observe(
            previous.state, previous.next_state, step.state), CONTEXT)
      stream += _piece(
          self.dream_ask(step.action, actions.ground(step.action, step.state),
                         shown, use_reasoning, task.instruction), CONTEXT)
      stream += self.dream_answer(step, use_reasoning, shown)
      previous = step
    return stream

  # -- task generator -------------------------------------------------------

  @property
  def task_barred(self) -> tuple[int, ...]:
    """Ids of the tags that no generated task has."""
    return self._tags_but('page', 'end')

  def task_ask(self, seeds: Sequence[types.Task]) -> list[int]:
    ids = []
    for seed in seeds:
      ids += self._tagged('seed', seed.instruction)
      ids += self._tagged('page', seed.initial_state)
    return [*ids, self.tok.tag['task']]

  def task_stream(
      self, seeds: Sequence[types.Task], task: types.Task
  ) -> Piece:
    answer = (self.tok.encode(task.instruction)
              + self._tagged('page', task.initial_state)
              + [self.tok.tag['end']])
    return _piece(self.task_ask(seeds), CONTEXT) + _piece(answer, TASK)

  def parse_task(self, ids: Sequence[int]) -> tuple[str, str]:
    """(instruction, s0) of a generated task; raises ParseError."""
    parts = self.tok.split(ids)
    if [name for name, _ in parts] != ['', 'page', 'end'] or parts[2][1]:
      raise ParseError(f'want instruction <page> s0 <end>, got '
                       f'{self.tok.show(ids)!r}')
    instruction, state = parts[0][1], parts[1][1]
    try:
      elements = states.parse(state)
    except states.StateError as error:
      raise ParseError(f'bad page: {error}') from None
    if not instruction or not elements:
      raise ParseError('an empty instruction or page')
    if [e.id for e in elements] != list(range(1, len(elements) + 1)):
      raise ParseError('ids do not count from 1')
    return instruction.replace('\n', ' '), state


def malformed_action(state: str) -> types.Observation:
  """What every world answers to an action that is none."""
  return types.Observation(states.invalid(state), is_invalid=True,
                           reasoning='malformed action')


def is_wellformed(action: str) -> bool:
  try:
    actions.parse(action)
  except actions.ActionError:
    return False
  return True


def refutes(reasoning: str) -> bool:
  """Whether the reasoning itself says that something needed is not there.

  Items are `what need X have Y yes|no`, joined by ` ; `.
  """
  for item in reasoning.split(' ; '):
    match = _ITEM.fullmatch(item)
    if match and (match[1] != match[2] or match[3] == 'no'):
      return True
  return False
