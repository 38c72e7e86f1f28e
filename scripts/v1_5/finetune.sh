#!/usr/bin/env bash
# Stage 2 of LLaVA-1.5, projector and language model: bash scripts/v1_5/finetune.sh [option of llava.train.train...]
# Environment: as for pretrain.sh, and PROJECTOR, the mm_projector.bin that stage 1 wrote; empty to train on from a LLaVA
# checkpoint as MODEL. The defaults are LLaVA-1.5-7B's, which takes 112 GB for weights and optimizer: on several GPUs add
# --fsdp.
# shellcheck source=scripts/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/../training.sh"

DATA=${DATA:-playground/data/llava_v1_5_mix665k.json}
IMAGES=${IMAGES:-playground/data}
PROJECTOR=${PROJECTOR-checkpoints/llava-v1.5-7b-pretrain/mm_projector.bin}
OUTPUT=${OUTPUT:-checkpoints/llava-v1.5-7b}

train 128 16 --version v1 ${PROJECTOR:+--pretrain_mm_mlp_adapter "$PROJECTOR"} --image_aspect_ratio pad \
    --group_by_modality_length True --learning_rate 2e-5 "$@"
