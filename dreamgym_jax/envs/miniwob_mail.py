"""MiniWoB++'s mail program: delete, star, answer or forward one letter.

The instructions are one template for each action, some thirty for forwarding
('-nl'), or four hundred of many writers ('-nl-turk').
"""

import re
from typing import NamedTuple

from dreamgym_jax.envs import miniwob_goals as base
from dreamgym_jax.text import actions, states

REPLY, FORWARD, DELETE, STAR = 'Reply', 'Forward', 'Delete', 'Star'
# Words with a capital that are no names in any instruction.
_NO_NAMES = frozenset('''
Alexa Answer Ask Automatically Can Copy Could Create Delete Do Email FOrward
Find First Flag For Forward Foward Get Give Go Hi Highlight I If Important In
Jend Just Let Locate Look Make Mark May NAME Navigate Open Please Primary Pull
Put Remind Replay Reply Resend Respond Save Say Search Select Send Set Simply
Siri Star Tag Take Tell Text Thanks The There Throw To Trash Tuesday WiIl Will
You
'''.split())
_NAME = re.compile(r"\b[A-Z][a-zA-Z-]*")
_DELETE = re.compile(
    r"delete|rid of|trash|remove|throw|recycling|out of my|don't want", re.I)


class Order(NamedTuple):
  """What is to be done, with whose letter."""

  action: str
  sender: str
  text: str = ''     # of the answer, or whom the letter is forwarded to

  def __str__(self) -> str:
    """As the verdict names it."""
    return f'{self.action} {self.sender}' + (self.text and f' {self.text}')


def read_order(instruction: str) -> Order:
  """The order of any template; raises InstructionError if there is none."""
  quoted = re.search(r'"(.*)"', instruction)
  rest = instruction.replace(quoted[0], ' ') if quoted else instruction
  names = list(dict.fromkeys(
      n for n in _NAME.findall(rest) if n not in _NO_NAMES))
  if quoted and len(names) == 1:
    return Order(REPLY, names[0], quoted[1].strip('" '))
  if not quoted and len(names) == 2:
    return Order(FORWARD, *_from_and_to(rest, *names))
  if not quoted and len(names) == 1:
    return Order(DELETE if _DELETE.search(rest) else STAR, names[0])
  raise base.InstructionError(f'no order: {instruction[:80]!r}')


def _from_and_to(text: str, first: str, second: str) -> tuple[str, str]:
  """Which of two names wrote the letter, which is to have it."""
  def says(pattern):
    return re.search(pattern, text)
  if says(rf'\bto {second}\b'):
    return first, second
  if says(rf'\bto {first}\b') or says(rf'\b(?:from|by) {second}\b'):
    return second, first
  if says(rf"\b(?:from|by) {first}\b") or says(rf"\b{first}'s"):
    return first, second
  return second, first       # "Forward DEST the message NAME sent you."


class _View(NamedTuple):
  """One screen of the program."""

  elements: base.Elements

  def button(self, name: str) -> states.Element | None:
    return next((e for e in self.elements
                 if e.role == 'button' and e.name.split(' ')[0] == name), None)

  def line(self, start: str) -> str:
    """What follows `start` in the line of text that begins with it."""
    return next((e.description.removeprefix(start).strip()
                 for e in self.elements
                 if e.role == 'text' and e.description.startswith(start)), '')

  def thread(self, sender: str) -> base.Elements:
    """A letter in the list, with its buttons."""
    lines: base.Elements = []
    for e in self.elements:
      if e.role == 'clickable':
        if lines:
          break
        if self.sender_of(e) == sender:
          lines = [e]
      elif lines and e.role == 'button':
        lines.append(e)
    return lines

  def sender_of(self, target: states.Element) -> str:
    """Whose letter an element belongs to; '' if to none."""
    if shown := self.line('from:') or self.line('to:'):
      return shown
    sender = ''
    for e in self.elements:
      if e.role == 'clickable':
        sender = e.name.partition(' - ')[0]
      if e == target:
        break
    return sender


def _order(match: re.Match, elements: base.Elements) -> base.Goal:
  order = read_order(match[0])
  view = _View(elements)
  if view.button('Send'):
    return _write(order, view)
  if shown := view.line('from:'):
    return _letter(order, view, shown)
  lines = view.thread(order.sender)
  close = next((b for b in map(view.button, ('Close', 'Back')) if b), None)
  if not lines:
    if close is None:
      raise base.GoalError(f'no letter by {order.sender}')
    return _goal(order, view, move=base.click(close, f'find {order.sender}:'))
  target = next((e for e in lines[1:] if e.name.split(' ')[0] == order.action),
                None)
  if target is None:
    return _goal(order, view, move=base.click(lines[0], 'open'))
  return _goal(order, view, finish=target.id)


def _letter(order: Order, view: _View, shown: str) -> base.Goal:
  """A letter is open."""
  name = order.action if shown == order.sender else 'Back'
  target = view.button(name)
  if target is None:
    raise base.GoalError(f'no button {name}')
  if name in (DELETE, STAR):
    return _goal(order, view, finish=target.id)
  return _goal(order, view, move=base.click(target, f'{order.action}:'))


def _write(order: Order, view: _View) -> base.Goal:
  """An answer or a copy is being written."""
  send, cancel = view.button('Send'), view.button('Cancel')
  boxes = base.with_role(view.elements, 'textbox')
  is_forward = bool(boxes)
  areas = base.with_role(view.elements, 'textarea')
  action = FORWARD if is_forward else REPLY
  whose = view.sender_of(send)
  box = (boxes or areas or [None])[0]
  if box is None or cancel is None:
    raise base.GoalError('nothing to write in')
  done = Order(action, whose, box.value or base.NONE)
  # A letter that is forwarded must stay as it was.
  is_spoilt = any(a.name.endswith('changed') for a in areas)
  if is_spoilt:
    done = done._replace(text=f'{done.text} changed')
  move = None
  if (action, whose) != order[:2] or is_spoilt:
    move = base.click(cancel, f'{order.action} {order.sender}:')
  elif box.value != order.text:
    move = (f'{box.label} need {order.text}',
            actions.Action('fill', box.id, order.text))
  return base.Goal(finish=send.id, move=move,
                   items=(('', str(order), str(done)),))


def _goal(order: Order, view: _View, **kwargs) -> base.Goal:
  """A goal whose verdict is about the button that is clicked."""
  def have(target: states.Element) -> str:
    return str(Order(target.name.split(' ')[0], view.sender_of(target)))
  return base.Goal(need=str(order), have_of=have, **kwargs)


_ONE = (r'Find the email by \S+ and (?:forward that email to .*\.|reply to '
        r'them with the text ".*"\.|click the trash icon to delete it\.|click '
        r'the star icon to mark it as important\.)')
_ANY = r'(?s).*\S.*'
_ROLES = 'text clickable button'

FAMILIES = (
    *(base.family(name, _ONE, _order, _ROLES) for name in (
        'email-inbox', 'email-inbox-delete', 'email-inbox-forward',
        'email-inbox-important', 'email-inbox-noscroll', 'email-inbox-reply',
        'email-inbox-star-reply')),
    *(base.family(name, _ANY, _order, _ROLES) for name in (
        'email-inbox-forward-nl', 'email-inbox-forward-nl-turk',
        'email-inbox-nl-turk')),
)
