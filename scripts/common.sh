# shellcheck shell=bash
# What the benchmarks' recipes share. A recipe sources this file with its own arguments, TOKENS [RATIO], and calls
# `answer` and `score` (or `convert`). Settings come from the environment: see EVAL.md.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUNDLED=$ROOT/playground/checkpoints/llava-tiny
CKPT=${CKPT:-$BUNDLED}
# The bundled model is asked about the bundled scenes, any other about the real benchmarks.
if [ "$CKPT" -ef "$BUNDLED" ]; then
    DATA_DIR=${DATA_DIR:-$ROOT/playground/data/scenes}
else
    DATA_DIR=${DATA_DIR:-$ROOT/playground/data/eval}
fi
OUT_DIR=${OUT_DIR:-$ROOT/playground/data/eval}
PRUNING_METHOD=${PRUNING_METHOD:-vispruner}
NUM_MACHINES=${NUM_MACHINES:-1}
MACHINE_RANK=${MACHINE_RANK:-0}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "error: usage: bash $0 TOKENS [RATIO]" >&2
    exit 2
fi
for name in NUM_MACHINES MACHINE_RANK NUM_PROCESSES; do
    if [[ ! ${!name:-0} =~ ^[0-9]+$ ]]; then
        echo "error: $name must be a number, got '${!name}'" >&2
        exit 2
    fi
done
TOKENS=$1
RATIO=${2:-0.5}
NAME=$(basename "$0" .sh)

# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"

# need PATH... : stop at once if something the recipe reads is missing, with another exit code where that is expected
need() {
    local path
    for path in "$@"; do
        if [ ! -e "$path" ]; then
            if [ -n "${SKIP_MISSING:-}" ]; then
                echo "skipped: $path is missing" >&2
                exit 3
            fi
            echo "error: $path is missing: see EVAL.md for where to get it" >&2
            exit 2
        fi
    done
}

# How this family of models is asked: the template, and the pictures' 672x672 of the paper for LLaVA-1.6.
FAMILY_OPTIONS=(--conv-mode vicuna_v1)
case $(cd "$(dirname "$0")" && pwd) in
    */v1_6/eval)
        case $(basename "$CKPT") in
            *mistral*) FAMILY_OPTIONS=(--conv-mode mistral_instruct) ;;
            *34b*) FAMILY_OPTIONS=(--conv-mode chatml_direct) ;;
        esac
        FAMILY_OPTIONS+=(--mm_patch_merge_type spatial --image_grid_pinpoints '[[672, 672]]')
        ;;
esac

# How many processes this machine starts: one for each GPU, or one on the CPU.
processes() {
    local -a gpus=()
    if [ -n "${NUM_PROCESSES:-}" ]; then
        echo "$NUM_PROCESSES"
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
        echo "$((${#gpus[@]} > 0 ? ${#gpus[@]} : 1))"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --list-gpus | wc -l
    else
        echo 1
    fi
}

# answer SPLIT MODULE QUESTIONS [OPTION...] : answer QUESTIONS into $DIR/merge.jsonl, or what is missing there
answer() {
    local module=$2 questions=$3 count
    local run
    run=$(basename "$CKPT")
    if [ "$PRUNING_METHOD" != vispruner ]; then run=$run-$PRUNING_METHOD; fi
    DIR=$OUT_DIR/$NAME/answers/$1/$run/n_$TOKENS/r_$RATIO
    shift 3
    count=$(($(processes) * NUM_MACHINES))
    local -a launch=()
    if [ "$count" -gt 1 ]; then
        launch=(-m llava.eval.launch --multi_gpu --num_processes "$count" --num_machines "$NUM_MACHINES"
            --machine_rank "$MACHINE_RANK" --main_process_port "${MAIN_PROCESS_PORT:-0}")
        if [ "$NUM_MACHINES" -gt 1 ]; then
            if [ -z "${MAIN_PROCESS_IP:-}" ] || [ -z "${MAIN_PROCESS_PORT:-}" ]; then
                echo "error: several machines need MAIN_PROCESS_IP and MAIN_PROCESS_PORT" >&2
                exit 2
            fi
            launch+=(--main_process_ip "$MAIN_PROCESS_IP")
        fi
    fi
    "$PYTHON" "${launch[@]}" -m "$module" --model-path "$CKPT" --question-file "$questions" \
        --answers-file "$DIR/merge.jsonl" --visual_token_num "$TOKENS" --important_ratio "$RATIO" \
        --pruning_method "$PRUNING_METHOD" --temperature 0 \
        "${FAMILY_OPTIONS[@]}" ${BATCH_SIZE:+--batch-size "$BATCH_SIZE"} ${OVERWRITE:+--overwrite} "$@"
    if [ "$MACHINE_RANK" -ne 0 ]; then exit 0; fi # the first machine does the rest
    echo "answers: $DIR/merge.jsonl"
}

# score MODULE [OPTION...] : score the answers
score() {
    local module=$1
    shift
    "$PYTHON" -m "$module" --result-file "$DIR/merge.jsonl" "$@"
    echo "score: $DIR/merge.score.json"
}

# convert SCRIPT FILE [OPTION...] : write the file to submit
convert() {
    local script=$1 file=$2
    shift 2
    "$PYTHON" "$ROOT/scripts/$script.py" "$@"
    echo "to submit: $file"
}
