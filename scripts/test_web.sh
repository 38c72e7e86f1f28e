#!/usr/bin/env bash
# Run the tests of the web page, in a browser too, in an environment of its own, .venv-web:
# bash scripts/test_web.sh [pytest options]. The browser is Chromium (Debian: apt-get install chromium), or what BROWSER names.
ENVIRONMENT=.venv-web
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if ! BROWSER=${BROWSER:-$(command -v chromium || command -v chromium-browser || command -v google-chrome)}; then
    echo "error: no browser: install chromium, or set BROWSER to the path of one" >&2
    exit 2
fi
export BROWSER OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
# Gradio does not take Pillow 13 yet.
mkdir -p "$VENV"
grep -v '^pillow==' "$CONSTRAINTS" >"$VENV/constraints.txt"
CONSTRAINTS=$VENV/constraints.txt
install "[demo]"
"$PYTHON" -m pip install --quiet --constraint "$CONSTRAINTS" pytest pytest-randomly \
    openai==3.57.0 playwright==1.65.2 scikit-image==0.26.0
cd "$ROOT"
"$PYTHON" -m pytest tests/serve tests/bench/test_gpu_throughput.py "$@"
