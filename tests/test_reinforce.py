"""The training loop: any algorithm learns, resumes exactly, and is counted."""

import jax
import numpy as np
import pytest

from dreamgym_jax import config, sampling, types
from dreamgym_jax.envs import budget
from dreamgym_jax.models import transformer
from dreamgym_jax.report import writer
from dreamgym_jax.stages import algorithms, judge, reinforce, spending, tasks
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import prompts
from dreamgym_jax.text import tokenizer as tokenizers

PAGE = '[1] textbox: =\n[2] button: Submit'
FAMILY = 'click-button'
OFFLINE = [
    types.Episode(types.Task(FAMILY, i, f'Enter "vina{i}"', PAGE), (),
                  types.REAL, 'expert', str(i)) for i in range(4)]


pytestmark = pytest.mark.usefixtures('quick_compilation')


class Alternating:
  """Two steps; every second row wins, so that groups of two disagree."""

  def reset(self, tasks, rows=None):
    if rows is None:
      self.t, rows = {}, range(len(tasks))
    self.t.update(dict.fromkeys(rows, 0))
    return list(tasks)

  def step(self, rows, actions):
    out = []
    for r in rows:
      self.t[r] += 1
      done = self.t[r] == 2
      out.append(types.Observation(PAGE, float(done and r % 2), done,
                                   is_invalid=not done))
    return out

  def close(self):
    pass


@pytest.fixture(scope='module')
def player():
  tok = tokenizers.train([PAGE, 'Enter "vina" into the field 0123'] * 3, 400)
  cfg = transformer.ModelConfig(
      V=tok.vocab_size, D=16, N=1, H=2, K=1, d=8, F=16)
  sampler = sampling.Sampler(
      cfg, 4, 128, row_buckets=(4,), token_buckets=(64,),
      column_buckets=(0, 128))
  return judge.Player(sampler, prompts.Prompts(tok), 4, 4)


def train(player, workdir, algorithm, iterations=99, limits=(), **settings):
  c = config.defaults()
  c.budget.update(dict(limits))
  c.rl.algorithm = algorithm
  c.rl.tasks, c.rl.group, c.rl.updates, c.rl.max_new = 2, 2, 1, 4
  c.rl.lr = 1e-2
  c.env.families, c.env.max_steps = (FAMILY,), 2
  c.batch.length, c.checkpoint_every = 128, 1
  c.curriculum.pages, c.curriculum.capacity = 4, 8
  m = c.model
  m.D, m.N, m.H, m.K, m.d, m.F, m.unroll = 16, 1, 2, 1, 8, 16, 1
  run = runs.open_run(c, workdir, '', '')
  cfg = run.model_config(player.prompt.tok.vocab_size)
  params = jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), cfg)
  with run.metrics:
    progress = reinforce.train(
        run, player, params, params, Alternating(),
        tasks.open_book(run, OFFLINE),
        reinforce.Settings('dream', types.DREAMED, (FAMILY,), 0.0, runs.DREAM
                           )._replace(**settings),
        until=lambda p: p.iteration >= iterations)
  return progress, params


def test_a_stopped_training_goes_on_as_if_it_had_not(
    player, tmp_path, monkeypatch):
  # PPO, which has most to keep; its functions are compiled once for all three.
  made, make = {}, algorithms.make
  monkeypatch.setattr(
      algorithms, 'make', lambda c, cfg: made.setdefault(0, make(c, cfg)))
  straight, start = train(player, tmp_path / 'a', 'ppo', 4)
  train(player, tmp_path / 'b', 'ppo', 2)
  resumed, _ = train(player, tmp_path / 'b', 'ppo', 4)
  assert straight.transitions == resumed.transitions == 4 * 4 * 2
  # Parameters and optimiser of policy and critic.
  jax.tree.map(np.testing.assert_array_equal, straight.state, resumed.state)
  jax.tree.map(np.testing.assert_array_equal, straight.book.pool,
               resumed.book.pool)
  assert not np.array_equal(straight.state.params['embed'], start['embed'])
  rows = writer.read_metrics(tmp_path / 'b')
  for name in ('success', 'loss', 'tokens', 'transitions'):
    assert [i for i, _ in writer.series(rows, name, 'dream')][-1] == 4, name


def test_a_real_budget_is_kept_to_the_step(player, tmp_path):
  # Two rows of the second iteration act once more, two never.
  progress, _ = train(player, tmp_path, 'grpo', budget=14)
  assert (progress.transitions, progress.iteration) == (14, 2)
  again, _ = train(player, tmp_path, 'grpo', budget=14)
  assert (again.transitions, again.iteration) == (14, 2)


def test_tokens_and_operations_are_counted_through_a_stop(player, tmp_path):
  straight, _ = train(player, tmp_path / 'a', 'grpo', 3)
  train(player, tmp_path / 'b', 'grpo', 1)
  resumed, _ = train(player, tmp_path / 'b', 'grpo', 3)
  spent = straight.spent
  for name in spent.keys() - {'seconds'}:
    assert spent[name] == resumed.spent[name], name
  # Every token of a stream is read or written once, the last one perhaps not
  # run; all are trained on.
  rows = writer.read_metrics(tmp_path / 'a')
  written = 4 * sum(n for _, n in writer.series(rows, 'reply_tokens', 'dream'))
  assert spent['policy/written'] == pytest.approx(written)
  assert spent['policy/trained'] >= spent['policy/written']
  # 96 weights a token in matrices of 16 x 8: see roofline.
  assert spent['flops'] > 6 * 16 * 8 * spent['policy/trained']


@pytest.mark.parametrize('limit', ['tokens', 'flops', 'seconds'])
def test_a_budget_ends_a_training(player, tmp_path, limit):
  two, _ = train(player, tmp_path / 'a', 'grpo', 2)
  used = {'tokens': spending.tokens(two.spent), **two.spent}[limit]
  allowed = 1e-9 if limit == 'seconds' else type(used)(.9 * used)
  stopped, _ = train(player, tmp_path / 'b', 'grpo', limits={limit: allowed})
  assert stopped.iteration == (1 if limit == 'seconds' else 2)


def test_what_the_budget_refuses_is_an_error_on_its_row():
  world = budget.Budgeted(Alternating(), 3, spent=1)
  world.reset([None] * 4)
  seen = world.step([0, 1, 3], ['noop'] * 3)
  assert [o.error for o in seen] == ['', '', budget.SPENT]
  assert world.spent == 3 and seen[2].done
  assert world.reset([None], [2]) == [None]
  assert world.step([0], ['noop'])[0].error == budget.SPENT
  assert world.spent == 3


@pytest.mark.parametrize('after, updates', [('', 1), ('dream', 4)])
def test_an_optimiser_goes_on_or_is_new(player, tmp_path, after, updates):
  train(player, tmp_path, 'grpo', 3)
  progress, _ = train(player, tmp_path, 'grpo', 1, name='transfer', after=after)
  assert int(progress.state.step) == updates


def test_a_stage_may_have_a_rate_of_its_own(player, tmp_path):
  slow, start = train(player, tmp_path / 'a', 'grpo', 3, lr=1e-5)
  fast, _ = train(player, tmp_path / 'b', 'grpo', 3)
  moved = [float(np.abs(p.state.params['embed'] - start['embed']).max())
           for p in (slow, fast)]
  assert 0 < moved[0] < moved[1] / 100
