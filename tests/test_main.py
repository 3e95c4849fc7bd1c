"""What a user gets wrong: one clear message, in seconds, and nothing is lost.

What flags and the shell meet is started as a command; the rest of the errors
are those of train.EXPECTED, which the command prints without a traceback.
"""

import gzip
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

from dreamgym_jax import checkpoint, config, train, types
from dreamgym_jax.data import trajectories
from dreamgym_jax.envs import chromium
from dreamgym_jax.models import transformer, weights
from dreamgym_jax.stages import run as runs
from dreamgym_jax.text import states, tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMOKE = '--config=configs/webarena.py:smoke'
PRETRAINED = ('collect', 'base', 'experience', 'warmup')
PAGE = '[1] button: Yes\n[2] button: No'


def start(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
      [sys.executable, '-m', 'dreamgym_jax.main', *arguments], cwd=ROOT,
      capture_output=True, text=True, timeout=600)


def complaint(*arguments: str) -> str:
  """What the command says before it fails; never a traceback."""
  done = start(*arguments)
  assert done.returncode not in (0, None)
  assert 'Traceback' not in done.stderr and '  File "' not in done.stderr, (
      done.stderr)
  assert len(done.stderr.strip().splitlines()) <= 6
  return done.stderr


# -- as a command --------------------------------------------------------------


def test_help_names_the_flags_and_the_sizes():
  done = start('--help')
  assert 'Traceback' not in done.stderr
  for word in ('--config', '--workdir', '--mode', '--compile_cache',
               'run|generate|evaluate|report|compare|plan|ship', ':scratch',
               ':smoke', 'config.py'):
    assert word in done.stdout.replace('<', '').replace('>', ''), word


@pytest.mark.parametrize('flags, words', [
    ([SMOKE, '--config.rl.lrr=1'], ['lrr', 'lr']),
    ([SMOKE, '--config.rll.lr=1'], ['rll', 'rl']),
    ([SMOKE, '--config.rl.lr=abc'], ['rl.lr', 'abc']),
    ([SMOKE, '--config.rl.group=2.5'], ['rl.group', '2.5']),
    ([SMOKE, '--config.gate.enforce=perhaps'], ['gate.enforce', 'perhaps']),
    (['--config=configs/webarena.py:huge'], ['huge', 'tiny', 'scratch']),
    (['--config=configs/none.py'], ['configs/none.py']),
    ([SMOKE, '--mode=play'], ['mode', 'run', 'evaluate', 'report']),
    ([SMOKE, '--wrkdir=x'], ['wrkdir']),
    ([SMOKE, '--until=tea'], ['until', 'tea', 'collect', 'gate', 'audit']),
])
def test_a_flag_that_cannot_be_is_named(flags, words, tmp_path):
  workdir = tmp_path / 'run'
  said = complaint(f'--workdir={workdir}', *flags)
  assert all(word in said for word in words), said
  assert not workdir.exists()


def test_arguments_without_a_flag_get_the_usage():
  done = start(SMOKE, 'x')
  assert done.returncode != 0 and 'Traceback' not in done.stderr
  assert done.stderr.strip().endswith('unknown arguments: x')
  assert '--workdir' in done.stderr


def test_a_value_that_cannot_work_is_one_line(tmp_path):
  workdir = tmp_path / 'run'
  said = complaint(SMOKE, f'--workdir={workdir}', '--config.rl.lr=-1')
  assert said.strip() == 'ConfigError: rl.lr=-1.0: must be positive'
  assert not workdir.exists()


def test_a_workdir_below_a_file_is_one_line(tmp_path):
  (tmp_path / 'plain').write_text('mine')
  said = complaint(SMOKE, f'--workdir={tmp_path / "plain" / "run"}')
  assert said.strip().startswith('WorkdirError: cannot write to')
  assert str(tmp_path / 'plain' / 'run') in said and '--workdir' in said
  assert (tmp_path / 'plain').read_text() == 'mine'


# -- as train.main raises it ---------------------------------------------------


def smoke() -> config.D:
  """configs/webarena.py:smoke, read as the command does."""
  source = (ROOT / 'configs' / 'webarena.py').read_text()
  names = {}
  exec(compile(source, 'configs/webarena.py', 'exec'), names)  # noqa: S102
  return names['get_config']('smoke')


