"""Plans: arithmetic by hand, programs as XLA writes them, a compiler."""

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from dreamgym_jax import config, plan
from dreamgym_jax.models import layers, sharding, transformer
from dreamgym_jax.planning import (
  collectives,
  compiling,
  geometries,
  program,
  roofline,
  traffic,
)

CFG = transformer.ModelConfig(
    V=100, D=16, N=2, H=4, K=2, d=8, F=24, dtype='bfloat16')
ONE = roofline.Layout(1, 1, 1, 2, 'none')


def small(topology='v5e:2x2', **plan_keys):
  c = config.defaults()
  m = c.model
  m.D, m.N, m.H, m.K, m.d, m.F, m.dtype = 64, 2, 4, 2, 16, 128, 'bfloat16'
  c.tokenizer.vocab_size = 256
  c.batch.length = c.sampler.capacity = 128
  c.rl.tasks, c.rl.group = 2, 4
  c.plan.update({'topology': topology, **plan_keys})
  return c


@pytest.mark.parametrize('cfg', [CFG, transformer.ModelConfig(
    V=32, D=8, N=1, H=2, K=1, d=4, F=12, tied=False)])
def test_the_number_of_weights_is_that_of_init(cfg):
  params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg))
  assert roofline.n_params(cfg) == transformer.n_params(params)


@pytest.mark.parametrize('name, billions', [
    # As their model cards say; Qwen's has 0.0001e9 of biases more.
    ('llama-3.2-3b', 3.213), ('llama-3.1-8b', 8.030), ('qwen2.5-7b', 7.616)])
def test_the_papers_models_have_their_sizes(name, billions):
  n = roofline.n_params(geometries.MODELS[name])
  assert round(n / 1e9, 3) == pytest.approx(billions, abs=2e-3)


def test_floating_point_operations_by_hand():
  # A layer: 16 * 8 * (2 * 4 + 2 * 2) = 1536 of attention, 3 * 16 * 24 = 1152.
  assert roofline.block_params(CFG) == 2 * (1536 + 1152)
  # 10 tokens that see 5: 20 for each weight; scores and values 4 * H d * 5.
  assert roofline.forward_flops(CFG, 10, 5, 3) == (
      10 * (2 * 5376 + 4 * 2 * 32 * 5), 3 * 2 * 100 * 16)
  layers = 8 * (2 * 5376 + 4 * 2 * 32 * 2)     # 2 rows of 4, seeing 2
  head = 8 * 3200
  work = roofline.train_work(CFG, 2, 4, 'none', False)
  assert work == (3 * (layers + head), 3 * layers + 4 * head, 8)
  with_all = roofline.train_work(CFG, 2, 4, 'block', True)
  assert with_all == (4 * (layers + head), 5 * layers + 5 * head, 8)
  attention = 8 * 4 * 2 * 32 * 2
  dots = roofline.train_work(CFG, 2, 4, 'dots', False)
  assert dots.flops == 3 * layers + 4 * head + attention


def test_bytes_by_hand():
  n = 5376 + 1600 + 5 * 16
  assert roofline.n_params(CFG) == n
  assert roofline.state_bytes(CFG, ONE) == 12 * n
  spread = ONE._replace(data=2, fsdp=2, tensor=2, rows=8)
  assert roofline.weight_bytes(CFG, spread) == n      # data keeps copies
  # Two of keys and values, 2 layers, 2 heads of 8, 2 bytes; over 8 chips.
  assert roofline.cache_bytes(CFG, 8, 10, spread) == 2 * 2 * 2 * 8 * 2 * 80 / 8

  def sent(layout, with_reference=False):
    return roofline.train_link_bytes(CFG, 4, layout, with_reference)

  assert sent(ONE) == {'data': 0, 'fsdp': 0, 'tensor': 0}
  # fsdp alone: bfloat16 forward and backward, float32 gradients; half stays.
  assert sent(ONE._replace(fsdp=2))['fsdp'] == n * (2 + 2 + 4) / 2
  assert sent(ONE._replace(fsdp=2), True)['fsdp'] == n * (3 * 2 + 4) / 2
  # 2 sums of 2 passes in 2 layers, twice 2 * 4 tokens * 16 * 2, half stays.
  assert sent(ONE._replace(tensor=2))['tensor'] == 8 * 2 * 256 / 2
  # float32 gradients of half of the weights, added up and given back.
  assert sent(ONE._replace(data=2, fsdp=2))['data'] == 2 * 4 * n / 2 / 2


def test_times_and_their_bound():
  chip = roofline.Chip(100.0, 1.0, 10.0, 5.0, 0.0)
  t = roofline.times(chip, 2, 400.0, 30.0, 1.0)
  assert t == (2.0, 3.0, 1.0) and t.bound == 'hbm' and t.longest == 3.0


