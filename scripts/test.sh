#!/usr/bin/env bash
# Make the environment and run the checks and the tests: bash scripts/test.sh [pytest options]
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install "[dev]"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check --quiet .
find scripts .ci -name '*.sh' -o -path .ci/run | xargs .venv/bin/shellcheck -x -P .
"$PYTHON" -m pytest "$@"
