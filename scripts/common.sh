# shellcheck shell=bash
# What every benchmark's recipe shares. A recipe sources this file with its own arguments: TOKENS [RATIO].
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CKPT=${CKPT:-liuhaotian/llava-v1.5-7b}
DATA_DIR=${DATA_DIR:-$ROOT/playground/data/eval}
OUT_DIR=${OUT_DIR:-$ROOT/playground/data/eval}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "error: usage: bash $0 TOKENS [RATIO]" >&2
    exit 2
fi
TOKENS=$1
RATIO=${2:-0.5}

# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"

# need PATH... : stop at once if something the recipe reads is missing
need() {
    local path
    for path in "$@"; do
        if [ ! -e "$path" ]; then
            echo "error: $path is missing: see EVAL.md for where to get it" >&2
            exit 2
        fi
    done
}

# answers_dir NAME SPLIT : where the answers of this checkpoint, budget and ratio go
answers_dir() {
    echo "$OUT_DIR/$1/answers/$2/$(basename "$CKPT")/n_$TOKENS/r_$RATIO"
}

# generate MODULE DIR QUESTIONS [OPTION...] : answer QUESTIONS with one process on each GPU of CUDA_VISIBLE_DEVICES,
# then merge into DIR/merge.jsonl. Ends with the exit code of a process that failed, after stopping the others.
generate() {
    local module=$1 dir=$2 questions=$3
    shift 3
    local -a gpus=() pids=() files=() on_gpu=()
    IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES-}"
    local count=${#gpus[@]} i status=0
    if [ "$count" -eq 0 ]; then count=1; fi
    for ((i = 0; i < count; i++)); do
        files+=("$dir/${count}_$i.jsonl")
        if [ "${#gpus[@]}" -gt 0 ]; then on_gpu=(env "CUDA_VISIBLE_DEVICES=${gpus[i]}"); fi
        "${on_gpu[@]}" "$PYTHON" -m "$module" --model-path "$CKPT" --question-file "$questions" --answers-file "${files[i]}" \
            --visual_token_num "$TOKENS" --important_ratio "$RATIO" --temperature 0 \
            --num-chunks "$count" --chunk-idx "$i" "$@" &
        pids+=($!)
    done
    trap 'kill "${pids[@]}" 2>/dev/null || true' EXIT
    for ((i = 0; i < count; i++)); do
        wait "${pids[i]}" || status=$?
        if [ "$status" -ne 0 ]; then exit "$status"; fi
    done
    trap - EXIT
    "$PYTHON" -m llava.eval.answers --question-file "$questions" --answers-files "${files[@]}" \
        --output "$dir/merge.jsonl"
}
