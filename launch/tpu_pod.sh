#!/usr/bin/env bash
# A TPU VM slice: made or used, one run over all its workers or a seed on each,
# started again when lost.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
dry_run=0
# shellcheck source=launch/install.sh
source "$root/launch/install.sh"

usage() {
  cat <<'END'
bash launch/tpu_pod.sh --name=NAME --zone=ZONE [OPTIONS] [FLAGS OF main ...]

Uses the TPU VM of that name, or creates it; copies this checkout to its
workers, installs what is missing there, and runs. With --shared it is one run
over all chips of all workers; without it a seed on each worker (which uses one
chip). When the slice is preempted it is created again, and the runs go on from
the shared directory or the bucket.

    --shared=DIR      a directory that all workers see (Filestore, gcsfuse), for
                      the workdir DIR/run of one run over all of them
    --type=TYPE       accelerator (default v5litepod-16)
    --workers=N       hosts of the slice to use, without --shared (default 1)
    --version=NAME    runtime (default v2-alpha-tpuv5-lite)
    --bucket=gs://B   keeps the workdirs; without it a lost slice starts anew
    --restarts=N      times that a lost slice is created again (default 10)
    --spot            cheaper, and preempted more often
    --dry-run         print the commands, run none of them

Needs gcloud, logged in, with a default project. Not tested on hardware.
END
}

name='' zone='' type=v5litepod-16 version=v2-alpha-tpuv5-lite bucket=''
shared=''
workers=1 restarts=10
spot=()
flags=()
for flag in "$@"; do
  case "$flag" in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=1 ;;
    --name=*) name="${flag#*=}" ;;
    --zone=*) zone="${flag#*=}" ;;
    --type=*) type="${flag#*=}" ;;
    --version=*) version="${flag#*=}" ;;
    --bucket=*) bucket="${flag#*=}" ;;
    --shared=*) shared="${flag#*=}" ;;
    --workers=*) workers="${flag#*=}" ;;
    --restarts=*) restarts="${flag#*=}" ;;
    --spot) spot=(--spot) ;;
    --workdir*) die "$flag: each worker has a workdir of its own; or --shared" ;;
    *) flags+=("$flag") ;;
  esac
done
if [ -z "$shared" ]; then
  refuse_seed worker --shared "${flags[@]}"
elif [ -n "$bucket" ]; then
  die '--shared keeps the workdir itself: no --bucket with it'
fi
if [ -z "$name" ] || [ -z "$zone" ]; then
  die 'which TPU VM? --name=NAME --zone=ZONE (see --help)'
fi
case "$workers$restarts" in
  *[!0-9]* | '') die '--workers and --restarts are numbers' ;;
esac
if [ "$dry_run" = 0 ] && ! command -v gcloud >/dev/null; then
  die 'no gcloud on PATH: https://cloud.google.com/sdk/docs/install'
fi

tpu=(gcloud compute tpus tpu-vm)
state() {
  if [ "$dry_run" = 1 ]; then return; fi
  "${tpu[@]}" describe "$name" "--zone=$zone" '--format=value(state)' \
    2>/dev/null || true
}

create() {
  case "$(state)" in
    READY) return ;;
    '') ;;
    *) run "${tpu[@]}" delete "$name" "--zone=$zone" --quiet ;;
  esac
  run "${tpu[@]}" create "$name" "--zone=$zone" "--accelerator-type=$type" \
    "--version=$version" "${spot[@]}"
}

# What worker $1 does; the workdir goes to the bucket every five minutes.
remote() {
  local workdir="runs/tpu-seed$1" keep='' back='' arguments
  arguments="$(printf '%q ' "--config.seed=$1" "--workdir=$workdir" \
    "${flags[@]}")"
  if [ -n "$bucket" ]; then
    keep="mkdir -p $workdir; gcloud storage rsync -r $bucket/$workdir $workdir"
    keep+=" || true; (while sleep 300; do gcloud storage rsync -r $workdir"
    keep+=" $bucket/$workdir; done) & "
    back="; code=\$?; kill \$!; gcloud storage rsync -r $workdir"
    back+=" $bucket/$workdir; exit \$code"
  fi
  printf '%s' "cd dreamgym && $keep$one_chip bash launch/local.sh $arguments$back"
}

# What all workers do of one run; they find each other by the TPU VM's metadata.
together() {
  printf '%s' "cd dreamgym && DREAMGYM_DEVICE=tpu bash launch/local.sh " \
    "$(printf '%q ' --config.mesh.data=-1 "${flags[@]}" \
      --coordinator=auto "--workdir=$shared/run")"
}

work() {
  local i pids=() failed=0
  if [ "$dry_run" = 0 ]; then mkdir -p runs; fi
  run git -C "$root" archive --prefix=dreamgym/ -o "$PWD/runs/dreamgym.tar" \
    HEAD || return 1
  run "${tpu[@]}" scp runs/dreamgym.tar "$name:" "--zone=$zone" --worker=all ||
    return 1
  run "${tpu[@]}" ssh "$name" "--zone=$zone" --worker=all \
    '--command=tar xf dreamgym.tar' || return 1
  if [ -n "$shared" ]; then
    run "${tpu[@]}" ssh "$name" "--zone=$zone" --worker=all \
      "--command=$(together)"
    return
  fi
  for ((i = 0; i < workers; i++)); do
    run "${tpu[@]}" ssh "$name" "--zone=$zone" "--worker=$i" \
      "--command=$(remote "$i")" &
    pids+=("$!")
    if [ "$dry_run" = 1 ]; then wait "$!"; fi
  done
  for i in "${!pids[@]}"; do
    wait "${pids[$i]}" || failed=1
  done
  return "$failed"
}

for ((attempt = 0; attempt <= restarts; attempt++)); do
  create
  if work; then
    say "done; delete the slice with: ${tpu[*]} delete $name --zone=$zone"
    exit 0
  fi
  # A run that failed by itself fails again: only a lost slice is worth it.
  if [ "$(state)" = READY ]; then
    die 'a worker failed, and the slice is still there: see its messages above'
  fi
  say "the slice is gone; attempt $((attempt + 1)) of $restarts to get another"
done
die "the slice was lost $restarts times"
