"""What every world refuses, in the same words."""

import difflib
from collections.abc import Callable, Iterable, Sequence


class EnvError(RuntimeError):
  """An environment cannot do what was asked; says why and what to do."""


def check_rows(rows: Sequence[int], is_over: Callable[[int], bool]) -> None:
  """Raises ValueError for a row that stands twice or is over."""
  if len(set(rows)) != len(rows):
    raise ValueError(f'the same row twice: {list(rows)}')
  for i in rows:
    if is_over(i):
      raise ValueError(f'the episode of row {i} is over')


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """'; did you mean x or y?', or '' where nothing known is like the name."""
  near = difflib.get_close_matches(name, sorted(known))
  return f'; did you mean {" or ".join(near)}?' if near else ''
