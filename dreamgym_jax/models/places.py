"""Where the rows that take part stand in a call of the sampler.

One by one from the front, with indices that say which rows of the cache they
are; or, on a mesh, each in its own place, so that no row leaves its chip.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Places(NamedTuple):
  """Of a cache's rows."""

  n_rows: int
  is_own: bool              # each row in its own place

  def at(self, rows: Sequence[int]) -> np.ndarray:
    """The places of these rows."""
    return np.array(rows, int) if self.is_own else np.arange(len(rows))

  def index(self, rows: Sequence[int], R: int) -> np.ndarray | None:
    """Their indices, padded to R with one that does not exist; None: all."""
    return None if self.is_own else np.pad(
        np.asarray(rows, np.int32), (0, R - len(rows)),
        constant_values=self.n_rows)

  def lay(self, rows: Sequence[int], x: np.ndarray, R: int) -> np.ndarray:
    """What belongs to these rows, in their places; zeros elsewhere."""
    wide = np.zeros((R, *x.shape[1:]), x.dtype)
    wide[self.at(rows)] = x
    return wide
