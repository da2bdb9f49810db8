# Sourced by the other scripts: makes .venv from the lock file with the groups given as arguments.
# Needs Python 3.11, 3.12 or 3.13; uv is installed beside the environment where it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Without byte code Airflow starts three times slower.
unset PYTHONDONTWRITEBYTECODE

find_uv() {
  if command -v uv >/dev/null 2>&1; then
    command -v uv
    return
  fi
  if [ ! -x .venv-uv/bin/uv ]; then
    python3 -m venv .venv-uv >&2 || {
      echo "python3 cannot make virtual environments here: install uv, or Debian's python3-venv" >&2
      exit 1
    }
    .venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv >&2
  fi
  echo "$PWD/.venv-uv/bin/uv"
}

make_environment() {
  local uv groups=()
  uv=$(find_uv)
  for group in "$@"; do groups+=(--group "$group"); done
  "$uv" sync --frozen --quiet --compile-bytecode "${groups[@]}"
}
