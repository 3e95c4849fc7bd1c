"""MiniWoB++ pages that are solved by pressing keys: sliders, spinner, shell."""

import re
from collections.abc import Callable

from dreamgym_jax.envs import miniwob_goals as base
from dreamgym_jax.text import actions, states

_SLIDER = re.compile(r'(-?\d+) from (-?\d+) to (-?\d+)')


def _press(element: states.Element, key: str, why: str):
  return why, actions.Action('press', element.id, key)


def _slide(slider: states.Element, want: int):
  """The key that leaves the shortest way; None if there is nothing to do."""
  match = _SLIDER.fullmatch(slider.description)
  if not match:
    raise base.GoalError(f'no slider: {slider.description!r}')
  have, low, high = map(int, match.groups())
  if have == want:
    return None
  page = (high - low) // 5
  ends = {'Home': low, 'End': high, 'PageUp': min(have + page, high),
          'PageDown': max(have - page, low), 'ArrowRight': have + 1,
          'ArrowLeft': have - 1}

  def left(key: str) -> int:
    """Keys still needed after this one, with pages and single steps."""
    pages, steps = divmod(abs(want - ends[key]), max(page, 1))
    return pages + min(steps, page + 1 - steps)

  return _press(slider, min(ends, key=left), f'need {want}')


def _value(slider: states.Element) -> str:
  return slider.description.split()[0]


def _sliders(match: re.Match, elements: base.Elements) -> base.Goal:
  wanted = [int(w) for w in match[1].split(',')]
  sliders = base.with_role(elements, 'slider')
  if len(sliders) != len(wanted):
    raise base.GoalError(f'{len(sliders)} sliders, want {len(wanted)}')
  moves = [_slide(s, w) for s, w in zip(sliders, wanted, strict=True)]
  return base.Goal(
      finish=base.submit(elements), move=next(filter(None, moves), None),
      items=tuple(('', str(w), _value(s))
                  for s, w in zip(sliders, wanted, strict=True)))


def _slider_and_box(match: re.Match, elements: base.Elements) -> base.Goal:
  slider = base.one(base.with_role(elements, 'slider'), 'sliders')
  boxes = base.with_role(elements, 'checkbox')
  nth = int(match[2]) - 1
  if not 0 <= nth < len(boxes):
    raise base.GoalError(f'no checkbox number {nth + 1}')
  fields = tuple(base.box_field(f'checkbox {i + 1}', b, i == nth)
                 for i, b in enumerate(boxes))
  items = [('slider', str(int(match[1])), _value(slider))]
  items += [(f.what, f.want, f.have) for f in fields]
  return base.Goal(fields, base.submit(elements), items=tuple(items),
                   move=_slide(slider, int(match[1])))


def _spinner(match: re.Match, elements: base.Elements) -> base.Goal:
  """The page takes no typing; the keys are steps of one and of ten."""
  box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
  finish = base.named(elements, 'Submit', 'button')
  if finish is None:
    raise base.GoalError('no button Submit')
  want = int(match[1])
  number = re.match(r'\s*[-+]?\d+', box.value)   # as the page reads it
  have = int(number[0]) if number else None
  move = None
  if have is None:
    move = f'need {want}', actions.Action('fill', box.id, str(want))
  elif have != want:
    far = abs(want - have) > 5
    key = ('Page' if far else 'Arrow') + ('Up' if want > have else 'Down')
    move = _press(box, key, f'need {want}')
  return base.Goal(
      finish=finish.id, move=move,
      items=(('', str(want), base.NONE if have is None else str(have)),))


_PROMPT = 'user$'


def _lines(elements: base.Elements) -> list[str]:
  return [e.description for e in base.with_role(elements, 'text')]


def _files(lines: list[str]) -> list[str]:
  """What the last listing showed."""
  for command, answer in reversed(list(zip(lines, lines[1:], strict=False))):
    if command == f'{_PROMPT} ls' and not answer.startswith(_PROMPT):
      return answer.split()
  return []


def _delete(fits: Callable[[str, re.Match], bool]) -> Callable:
  """List the files, then remove one that fits; a key at a time."""

  def read(match: re.Match, elements: base.Elements) -> base.Goal:
    lines = _lines(elements)
    box = base.one(base.with_role(elements, 'textbox'), 'textboxes')
    if not lines or not lines[-1].startswith(_PROMPT):
      raise base.GoalError('no prompt')
    typed = lines[-1].removeprefix(_PROMPT).lstrip()
    typed = typed.replace(base.BLANK, ' ')
    files = _files(lines)
    target = next((f for f in files if fits(f, match)), '')
    if files and not target:
      raise base.GoalError('no such file')
    return base.Goal(finish=box.id, verb='press',
                     move=_type(box, typed, f'rm {target}' if files else 'ls'),
                     items=_deleted(typed, match, fits))

  return read


def _deleted(typed: str, match: re.Match, fits) -> tuple:
  name = typed.removeprefix('rm').strip()
  kind = 'such a file'
  return (('', kind, kind if name and fits(name, match) else
           f'{name or base.NONE}'),)


def _type(box: states.Element, typed: str, command: str):
  """The next key of the command."""
  if typed == command:
    key = 'Enter'
  elif command.startswith(typed):
    key = command[len(typed)]
  else:
    key = 'Backspace'
  return _press(box, 'Space' if key == ' ' else key, f'need {command}')


def _has_ending(name: str, match: re.Match) -> bool:
  if match[1] is None:
    return '.' not in name
  return name.endswith(match[1])


FAMILIES = (
    base.family('use-slider',
                r'Select (-?\d+) with the slider and hit Submit\.', _sliders,
                'slider button'),
    base.family('use-slider-2',
                r'Set the sliders to the combination \[([\d,]+)\] and '
                r'submit\.', _sliders, 'slider button'),
    base.family('form-sequence',
                r'Select (-?\d+) with the slider, click the (\d)\w\w checkbox, '
                r'then hit Submit\.', _slider_and_box,
                'slider checkbox button'),
    base.family('use-spinner',
                r'Select (-?\d+) with the spinner and hit Submit\.', _spinner,
                'textbox button'),
    base.family('terminal',
                r'Use the terminal below to delete a file (?:ending with the '
                r'extension (\..*)|that has no file extension\.)',
                _delete(_has_ending), 'text textbox'),
)
