#!/usr/bin/env bash
# TextVQA with LLaVA-1.5: bash scripts/v1_5/eval/textvqa.sh TOKENS [RATIO]
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../common.sh"

DATA=$DATA_DIR/textvqa
QUESTIONS=$DATA/llava_textvqa_val_v051_ocr.jsonl
need "$QUESTIONS" "$DATA/train_images" "$DATA/TextVQA_0.5.1_val.json"
DIR=$(answers_dir textvqa llava_textvqa_val_v051_ocr)
generate llava.eval.model_vqa_loader "$DIR" "$QUESTIONS" --image-folder "$DATA/train_images" --conv-mode vicuna_v1
"$PYTHON" -m llava.eval.eval_textvqa --annotation-file "$DATA/TextVQA_0.5.1_val.json" --result-file "$DIR/merge.jsonl"
