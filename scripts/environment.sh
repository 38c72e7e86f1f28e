# shellcheck shell=bash
# Makes the virtual environment .venv at the repository's root. Sourced by test.sh and quickstart.sh.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=$ROOT/.venv/bin/python

# install [EXTRAS] : torch first, then this package with e.g. "[dev]", at the versions of constraints.txt
install() {
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: Python 3.11 or newer is needed, python3 is $(python3 --version)" >&2
        exit 2
    fi
    echo "installing into $ROOT/.venv (a few minutes the first time)"
    [ -x "$PYTHON" ] || python3 -m venv "$ROOT/.venv"
    "$PYTHON" -m pip install --quiet --constraint "$ROOT/constraints.txt" torch
    "$PYTHON" -m pip install --quiet --constraint "$ROOT/constraints.txt" --editable "$ROOT${1:-}"
}
