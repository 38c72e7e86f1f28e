#!/usr/bin/env bash
# Stage 2 of LLaVA-1.5 by LoRA: bash scripts/v1_5/finetune_lora.sh [option of llava.train.train...]
# Environment: as for finetune.sh. OUTPUT gets the adapter and the projector, which load with --model-base "$MODEL", or
# merged by scripts/merge_lora_weights.py. With --bits 4 the language model is quantized (QLoRA).
# shellcheck source=scripts/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/../training.sh"

DATA=${DATA:-playground/data/llava_v1_5_mix665k.json}
IMAGES=${IMAGES:-playground/data}
PROJECTOR=${PROJECTOR-checkpoints/llava-v1.5-7b-pretrain/mm_projector.bin}
OUTPUT=${OUTPUT:-checkpoints/llava-v1.5-7b-lora}

train 128 16 --lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5 --version v1 \
    ${PROJECTOR:+--pretrain_mm_mlp_adapter "$PROJECTOR"} --image_aspect_ratio pad \
    --group_by_modality_length True --learning_rate 2e-4 "$@"
