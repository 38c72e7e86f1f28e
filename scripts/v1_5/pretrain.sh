#!/usr/bin/env bash
# Stage 1 of LLaVA-1.5, the projector alone on captions: bash scripts/v1_5/pretrain.sh [option of llava.train.train...]
# Environment: MODEL, VISION_TOWER, DATA, IMAGES, OUTPUT, CUDA_VISIBLE_DEVICES. The defaults are LLaVA-1.5-7B's.
# shellcheck source=scripts/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/../training.sh"

DATA=${DATA:-playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json}
IMAGES=${IMAGES:-playground/data/LLaVA-Pretrain/images}
OUTPUT=${OUTPUT:-checkpoints/llava-v1.5-7b-pretrain}

train 256 32 --version plain --tune_mm_mlp_adapter True --learning_rate 1e-3 "$@"