HLO = '''
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8]{0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
}

%unknown (p: f32[4]) -> f32[4] {
  %g = bf16[4,2]{1,0} all-gather(%x), replica_groups=[2,4]<=[4,2]T(1,0)
}

%limit (p: f32[4]) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%t, %three), direction=LT
}

%all-reduce-scatter (p: f32[16]) -> f32[2] {
  %r = f32[16]{0} all-reduce(%p), replica_groups=mesh['a'=2,'b'=4] {'b'}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%c, body=%body, KNOWN
  %v = f32[4] while(%u), condition=%limit, body=%unknown
  %s = f32[2]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, dimensions={0}
  %p = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%x), \
source_target_pairs={{0,1},{1,0}}
  %q = f32[4] collective-permute-done(%p)
  %f = f32[4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter
}
'''.replace('KNOWN', 'backend_config={"known_trip_count":{"n":"5"}}').replace(
    '\\\n', '')


def test_a_loops_collectives_count_as_often_as_it_turns():
  sent = list(collectives.sent(program.parse(HLO, default_trips=7)))
  assert sent == [
      ('all-reduce', 5 * 2 * 32 / 2, 5, (0, 1)),  # 8 float32, both ways
      ('all-gather', 3 * 16 * 3 / 4, 3, (0, 2, 4, 6)),  # 8 bfloat16, 4 parts
      ('reduce-scatter', 64 * 3 / 4, 1, (0, 1, 2, 3)),  # of 16 float32
      ('reduce-scatter', 2 * 4 * 4 * 3 / 4, 1, (0, 1, 2, 3)),
      ('collective-permute', 16, 1, (0, 1))]


def test_a_collective_may_use_the_links_along_its_axes():
  """6 links of 10 B/s: a ring of 4 has two, a pair one, a square four."""
  chip = roofline.Chip(1.0, 1.0, 1.0, 60.0, 0.0, axes=3, ring=4)
  assert roofline.rate(chip, [(4, 4)]) == 20
  assert roofline.rate(chip, [(2, 4)]) == 10
  assert roofline.rate(chip, [(8, 8), (4, 4)]) == 40
  assert roofline.rate(chip._replace(ring=16), [(4, 4), (4, 4)]) == 20
  assert roofline.rate(roofline.CHIPS['h100'], [(4, 8)]) == 450e9
  assert roofline.spans((4, 4, 4), 8) == [(4, 4), (2, 4)]
  place = [(x, y, 0) for x in range(4) for y in range(4)]
  sent = [collectives.Sent('all-gather', 80.0, 1, (0, 4, 8, 12)),
          collectives.Sent('all-reduce', 0.0, 3, tuple(range(16))),
          collectives.Sent('all-gather', 80.0, 1, (0,))]   # of one: nothing
  took = collectives.seconds(chip, sent, place, (4, 4, 4))
  # Half a ring is two hops; a sum goes around twice.
  assert took == pytest.approx(80 / 20 + 2e-6 + 3 * 2 * 4e-6)


def test_hbm_is_touched_once_by_each_operation():
  hlo = '''
%inside (p: f32[8,4], i: s32[]) -> f32[4] {
  %p = f32[8,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %d = f32[1,4]{1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1,4}
}

%update (p: f32[8,4], u: f32[1,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %u = f32[1,4]{1,0} parameter(1)
  %d = f32[8,4]{1,0} dynamic-update-slice(%p, %u, %z)
  ROOT %r = (f32[8,4]{1,0}, f32[1,4]{1,0}) tuple(%d, %u)
}

%body (t: f32[8,4]) -> f32[8,4] {
  %t = f32[8,4]{1,0} parameter(0)
  %a = f32[4]{0} fusion(%t), kind=kLoop, calls=%inside
  %b = f32[4]{0:S(1)} negate(%a)
  %c = (f32[8,4]{1,0}, f32[1,4]{1,0}) fusion(%t, %a), calls=%update
  %e = ((f32[8,4]{1,0}), f32[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%t)
  %f = f32[2,4]{1,0:S(1)} slice-done(%e)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %n = f32[8,4]{1,0} negate(%x)
  %w = f32[8,4] while(%x), condition=%c, body=%body, KNOWN
}
'''.replace('KNOWN', 'backend_config={"known_trip_count":{"n":"5"}}')
  # negate: 128 read and written. A turn: a slice of 16 read and written; 16
  # read for what stays on the chip; 16 read, 16 written in place, 16 beside;
  # 32 fetched ahead.
  assert traffic.touched(program.parse(hlo)) == 2 * 128 + 5 * (
      2 * 16 + 16 + 3 * 16 + 32)


