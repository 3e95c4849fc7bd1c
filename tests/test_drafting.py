"""Drafts: the same tokens as without, by fewer calls of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamgym_jax import sampling
from dreamgym_jax.models import drafting, transformer

CFG = transformer.ModelConfig(V=23, D=16, N=2, H=4, K=2, d=8, F=24)
STOP, WATCH = (5,), (5, 6)
# Streams that say things twice, one that does not, and one token alone.
PROMPTS = [[1, 2, 3, 9, 1, 2, 3], [10, 11, 12, 13], [20] * 9, [7],
           [8, 9, 8, 9, 8]]


@pytest.fixture(scope='module')
def params():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(3), CFG)


def play(params, n_drafted, temperature, rows=(0, 1, 2, 3, 4), **kw):
  """Two turns of each row, longer than a chunk; the sampler too."""
  sampler = sampling.Sampler(
      CFG, 5, 160, row_buckets=(2,), token_buckets=(16,),
      column_buckets=(32,), n_drafted=n_drafted)
  kw = {'temperature': temperature, 'max_new': 70, 'stop': STOP,
        'watch': WATCH, **kw}
  turns = [
      sampler.turn(params, list(range(len(rows))),
                   [PROMPTS[i] if t == 0 else [i + 1] for i in rows],
                   key=jax.random.key(t), streams=list(rows), **kw)
      for t in range(2)]
  return turns, sampler


@pytest.mark.parametrize('n_drafted', [1, 4])
@pytest.mark.parametrize('temperature', [0.0, 0.3, 1.0])
def test_the_text_is_the_same_token_for_token(params, temperature, n_drafted):
  plain, _ = play(params, 0, temperature)
  drafted, sampler = play(params, n_drafted, temperature)
  for one, other in zip(sum(plain, []), sum(drafted, []), strict=True):
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.stopped == other.stopped
    np.testing.assert_allclose(one.logp, other.logp, atol=1e-5)
    np.testing.assert_allclose(one.watch, other.watch, atol=1e-5)
  longest = sum(max(len(t.tokens) for t in turn) for turn in plain)
  assert sampler.n_calls <= longest
  if temperature == 0:    # greedy text of a random model goes round and round
    assert longest > 2 * drafting.COLUMNS
    assert sampler.n_calls < .7 * longest


def test_filtered_and_barred_as_without(params):
  how = dict(top_k=3, barred=(1, 2), top_p=.9)
  plain, _ = play(params, 0, 1.0, **how)
  drafted, _ = play(params, 3, 1.0, **how)
  assert [t.tokens.tolist() for t in sum(plain, [])] == [
      t.tokens.tolist() for t in sum(drafted, [])]


def test_a_rows_text_does_not_depend_on_the_others(params):
  (_, together), _ = play(params, 4, 0.3)
  (_, alone), _ = play(params, 4, 0.3, rows=(2,))
  assert alone[0].tokens.tolist() == together[2].tokens.tolist()


def test_an_answer_taken_back_is_written_again(params):
  _, sampler = play(params, 4, 0.0)
  fill = sampler.fill(0)
  again = sampler.undo([0])
  said = dict(key=jax.random.key(1), streams=[0], temperature=0.0, max_new=70,
              stop=STOP)
  sampler.turn(params, [0], [again], **said)
  assert sampler.fill(0) == fill


@pytest.mark.parametrize(('seen', 'wanted'), [
    ([1, 2, 3, 4, 1, 2], [3, 4]),             # two agree
    ([9, 2, 7, 1, 2, 5, 1, 2], [5, 1]),       # the latest of equals
    ([1, 2, 5, 8, 2, 7, 1, 2], [5, 8]),       # more that agree is better
    ([3, 4, 5], [-1, -1]),                    # nothing stands twice
    ([6, 6], [6, -1]),                        # no further than the end
    ([4], [-1, -1]),
])
@pytest.mark.parametrize('padding', [0, 3])
def test_look_up(seen, wanted, padding):
  row = [-1] * padding + seen + [77] * 2      # what lies past the end is old
  found = drafting.look_up(
      jnp.array([row]), jnp.array([padding + len(seen)]), 2)
  assert found.tolist() == [wanted]
