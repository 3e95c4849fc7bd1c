"""GiGPO (arXiv 2505.10978): GRPO whose actions are also compared by state.

The advantage of a token is the episode's among the attempts at its task plus a
weight times the turn's among the visits to the state that it started from. The
update is `learner.make_grpo_step`.
"""

from collections.abc import Callable, Hashable, Sequence

import jax
import numpy as np

from dreamgym_jax import advantages
from dreamgym_jax.learners import grpo, ppo


def gigpo_streams(
    tokens: Sequence[np.ndarray],
    is_action: Sequence[np.ndarray],
    logp: Sequence[np.ndarray],
    rewards: Sequence[np.ndarray],
    states: Sequence[Sequence[Hashable]],
    reward_JxG: np.ndarray,
    success_JxG: np.ndarray,
    valid_JxG: np.ndarray,
    discount: float = 0.95,
    step_weight: float = 1.0,
    advantage: Callable[..., jax.Array] = advantages.group_advantage,
    step_advantage: Callable[..., jax.Array] = advantages.step_advantage,
) -> grpo.GrpoData:
  """Rollouts of J groups of G, as streams with advantages. Host only.

  As `grpo.grpo_streams`, with the same rule of who is left out, and

  Args:
    tokens: J * G arrays [T], row-major.
    is_action: for each, [T] true where the policy wrote the token.
    logp: for each, [T] the sampler's log-prob of the token (where is_action).
    rewards: for each, [L] the reward of each turn.
    states: for each, L states (any hashable, e.g. the text) before each
      action; equal ones of one task are one anchor.
    reward_JxG: of the episode.
    success_JxG: raw success, 0 or 1.
    valid_JxG: false for malformed or crashed episodes.
    discount: of later rewards, per turn.
    step_weight: omega, of the turn's advantage.
    advantage: of episodes; (reward_JxG, valid_JxG) -> the same shape.
    step_advantage: of turns; (return_L, task_L, state_L, valid_L) -> [L].

  Raises:
    ValueError: numbers of turns, rewards and states do not agree.
  """
  valid_JxG = np.asarray(valid_JxG, bool)
  turn_of = [ppo.turns(a) for a in is_action]
  for i, turn_T in enumerate(turn_of):
    n = int(turn_T.max(initial=-1)) + 1
    if not n == len(rewards[i]) == len(states[i]):
      raise ValueError(
          f'rollout {i} has {n} turns, {len(rewards[i])} rewards and '
          f'{len(states[i])} states'
      )
  count = [len(s) for s in states]
  episode_L = np.repeat(np.arange(len(count)), count)
  # Numbered in order of appearance: no two states share an id, as hashes may.
  number: dict[Hashable, int] = {}
  state_L = [number.setdefault(s, len(number)) for row in states for s in row]
  # Padded to a power of two, so that few shapes compile.
  room = (0, 2 ** int(np.ceil(np.log2(max(len(state_L), 1)))) - len(state_L))
  reward_L = np.pad(np.concatenate([*rewards, []]).astype(np.float32), room)
  valid_L = np.pad(valid_JxG.reshape(-1)[episode_L], room)
  episode_L = np.pad(episode_L, room, constant_values=-1)
  state_L = np.pad(np.array(state_L, int), room, constant_values=-1)
  return_L = jax.jit(advantages.discounted_returns)(
      reward_L, episode_L, discount
  )
  adv_L = jax.jit(step_advantage)(
      return_L, episode_L // valid_JxG.shape[1], state_L, valid_L
  )
  bonus = []
  parts = np.split(np.asarray(adv_L), np.cumsum(count))[:-1]
  for turn_T, part_L in zip(turn_of, parts, strict=True):
    # The last entry, 0, is what turn -1 reads.
    bonus.append(step_weight * np.append(part_L, 0)[turn_T])
  return grpo.grpo_streams(
      tokens, is_action, logp, reward_JxG, success_JxG, valid_JxG, advantage,
      bonus,
  )
