#!/usr/bin/env bash
# Every benchmark whose data is there, or those in BENCHMARKS, at each number of visual tokens, and their table:
# [BENCHMARKS="pope gqa"] [CKPT=..] [DATA_DIR=..] [OUT_DIR=..] [FAMILY=v1_5|v1_6] \
#     bash scripts/evaluate_all.sh "128 64 32" [RATIO]
# shellcheck source=scripts/evaluation.sh
source "$(dirname "${BASH_SOURCE[0]}")/evaluation.sh"

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ -z "${1// /}" ]; then refuse "usage: bash $0 \"TOKENS...\" [RATIO]"; fi
family=$(family_of "$CKPT")
# shellcheck disable=SC2086  # the words of lists
evaluate "$family" ${BENCHMARKS:-all} --skip-missing --visual_token_num $1 --important_ratio "${2:-0.5}"
