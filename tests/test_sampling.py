"""The sampler: what a row says depends on its key and its stream alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamgym_jax import sampling
from dreamgym_jax.models import decoding, transformer

CFG = transformer.ModelConfig(V=37, D=16, N=2, H=4, K=2, d=8, F=24)
STOP = (5, 6, 7, 8)
PROMPTS = [[1, 2, 3], [4, 5, 6, 9, 10, 11, 12, 13, 14], [20], [1, 2, 3],
           [15] * 6]


@pytest.fixture(scope='module')
def params():
  return jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), CFG)


def make(n_rows=5, capacity=48, **kw):
  kw = {'row_buckets': (3,), 'token_buckets': (4, 8),
        'column_buckets': (0, 16), **kw}
  return sampling.Sampler(CFG, n_rows, capacity, **kw)


def turn(sampler, params, rows, inputs, seed=0, **kw):
  kw = {'streams': rows, 'temperature': 1.0, 'max_new': 11, 'stop': STOP,
        'watch': STOP, **kw}
  return sampler.turn(params, rows, inputs, key=jax.random.key(seed), **kw)


def two_turns(sampler, params, rows, streams, **kw):
  """Tokens of a first turn on PROMPTS[streams] and of a second one."""
  sampler.start(sampler.n_rows)
  first = turn(sampler, params, rows, [PROMPTS[i] for i in streams],
               streams=streams, **kw)
  then = turn(sampler, params, rows, [[i + 1, 2] for i in streams], seed=1,
              streams=streams, **kw)
  return list(zip(first, then, strict=True))


@jax.jit
def scores(params, tok_1xT):
  """The scorer: all log-probs [T, V] of one stream, padded to one shape."""
  n = tok_1xT.shape[1]
  z = transformer.forward(
      params, tok_1xT, jnp.arange(n)[None], jnp.ones_like(tok_1xT), CFG)
  return jax.nn.log_softmax(z, -1)[0]


def score(params, stream):
  tok = np.zeros((1, 48), np.int32)
  tok[0, :len(stream)] = stream
  return np.asarray(scores(params, tok))[:len(stream)]


@pytest.fixture(scope='module')
def reference(params):
  return two_turns(make(), params, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


def test_logp_and_watch_equal_the_scorer(params, reference):
  lengths = set()
  for i, turns in enumerate(reference):
    stream = []
    for t, given in zip(turns, (PROMPTS[i], [i + 1, 2]), strict=True):
      stream += given
      begin = len(stream)
      stream += t.tokens.tolist()
      lengths.add(len(t.tokens))
      logp = score(params, stream)
      want = logp[np.arange(begin - 1, len(stream) - 1), stream[begin:]]
      np.testing.assert_allclose(t.logp, want, atol=1e-5)
      np.testing.assert_allclose(t.watch, logp[-2, list(STOP)], atol=1e-5)
      assert t.stopped == (stream[-1] in STOP)
      assert t.stopped or len(t.tokens) == 11
      assert not set(t.tokens[:-1].tolist()) & set(STOP)
  assert len(lengths) > 2  # some rows left the batch before others


@pytest.mark.parametrize('n_drafted', [0, 2])
def test_logp_is_that_of_the_temperature_and_watch_the_plain_models(
    params, n_drafted):
  """Barred tokens count all the same: nothing bars them in training."""
  hot, barred = 0.4, (9, 20)
  sampler = make(n_drafted=n_drafted)
  sampler.start(1)
  got, = turn(sampler, params, [0], [PROMPTS[1]], temperature=hot,
              barred=barred)
  stream = PROMPTS[1] + got.tokens.tolist()
  logp = score(params, stream)
  scaled = np.asarray(jax.nn.log_softmax(logp / hot, -1))
  begin = len(PROMPTS[1])
  want = scaled[np.arange(begin - 1, len(stream) - 1), stream[begin:]]
  np.testing.assert_allclose(got.logp, want, atol=1e-5)
  np.testing.assert_allclose(got.watch, logp[-2, list(STOP)], atol=1e-5)


@pytest.mark.parametrize('rows,streams,buckets', [
    ([3], [1], {}),                                     # alone
    ([4, 0, 2], [4, 1, 0], {}),                         # other slots and mates
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], {
        'row_buckets': (), 'token_buckets': (3,), 'column_buckets': ()}),
])
def test_text_does_not_depend_on_batch_slot_or_bucket(
    params, reference, rows, streams, buckets):
  got = two_turns(make(**buckets), params, rows, streams)
  for i, turns in zip(streams, got, strict=True):
    for a, b in zip(turns, reference[i], strict=True):
      assert a.tokens.tolist() == b.tokens.tolist()
      np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)


@jax.jit
def choose(z_RxV, seed, stream_R, t_R):
  key = jax.random.key_data(jax.random.key(seed))
  draw = decoding.Draw(jnp.tile(key, (len(stream_R), 1)), stream_R,
                       jnp.float32(1), jnp.int32(37), jnp.float32(1), None,
                       jnp.zeros(z_RxV.shape[1], bool), jnp.zeros(1, int))
  u_R = decoding.luck(draw, t_R[:, None])[:, 0]
  return decoding.choose(z_RxV, u_R, draw, False)[0]


def test_keys_streams_and_token_index_all_matter():
  """Of eleven even draws, some differ just where a cause does."""
  same, other, z = jnp.zeros(11, jnp.int32), jnp.arange(11), np.zeros((11, 37))
  assert len(set(choose(z, 0, same, same).tolist())) == 1
  assert len(set(choose(z, 0, same, other).tolist())) > 3
  assert len(set(choose(z, 0, other, same).tolist())) > 3
  assert (choose(z, 0, other, same) != choose(z, 1, other, same)).any()


def test_each_token_is_drawn_with_its_own_index(reference, params):
  """Redrawing the scorer's distributions one by one gives the same text."""
  for i, (first, _) in enumerate(reference):
    n = len(first.tokens)
    logp = score(params, PROMPTS[i] + first.tokens.tolist())
    z = np.pad(logp[len(PROMPTS[i]) - 1:-1], ((0, 11 - n), (0, 0)))
    got = choose(z, 0, jnp.full(11, i), jnp.arange(11))[:n]
    assert got.tolist() == first.tokens.tolist()


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_barred_tokens_are_never_written(params, temperature):
  """What is written in their place keeps the plain model's log-probs."""
  s = make()
  s.start(2)
  free = turn(s, params, [0, 1], PROMPTS[:2], temperature=temperature)
  barred = sorted({int(t) for x in free for t in x.tokens})
  s.start(2)
  for x, given in zip(
      turn(s, params, [0, 1], PROMPTS[:2], temperature=temperature,
           barred=barred), PROMPTS, strict=False):
    assert not set(barred) & set(x.tokens.tolist())
    logp = score(params, given + x.tokens.tolist())[len(given) - 1:-1]
    np.testing.assert_allclose(
        x.logp, logp[np.arange(len(x.tokens)), x.tokens], atol=1e-5)


