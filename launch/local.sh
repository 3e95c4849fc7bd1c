#!/usr/bin/env bash
# Installs what is missing, then runs dreamgym_jax on this machine.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
dry_run=0
# shellcheck source=launch/install.sh
source "$root/launch/install.sh"

usage() {
  cat <<'END'
bash launch/local.sh [--dry-run] [FLAGS OF dreamgym_jax.main ...]

On a Linux machine with Python 3.11 or newer: makes .venv, installs the Python
packages and Chromium (each once), and runs

    python -m dreamgym_jax.main --config=configs/webarena.py FLAGS

Examples:
    bash launch/local.sh                                    # the main job
    bash launch/local.sh --config=configs/webarena.py:smoke # every stage, brief
    bash launch/local.sh --config=configs/webshop.py:smoke  # another world
    bash launch/local.sh --workdir=runs/mine --config.seed=1
    bash launch/local.sh --mode=report --workdir=runs/mine

The same command again goes on where the run stopped.

    --dry-run   print the commands, run none of them
    --helpfull  the flags of dreamgym_jax.main

Environment: PYTHON (interpreter to make .venv with), DREAMGYM_VENV (another
place than .venv), PLAYWRIGHT_BROWSERS_PATH (where Playwright keeps browsers),
DREAMGYM_DEVICE (tpu or gpu: the JAX for it is installed; default: CPU).
END
}

flags=()
has_config=0
config=configs/webarena.py
for flag in "$@"; do
  case "$flag" in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run)
      dry_run=1
      continue
      ;;
    --config=configs/*)
      has_config=1
      config="${flag#--config=}"
      # From another directory, the checkout's own configs are meant.
      if [ ! -e "${config%%:*}" ]; then flag="--config=$root/$config"; fi
      ;;
    --config=*)
      has_config=1
      config="${flag#--config=}"
      ;;
    --config) has_config=1 ;;
  esac
  flags+=("$flag")
done
if [ "$has_config" = 0 ]; then
  flags=("--config=$root/configs/webarena.py" "${flags[@]}")
fi

prepare_for "$config"
run exec "$venv/bin/python" -m dreamgym_jax.main "${flags[@]}"
