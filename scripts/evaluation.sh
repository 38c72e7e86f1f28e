# shellcheck shell=bash
# What the benchmarks' recipes share: `python -m llava.eval` with settings from the environment (see EVAL.md). Sourced.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CKPT=${CKPT:-$ROOT/playground/checkpoints/llava-tiny}

# refuse WORDS : one line, exit 2
refuse() {
    echo "error: $*" >&2
    exit 2
}

# family_of CHECKPOINT : v1_5 or v1_6, by its name unless FAMILY says
family_of() {
    case ${FAMILY:-$(basename "$1" | tr '[:upper:]' '[:lower:]')} in
        v1_5) echo v1_5 ;;
        v1_6 | *1.6* | *next*) echo v1_6 ;;
        *)
            [ -z "${FAMILY:-}" ] || refuse "FAMILY is v1_5 or v1_6, got '$FAMILY'"
            echo v1_5
            ;;
    esac
}

# evaluate FAMILY ARGUMENTS : the command, with the arguments and what the environment says: each pruning setting that is no
# argument by its name in capitals, such as PRUNING_METHOD, BUDGET_PER and PRUNING_SEED
evaluate() {
    local name variable family=$1 crops=() settings=()
    shift
    for name in NUM_MACHINES MACHINE_RANK NUM_PROCESSES; do
        [[ ${!name:-0} =~ ^[0-9]+$ ]] || refuse "$name must be a number, got '${!name}'"
    done
    if [ "${NUM_MACHINES:-1}" -gt 1 ] && { [ -z "${MAIN_PROCESS_IP:-}" ] || [ -z "${MAIN_PROCESS_PORT:-}" ]; }; then
        refuse "several machines need MAIN_PROCESS_IP and MAIN_PROCESS_PORT"
    fi
    # shellcheck source=scripts/python.sh
    source "$ROOT/scripts/python.sh"
    # The paper's setting of LLaVA-1.6: every picture in five crops, joined without newlines.
    [ "$family" = v1_5 ] || crops=(--mm_patch_merge_type spatial --image_grid_pinpoints '[[672, 672]]')
    for name in $("$PYTHON" -c 'from llava.pruning.settings import NAMES; print(*NAMES)'); do
        variable=${name^^}
        [[ " $* " == *" --$name "* ]] || [ -z "${!variable:-}" ] || settings+=("--$name" "${!variable}")
    done
    exec "$PYTHON" -m llava.eval "$@" --model-path "$CKPT" "${crops[@]}" "${settings[@]}" \
        ${DATA_DIR:+--data-dir "$DATA_DIR"} ${OUT_DIR:+--out-dir "$OUT_DIR"} ${BATCH_SIZE:+--batch-size "$BATCH_SIZE"} \
        ${OVERWRITE:+--overwrite} ${NUM_PROCESSES:+--num-processes "$NUM_PROCESSES"} \
        ${NUM_MACHINES:+--num-machines "$NUM_MACHINES"} ${MACHINE_RANK:+--machine-rank "$MACHINE_RANK"} \
        ${MAIN_PROCESS_IP:+--main-process-ip "$MAIN_PROCESS_IP"} \
        ${MAIN_PROCESS_PORT:+--main-process-port "$MAIN_PROCESS_PORT"}
}