def test_greedy_is_argmax_and_the_limit_of_low_temperature(params):
  s, out = make(), []
  for temperature in (0.0, 1e-4):
    s.start(2)
    out.append(turn(s, params, [0, 1], PROMPTS[:2],
                    temperature=temperature, stop=()))
  for greedy, cold, prompt in zip(*out, PROMPTS[:2], strict=True):
    assert greedy.tokens.tolist() == cold.tokens.tolist()
    logp = score(params, prompt + greedy.tokens.tolist())
    assert (logp[len(prompt) - 1:-1].argmax(-1) == greedy.tokens).all()


def test_top_k_one_is_greedy_and_top_p_keeps_the_nucleus(params):
  s = make()
  s.start(1)
  greedy = turn(s, params, [0], [[1, 2]], temperature=0.0)[0]
  s.start(1)
  top1 = turn(s, params, [0], [[1, 2]], top_k=1)[0]
  assert top1.tokens.tolist() == greedy.tokens.tolist()
  z = jnp.log(jnp.array([[0.1, 0.5, 0.05, 0.3, 0.05]]))
  draw = decoding.Draw(None, None, None, jnp.int32(5), jnp.float32(0.7), None,
                       None, None)
  kept = jnp.isfinite(decoding._filtered(z, draw))
  assert kept.tolist() == [[False, True, False, True, False]]


def test_inverse_cdf_has_the_right_frequencies():
  p = np.zeros((1, 70), np.float32)
  p[0, [0, 31, 32, 69]] = 0.1, 0.2, 0.3, 0.4
  u = (np.arange(1000, dtype=np.float32) + 0.5) / 1000
  got = decoding._inverse_cdf(jnp.tile(p, (1000, 1)), jnp.asarray(u))
  count = np.bincount(got, minlength=70)
  np.testing.assert_allclose(count / 1000, p[0], atol=2e-3)
  edge = decoding._inverse_cdf(jnp.asarray(p[:, :69].repeat(2, 0)),
                               jnp.array([0.0, 1.0]))
  assert edge.tolist() == [0, 32]


def test_force_and_logp_after_equal_what_turn_reported(params, reference):
  s = make()
  s.start(5)
  s.feed(params, range(5), PROMPTS)
  first = [t[0] for t in reference]
  after = s.logp_after(params, range(5))
  np.testing.assert_allclose(
      after[np.arange(5), [t.tokens[0] for t in first]],
      [t.logp[0] for t in first], atol=1e-5)
  assert s.logp_after(params, [2], STOP).shape == (1, 4)
  forced = s.force(params, range(5), [t.tokens for t in first])
  for got, want in zip(forced, first, strict=True):
    np.testing.assert_allclose(got, want.logp, atol=1e-5)


