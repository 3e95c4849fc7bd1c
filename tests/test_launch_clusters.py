"""The scripts for pods and clusters, by what they would do.

No cluster is reached: a PATH of stand-ins that log, or --dry-run.
"""

import pathlib
import shutil
import subprocess

import pytest
import test_launch

ROOT = test_launch.ROOT
MUST = {
    'launch/tpu_pod.sh': ('--name=pod', '--zone=here'),
    'launch/gke_xpk.sh': ('--cluster=c', '--zone=here'),
    'launch/gpu_slurm.sh': (),
    'launch/gpu_host.sh': ('--gpus=2',),
}


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> test_launch.Machine:
  """Everything is installed; nothing that reaches a cluster is there."""
  machine = test_launch.Machine(tmp_path)
  machine.make_venv()
  machine.tool('chromium', 'exit 0')
  (machine.bin / 'sleep').symlink_to(shutil.which('sleep'))
  return machine


def planned(machine, script, *flags) -> list[str]:
  done = machine.run(script, '--dry-run', *MUST[script], *flags)
  assert done.returncode == 0, done.stderr
  assert not [c for c in machine.calls
              if c.split()[0] in ('gcloud', 'xpk', 'sbatch', 'git')]
  lines = [line for line in done.stdout.splitlines()
           if 'pip install' not in line]
  assert all(line.startswith('would run: ') for line in lines), done.stdout
  return [line.removeprefix('would run: ') for line in lines]


