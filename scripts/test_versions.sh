#!/usr/bin/env bash
# Run the tests with the oldest and with the newest torch and transformers that pyproject.toml allows, and with SGLang's
# releases of what both need, each in an environment of its own, .venv-oldest, .venv-newest and .venv-sglang:
# bash scripts/test_versions.sh [oldest|newest|sglang|all] [pytest options]
# On Linux with x86_64, torch from the package index is a CUDA build of several gigabytes; TORCH_OLDEST, TORCH_NEWEST and
# TORCH_SGLANG name other releases, such as one of which a CPU build lies on disk.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
WHICH=${1:-all}
case $WHICH in
    oldest | newest | sglang | all) shift $(($# > 0)) ;;
    *)
        echo "error: usage: bash $0 [oldest|newest|sglang|all] [pytest options]" >&2
        exit 2
        ;;
esac

# bounds NAME : the range that pyproject.toml allows, as pip takes it, and its lower end
bounds() {
    python3 - "$1" <<'PYTHON'
import re
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    dependencies = tomllib.load(file)["project"]["dependencies"]
wanted = next(d for d in dependencies if re.match(rf"{sys.argv[1]}\b(?!-)", d))
print(wanted, re.search(r">=([\d.]+)", wanted)[1])
PYTHON
}

# wants NAME : whether its tests are to run
wants() { [[ $WHICH = all || $WHICH = "$1" ]]; }

# check NAME TORCH OTHERS [PYTEST OPTION...] : install what pip understands by these and run the tests
check() {
    local name=$1 torch=$2 others=$3
    local python=$ROOT/.venv-$name/bin/python
    shift 3
    [ -x "$python" ] || python3 -m venv "$ROOT/.venv-$name"
    # The other packages are those of constraints.txt, less those that follow torch and transformers.
    grep -vE '^(torch|triton|transformers|tokenizers|huggingface_hub|networkx|sympy|numpy|sentencepiece|peft)==' constraints.txt >"$ROOT/.venv-$name/constraints.txt"
    echo "--- $name: $torch, $others ---"
    "$python" -m pip install --quiet --upgrade "$torch"
    # shellcheck disable=SC2086 # several requirements
    "$python" -m pip install --quiet --constraint "$ROOT/.venv-$name/constraints.txt" --editable "${ROOT}[dev]" \
        "$torch" $others
    "$python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
    OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} "$python" -m pytest "$@"
}

read -r torch_range torch_oldest <<<"$(bounds torch)"
read -r transformers_range transformers_oldest <<<"$(bounds transformers)"
if wants oldest; then
    # The interpreter of that torch's Triton fails with newer releases of NumPy.
    check oldest "torch==${TORCH_OLDEST:-$torch_oldest}" "transformers==$transformers_oldest numpy<2.4" "$@"
fi
if wants newest; then
    check newest "${TORCH_NEWEST:+torch==}${TORCH_NEWEST:-$torch_range}" "$transformers_range" "$@"
fi
if wants sglang; then
    # As the metadata of sglang 0.5.23 pins them; hosts whose towers are timm's are tested here alone.
    pins="transformers==5.19.0 tokenizers==0.23.2 sentencepiece==0.2.1 timm==1.0.25"
    check sglang "torch==${TORCH_SGLANG:-2.14.1}" "$pins" "$@"
fi
