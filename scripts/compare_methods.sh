#!/usr/bin/env bash
# Pruning methods compared: benchmarks answered by each method at each number of visual tokens, and by the unpruned
# model; one table and one picture. A method is a name, a .py file or a package.module. With BUDGET_PER=image the tokens
# are those of all crops of a picture together (LLaVA-1.6), else of each crop:
# [BENCHMARKS="pope gqa"] [BUDGET_PER=image] [CKPT=..] [DATA_DIR=..] [OUT_DIR=..] [FAMILY=v1_5|v1_6] \
#     bash scripts/compare_methods.sh "64 32" vispruner divprune mine.py
# Options of `python -m llava.eval` may follow: `random --pruning_seed 0 1 2 --results FILE`.
# shellcheck source=scripts/evaluation.sh
source "$(dirname "${BASH_SOURCE[0]}")/evaluation.sh"

if [ $# -lt 2 ] || [ -z "${1// /}" ]; then refuse "usage: bash $0 \"TOKENS...\" METHOD..."; fi
family=$(family_of "$CKPT")
# shellcheck disable=SC2086  # the words of lists
evaluate "$family" ${BENCHMARKS:-all} --skip-missing --visual_token_num $1 --pruning_method none "${@:2}"
