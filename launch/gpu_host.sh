#!/usr/bin/env bash
# A seed on each GPU of this host, and their comparison; or one run over all.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
dry_run=0
# shellcheck source=launch/install.sh
source "$root/launch/install.sh"

usage() {
  cat <<'END'
bash launch/gpu_host.sh [--dry-run] [--gpus=N] [FLAGS OF dreamgym_jax.main ...]

Installs what is missing, with JAX for CUDA 12, and runs a seed on each GPU, at
once; a run uses one GPU. When all are done it compares them. With --together
it is one run over all of them.

    --together  one run over the GPUs, in runs/gpu-all
    --gpus=N    the first N GPUs (default: all that nvidia-smi lists)
    --dry-run   print the commands, run none of them

Workdirs are runs/gpu-seed0, ...; logs runs/gpu-seed0.log, ... The same command
again goes on where the runs stopped.
END
}

gpus='' together=0
config="$root/configs/webarena.py"
flags=()
for flag in "$@"; do
  case "$flag" in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --gpus=*) gpus="${flag#--gpus=}" ;;
    --together) together=1 ;;
    --config=*) config="${flag#--config=}" ;;
    --workdir*) die "$flag: each GPU has a workdir of its own" ;;
    *) flags+=("$flag") ;;
  esac
done
if [ "$together" = 0 ]; then
  refuse_seed GPU --together "${flags[@]}"
fi
if [ -z "$gpus" ]; then
  gpus="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)"
fi
case "$gpus" in
  '' | 0 | *[!0-9]*) die "no GPUs (nvidia-smi -L lists none): --gpus=N" ;;
esac

export DREAMGYM_DEVICE=gpu
prepare_for "$config"

if [ "$together" = 1 ]; then
  devices=0
  for ((i = 1; i < gpus; i++)); do devices+=",$i"; done
  run env "CUDA_VISIBLE_DEVICES=$devices" \
    "$venv/bin/python" -m dreamgym_jax.main "--config=$config" \
    --config.mesh.data=-1 "${flags[@]}" --workdir=runs/gpu-all
  exit 0
fi

train() {
  local log="runs/gpu-seed$1.log"
  if [ "$dry_run" = 1 ]; then log=/dev/stdout; else mkdir -p runs; fi
  run env "CUDA_VISIBLE_DEVICES=$1" "$venv/bin/python" -m dreamgym_jax.main \
    "--config=$config" "--config.seed=$1" "--workdir=runs/gpu-seed$1" \
    "${flags[@]}" >>"$log" 2>&1
}

pids=()
workdirs=''
for ((i = 0; i < gpus; i++)); do
  train "$i" &
  pids+=("$!")
  workdirs+="${workdirs:+,}runs/gpu-seed$i"
  if [ "$dry_run" = 1 ]; then wait "$!"; fi
done
failed=0
for i in "${!pids[@]}"; do
  if ! wait "${pids[$i]}"; then
    say "seed $i failed: see runs/gpu-seed$i.log"
    failed=1
  fi
done
if [ "$failed" = 1 ]; then exit 1; fi
run "$venv/bin/python" -m dreamgym_jax.main --mode=compare \
  "--config=$config" "--workdir=$workdirs"
