#!/usr/bin/env bash
# Every benchmark whose data is there, at each number of visual tokens, and their table:
# [CKPT=..] [DATA_DIR=..] [OUT_DIR=..] [FAMILY=v1_5|v1_6] bash scripts/evaluate_all.sh "128 64 32" [RATIO]
# shellcheck source=scripts/suite.sh
source "$(dirname "${BASH_SOURCE[0]}")/suite.sh"

usage="usage: bash $0 \"TOKENS...\" [RATIO]"
if [ $# -lt 1 ] || [ $# -gt 2 ]; then refuse "$usage"; fi
read_budgets "$1"
[ ${#budgets[@]} -gt 0 ] || refuse "$usage"
RATIO=${2:-0.5}
[[ $RATIO =~ ^(0|1|1\.0+|0?\.[0-9]+)$ ]] || refuse "RATIO must be in [0, 1], got '$RATIO'"
find_recipes
# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"

echo "$(basename "$CKPT"), $FAMILY: ${#recipes[@]} recipes at ${budgets[*]} visual tokens, less those without data"
for recipe in "${recipes[@]}"; do
    for tokens in "${budgets[@]}"; do
        run_recipe "$recipe" "$tokens" "$RATIO" "$(basename "$recipe" .sh) at $tokens visual tokens" || break
    done
done
echo "--- scores, also in $OUT_DIR/summary ---"
finish --output "$OUT_DIR/summary"
