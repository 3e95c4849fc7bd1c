"""How far the dream is from the real world: eps_P, eps_R and what they bound.

eps_P: next states, exact and by line, per step of the horizon, and whole
dreamed episodes replayed in the real world. eps_R: confusion and calibration
of M_exp's P(success) against the real verifier. Both on the states that the
policy visits; a supremum over samples is only a lower bound of the true one,
and the report says so.

The dream is decoded greedily and pages are deterministic given their seed, so
the total variation TV(P(.|s,a), P_hat(.|s,a)) of a step is 0 if the next
state and `done` agree and 1 if not: eps_P is the share that disagrees.
"""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dreamgym_jax.audit import gate
from dreamgym_jax.text import actions, states
from dreamgym_jax.types import Episode, Transition

# How a replayed episode first parts from the dream; tested in this order.
INVALIDITY, FALSE_WIN, MISSED_WIN, DONE, STATE, NONE = (
    'invalidity', 'false win', 'missed win', 'done', 'state', 'none')


@dataclasses.dataclass(frozen=True)
class HorizonRow:
  """One-step predictions at one step of the horizon."""

  step: int
  n: int                # determined steps
  exact: float          # share with the exact next state
  line_match: float     # mean share of equal lines
  flag: float           # share with done and success both right
  eps_p: float          # share whose next state or done disagrees (TV)
  eps_r: float          # mean |r - P(success)|
  eps_r_max: float


@dataclasses.dataclass(frozen=True)
class Consistency:
  """Dreamed episodes against the real outcome of the same actions."""

  equal_success: gate.Rate   # of replayed episodes that were not halted
  equal_steps: gate.Rate     # of steps up to the shorter of the two
  equal_episodes: gate.Rate  # nothing ever differs, of those not halted
  wins_kept: gate.Rate       # also won in the real world, of dreamed wins
  divergence: dict[str, int]  # first difference -> episodes
  partings: dict[str, int]   # kind of action that first differs -> episodes
  n_errors: int              # replays the real world failed on; left out
  n_halted: int = 0          # the dream broke off: judged by their steps alone

  def to_json(self) -> dict:
    rates = {name: getattr(self, name).to_json() for name in (
        'equal_success', 'equal_steps', 'equal_episodes', 'wins_kept')}
    return rates | {'divergence': dict(self.divergence),
                    'partings': dict(self.partings),
                    'n_errors': self.n_errors, 'n_halted': self.n_halted}


class Unforeseen(NamedTuple):
  """Steps that nothing before them tells: by whether retrieval showed them."""

  shown: gate.Rate     # a retrieved transition makes the true next state
  taken: gate.Rate     # dreamed exactly, of those that were shown
  guessed: gate.Rate   # dreamed exactly, of the others

  def to_json(self) -> dict:
    return {name: rate.to_json() for name, rate in self._asdict().items()}


@dataclasses.dataclass(frozen=True)
class Reliability:
  """Calibration of probabilities against outcomes, in equal-width bins."""

  count: tuple[int, ...]
  mean_prob: tuple[float, ...]   # 0 in empty bins
  observed: tuple[float, ...]
  ece: float                     # sum_b n_b/n |observed_b - mean_prob_b|
  brier: float                   # mean (p - y)^2


def line_match(real: str, dreamed: str) -> float:
  """Equal lines (as multisets) over the longer of the two; 1 if both empty.

  Lines carry their id, so a line in another place does not match; surplus
  lines count against the dream as missing ones do.
  """
  if real == dreamed:
    return 1.0
  lines_r, lines_d = real.split('\n'), dreamed.split('\n')
  common = collections.Counter(lines_r) & collections.Counter(lines_d)
  return common.total() / max(len(lines_r), len(lines_d))


def success_prob(dreamed: Transition) -> float:
  """P(success) of a dreamed step, or its hard flag where none was kept."""
  if dreamed.success_prob >= 0:
    return min(dreamed.success_prob, 1.0)   # float32 may end just above 1
  return float(gate.is_win(dreamed))


