#!/usr/bin/env bash
# A workload on a GKE cluster by xpk: one run over all hosts, or a seed on each.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
dry_run=0
# shellcheck source=launch/install.sh
source "$root/launch/install.sh"

usage() {
  cat <<'END'
bash launch/gke_xpk.sh --cluster=NAME --zone=ZONE [OPTIONS] [FLAGS OF main ...]

Creates a workload on an xpk cluster: this checkout in a Python image. With
--shared it is one run over all chips of all hosts; without it a seed on each
host (which uses one chip). GKE starts a host that was lost again.

    --shared=DIR      a mounted directory that all hosts see and that outlives
                      them, for the workdir DIR/run of one run over all of them
    --workload=NAME   (default dreamgym)
    --type=TYPE       accelerator (default v5litepod-16)
    --slices=N        (default 1)
    --bucket=DIR      a mounted directory that outlives the hosts; without it
                      a host that was lost starts anew
    --restarts=N      (default 10)
    --image=IMAGE     (default python:3.11)
    --dry-run         print the commands, run none of them

Needs xpk (pip install xpk), gcloud and Docker. Not tested on hardware.
END
}

cluster='' zone='' workload=dreamgym type=v5litepod-16 slices=1 restarts=10
image=python:3.11 bucket=runs shared=''
flags=()
for flag in "$@"; do
  case "$flag" in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --cluster=*) cluster="${flag#*=}" ;;
    --zone=*) zone="${flag#*=}" ;;
    --workload=*) workload="${flag#*=}" ;;
    --type=*) type="${flag#*=}" ;;
    --slices=*) slices="${flag#*=}" ;;
    --bucket=*) bucket="${flag#*=}" ;;
    --shared=*) shared="${flag#*=}" ;;
    --restarts=*) restarts="${flag#*=}" ;;
    --image=*) image="${flag#*=}" ;;
    --workdir*) die "$flag: each host has a workdir of its own; or --shared" ;;
    *) flags+=("$flag") ;;
  esac
done
if [ -z "$shared" ]; then
  refuse_seed host --shared "${flags[@]}"
fi
if [ -z "$cluster" ] || [ -z "$zone" ]; then
  die 'which cluster? --cluster=NAME --zone=ZONE (see --help)'
fi
case "$slices$restarts" in
  *[!0-9]* | '') die '--slices and --restarts are numbers' ;;
esac
if [ "$dry_run" = 0 ] && ! command -v xpk >/dev/null; then
  die 'no xpk on PATH: pip install xpk'
fi

# Of the slice and of the host in it, as GKE and xpk tell each container.
# shellcheck disable=SC2016
seed='$((${MEGASCALE_SLICE_ID:-0} * 1000 + ${TPU_WORKER_ID:-0}))'
arguments=''
if [ "${#flags[@]}" != 0 ]; then arguments="$(printf ' %q' "${flags[@]}")"; fi
command="$one_chip bash launch/local.sh --config.seed=$seed"
command+=" --workdir=$bucket/gke-seed$seed$arguments"
if [ -n "$shared" ]; then
  command="DREAMGYM_DEVICE=tpu bash launch/local.sh --config.mesh.data=-1"
  command+="$arguments --coordinator=auto --workdir=$shared/run"
fi
run xpk workload create "--cluster=$cluster" "--zone=$zone" \
  "--workload=$workload" "--tpu-type=$type" "--num-slices=$slices" \
  "--max-restarts=$restarts" "--base-docker-image=$image" \
  "--script-dir=$root" "--command=$command"
