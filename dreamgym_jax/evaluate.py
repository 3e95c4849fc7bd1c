"""Success rates from finished episodes, and honest differences of them.

In: episodes (from any world). Out: numbers with 95 % intervals. Nothing here
runs a policy. An episode that ended by an error counts as a failure: leaving
it out would flatter a policy that breaks the environment.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from dreamgym_jax.types import Episode

Z95 = 1.96


@dataclasses.dataclass(frozen=True)
class Score:
  """A success rate as counts, with its Wilson 95 % interval."""

  successes: int
  episodes: int
  wilson95: tuple[float, float]

  @property
  def rate(self) -> float:
    return self.successes / self.episodes if self.episodes else math.nan

  def to_json(self) -> dict:
    """The form of a stage in summary.json."""
    return {'successes': self.successes, 'episodes': self.episodes,
            'wilson95': list(self.wilson95)}


@dataclasses.dataclass(frozen=True)
class PairedDifference:
  """success(b) - success(a) on the same tasks, one episode each."""

  diff: float
  ci95: tuple[float, float]  # Newcombe 1998, paired, method 10
  mcnemar_p: float           # exact, two-sided
  n: int                     # tasks
  only_a: int                # tasks that only a solved
  only_b: int

  def to_json(self) -> dict:
    return dataclasses.asdict(self) | {'ci95': list(self.ci95)}


@dataclasses.dataclass(frozen=True)
class SeedsDifference:
  """Mean of success(b) - success(a) over training seeds."""

  diff: float
  ci95: tuple[float, float]        # seeds and tasks both resampled
  ci95_tasks: tuple[float, float]  # tasks resampled, these seeds kept
  per_seed: tuple[float, ...]
  n_tasks: int

  def to_json(self) -> dict:
    return dataclasses.asdict(self) | {
        'ci95': list(self.ci95), 'ci95_tasks': list(self.ci95_tasks),
        'per_seed': list(self.per_seed)}


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
  """Wilson score interval of a proportion; (0, 1) when n is 0.

  (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n); Wilson,
  JASA 22 (1927). Raises ValueError unless 0 <= successes <= n.
  """
  if not 0 <= successes <= n:
    raise ValueError(f'{successes} successes of {n}')
  if n == 0:
    return 0.0, 1.0
  p = successes / n
  centre = p + z * z / (2 * n)
  half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  scale = 1 + z * z / n
  # The bound at p in {0, 1} is exact in theory; rounding may miss it.
  lo = 0.0 if successes == 0 else (centre - half) / scale
  hi = 1.0 if successes == n else (centre + half) / scale
  return lo, hi


def make_score(successes: int, n: int) -> Score:
  return Score(successes, n, wilson(successes, n))


def score(episodes: Sequence[Episode]) -> Score:
  return make_score(sum(e.success for e in episodes), len(episodes))


def by_family(episodes: Sequence[Episode]) -> dict[str, Score]:
  """One score per task family, families sorted by name."""
  groups: dict[str, list[Episode]] = {}
  for episode in episodes:
    groups.setdefault(episode.task.family, []).append(episode)
  return {family: score(groups[family]) for family in sorted(groups)}


def newcombe(a: tuple[int, int], b: tuple[int, int]) -> tuple[float, float]:
  """95 % interval of p_b - p_a for independent (successes, n).

  Newcombe, Statistics in Medicine 17:873 (1998), method 10.
  """
  return _square_and_add(a, b, phi=0.0)


def _square_and_add(
    a: tuple[int, int], b: tuple[int, int], phi: float
) -> tuple[float, float]:
  """Joins two Wilson intervals; phi is the correlation of the two."""
  (lo_a, hi_a), (lo_b, hi_b) = wilson(*a), wilson(*b)
  p_a = a[0] / a[1] if a[1] else 0.5
  p_b = b[0] / b[1] if b[1] else 0.5

  def half(x: float, y: float) -> float:
    return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

  diff = p_b - p_a
  return (max(diff - half(p_b - lo_b, hi_a - p_a), -1.0),
          min(diff + half(hi_b - p_b, p_a - lo_a), 1.0))


def paired_difference(
    a: Sequence[Episode], b: Sequence[Episode]
) -> PairedDifference:
  """Compares two policies on the same tasks, one episode per task.

  Interval: Newcombe, Statistics in Medicine 17:2635 (1998), paired, method
  10 (phi with continuity correction); unlike a bootstrap it does not shrink
  to a point when the two agree everywhere. Test: exact McNemar.
  Raises ValueError unless both hold each task once, and the same tasks.
  """
  wins_a, wins_b = _one_per_task(a), _one_per_task(b)
  if wins_a.keys() != wins_b.keys():
    odd = sorted(wins_a.keys() ^ wins_b.keys())
    raise ValueError(f'{len(odd)} tasks are in one side only: {odd[:5]}')
  n = len(wins_a)
  if not n:
    raise ValueError('no episodes to compare')
  both = sum(wins_a[t] and wins_b[t] for t in wins_a)
  only_a = sum(wins_a[t] and not wins_b[t] for t in wins_a)
  only_b = sum(wins_b[t] and not wins_a[t] for t in wins_a)
  neither = n - both - only_a - only_b
  phi = _paired_phi(both, only_a, only_b, neither)
  discordant = only_a + only_b
  p_value = stats.binomtest(only_b, discordant).pvalue if discordant else 1.0
  return PairedDifference(
      diff=(only_b - only_a) / n,
      ci95=_square_and_add((both + only_a, n), (both + only_b, n), phi),
      mcnemar_p=float(p_value), n=n, only_a=only_a, only_b=only_b)


def _paired_phi(both: int, only_a: int, only_b: int, neither: int) -> float:
  margins = ((both + only_a) * (only_b + neither)
             * (both + only_b) * (only_a + neither))
  if margins == 0:
    return 0.0
  cross = both * neither - only_a * only_b
  if cross > 0:
    cross = max(cross - (both + only_a + only_b + neither) / 2, 0)
  return cross / math.sqrt(margins)


def _one_per_task(episodes: Sequence[Episode]) -> dict[str, bool]:
  wins = {e.task.task_id: e.success for e in episodes}
  if len(wins) != len(episodes):
    raise ValueError('a task appears twice; paired_difference wants one '
                     'episode per task, seeds_difference takes several')
  return wins


def seeds_difference(
    runs: Sequence[tuple[Sequence[Episode], Sequence[Episode]]],
    n_resamples: int = 4000,
    seed: int = 0,
) -> SeedsDifference:
  """Mean success(b) - success(a) over training runs, a pair (a, b) per seed.

  Within a seed both sides must have the same tasks (any number of episodes
  each); tasks may be shared between seeds and are then resampled together.
  `ci95` resamples seeds and tasks (pigeonhole bootstrap, Owen, Annals of
  Applied Statistics 1:386 (2007): errs on the wide side); `ci95_tasks` keeps
  the seeds (stratified), so it speaks of these runs only. Both percentile.
  """
  if not runs:
    raise ValueError('no seeds to compare')
  differences = [_task_differences(a, b) for a, b in runs]
  tasks = sorted(set().union(*differences))
  column = {task: i for i, task in enumerate(tasks)}
  diff_SxU = np.zeros((len(runs), len(tasks)))
  seen_SxU = np.zeros((len(runs), len(tasks)))
  for row, by_task in enumerate(differences):
    for task, value in by_task.items():
      diff_SxU[row, column[task]] = value
      seen_SxU[row, column[task]] = 1.0
  per_seed_S = diff_SxU.sum(1) / seen_SxU.sum(1)

  rng = np.random.default_rng(seed)
  weight_NxU = rng.multinomial(
      len(tasks), np.full(len(tasks), 1 / len(tasks)), n_resamples)
  total_NxS = weight_NxU @ seen_SxU.T
  # A resample may miss all tasks of a seed (few tasks); it says nothing then.
  mean_NxS = np.divide(weight_NxU @ diff_SxU.T, total_NxS,
                       out=np.tile(per_seed_S, (n_resamples, 1)),
                       where=total_NxS > 0)
  chosen_NxS = rng.integers(len(runs), size=(n_resamples, len(runs)))
  both_N = np.take_along_axis(mean_NxS, chosen_NxS, axis=1).mean(1)
  return SeedsDifference(
      diff=float(per_seed_S.mean()), ci95=_percentiles(both_N),
      ci95_tasks=_percentiles(mean_NxS.mean(1)),
      per_seed=tuple(float(d) for d in per_seed_S), n_tasks=len(tasks))


def _task_differences(
    a: Sequence[Episode], b: Sequence[Episode]
) -> dict[str, float]:
  mean_a, mean_b = _mean_by_task(a), _mean_by_task(b)
  if mean_a.keys() != mean_b.keys() or not mean_a:
    raise ValueError('the two sides of a seed must have the same tasks')
  return {task: mean_b[task] - mean_a[task] for task in mean_a}


def _mean_by_task(episodes: Sequence[Episode]) -> Mapping[str, float]:
  wins: dict[str, list[bool]] = {}
  for episode in episodes:
    wins.setdefault(episode.task.task_id, []).append(episode.success)
  return {task: sum(w) / len(w) for task, w in wins.items()}


def _percentiles(value_N: np.ndarray) -> tuple[float, float]:
  lo, hi = np.percentile(value_N, [2.5, 97.5])
  return float(lo), float(hi)