def by_horizon(pairs: Sequence[gate.StepPair]) -> list[HorizonRow]:
  """Fidelity of one-step predictions at steps 0, 1, ... of the horizon."""
  rows = []
  for step in sorted({p.step for p in pairs if p.is_determined}):
    at = [p for p in pairs if p.step == step and p.is_determined]
    exact = [p.dreamed.next_state == p.real.next_state for p in at]
    same_done = [p.dreamed.done == p.real.done for p in at]
    error_r = [abs(gate.is_win(p.real) - success_prob(p.dreamed)) for p in at]
    rows.append(HorizonRow(
        step=step, n=len(at), exact=float(np.mean(exact)),
        line_match=float(np.mean([
            line_match(p.real.next_state, p.dreamed.next_state)
            for p in at])),
        flag=float(np.mean([gate.is_flag_right(p) for p in at])),
        eps_p=float(1 - np.mean(np.logical_and(exact, same_done))),
        eps_r=float(np.mean(error_r)), eps_r_max=float(np.max(error_r))))
  return rows


def first_divergence(dreamed: Episode, real: Episode) -> tuple[str, int]:
  """What first differs between a dreamed episode and its replay, and where.

  The step is -1 where nothing differs.
  """
  t = -1
  for t, (d, r) in enumerate(
      zip(dreamed.transitions, real.transitions, strict=False)):
    kind = _divergence(d, r)
    if kind != NONE:
      return kind, t
  # A replay stops where the real episode ends, so unequal lengths without a
  # difference before mean that one world went on where the other did not.
  if len(dreamed.transitions) != len(real.transitions):
    return DONE, t
  return NONE, -1


def kind_of(step: Transition) -> str:
  """What was done: verb and role, of a button also its name.

  Names of links and fields are as many as there are pages; buttons are what a
  site is made of.
  """
  try:
    action = actions.parse(step.action)
  except actions.ActionError:
    return 'malformed'
  for element in states.parse(step.state):
    if element.id == action.element:
      name = f': {element.name}' if element.role == 'button' else ''
      return f'{action.verb} {element.role}{name}'
  takes_element, _ = actions.VERBS[action.verb]
  return f'{action.verb} nothing' if takes_element else action.verb


def unforeseen(pairs: Sequence[gate.StepPair]) -> dict[str, Unforeseen]:
  """By kind of action, most frequent first: steps that are not determined."""
  kinds: dict[str, list[gate.StepPair]] = {}
  for pair in pairs:
    if not pair.is_determined:
      kinds.setdefault(kind_of(pair.real), []).append(pair)

  def rate(outcomes: Sequence[bool]) -> gate.Rate:
    return gate.Rate(sum(outcomes), len(outcomes))

  def count(some: Sequence[gate.StepPair]) -> Unforeseen:
    right = [(p.is_shown, p.dreamed.next_state == p.real.next_state)
             for p in some]
    return Unforeseen(rate([p.is_shown for p in some]),
                      rate([ok for is_shown, ok in right if is_shown]),
                      rate([ok for is_shown, ok in right if not is_shown]))

  return {kind: count(kinds[kind])
          for kind in sorted(kinds, key=lambda k: (-len(kinds[k]), k))}


def is_halted(dreamed: Episode) -> bool:
  """Whether the dream broke the episode off, knowing no more."""
  steps = dreamed.transitions
  return bool(steps) and steps[-1].next_state == states.UNKNOWN


def _claimed(dreamed: Episode, real: Episode) -> tuple[Episode, Episode]:
  """Both, up to where the dream broke off, if it did."""
  if not is_halted(dreamed):
    return dreamed, real
  n = len(dreamed.transitions) - 1
  return (dataclasses.replace(dreamed, transitions=dreamed.transitions[:n]),
          dataclasses.replace(real, transitions=real.transitions[:n]))


def _divergence(d: Transition, r: Transition) -> str:
  if d.is_invalid != r.is_invalid:
    return INVALIDITY
  if gate.is_win(d) != gate.is_win(r):
    return FALSE_WIN if gate.is_win(d) else MISSED_WIN
  if d.done != r.done:
    return DONE
  return STATE if d.next_state != r.next_state else NONE


