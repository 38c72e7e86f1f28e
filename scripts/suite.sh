# shellcheck shell=bash
# What the commands share that run many recipes: evaluate_all.sh and compare_methods.sh source this file.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# refuse WORDS : one line, exit 2
refuse() {
    echo "error: $*" >&2
    exit 2
}

# read_budgets TOKENS : the numbers of visual tokens, as the array budgets
read_budgets() {
    read -ra budgets <<<"${1//$'\n'/ }"
    for tokens in "${budgets[@]}"; do
        [[ $tokens =~ ^[1-9][0-9]*$ ]] || refuse "the numbers of tokens must be positive integers, got '$tokens'"
    done
}

export CKPT=${CKPT:-$ROOT/playground/checkpoints/llava-tiny}
export OUT_DIR=${OUT_DIR:-$ROOT/playground/data/eval}

# find_recipes [NAMES] : the recipes of the checkpoint's family, all or those of the NAMES, as the array recipes
find_recipes() {
    if [ -z "${FAMILY:-}" ]; then
        case $(basename "$CKPT" | tr '[:upper:]' '[:lower:]') in
            *1.6* | *next*) FAMILY=v1_6 ;;
            *) FAMILY=v1_5 ;;
        esac
    fi
    recipes=("$ROOT/scripts/$FAMILY/eval"/*.sh)
    [ -f "${recipes[0]}" ] || refuse "no recipes in $ROOT/scripts/$FAMILY/eval: FAMILY is v1_5 or v1_6"
    local names
    read -ra names <<<"${1:-}"
    if [ ${#names[@]} -gt 0 ]; then
        recipes=("${names[@]/#/"$ROOT/scripts/$FAMILY/eval/"}")
        recipes=("${recipes[@]/%/.sh}")
        for name in "${names[@]}"; do
            [ -f "$ROOT/scripts/$FAMILY/eval/$name.sh" ] || refuse "there is no benchmark '$name'"
        done
    fi
}

skipped=() failed=() code=0

# end_with CODE : the exit code in the end is 2 (bad input) if nothing failed otherwise, else 1
end_with() {
    if [ "$1" -ne 2 ]; then code=1; elif [ "$code" -eq 0 ]; then code=2; fi
}

# run_recipe RECIPE TOKENS RATIO WORDS : run it, titled WORDS; fails if its data is not there, and remembers other failures
run_recipe() {
    local status=0
    echo "--- $4 ---"
    PYTHON=$PYTHON SKIP_MISSING=1 bash "$1" "$2" "$3" || status=$?
    if [ "$status" -eq 3 ]; then
        skipped+=("$(basename "$1" .sh)")
        return 1
    elif [ "$status" -ne 0 ]; then
        failed+=("$4 (exit code $status)")
        end_with "$status"
    fi
}

# finish OPTIONS : the table, by collect_scores.py with the OPTIONS, what was skipped and what failed; exits
finish() {
    # With several machines the first one scores.
    if [ "${MACHINE_RANK:-0}" -eq 0 ]; then
        "$PYTHON" "$ROOT/scripts/collect_scores.py" --out-dir "$OUT_DIR" "$@" || end_with $?
    fi
    for name in "${skipped[@]}"; do echo "skipped, its data is not there: $name"; done
    for name in "${failed[@]}"; do echo "error: failed: $name" >&2; done
    exit "$code"
}

# Bash would go on to the next recipe if the interrupted one exits by itself.
trap 'exit 130' INT
