#!/usr/bin/env bash
# Make the environment, ask the bundled model the bundled POPE and TextVQA at several budgets of visual tokens, and draw
# which patches it keeps of one scene: bash scripts/quickstart.sh
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install
cd "$ROOT"
OUT=playground/quickstart
mkdir -p "$OUT"
rm -rf "$OUT/pope" "$OUT/textvqa" # times are those of this run: what an earlier one answered is asked again

# row TOKENS [FOLDER KEY]... : a row of the table: the tokens, the score under KEY in each FOLDER, the seconds of answering
row() {
    "$PYTHON" - "$@" <<'PYTHON'
import json, pathlib, sys

def read(folder, kind):
    return json.loads(pathlib.Path(folder, f"merge.{kind}.json").read_text(encoding="utf-8"))

tokens, *rest = sys.argv[1:]
pairs = list(zip(rest[::2], rest[1::2]))
scores = [read(folder, "score")[key] for folder, key in pairs]
seconds = sum(read(folder, "run")["seconds"] for folder, _ in pairs)
print(tokens, *(f"{figure:.1f}" for figure in (*scores, seconds)))
PYTHON
}

device=cuda
if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    device=cpu
    echo "no GPU is available: the model runs on the CPU"
fi
rows=()
for tokens in 144 48 32 16 8; do
    # A process for each budget: one for all would encode the pictures once, at the first.
    for name in pope textvqa; do
        echo "--- $name at $tokens of 144 visual tokens ---"
        "$PYTHON" -m llava.eval "$name" --visual_token_num "$tokens" --device "$device" --out-dir "$OUT" >"$OUT/$name.log"
    done
    pope=$OUT/pope/answers/llava_pope_test/llava-tiny/n_$tokens/r_0.5
    textvqa=$OUT/textvqa/answers/llava_textvqa_val_v051_ocr/llava-tiny/n_$tokens/r_0.5
    rows+=("$(row "$tokens" "$pope" mean_f1 "$textvqa" accuracy)")
done
echo
printf '%-14s %12s %16s %14s\n' "visual tokens" "POPE F1, %" "TextVQA acc., %" "answering, s"
for row in "${rows[@]}"; do
    # shellcheck disable=SC2086 # four words
    printf '%-14s %12s %16s %14s\n' $row
done
echo
echo "a scene, the patches kept of it and the answers:"
"$PYTHON" docs/examples/draw_selection.py --output "$OUT/selection.png"
