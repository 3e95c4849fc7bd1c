#!/usr/bin/env bash
# A Slurm job array: a seed and a GPU for each job.
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
one GPU. A job that is preempted is queued again and resumes.

    --seeds=N          jobs (default 3: seeds 0, 1, 2)
    --partition=NAME   of the cluster (default: the cluster's own)
    --time=HH:MM:SS    limit of a job (default 04:00:00)
    --dry-run          print the commands, run none of them

Workdirs are runs/slurm-seed0, ... in this directory.
END
}

seeds=3
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
    --partition=*) partition=("$flag") ;;
    --time=*) limit="${flag#--time=}" ;;
    --config=*) config="${flag#--config=}" ;;
    --workdir* | --config.seed*)
      die "$flag: each job has a seed and a workdir of its own" ;;
    *) flags+=("$flag") ;;
  esac
done
case "$seeds" in
  '' | 0 | *[!0-9]*) die "--seeds=$seeds: give a number of jobs" ;;
esac
if [ "$dry_run" = 0 ] && ! command -v sbatch >/dev/null; then
  die 'no sbatch on PATH: run this on a login node of a Slurm cluster'
fi

export DREAMGYM_DEVICE=gpu
prepare_for "$config"
if [ "$dry_run" = 0 ]; then mkdir -p runs; fi
# Slurm puts the number of the job where %a stands, and into the variable.
# shellcheck disable=SC2016
seed='$SLURM_ARRAY_TASK_ID'
command="$(printf '%q ' "$venv/bin/python" -m dreamgym_jax.main \
  "--config=$config" "${flags[@]}")"
run sbatch "--array=0-$((seeds - 1))" --gpus-per-task=1 --ntasks=1 --requeue \
  --open-mode=append "--time=$limit" "${partition[@]}" \
  --job-name=dreamgym '--output=runs/slurm-seed%a.log' --export=ALL \
  "--wrap=$command--config.seed=$seed --workdir=runs/slurm-seed$seed"
