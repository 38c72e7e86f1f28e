# shellcheck shell=bash
# A benchmark's recipe with arguments TOKENS [RATIO]: the recipe sources this file, which knows it by its name.
# shellcheck source=scripts/evaluation.sh
source "$(dirname "${BASH_SOURCE[0]}")/evaluation.sh"

if [ $# -lt 1 ] || [ $# -gt 2 ]; then refuse "usage: bash $0 TOKENS [RATIO]"; fi
evaluate "$(basename "$(dirname "$(cd "$(dirname "$0")" && pwd)")")" "$(basename "$0" .sh)" --visual_token_num "$1" \
    --important_ratio "${2:-0.5}" ${SKIP_MISSING:+--skip-missing}
