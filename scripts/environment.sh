# shellcheck shell=bash
# Makes a virtual environment at the repository's root: .venv, or the folder that ENVIRONMENT names. Sourced by the
# scripts that need one.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/${ENVIRONMENT:-.venv}
PYTHON=$VENV/bin/python
CONSTRAINTS=$ROOT/constraints.txt

# install [EXTRAS] : torch first, then this package with e.g. "[dev]", at the versions of CONSTRAINTS
install() {
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: Python 3.11 or newer is needed, python3 is $(python3 --version)" >&2
        exit 2
    fi
    echo "installing into $VENV (a few minutes the first time)"
    [ -x "$PYTHON" ] || python3 -m venv "$VENV"
    "$PYTHON" -m pip install --quiet --constraint "$CONSTRAINTS" torch
    "$PYTHON" -m pip install --quiet --constraint "$CONSTRAINTS" --editable "$ROOT${1:-}"
}
