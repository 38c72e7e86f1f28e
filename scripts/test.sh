#!/usr/bin/env bash
# Make the environment and run the checks and the tests, one process a core: bash scripts/test.sh [--all] [pytest options]
# Without --all, those are left out that are marked slow: they start processes, train or open a browser.
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

tier=(-m "not slow")
if [ "${1:-}" = --all ]; then
    tier=()
    shift
fi
install "[dev]"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check --quiet .
.venv/bin/shellcheck -x -P . .ci/run scripts/*.sh scripts/*/*.sh scripts/*/*/*.sh playground/tiny/*.sh docs/examples/*.sh
# A process a core is enough: threads of their own would take time from one another.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
"$PYTHON" -m pytest -n auto --dist worksteal "${tier[@]}" "$@"
