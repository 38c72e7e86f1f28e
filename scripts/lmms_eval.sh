#!/usr/bin/env bash
# Tasks of lmms-eval at every method x budget x position, and any other setting, and one table with intervals:
#   [CKPT=..] [OUT_DIR=..] bash scripts/lmms_eval.sh "ocrbench docvqa refcoco" \
#       --visual_token_num 128 64 --pruning_method none vispruner divprune [options]
# Without a task, they are listed; --help lists the options. One process for each GPU of CUDA_VISIBLE_DEVICES, or
# --num-processes. The same command goes on after a run that was cut off. See docs/lmms_eval.md.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"
if [[ "$*" == *scenes_* ]]; then (cd "$ROOT" && "$PYTHON" -m playground.tiny.standins >/dev/null); fi
# shellcheck disable=SC2086  # the words of a list
exec "$PYTHON" -m llava.integrations.lmms_eval.sweep ${1:-} "${@:2}" ${CKPT:+--model-path "$CKPT"} \
    ${OUT_DIR:+--out-dir "$OUT_DIR"}
