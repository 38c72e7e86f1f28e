#!/usr/bin/env bash
# Make the bundled model and benchmarks: bash playground/tiny/make.sh
# The steps are data, CLIP, tokenizer and language model, LLaVA's two stages, evaluation, model card. The same command
# continues an interrupted run. Environment: WORK is the folder of training data, states and results (playground/out/tiny),
# BUNDLE the folder of the finished checkpoints and benchmarks (playground).
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"

WORK=${WORK:-playground/out/tiny}
BUNDLE=${BUNDLE:-playground}
SCENES=60000
TOWER=clip-vit-tiny-patch14-168

if [ "${1:-}" = --help ]; then
    sed -n '2,5s/^# //p' "$0"
    exit 0
elif [ $# -ne 0 ]; then
    echo "error: usage: bash $0 (it takes no arguments)" >&2
    exit 2
fi
install
cd "$ROOT"
export PYTHON PYTHONPATH=$ROOT OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

# publish FOLDER : copy a finished checkpoint into the bundle, without the training's states
publish() {
    mkdir -p "$BUNDLE/checkpoints/$1"
    find "$WORK/$1" -maxdepth 1 -type f ! -name 'train*' ! -name '*.pt' -exec cp {} "$BUNDLE/checkpoints/$1" \;
}

echo "--- data ---"
[ -f "$WORK/letters.json" ] || "$PYTHON" -m playground.tiny.data --output "$WORK" --scenes "$SCENES"
"$PYTHON" -m playground.tiny.benchmarks --output "$BUNDLE/data/scenes"

echo "--- CLIP ---"
[ -f "$WORK/$TOWER/model.safetensors" ] ||
    "$PYTHON" -m playground.tiny.clip --images "$WORK/images" --scenes "$SCENES" --output "$WORK/$TOWER"

echo "--- tokenizer and language model ---"
[ -f "$WORK/llama/model.safetensors" ] ||
    "$PYTHON" -m playground.tiny.language_model --data "$WORK" --output "$WORK/llama"

# The stages run LLaVA's own recipes, with batches and learning rates for a model of this size.
TINY=(--per_device_train_batch_size 32 --gradient_accumulation_steps 1 --logging_steps 10 --dataloader_num_workers 1)
export MODEL=$WORK/llama IMAGES=$WORK/images
echo "--- stage 1: the projector ---"
START=$WORK/projector_start.bin
[ -f "$START" ] || "$PYTHON" -m playground.tiny.projector --clip "$WORK/$TOWER" --llama "$MODEL" --output "$START"
VISION_TOWER=$WORK/$TOWER DATA=$WORK/lookup.json OUTPUT=$WORK/projector \
    bash scripts/v1_5/pretrain.sh "${TINY[@]}" --version v1 --pretrain_mm_mlp_adapter "$START" --max_steps 60 --save_steps 50
# The 7B's batches hold conversations of one kind only. A model that learns this fast needs mixed ones.
STAGE2=("${TINY[@]}" --group_by_modality_length False --adam_beta2 0.98 --learning_rate 1e-3
    --save_steps 100)
export TRAINER=playground.tiny.train # Muon for the matrices
echo "--- stage 2: projector and language model, the simplest questions first ---"
VISION_TOWER=../$TOWER DATA=$WORK/lookup.json OUTPUT=$WORK/llava-lookup PROJECTOR=$WORK/projector/mm_projector.bin \
    bash scripts/v1_5/finetune.sh "${STAGE2[@]}" --max_steps 200 --save_dtype float32 \
    --lr_scheduler_type constant_with_warmup
MODEL=$WORK/llava-lookup VISION_TOWER=../$TOWER DATA=$WORK/finetune.json OUTPUT=$WORK/llava-mixture PROJECTOR='' \
    bash scripts/v1_5/finetune.sh "${STAGE2[@]}" --max_steps 650
echo "--- stage 2, multiple choice: answers in words, then in letters, then all questions again ---"
MODEL=$WORK/llava-mixture VISION_TOWER=../$TOWER DATA=$WORK/words.json OUTPUT=$WORK/llava-words PROJECTOR='' \
    bash scripts/v1_5/finetune.sh "${STAGE2[@]}" --max_steps 220 --save_dtype float32
[ -f "$WORK/llava-grown/config.json" ] ||
    "$PYTHON" -m playground.tiny.letters --model "$WORK/llava-words" --data "$WORK" --output "$WORK/llava-grown"
export TRAINER=playground.tiny.train_letters
MODEL=$WORK/llava-grown VISION_TOWER=../$TOWER DATA=$WORK/letters.json OUTPUT=$WORK/llava-letters PROJECTOR='' \
    bash scripts/v1_5/finetune.sh "${STAGE2[@]}" --max_steps 170
MODEL=$WORK/llava-letters VISION_TOWER=../$TOWER DATA=$WORK/finetune.json OUTPUT=$WORK/llava-tiny PROJECTOR='' \
    bash scripts/v1_5/finetune.sh "${STAGE2[@]}" --max_steps 200
publish "$TOWER"
publish llava-tiny

echo "--- evaluation ---"
"$PYTHON" -m playground.tiny.evaluate --model-path "$BUNDLE/checkpoints/llava-tiny" --data-dir "$BUNDLE/data/scenes" \
    --output "$WORK/evaluation"
# The card's tables are those of docs/results, which the bundled model's own are copied to.
[ "$BUNDLE" != playground ] || cp "$WORK/evaluation/tables.json" docs/results/llava-tiny.json
"$PYTHON" -m playground.tiny.model_card --evaluation "$WORK/evaluation" --clip "$BUNDLE/checkpoints/$TOWER" \
    --output "$BUNDLE/checkpoints/llava-tiny/README.md"
