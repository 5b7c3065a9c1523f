#!/bin/bash
# Make the virtual environment with gantry and its tools in it.
set -euo pipefail
venv=${1:-.venv}
for candidate in python3.13 python3.12 python3.11 python3; do
  real=$("$candidate" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null || true)
  [ -n "$real" ] && break
done
[ -n "${real:-}" ] || { echo "setup: Python 3.11 or newer is needed" >&2; exit 1; }
"$real" -m venv "$venv"
"$venv/bin/pip" install --quiet -e '.[dev]'