def consistency(pairs: Sequence[tuple[Episode, Episode]]) -> Consistency:
  """World-to-real consistency of (dreamed episode, its real replay) pairs.

  The real episode is made of the dreamed one's actions on the same task, up
  to where either ends (Word2World, arXiv 2512.18832). What a halted dream broke
  off at claims nothing and is not compared. Raises ValueError where a replay
  acted otherwise.
  """
  kept = [_claimed(d, r) for d, r in pairs if not r.error]
  whole = [not is_halted(d) for d, r in pairs if not r.error]
  for d, r in kept:
    for t, (x, y) in enumerate(
        zip(d.transitions, r.transitions, strict=False)):
      if x.action != y.action:
        raise ValueError(f'replay of {d.episode_id!r} acted otherwise at '
                         f'step {t}: {y.action!r}, dreamed {x.action!r}')
  firsts = [first_divergence(d, r) for d, r in kept]
  partings = collections.Counter(
      kind_of(d.transitions[t]) for (d, _), (_, t) in zip(
          kept, firsts, strict=True) if t >= 0)
  steps = [_divergence(x, y) == NONE for d, r in kept
           for x, y in zip(d.transitions, r.transitions, strict=False)]
  won = [r.success for d, r in kept if d.success]
  counts = collections.Counter(kind for kind, _ in firsts)
  ended = list(itertools.compress(zip(kept, firsts, strict=True), whole))
  return Consistency(
      equal_success=gate.Rate(
          sum(d.success == r.success for (d, r), _ in ended), len(ended)),
      equal_steps=gate.Rate(sum(steps), len(steps)),
      equal_episodes=gate.Rate(
          sum(kind == NONE for _, (kind, _) in ended), len(ended)),
      wins_kept=gate.Rate(sum(won), len(won)),
      divergence={kind: counts[kind] for kind in (
          NONE, STATE, DONE, FALSE_WIN, MISSED_WIN, INVALIDITY)},
      partings=dict(partings.most_common()),
      n_errors=len(pairs) - len(kept), n_halted=len(kept) - len(ended))


def confusion(dreamed_N: np.ndarray, real_N: np.ndarray) -> dict[str, int]:
  """2x2 counts of success [N]; keys tp, fp (false wins), fn, tn."""
  d, r = np.asarray(dreamed_N, bool), np.asarray(real_N, bool)
  return {'tp': int((d & r).sum()), 'fp': int((d & ~r).sum()),
          'fn': int((~d & r).sum()), 'tn': int((~d & ~r).sum())}


def reliability(
    prob_N: np.ndarray, success_N: np.ndarray, n_bins: int = 10
) -> Reliability:
  """Reliability curve, ECE and Brier score of P(success) [N].

  ECE as in Guo et al. (arXiv 1706.04599), equal-width bins; 1.0 falls in the
  last one. Raises ValueError for no cases or values outside [0, 1].
  """
  prob_N, success_N = np.asarray(prob_N, float), np.asarray(success_N, float)
  if not prob_N.size or not ((prob_N >= 0) & (prob_N <= 1)).all():
    raise ValueError('want at least one probability, all within [0, 1]')
  bin_N = np.minimum((prob_N * n_bins).astype(int), n_bins - 1)
  count = np.bincount(bin_N, minlength=n_bins)
  per_bin = np.maximum(count, 1)
  mean_prob = np.bincount(bin_N, prob_N, n_bins) / per_bin
  observed = np.bincount(bin_N, success_N, n_bins) / per_bin
  return Reliability(
      count=tuple(map(int, count)), mean_prob=tuple(map(float, mean_prob)),
      observed=tuple(map(float, observed)),
      ece=float((count * np.abs(observed - mean_prob)).sum() / prob_N.size),
      brier=float(np.mean((prob_N - success_N) ** 2)))


