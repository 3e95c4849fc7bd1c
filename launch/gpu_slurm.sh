#!/usr/bin/env bash
# Slurm: a seed and a GPU for each job of an array, or one run over nodes.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
dry_run=0
# shellcheck source=launch/install.sh
source "$root/launch/install.sh"

usage() {
  cat <<'END'
bash launch/gpu_slurm.sh [--dry-run] [OPTIONS] [FLAGS OF dreamgym_jax.main ...]

On a login node: installs what is missing (the checkout must be on a disk that
the nodes share), then submits an array of jobs, one for each seed, each with
one GPU; or, with --nodes, one job whose run spans all GPUs of so many nodes. A
job that is preempted is queued again and resumes.

    --seeds=N          jobs (default 3: seeds 0, 1, 2)
    --nodes=N          one run over N nodes in place of seeds
    --gpus=N           GPUs of each of these nodes (default 8)
    --partition=NAME   of the cluster (default: the cluster's own)
    --time=HH:MM:SS    limit of a job (default 04:00:00)
    --dry-run          print the commands, run none of them

Workdirs are runs/slurm-seed0, ... in this directory.
END
}

seeds=3 nodes='' gpus=8
partition=()
limit=04:00:00
config="$root/configs/webarena.py"
flags=()
for flag in "$@"; do
  case "$flag" in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --seeds=*) seeds="${flag#--seeds=}" ;;
    --nodes=*) nodes="${flag#--nodes=}" ;;
    --gpus=*) gpus="${flag#--gpus=}" ;;
    --partition=*) partition=("$flag") ;;
    --time=*) limit="${flag#--time=}" ;;
    --config=*) config="${flag#--config=}" ;;
    --workdir*) die "$flag: each job has a workdir of its own" ;;
    *) flags+=("$flag") ;;
  esac
done
if [ -z "$nodes" ]; then
  refuse_seed job --nodes "${flags[@]}"
fi
case "$seeds" in
  '' | 0 | *[!0-9]*) die "--seeds=$seeds: give a number of jobs" ;;
esac
case "${nodes:-1}:$gpus" in
  0:* | *:0 | *[!0-9:]* | *:) die "--nodes=$nodes --gpus=$gpus: give numbers" ;;
esac
if [ "$dry_run" = 0 ] && ! command -v sbatch >/dev/null; then
  die 'no sbatch on PATH: run this on a login node of a Slurm cluster'
fi

export DREAMGYM_DEVICE=gpu
prepare_for "$config"
if [ "$dry_run" = 0 ]; then mkdir -p runs; fi
if [ -n "$nodes" ]; then
  # srun starts a process on each node; Slurm's variables tell them of each other.
  run sbatch "--nodes=$nodes" --ntasks-per-node=1 "--gpus-per-node=$gpus" \
    --requeue --open-mode=append --signal=TERM@60 "--time=$limit" \
    "${partition[@]}" --job-name=dreamgym --output=runs/slurm-nodes.log \
    --export=ALL "--wrap=srun --kill-on-bad-exit=1 $(printf '%q ' \
      "$venv/bin/python" -m dreamgym_jax.main "--config=$config" \
      --config.mesh.data=-1 "${flags[@]}" --coordinator=auto \
      --workdir=runs/slurm-nodes)"
  exit 0
fi
# Slurm puts the number of the job where %a stands, and into the variable.
# shellcheck disable=SC2016
seed='$SLURM_ARRAY_TASK_ID'
command="$(printf '%q ' "$venv/bin/python" -m dreamgym_jax.main \
  "--config=$config" "${flags[@]}")"
run sbatch "--array=0-$((seeds - 1))" --gpus-per-task=1 --ntasks=1 --requeue \
  --open-mode=append "--time=$limit" "${partition[@]}" \
  --job-name=dreamgym '--output=runs/slurm-seed%a.log' --export=ALL \
  "--wrap=$command--config.seed=$seed --workdir=runs/slurm-seed$seed"
