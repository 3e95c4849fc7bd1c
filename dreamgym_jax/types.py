"""The nouns every module shares: tasks, transitions, episodes, worlds.

Shape letters, used as suffixes of array names throughout the package:
  B rows (episodes in a batch)   G group size       J tasks in a batch
  T tokens                       S cache columns    L turns
  D model width                  F feed-forward     N layers
  H query heads                  K key/value heads  d head width
  V vocabulary                   E embedding of retrieval
  M replay rows                  R retrieved        P packed action positions
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
from flax import struct

Params = Any

REAL, DREAMED, GENERATED = 'real', 'dreamed', 'generated'
RULE = 'rule'


@dataclasses.dataclass(frozen=True)
class Task:
  """An instruction and the state it starts from (tau in the paper)."""

  family: str               # e.g. 'click-button'; the unit of the gate
  seed: int                 # (family, seed) reproduces a real page; -1 if none
  instruction: str = ''     # filled in by the world's reset
  initial_state: str = ''   # s_0, lines of `[id] role: description`
  source: str = REAL        # 'real', or 'generated' by M_task
  parent: str = ''          # task_id of the seed task of a generated one

  @property
  def task_id(self) -> str:
    if self.source == GENERATED:
      return f'{self.family}/generated/{abs(self.seed)}'
    return f'{self.family}/{self.seed}'


@dataclasses.dataclass(frozen=True)
class Transition:
  """One step (tau, s, a, R, s', r, done) of a real or dreamed episode."""

  state: str
  action: str               # as the policy wrote it, e.g. 'click [3]'
  next_state: str
  reward: float             # outcome reward: 1 at a successful end, else 0
  done: bool
  is_invalid: bool = False  # the action could not be carried out
  reasoning: str = ''       # R (dreamed) or R* (annotated); '' if none
  thought: str = ''         # the policy's own thought before the action
  success_prob: float = -1.0  # M_exp's P(success); -1 in the real world


@dataclasses.dataclass(frozen=True)
class Episode:
  """The transitions of one attempt at one task, with where it came from."""

  task: Task
  transitions: tuple[Transition, ...]
  source: str               # 'real' or 'dreamed'
  behaviour: str            # 'expert', 'noisy', 'near_miss', 'random', 'policy'
  episode_id: str
  is_malformed: bool = False  # M_exp's output did not parse: excluded from RL
  error: str = ''           # a crash or time-out of the real environment
  annotator: str = ''       # of R*: 'rule', or the teacher's model; '' if none

  @property
  def success(self) -> bool:
    return bool(self.transitions) and self.transitions[-1].reward > 0


class Observation(NamedTuple):
  """What a world answers to one action."""

  state: str
  reward: float = 0.0
  done: bool = False
  is_invalid: bool = False
  reasoning: str = ''         # R, in a dreamed world
  success_prob: float = -1.0  # P(success) of the flag, in a dreamed world
  is_malformed: bool = False  # dreamed output did not parse, twice
  error: str = ''             # crash or time-out in a real world


class World(Protocol):
  """A batch of tasks to act in; real (`envs/`) or dreamed (`experience`)."""

  def reset(
      self, tasks: Sequence[Task], rows: Sequence[int] | None = None
  ) -> list[Task]:
    """Start rows on tasks; gives the tasks with instruction and s_0.

    Without `rows` all rows are forgotten, and row i starts on tasks[i]. With
    them rows[i] does, whether its episode had ended or not, and the others go
    on as they were. A row that there was not yet may have any number.
    """

  def step(
      self, rows: Sequence[int], actions: Sequence[str]
  ) -> list[Observation]:
    """Act in the given rows (indices, of those that were reset)."""

  def close(self) -> None:
    """Free browsers, processes and caches."""


class Dream(World, Protocol):
  """A dreamed world: its rows can be put on given states."""

  counts: dict[str, int]    # what went wrong or was put right, by name

  def follow(self, rows: Sequence[int], states: Sequence[str]) -> None:
    """Put rows on given states, e.g. the real ones, before the next step."""


@struct.dataclass
class TrainState:
  """What training changes; a checkpoint of it resumes exactly."""

  step: jax.Array           # [] int32, optimiser updates so far
  params: Params
  opt_state: Any
