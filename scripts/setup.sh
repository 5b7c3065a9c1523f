#!/bin/bash
# Make the virtual environment with gantry and its tools in it.
set -euo pipefail
venv=${1:-.venv}
real=
for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
  # sys.executable, since python3 may be a wrapper script, and a slow one.
  real=$("$candidate" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null || true)
  [ -n "$real" ] && break
done
[ -n "$real" ] || { echo "setup: Python 3.11 or newer is needed" >&2; exit 1; }
if "$real" -c 'import ensurepip' 2>/dev/null; then
  "$real" -m venv "$venv"
  pip=("$venv/bin/python" -m pip)
else
  # Debian without python3-venv: the environment is made without pip, and filled by pip from
  # outside.
  "$real" -m pip --version >/dev/null 2>&1 || { echo "setup: pip is needed: apt-get install python3-pip" >&2; exit 1; }
  "$real" -m venv --without-pip "$venv"
  pip=("$real" -m pip --python "$venv/bin/python")
fi
"${pip[@]}" install --quiet --disable-pip-version-check -e '.[dev]' || {
  echo "setup: pip could not install gantry's dependencies into $venv" >&2
  exit 1
}
