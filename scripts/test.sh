#!/usr/bin/env bash
# Make the environment and run the checks and the tests: bash scripts/test.sh [pytest options]
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install "[dev]"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check --quiet .
.venv/bin/shellcheck -x -P . .ci/run scripts/*.sh scripts/*/*.sh scripts/*/*/*.sh playground/tiny/*.sh docs/examples/*.sh
"$PYTHON" -m pytest "$@"