def simulation_lemma(
    eps_r: float, eps_p: float, gamma: float, r_max: float = 1.0
) -> float:
  """Lemma 1: |J_M - J_M_hat| <= eps_r/(1-g) + 2 g r_max eps_p/(1-g)^2.

  eps_r, eps_p: suprema over states and actions; infinite horizon.
  """
  if not 0 <= gamma < 1:
    raise ValueError(f'gamma {gamma} is not in [0, 1)')
  return eps_r / (1 - gamma) + 2 * gamma * r_max * eps_p / (1 - gamma) ** 2


def trust_region_bound(
    advantage: float, kl: float, eps_r: float, eps_p: float, gamma: float,
    r_max: float = 1.0,
) -> dict[str, float]:
  """Theorem 1's lower bound of J(pi') - J(pi), and its three terms.

  advantage: E of the dream's advantage under pi'; kl: delta, KL(pi' || pi).
  """
  v_max = r_max / (1 - gamma)
  terms = {'surrogate': advantage / (1 - gamma),
           'trust_region': 4 * gamma * v_max * kl / (1 - gamma) ** 2,
           'model': 2 * simulation_lemma(eps_r, eps_p, gamma, r_max)}
  bound = terms['surrogate'] - terms['trust_region'] - terms['model']
  return terms | {'bound': bound}


def on_policy_bound(
    eps_r_L: Sequence[float], eps_p_L: Sequence[float],
    alive_L: Sequence[float], gamma: float = 1.0, r_max: float = 1.0,
) -> float:
  """Lemma 1 in expectation over one policy's own visits, finite horizon.

  Telescoping J_M - J_M_hat with the dream's values along real visits gives
  |J_M - J_M_hat| <= sum_t g^t alive_t (eps_r_t + g r_max eps_p_t): the
  outcome reward is paid once, so values lie in [0, r_max] and differ in
  expectation by at most r_max TV. All [L], by step: mean |r - r_hat|, mean
  TV, and the share of episodes that reach the step.
  """
  return float(sum(
      gamma ** t * alive * (eps_r + gamma * r_max * eps_p)
      for t, (eps_r, eps_p, alive) in enumerate(
          zip(eps_r_L, eps_p_L, alive_L, strict=True))))


def summary(
    pairs: Sequence[gate.StepPair],
    replays: Sequence[tuple[Episode, Episode]] = (),
    gamma: float = 0.99,
) -> dict:
  """Everything above as one JSON-able dict; {} when there are no pairs.

  Calibration is given over all steps and over ending steps, where it is
  hard: most steps of an episode trivially go on.
  """
  if not pairs:
    return {}
  horizon = by_horizon(pairs)
  n_episodes = len({(p.family, p.episode_id) for p in pairs})
  reached = collections.Counter(p.step for p in pairs)
  eps_r = max((row.eps_r_max for row in horizon), default=0.0)
  eps_p = float(any(row.eps_p for row in horizon))
  return {
      'horizon': [dataclasses.asdict(row) for row in horizon],
      'consistency': consistency(replays).to_json() if replays else None,
      'reward': {'all_steps': _reward(pairs),
                 'last_steps': _reward([p for p in pairs if p.is_last])},
      'bound': {
          'gamma': gamma, 'sup_eps_r': eps_r, 'sup_eps_p': eps_p,
          'sup': simulation_lemma(eps_r, eps_p, gamma),
          'on_policy': on_policy_bound(
              [row.eps_r for row in horizon], [row.eps_p for row in horizon],
              [reached[row.step] / n_episodes for row in horizon]),
      },
  }


def _reward(pairs: Sequence[gate.StepPair]) -> dict:
  real_N = np.array([gate.is_win(p.real) for p in pairs])
  prob_N = np.array([success_prob(p.dreamed) for p in pairs])
  dreamed_N = np.array([gate.is_win(p.dreamed) for p in pairs])
  return {'n': len(pairs), 'confusion': confusion(dreamed_N, real_N),
          'reliability': dataclasses.asdict(reliability(prob_N, real_N))}