def test_what_follows_an_answer_is_known(params):
  """Also for rows that finished before others of their chunk."""
  s = make()
  turns = turn(s, params, [0, 1, 2, 3, 4], PROMPTS)
  assert len({len(t.tokens) for t in turns}) > 1
  after = s.logp_after(params, range(5))
  for i, t in enumerate(turns):
    want = score(params, PROMPTS[i] + t.tokens.tolist())[-1]
    np.testing.assert_allclose(after[i], want, atol=1e-5)


def test_undo_goes_back_to_before_the_answer(params):
  s = make()
  s.start(2)
  first = turn(s, params, [0, 1], PROMPTS[:2])
  last = s.undo([1])
  assert last == PROMPTS[1][-1:]
  again = turn(s, params, [1], [last])[0]
  assert again.tokens.tolist() == first[1].tokens.tolist()
  with pytest.raises(ValueError, match='row 0 has no answer'):
    s.undo([0])
    s.undo([0])


def test_a_forgotten_row_serves_another_stream(params, reference):
  """A used slot says what a fresh one says; its neighbours go on."""
  s = make()
  turn(s, params, [0, 1, 2, 3, 4], PROMPTS)
  s.forget([3])
  assert s.fill(3) == 0 and s.fits(3, 48) and s.fill(2) > 0
  with pytest.raises(ValueError, match='row 3 has no answer'):
    s.undo([3])
  with pytest.raises(ValueError, match=r'rows \[3\] are empty'):
    s.logp_after(params, [3])
  # Row 3 begins stream 1, row 2 takes its second turn, in one call: each with
  # the key of its own.
  keys = jax.random.wrap_key_data(np.stack(
      [jax.random.key_data(jax.random.key(i)) for i in (0, 1)]))
  got = s.turn(params, [3, 2], [PROMPTS[1], [3, 2]], key=keys, streams=[1, 2],
               temperature=1.0, max_new=11, stop=STOP)
  for a, b in zip(got, (reference[1][0], reference[2][1]), strict=True):
    assert a.tokens.tolist() == b.tokens.tolist()
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5)


def test_nothing_compiles_after_precompile(params):
  s = make(capacity=32)
  s.precompile(params, n_watch=len(STOP))
  events = []
  jax.monitoring.register_event_duration_secs_listener(
      lambda name, *_, **__: events.append(name)
      if 'backend_compile' in name else None)
  before = decoding.n_compiles()
  turn(s, params, [0, 1, 2, 3, 4], PROMPTS)
  turn(s, params, [4, 1], [[3] * 9, [1]], temperature=0.0, max_new=3)
  turn(s, params, [2], [[3]], max_new=1, stop=(1, 2, 3))
  assert decoding.n_compiles() == before and not events
  jax.jit(lambda x: x + 3)(jnp.ones(13))
  assert events  # the listener works


def test_no_call_copies_the_cache(params):
  """Temporaries of each call stay far below a cache of long rows."""
  n_rows, n = 64, 4
  memory = decoding.memory(CFG, n_rows, 4_096)
  size = sum(x.nbytes for x in jax.tree.leaves(memory))
  none, row_R = np.zeros(n, np.int32), np.arange(n)
  fill_B = np.zeros(n_rows, np.int32)
  draw = decoding.make_draw(CFG.V, jax.random.key(0), row_R, 1.0)
  calls = {
      'extend': decoding.extend.lower(
          params, *memory, fill_B, row_R, np.zeros((n, 8), np.int32), none,
          cfg=CFG, columns=64, is_scored=False),
      'decode': decoding.decode.lower(
          params, *memory, fill_B, row_R, none, none, draw, cfg=CFG,
          columns=64, is_filtered=False),
      'copy': decoding.copy.lower(*memory, row_R, row_R, columns=64)}
  for name, call in calls.items():
    used = call.compile().memory_analysis().temp_size_in_bytes
    assert used < size / 8, name


def test_bad_calls_say_why_and_change_nothing(params):
  s = make(n_rows=2, capacity=16)
  with pytest.raises(sampling.SamplerFull, match='row 1 .*capacity=16'):
    turn(s, params, [0, 1], [[1], [1] * 6], max_new=11)
  assert s.fill(0) == s.fill(1) == 0
  assert s.fits(1, 16) and not s.fits(1, 17)
  with pytest.raises(sampling.SamplerFull, match='3 rows'):
    s.start(3)
  with pytest.raises(sampling.SamplerFull, match='row 2 of a sampler of 2'):
    s.feed(params, [2], [[1]])
  with pytest.raises(ValueError, match='repeated'):
    s.feed(params, [0, 0], [[1], [2]])
  with pytest.raises(ValueError, match='row 0 is empty'):
    turn(s, params, [0], [[]])
  with pytest.raises(ValueError, match='empty'):
    s.logp_after(params, [0])
  with pytest.raises(ValueError, match='feed it before force'):
    s.force(params, [0], [[1]])
  assert turn(s, params, [], []) == []
