"""Where the dream knows no page it ends the episode."""

import dataclasses

import pytest
from scripted import CHANGES, FILLED, PAGE, SETTINGS, make, make_prompts, one

from dreamgym_jax.text import prompts, states


@pytest.fixture(scope='module')
def prompt():
  return make_prompts()


MADE_UP = '[1] = a\n[2] button: karrie'
THERE = '[1] textbox: = a\n[2] button: karrie'


def test_a_page_that_was_made_up_ends_the_episode(prompt):
  dream, _ = make(prompt, [('changes', MADE_UP, 'cont')],
                  SETTINGS._replace(halts=True))
  seen = one(dream, 'click [2]')
  assert seen[:5] == (states.UNKNOWN, 0.0, True, False, 'changes')
  assert not seen.is_malformed and seen.success_prob == -1
  assert dream.counts['halted'] == 1
  dream, _ = make(prompt, [('changes', MADE_UP, 'cont')])
  assert one(dream, 'click [2]')[:3] == (THERE, 0.0, False)


def test_what_is_small_or_retrieved_or_known_goes_on(prompt):
  back = states.diff(THERE, FILLED)
  assert '\n' in back
  demo = prompts.Demo('click [2]', 'button: Submit', MADE_UP, 0.0, False, True)
  dream, _ = make(
      dataclasses.replace(prompt, refers=True),
      [CHANGES, ('changes', 'shown', 'cont'), ('changes', back, 'cont'),
       ('changes', MADE_UP, 'cont')],
      SETTINGS._replace(halts=True, max_steps=9), retrieve=lambda *a: [[demo]])
  seen = [one(dream, 'fill [1] vina'),
          *(one(dream, 'click [2]') for _ in range(3))]
  assert [o.state for o in seen] == [FILLED, THERE, FILLED, THERE]
  assert not any(o.done for o in seen) and not dream.counts['halted']


def test_a_halted_row_can_be_put_on_the_real_page(prompt):
  """As the gate does: the stream then tells M_exp what it did not know."""
  dream, sampler = make(prompt, [('changes', MADE_UP, 'cont'), CHANGES],
                        SETTINGS._replace(halts=True))
  one(dream, 'click [2]')
  dream.follow([0], [FILLED])
  dream.step([0], ['fill [1] vina'])
  told = prompt.observe(PAGE, FILLED)
  assert told and sampler.calls[1]['inputs'][0][:len(told)] == told
