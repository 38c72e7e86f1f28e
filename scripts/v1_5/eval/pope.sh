#!/usr/bin/env bash
# POPE with LLaVA-1.5: bash scripts/v1_5/eval/pope.sh TOKENS [RATIO]
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

DATA=$DATA_DIR/pope
need "$DATA/llava_pope_test.jsonl" "$DATA/val2014" "$DATA/coco"
DIR=$(answers_dir pope llava_pope_test)
generate llava.eval.model_vqa_loader "$DIR" "$DATA/llava_pope_test.jsonl" --image-folder "$DATA/val2014" \
    --conv-mode vicuna_v1
"$PYTHON" -m llava.eval.eval_pope --annotation-dir "$DATA/coco" --question-file "$DATA/llava_pope_test.jsonl" \
    --result-file "$DIR/merge.jsonl"