def episodes() -> list[types.Episode]:
  """Two demonstrations that a person wrote."""
  made = []
  for i, name in enumerate(('Yes', 'No')):
    task = types.Task('click-button', i, f'Click {name}', PAGE)
    step = types.Transition(
        PAGE, f'click [{i + 1}]', states.OVER, 1.0, True,
        reasoning=f'need {name} have {name} yes', thought=f'need {name}')
    made.append(types.Episode(task, (step,), types.REAL, 'expert', f'e{i}'))
  return made


@pytest.fixture(scope='module')
def sound(tmp_path_factory) -> pathlib.Path:
  """A workdir in which everything before the gate is done."""
  c, path = smoke(), tmp_path_factory.mktemp('sound') / 'run'
  for stage in PRETRAINED:
    checkpoint.write_json_atomic(
        path / 'stages' / f'{stage}.json',
        {'stage': stage, 'seconds': 1.0, 'result': {'transitions': 1}})
  trajectories.write_jsonl(path / runs.OFFLINE, episodes())
  tok = tokenizer.train([PAGE, 'Click Yes', 'Click No need have'] * 20, 400)
  (path / runs.TOKENIZER).write_bytes(tok.model)
  m = c.model
  cfg = transformer.ModelConfig(
      V=tok.vocab_size, D=m.D, N=m.N, H=m.H, K=m.K, d=m.d, F=m.F,
      rope_theta=m.rope_theta, dtype=m.dtype, remat=m.remat)
  params = transformer.init(jax.random.key(0), cfg)
  for name in ('base', 'experience', 'warmup'):
    weights.save(path / f'{name}.safetensors', params, cfg, {})
  return path


@pytest.fixture
def workdir(sound, tmp_path) -> pathlib.Path:
  return shutil.copytree(sound, tmp_path / 'run')


def refuse(workdir: pathlib.Path, c: config.D | None = None,
           mode: str = 'run') -> str:
  """What a run says before it stops; every file there is left as it was."""
  before = {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}
  with pytest.raises(train.EXPECTED) as error:
    train.main(mode, c or smoke(), workdir, '', '')
  for path, data in before.items():
    assert path.exists() and path.read_bytes() == data, path
  return f'{type(error.value).__name__}: {error.value}'


@pytest.mark.parametrize('key, value, error', [
    ('rl.temperature', -1.0, 'rl.temperature'),
    ('env.mode', 'robot', 'script'),
    ('replay.index', 'faiss', 'scann'),
    ('curriculum.max_synthetic', 1.5, '[0, 1]'),
    ('env.held_out_families', ('enter-text',), 'enter-text'),
    ('env.test_seeds', (0, 10), 'disjoint'),
    ('warmup.init', 'shipped', "shipped='web'"),
    ('rl.group', 0, 'rl.group'),
    ('name', 'moon', 'miniwob'),
])
def test_values_that_cannot_work_are_refused(key, value, error, tmp_path):
  c = smoke()
  c.update_from_flattened_dict({key: value})
  said = refuse(tmp_path / 'run', c)
  assert said.startswith('ConfigError') and error in said
  assert key.split('.')[-1].split('_')[-1] in said
  assert not (tmp_path / 'run').exists()


def test_a_run_stops_after_the_stage_that_is_named(workdir, monkeypatch):
  begun = []
  monkeypatch.setattr(train, '_STAGES', {
      name: lambda run, cast, name=name: begun.append(name)
      for name in train._STAGES})
  c = smoke()
  train.main('run', c, workdir, '', '', until='warmup')
  assert begun == [] and not (workdir / 'report.html').exists()
  train.main('run', c, workdir, '', '', until='transfer')
  assert begun == ['gate', 'dream', 'transfer']
  assert not (workdir / 'report.html').exists()


def test_a_stage_that_the_run_does_not_have_is_refused(tmp_path):
  """Else a run from shipped weights would pass over it and go on."""
  c = config.defaults()
  for until, is_on in (('base', True), ('real_grpo', False)):
    c.real_grpo.is_on = is_on
    with pytest.raises(config.ConfigError, match=f'--until={until}.*gate'):
      train.main('run', c, tmp_path / 'run', '', '', until=until)
  assert not (tmp_path / 'run').exists()


def test_another_config_is_refused_with_what_differs(workdir):
  c = smoke()
  runs.open_run(c, workdir, '', '').metrics.close()
  c.seed, c.rl.lr = 1, 5e-4
  said = refuse(workdir, c)
  assert 'seed: 0 there, 1 now' in said and 'rl.lr: 0.0004 there' in said
  assert '--workdir' in said


