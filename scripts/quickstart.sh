#!/usr/bin/env bash
# Make the environment, a tiny random checkpoint and a picture, and ask about it at several budgets of visual tokens.
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install
cd "$ROOT"
WORK=playground/random
CKPT=$WORK/llava-v1.5-llama-tiny-random
[ -d "$CKPT" ] || "$PYTHON" scripts/make_random_checkpoint.py "$WORK"
"$PYTHON" scripts/draw_selection.py --scene "$WORK/scene.png"
for tokens in 144 32 8; do
    echo "--- $tokens of 144 visual tokens (random weights: the answer is nonsense) ---"
    "$PYTHON" -m llava.eval.run_llava --model-path "$CKPT" --device cpu --image-file "$WORK/scene.png" \
        --query "What is in the picture?" --temperature 0 --max_new_tokens 16 --visual_token_num "$tokens"
done
echo "the picture: $WORK/scene.png; a real checkpoint: see README.md"