def test_steps_that_unroll_are_carried_on_from_few_layers():
  def step(cfg, start):
    return compiling.Compiled(*(start + cfg.N * n for n in range(5)))

  many = dataclasses.replace(CFG, N=30)
  assert compiling.carried_on(step, many, (1, 3), 7.0) == step(many, 7.0)
  assert compiling.carried_on(step, many, (), 7.0) == step(many, 7.0)


def test_the_search_keeps_to_what_divides_and_puts_what_fits_first():
  job = plan.job_of(small('v5p:4x4x4', model='qwen2.5-7b'))
  found = plan.search(job)
  assert {g.layout.tensor for g in found} <= {1, 2, 4}     # 4 key/value heads
  assert all(g.layout.chips == 64 for g in found)
  fits = [g.bytes <= 0.9 * job.chip.hbm for g in found]
  assert fits == sorted(fits, reverse=True) and any(fits)
  costs = [sum(sum(plan.seconds(job, g, of).values()) for of in (max, sum))
           for g, ok in zip(found, fits, strict=True) if ok]
  assert costs == sorted(costs)
  only = plan.search(job, fsdp=8, tensor=2)
  assert {(g.layout.data, g.layout.fsdp) for g in only} == {(4, 8)}


@pytest.mark.parametrize('keys, names', [
    ({'topology': 'v5p'}, 'plan.topology'), ({'topology': 'v9:2'}, 'v5e'),
    ({'topology': 'v5e:0x2'}, 'no chips'), ({'model': 'gpt'}, 'plan.model'),
    ({'tensor': 3}, 'plan.tensor=3')])
def test_what_cannot_be_planned_names_its_key(keys, names):
  with pytest.raises(config.ConfigError, match=names):
    plan.make(small(**{'compile': False} | keys))


def test_the_last_line_says_whether_it_fits():
  paper = importlib.util.spec_from_file_location('paper', 'configs/paper.py')
  module = importlib.util.module_from_spec(paper)
  paper.loader.exec_module(module)
  c = module.get_config('llama-3.1-8b')
  config.validate(c)
  c.plan.topology = 'h100:8'      # arithmetic alone: no compiler for it here
  assert 'set plan.price' in plan.make(c)
  c.plan.update({'topology': 'v5e:1x1', 'compile': False})
  last = plan.make(c).splitlines()[-1]
  # 20 bytes of each of 8.03e9 weights, of 16 GiB.
  assert last.startswith('does not fit: ')
  assert float(last.split()[3]) > 8.03e9 * 20 / 2**30 - 16


def test_the_real_steps_take_what_a_plan_gives_them(monkeypatch):
  """Compiled for this host, so that it needs no compiler for TPUs."""
  monkeypatch.setattr(compiling, 'devices', lambda topology: jax.devices()[:1])
  check_compiled(plan.make(small(topology='v5e:1x1')))


def test_the_real_steps_compile_for_a_tpu():
  pytest.importorskip(
      'libtpu', reason='pip install -r requirements-plan.txt')
  check_compiled(plan.make(small(fsdp=2, tensor=2, rows=4)))


def test_packed_attention_compiles_for_a_tpu_as_its_kernel():
  """Forward and backward, on a mesh; each chip attends for its own alone."""
  pytest.importorskip(
      'libtpu', reason='pip install -r requirements-plan.txt')
  chips = np.ravel(compiling.devices('v5e:2x2')).tolist()
  mesh = sharding.make_mesh(1, 2, 2, chips)

  def of(shape, dtype, *names):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(
        mesh, sharding.spec(*names)))

  q, k = (of((4, 256, n, 64), 'bfloat16', 'batch', None, 'kv')
          for n in (4, 2))
  loss = jax.grad(lambda *x: layers.attend_packed(*x).sum().astype('float32'))
  built = compiling.build(
      jax.jit(loss), mesh, (q, k, k, of((4, 256), 'int32', 'batch')), {})
  assert 'splash' in built.hlo
  assert not list(collectives.sent(program.parse(built.hlo)))


def check_compiled(text):
  assert text.splitlines()[-1] == 'fits'
  assert 'compiled for the chip' in text
  for step in ('train', 'prefill', 'extend', 'decode'):
    assert any(line.startswith(f'  {step} ') for line in text.splitlines())


def test_without_the_compiler_the_error_names_the_file(monkeypatch):
  def none(**_):
    raise RuntimeError('Unable to find libtpu')

  monkeypatch.setattr(compiling.topologies, 'get_topology_desc', none)
  with pytest.raises(config.ConfigError, match='requirements-plan.txt'):
    plan.make(small())