def test_settings_that_change_no_result_may_differ(workdir):
  c = smoke()
  runs.open_run(c, workdir, '', '').metrics.close()
  c.checkpoint_every, c.report.episodes, c.env.workers = 3, 1, 2
  runs.open_run(c, workdir, '', '').metrics.close()


@pytest.mark.parametrize('name, error', [
    ('tokenizer.model', 'TokenizerError'),
    ('warmup.safetensors', 'WeightsError'),
    ('experience.safetensors', 'WeightsError'),
    ('config.json', 'CheckpointError'),
    ('offline.jsonl.gz', 'TrajectoryError'),
])
@pytest.mark.parametrize('damage', ['garbage', 'half', 'empty'])
def test_a_damaged_file_is_named(workdir, name, error, damage):
  if name == 'config.json':
    runs.open_run(smoke(), workdir, '', '').metrics.close()
  sound = (workdir / name).read_bytes()
  (workdir / name).write_bytes({
      'garbage': b'\xffgarbage', 'half': sound[:len(sound) // 2],
      'empty': b''}[damage])
  said = refuse(workdir)
  assert said.startswith(error) and str(workdir / name) in said


def test_a_corrupt_line_of_the_offline_set_is_named(workdir):
  path = workdir / runs.OFFLINE
  lines = gzip.decompress(path.read_bytes()).splitlines()
  broken = json.loads(lines[1])
  broken['steps'] = 'none'
  path.write_bytes(gzip.compress(
      b'\n'.join([lines[0], json.dumps(broken).encode()]) + b'\n'))
  assert f'{path}, line 2: ' in refuse(workdir)


def test_a_corrupt_line_of_the_metrics_is_named(workdir):
  path = workdir / 'metrics.jsonl'
  path.write_text('{"stage": "base", "step": 1}\nnonsense\n')
  assert f'{path}:2' in refuse(workdir)


@pytest.mark.parametrize('name', [
    'tokenizer.model', 'warmup.safetensors', 'experience.safetensors',
    'offline.jsonl.gz'])
def test_a_missing_file_is_named(workdir, name):
  (workdir / name).unlink()
  said = refuse(workdir)
  assert said.startswith('MissingError') and str(workdir / name) in said


def test_weights_of_another_size_are_refused(workdir):
  c = smoke()
  c.model.D = 48
  said = refuse(workdir, c)
  assert said.startswith('WeightsError') and 'D=' in said


def test_a_directory_of_weights_that_does_not_ship_is_named(tmp_path):
  c = smoke()
  c.shipped, c.experience.init, c.warmup.init = 'wob', 'shipped', 'shipped'
  said = refuse(tmp_path / 'run', c)
  assert said.startswith('MissingError') and 'wob' in said


def test_a_run_that_is_not_finished_cannot_be_compared(tmp_path):
  said = complaint(SMOKE, '--mode=compare',
                   f'--workdir={tmp_path / "a"},{tmp_path / "b"}')
  assert said.strip().startswith('MissingError') and '--mode=run' in said
  assert str(tmp_path / 'a') in said


@pytest.mark.parametrize('mode', ['evaluate', 'report'])
def test_a_workdir_without_a_run_has_nothing_to_show(tmp_path, mode):
  said = refuse(tmp_path / 'run', mode=mode)
  assert said.startswith('MissingError') and '--mode=run' in said


@pytest.mark.parametrize('done', [(), PRETRAINED])
def test_a_missing_chromium_is_explained(workdir, monkeypatch, tmp_path, done):
  for stage in set(PRETRAINED) - set(done):
    (workdir / 'stages' / f'{stage}.json').unlink()
  if not done:
    (workdir / runs.OFFLINE).unlink()
  monkeypatch.setenv('PATH', '')
  monkeypatch.setattr(chromium, '_DEBIAN', str(tmp_path / 'chromium'))
  monkeypatch.setattr(chromium, '_driver', NoBrowser(tmp_path))
  assert 'apt-get install chromium' in refuse(workdir)


class NoBrowser:
  """A Playwright that has not downloaded its browser."""

  def __init__(self, path: pathlib.Path):
    self.chromium = self
    self.executable_path = str(path / 'chrome')

  def acquire(self) -> 'NoBrowser':
    return self

  def release(self) -> None:
    pass
