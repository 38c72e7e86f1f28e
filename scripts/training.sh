# shellcheck shell=bash
# What the training recipes share. Settings come from the environment. A recipe's arguments go to llava.train.train.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"

MODEL=${MODEL:-lmsys/vicuna-7b-v1.5}
VISION_TOWER=${VISION_TOWER:-openai/clip-vit-large-patch14-336}
TRAINER=${TRAINER:-llava.train.train} # or a module that calls it

# count_gpus : how many GPUs this run may use. Importing torch to ask would make a mistyped option wait for seconds.
count_gpus() {
    nvidia-smi --list-gpus >/dev/null 2>&1 || { echo 0 && return; }
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -v -- '^-1$' | grep -c '[^[:space:]]' || true
    else
        nvidia-smi --list-gpus | grep -c .
    fi
}

# train BATCH PER_DEVICE [OPTION...] : train with the settings that both stages of LLaVA-1.5 share. Starts one process on
# each visible GPU, or one on the CPU. Each handles PER_DEVICE conversations at once, and gradients are accumulated until
# all processes together have handled BATCH.
train() {
    local batch=$1 per_device=$2 gpus count
    shift 2
    gpus=$(count_gpus)
    count=$((gpus > 0 ? gpus : 1))
    local -a start=("$PYTHON")
    if [ "$count" -gt 1 ]; then
        start+=(-m accelerate.commands.launch --multi_gpu --num_processes "$count" --num_machines 1
            --mixed_precision no --dynamo_backend no)
    fi
    if [ $((batch % (count * per_device))) -ne 0 ]; then
        echo "error: a batch of $batch cannot be split over $count processes of $per_device" >&2
        exit 2
    fi
    if [ "$gpus" -gt 0 ]; then
        set -- --gradient_checkpointing True "$@"
    fi
    cd "$ROOT"
    exec "${start[@]}" -m "$TRAINER" \
        --model_name_or_path "$MODEL" --vision_tower "$VISION_TOWER" \
        --data_path "$DATA" --image_folder "$IMAGES" --output_dir "$OUTPUT" \
        --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 \
        --bf16 True --num_train_epochs 1 --per_device_train_batch_size "$per_device" \
        --gradient_accumulation_steps $((batch / count / per_device)) \
        --weight_decay 0 --warmup_ratio 0.03 --lr_scheduler_type cosine --model_max_length 2048 \
        --save_strategy steps --save_steps 1000 --save_total_limit 1 --logging_steps 1 \
        --dataloader_num_workers 4 "$@"
}