@pytest.mark.parametrize('script', MUST)
def test_scripts_are_strict_clean_and_explain_themselves(machine, script):
  assert 'set -euo pipefail' in (ROOT / script).read_text()
  done = subprocess.run([test_launch.SHELLCHECK, '-x', script], cwd=ROOT,
                        capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
  done = machine.run(script, '--help')
  assert done.returncode == 0 and '--dry-run' in done.stdout
  assert machine.calls == []


@pytest.mark.parametrize('script', MUST)
@pytest.mark.parametrize('flag', ['--workdir=x', '--config.seed=4'])
def test_seed_and_workdir_are_the_workers(machine, script, flag):
  done = machine.run(script, '--dry-run', *MUST[script], flag)
  assert done.returncode == 1 and 'of its own' in done.stderr


@pytest.mark.parametrize('script, words', [
    ('launch/tpu_pod.sh', '--name=NAME --zone=ZONE'),
    ('launch/gke_xpk.sh', '--cluster=NAME --zone=ZONE'),
    ('launch/gpu_slurm.sh', 'no sbatch on PATH'),
    ('launch/gpu_host.sh', 'no GPUs')])
def test_what_is_missing_is_named(machine, script, words):
  done = machine.run(script)
  assert done.returncode == 1 and words in done.stderr


def test_a_pod_is_made_filled_and_run_with_a_seed_for_each_worker(machine):
  made, packed, sent, opened, *works = planned(
      machine, 'launch/tpu_pod.sh', '--workers=2', '--spot',
      '--bucket=gs://b', '--config.rl.lr=1e-4')
  assert ' create pod ' in made and made.endswith('--spot')
  assert packed.startswith('git ') and ' scp ' in sent and '=tar xf' in opened
  assert len(works) == 2
  for i, work in enumerate(works):
    assert f'--worker={i} ' in work and 'DREAMGYM_DEVICE=tpu' in work
    assert f'--config.seed={i} --workdir=runs/tpu-seed{i} ' in work
    assert '--config.rl.lr=1e-4' in work
    assert f'rsync -r gs://b/runs/tpu-seed{i} runs/tpu-seed{i}' in work


def test_a_pod_with_a_shared_disk_is_one_run(machine):
  *_, work = planned(machine, 'launch/tpu_pod.sh', '--shared=/mnt/all',
                     '--config.seed=3')
  assert ' --worker=all ' in work
  for words in ('DREAMGYM_DEVICE=tpu bash', '--coordinator=auto',
                '--config.mesh.data=-1', '--config.seed=3',
                '--workdir=/mnt/all/run'):
    assert words in work
  assert 'TPU_VISIBLE_CHIPS' not in work      # all chips
  done = machine.run('launch/tpu_pod.sh', *MUST['launch/tpu_pod.sh'],
                     '--dry-run', '--shared=/mnt/all', '--bucket=gs://b')
  assert done.returncode == 1 and 'no --bucket with it' in done.stderr


def test_a_lost_slice_is_made_again_and_a_failed_run_is_not(machine):
  machine.tool('git', 'exit 0')
  count = machine.home / 'states'
  # What the slice says when asked: nothing, then lost, then ready.
  machine.tool('gcloud', (
      'case "$*" in\n'
      f'*describe*) echo x >>{count}; n=0; while read -r _; do n=$((n+1));'
      f' done <{count};\n'
      '  case $n in 1) exit 1 ;; 2|3) echo PREEMPTED ;; *) echo READY ;; esac'
      ' ;;\n'
      '*local.sh*) exit 3 ;;\nesac'))
  done = machine.run('launch/tpu_pod.sh', *MUST['launch/tpu_pod.sh'])
  did = [c.split()[4] for c in machine.calls if c.startswith('gcloud')]
  assert did == ['describe', 'create', 'scp', 'ssh', 'ssh',      # lost
                 'describe', 'describe', 'delete', 'create', 'scp', 'ssh',
                 'ssh', 'describe']                              # failed
  assert done.returncode == 1 and 'a worker failed' in done.stderr


def test_a_gke_workload_has_a_seed_for_each_host(machine):
  (call,) = planned(machine, 'launch/gke_xpk.sh', '--slices=2',
                    '--config.rl.lr=1e-4')
  assert call.startswith('xpk workload create --cluster=c --zone=here ')
  assert '--num-slices=2 --max-restarts=10' in call
  assert call.endswith(' --config.rl.lr=1e-4')
  assert '--config.seed=$((${MEGASCALE_SLICE_ID:-0} * 1000' in call


def test_a_gke_workload_with_a_shared_disk_is_one_run(machine):
  (call,) = planned(machine, 'launch/gke_xpk.sh', '--shared=/mnt/all',
                    '--config.seed=3')
  assert call.endswith(
      '--command=DREAMGYM_DEVICE=tpu bash launch/local.sh '
      '--config.mesh.data=-1 --config.seed=3 --coordinator=auto '
      '--workdir=/mnt/all/run')


def test_slurm_spreads_one_run_over_nodes(machine):
  (call,) = planned(machine, 'launch/gpu_slurm.sh', '--nodes=4', '--gpus=2',
                    '--config.seed=3')
  assert call.startswith('sbatch --nodes=4 --ntasks-per-node=1 '
                         '--gpus-per-node=2 --requeue ')
  assert 'srun --kill-on-bad-exit=1 ' in call and '--signal=TERM@60' in call
  assert ('--config.mesh.data=-1 --config.seed=3 --coordinator=auto '
          '--workdir=runs/slurm-nodes') in call
  done = machine.run('launch/gpu_slurm.sh', '--dry-run', '--nodes=0')
  assert done.returncode == 1 and '--nodes=0' in done.stderr


def test_a_host_is_one_run_when_asked(machine):
  (call,) = planned(machine, 'launch/gpu_host.sh', '--together',
                    '--config.seed=3')
  assert call.startswith('env CUDA_VISIBLE_DEVICES=0,1 ')
  assert '--config.mesh.data=-1 --config.seed=3 --workdir=runs/gpu-all' in call


def test_slurm_gets_an_array_that_is_queued_again(machine):
  (call,) = planned(machine, 'launch/gpu_slurm.sh', '--seeds=4',
                    '--partition=fast', '--config.rl.lr=1e-4')
  assert call.startswith('sbatch --array=0-3 --gpus-per-task=1 --ntasks=1 '
                         '--requeue ')
  assert ' --partition=fast ' in call
  assert call.endswith('--config.rl.lr=1e-4 --config.seed=$SLURM_ARRAY_TASK_ID'
                       ' --workdir=runs/slurm-seed$SLURM_ARRAY_TASK_ID')


def test_each_gpu_of_a_host_has_a_seed_and_they_are_compared(machine, tmp_path):
  *runs, compared = planned(machine, 'launch/gpu_host.sh')
  assert len(runs) == 2
  for i, run in enumerate(runs):
    assert run.startswith(f'env CUDA_VISIBLE_DEVICES={i} ')
    assert run.endswith(f'--config.seed={i} --workdir=runs/gpu-seed{i}')
  assert compared.endswith('--workdir=runs/gpu-seed0,runs/gpu-seed1')
  machine.tool('nvidia-smi', 'echo GPU 0: A; echo GPU 1: A; echo GPU 2: A')
  machine.make_venv('case "$*" in *seed=1*) exit 1 ;; esac')
  done = machine.run('launch/gpu_host.sh', cwd=tmp_path)
  assert done.returncode == 1 and 'seed 1 failed' in done.stderr
  started = [c for c in machine.calls if 'dreamgym_jax.main' in c]
  assert len(started) == 3 and not any('compare' in c for c in started)
