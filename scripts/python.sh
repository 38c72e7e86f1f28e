# shellcheck shell=bash
# Finds the Python that a recipe runs on, as PYTHON, and lets it import this package. Sourced with ROOT set.

# The python of the active environment, or of the one that scripts/test.sh and scripts/quickstart.sh make.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python || command -v python3 || true)
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then
        PYTHON=$ROOT/.venv/bin/python
    fi
fi
if ! "$PYTHON" -c 'import importlib.util as u; assert all(map(u.find_spec, ("torch", "transformers", "sentencepiece")))' \
    2>/dev/null; then
    echo "error: ${PYTHON:-python} lacks the packages this needs: activate their environment (see README.md)" >&2
    exit 2
fi
# On a CPU that other processes use too, OpenMP's threads that spin take time from one another.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
