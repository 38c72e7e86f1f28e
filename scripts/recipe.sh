# shellcheck shell=bash
# What the benchmarks' recipes share: `python -m llava.eval` with a recipe's arguments, TOKENS [RATIO], and its settings
# from the environment (see EVAL.md). A recipe sources this file.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CKPT=${CKPT:-$ROOT/playground/checkpoints/llava-tiny}

# refuse WORDS : one line, exit 2
refuse() {
    echo "error: $*" >&2
    exit 2
}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then refuse "usage: bash $0 TOKENS [RATIO]"; fi
for name in NUM_MACHINES MACHINE_RANK NUM_PROCESSES; do
    [[ ${!name:-0} =~ ^[0-9]+$ ]] || refuse "$name must be a number, got '${!name}'"
done
if [ "${NUM_MACHINES:-1}" -gt 1 ] && { [ -z "${MAIN_PROCESS_IP:-}" ] || [ -z "${MAIN_PROCESS_PORT:-}" ]; }; then
    refuse "several machines need MAIN_PROCESS_IP and MAIN_PROCESS_PORT"
fi

# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"

options=(--model-path "$CKPT" --visual_token_num "$1" --important_ratio "${2:-0.5}"
    --pruning_method "${PRUNING_METHOD:-vispruner}" --budget_per "${BUDGET_PER:-crop}")
# The paper's setting of LLaVA-1.6: every picture in five crops, joined without newlines.
case $(cd "$(dirname "$0")" && pwd) in
    */v1_6/eval) options+=(--mm_patch_merge_type spatial --image_grid_pinpoints '[[672, 672]]') ;;
esac
exec "$PYTHON" -m llava.eval "$(basename "$0" .sh)" "${options[@]}" ${DATA_DIR:+--data-dir "$DATA_DIR"} \
    ${OUT_DIR:+--out-dir "$OUT_DIR"} ${BATCH_SIZE:+--batch-size "$BATCH_SIZE"} ${OVERWRITE:+--overwrite} \
    ${SKIP_MISSING:+--skip-missing} ${NUM_PROCESSES:+--num-processes "$NUM_PROCESSES"} \
    ${NUM_MACHINES:+--num-machines "$NUM_MACHINES"} ${MACHINE_RANK:+--machine-rank "$MACHINE_RANK"} \
    ${MAIN_PROCESS_IP:+--main-process-ip "$MAIN_PROCESS_IP"} \
    ${MAIN_PROCESS_PORT:+--main-process-port "$MAIN_PROCESS_PORT"}
