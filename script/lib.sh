# Shared by the scripts of this folder: where things are, and how they talk. Sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${WEFT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weft}
export WEFT_CACHE=$cache
PATH=$PATH:$HOME/.cargo/bin

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
note() { printf '  %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# fetch REQUIREMENTS FOLDER [PIP OPTIONS]: downloads what the file pins (checked by SHA-256).
fetch() {
  local requirements=$1 folder=$2
  shift 2
  mkdir -p "$folder"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
    --dest "$folder" --requirement "$requirements" "$@" ||
    die "could not download what $requirements pins (is a PyPI index reachable?)"
}
