#!/usr/bin/env bash
# Make the environment, ask the bundled model the bundled POPE and TextVQA at several budgets of visual tokens through the
# benchmarks' recipes, and draw which patches it keeps of one scene: bash scripts/quickstart.sh
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install
cd "$ROOT"
OUT=playground/quickstart
export PYTHON OUT_DIR=$OUT CKPT=playground/checkpoints/llava-tiny
mkdir -p "$OUT"

# field FILE NAME : a number of a score file, with one decimal
field() {
    "$PYTHON" -c 'import json, sys; print("%.1f" % json.load(open(sys.argv[1], encoding="utf-8"))[sys.argv[2]])' "$@"
}

rows=()
for tokens in 144 48 32 16 8; do
    start=$EPOCHREALTIME
    for name in pope textvqa; do
        echo "--- $name at $tokens of 144 visual tokens ---"
        bash "scripts/v1_5/eval/$name.sh" "$tokens" >"$OUT/$name.log"
    done
    end=$EPOCHREALTIME
    pope=$(field "$OUT/pope/answers/llava_pope_test/llava-tiny/n_$tokens/r_0.5/merge.score.json" mean_f1)
    textvqa=$(field "$OUT/textvqa/answers/llava_textvqa_val_v051_ocr/llava-tiny/n_$tokens/r_0.5/merge.score.json" accuracy)
    seconds=$(((${end/./} - ${start/./}) / 100000))
    rows+=("$tokens $pope $textvqa ${seconds%?}.${seconds: -1}")
done
echo
printf '%-14s %12s %16s %10s\n' "visual tokens" "POPE F1, %" "TextVQA acc., %" "time, s"
for row in "${rows[@]}"; do
    # shellcheck disable=SC2086 # four words
    printf '%-14s %12s %16s %10s\n' $row
done
echo
echo "a scene, the patches kept of it and the answers:"
"$PYTHON" scripts/draw_selection.py --output "$OUT/selection.png"
