#!/usr/bin/env bash
# Makes the plans of this folder again: bash launch/plans/make.sh [NAME ...]
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." >/dev/null && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
export JAX_PLATFORMS=cpu

# What a plan is of; 8B on 16 chips of 16 GiB plays 32 episodes at once.
plans=(
  'llama-3.2-3b v5p:4x4x4'
  'llama-3.1-8b v5p:4x4x4'
  'qwen2.5-7b v5p:4x4x4'
  'llama-3.2-3b v5e:4x4'
  'llama-3.1-8b v5e:4x4 --config.rl.tasks=4'
  'llama-3.2-3b v6e:4x4'
  'llama-3.1-8b v6e:4x4'
)

cd "$root"
for plan in "${plans[@]}"; do
  read -r -d '' -a more <<<"$plan" || true
  model="${more[0]}" topology="${more[1]}"
  name="$model.${topology/:/-}"
  if (($#)) && [[ " $* " != *" $name "* ]]; then
    continue
  fi
  flags=("--config=configs/paper.py:$model"
    "--config.plan.topology=$topology" '--config.plan.layers=(2,4)')
  flags+=("${more[@]:2}")
  {
    printf '$ python -m dreamgym_jax.main --mode=plan'
    printf " '%s'" "${flags[@]}"
    printf '\n\n'
    "$python" -m dreamgym_jax.main --mode=plan "${flags[@]}"
  } >"launch/plans/$name.txt.partial"
  mv "launch/plans/$name.txt.partial" "launch/plans/$name.txt"
done
