"""RAFT: the policy learns from its own wins alone.

Rejection sampling as reinforcement: advantage 1 for what succeeded (Dong et
al., arXiv 2304.06767), with the ratio clipped and groups without a failure or
without a success left out (RAFT++ and Reinforce-Rej; Xiong et al., arXiv
2504.11343). No token is pushed down, so that a small policy does not forget on
the way. Its streams are GRPO's with `advantages.win_advantage`, less those
without any; the update is `learner.make_grpo_step`.
"""

import itertools

from dreamgym_jax.learners import grpo


def only_wins(data: grpo.GrpoData) -> grpo.GrpoData:
  """Without the rollouts whose advantage is not positive."""
  is_won_JxG = data.adv_JxG > 0
  return data._replace(
      streams=list(itertools.compress(
          data.streams, is_won_JxG[data.is_used_JxG])),
      is_used_JxG=data.is_used_JxG & is_won_JxG)
