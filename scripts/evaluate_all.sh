#!/usr/bin/env bash
# Every benchmark whose data is there, at each number of visual tokens, and their table:
# [CKPT=..] [DATA_DIR=..] [OUT_DIR=..] [FAMILY=v1_5|v1_6] bash scripts/evaluate_all.sh "128 64 32" [RATIO]
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# refuse WORDS : one line, exit 2
refuse() {
    echo "error: $*" >&2
    exit 2
}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then refuse "usage: bash $0 \"TOKENS...\" [RATIO]"; fi
read -ra budgets <<<"${1//$'\n'/ }"
RATIO=${2:-0.5}
if [ ${#budgets[@]} -eq 0 ]; then refuse "usage: bash $0 \"TOKENS...\" [RATIO]"; fi
for tokens in "${budgets[@]}"; do
    [[ $tokens =~ ^[1-9][0-9]*$ ]] || refuse "the numbers of tokens must be positive integers, got '$tokens'"
done
[[ $RATIO =~ ^(0|1|1\.0+|0?\.[0-9]+)$ ]] || refuse "RATIO must be in [0, 1], got '$RATIO'"

export CKPT=${CKPT:-$ROOT/playground/checkpoints/llava-tiny}
export OUT_DIR=${OUT_DIR:-$ROOT/playground/data/eval}
if [ -z "${FAMILY:-}" ]; then
    case $(basename "$CKPT" | tr '[:upper:]' '[:lower:]') in
        *1.6* | *next*) FAMILY=v1_6 ;;
        *) FAMILY=v1_5 ;;
    esac
fi
recipes=("$ROOT/scripts/$FAMILY/eval"/*.sh)
[ -f "${recipes[0]}" ] || refuse "no recipes in $ROOT/scripts/$FAMILY/eval: FAMILY is v1_5 or v1_6"

# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"

skipped=() failed=() code=0
# end_with CODE : the exit code in the end is 2 (bad input) if nothing failed otherwise, else 1
end_with() {
    if [ "$1" -ne 2 ]; then code=1; elif [ "$code" -eq 0 ]; then code=2; fi
}

# Bash would go on to the next recipe if the interrupted one exits by itself.
trap 'exit 130' INT
echo "$(basename "$CKPT"), $FAMILY: ${#recipes[@]} recipes at ${budgets[*]} visual tokens, less those without data"
for recipe in "${recipes[@]}"; do
    name=$(basename "$recipe" .sh)
    for tokens in "${budgets[@]}"; do
        echo "--- $name at $tokens visual tokens ---"
        status=0
        PYTHON=$PYTHON SKIP_MISSING=1 bash "$recipe" "$tokens" "$RATIO" || status=$?
        case $status in
            0) ;;
            3)
                skipped+=("$name")
                break
                ;;
            *)
                failed+=("$name at $tokens visual tokens (exit code $status)")
                end_with "$status"
                ;;
        esac
    done
done

# With several machines the first one scores.
if [ "${MACHINE_RANK:-0}" -eq 0 ]; then
    echo "--- scores, also in $OUT_DIR/summary ---"
    "$PYTHON" "$ROOT/scripts/collect_scores.py" --out-dir "$OUT_DIR" || end_with $?
fi
for name in "${skipped[@]}"; do echo "skipped, its data is not there: $name"; done
for name in "${failed[@]}"; do echo "error: failed: $name" >&2; done
exit "$code"
