#!/usr/bin/env bash
# Pruning methods compared: benchmarks answered by each method at each number of visual tokens, and by the unpruned
# model; one table and one picture. A method is a name, a .py file or a package.module. With BUDGET_PER=image the tokens
# are those of all crops of a picture together (LLaVA-1.6), else of each crop:
# [BENCHMARKS="pope gqa"] [BUDGET_PER=image] [CKPT=..] [DATA_DIR=..] [OUT_DIR=..] [FAMILY=v1_5|v1_6] \
#     bash scripts/compare_methods.sh "64 32" vispruner divprune mine.py
# shellcheck source=scripts/suite.sh
source "$(dirname "${BASH_SOURCE[0]}")/suite.sh"

usage="usage: bash $0 \"TOKENS...\" METHOD..."
if [ $# -lt 2 ]; then refuse "$usage"; fi
read_budgets "$1"
shift
[ ${#budgets[@]} -gt 0 ] || refuse "$usage"
find_recipes "${BENCHMARKS:-}"
# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"

# Before hours of answering: that there are such methods, and that each has a folder of its own.
"$PYTHON" - "$@" <<'PYTHON' || exit 2
import sys

from llava.pruning.method import METHOD_NAMES, check_pruning_method, method_label

labels = {}
for name in sys.argv[1:]:
    try:
        check_pruning_method(name)
    except ValueError as error:
        sys.exit(f"error: {error}")
    label = method_label(name)
    if labels.setdefault(label, name) != name or (label in METHOD_NAMES and label != name):
        sys.exit(f"error: {name}: another method is called {label}, and answers are filed under that")
PYTHON

methods=() benchmarks=()
for method in "$@"; do
    [ "$method" = none ] || methods+=("$method")
done
RATIO=0.5
for recipe in "${recipes[@]}"; do
    name=$(basename "$recipe" .sh)
    benchmarks+=("$name")
    # Which budget an unpruned model is given makes no difference.
    PRUNING_METHOD=none run_recipe "$recipe" "${budgets[0]}" "$RATIO" "$name, unpruned" || continue
    for method in "${methods[@]}"; do
        for tokens in "${budgets[@]}"; do
            PRUNING_METHOD=$method run_recipe "$recipe" "$tokens" "$RATIO" "$name, $method at $tokens visual tokens" || break
        done
    done
done
echo "--- scores, also in $OUT_DIR/summary/methods ---"
finish --checkpoint "$CKPT" --tokens "${budgets[@]}" --methods none "${methods[@]}" \
    --benchmarks "${benchmarks[@]}" --output "$OUT_DIR/summary/methods"
