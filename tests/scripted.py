"""Answers of a sampler that are written down: the dream without a model."""

import jax
import numpy as np

from dreamgym_jax import experience, sampling, types
from dreamgym_jax.text import prompts
from dreamgym_jax.text import tokenizer as tokenizers

PAGE = '[1] textbox: =\n[2] button: Submit'
FILLED = PAGE.replace('=', '= vina')
GOAL = 'Enter "vina" into the text field and press Submit.'
TASK = types.Task('enter-text', 0, GOAL, PAGE)
SETTINGS = experience.Settings(max_steps=4, max_new=24,
                               retry_temperature=0.7)


def make_prompts():
  text = [PAGE, GOAL, 'fill [1] vina click [2] karrie press nothing changes',
          'page same over invalid = need have yes no none'] * 3
  return prompts.Prompts(tokenizers.train(text, 420))


class Scripted:
  """Answers with what it is told to, and remembers what it was asked."""

  def __init__(self, prompt, answers):
    """answers: (reasoning, edit, flag) one after the other, or raw ids."""
    self.prompt, self.answers = prompt, list(answers)
    self.calls, self.undone, self.started = [], [], []
    self.stream = {}

  def start(self, n):
    self.started.append(n)
    self.stream = {r: [] for r in range(n)}
    self.last = {}

  def fits(self, row, n):
    return True

  def fill(self, row):
    return len(self.stream[row])

  def turn(self, params, rows, inputs, **kw):
    self.calls.append({
        'rows': list(rows), 'inputs': [*map(list, inputs)], **kw})
    turns = []
    for row, given in zip(rows, inputs, strict=True):
      self.last[row] = (len(self.stream[row]) + len(given) - 1, given[-1])
      answer = self.answers.pop(0)
      if isinstance(answer, tuple):
        reasoning, edit, flag = answer
        tok = self.prompt.tok
        answer = [*tok.encode(reasoning), tok.tag['edit'], *tok.encode(edit),
                  tok.tag[flag]]
      self.stream[row] += [*given, *answer]
      turns.append(sampling.Turn(
          np.array(answer, np.int32), np.zeros(len(answer), np.float32), True,
          np.log(np.array([0.2, 0.7, 0.1], np.float32))))
    return turns

  def undo(self, rows):
    self.undone.append(list(rows))
    for row in rows:
      del self.stream[row][self.last[row][0]:]
    return [self.last[row][1] for row in rows]


CHANGES = ('changes', '[1] typed', 'cont')
WIN = ('need vina have vina yes', 'over', 'win')
LOSE = ('need vina have none no', 'over', 'lose')
AGAINST_ITSELF = ('need vina have none no', 'over', 'win')
RUBBISH = ('changes', 'rubbish', 'cont')


def make(prompt, answers, settings=SETTINGS, n=1, retrieve=None):
  sampler = Scripted(prompt, answers)
  dream = experience.DreamWorld(
      {}, sampler, prompt, retrieve or experience.no_retrieval, settings,
      jax.random.key(0))
  assert dream.reset([TASK] * n) == [TASK] * n
  return dream, sampler


def one(dream, action):
  return dream.step([0], [action])[0]
