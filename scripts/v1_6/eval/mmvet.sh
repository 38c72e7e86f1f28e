#!/usr/bin/env bash
# MM-Vet with LLaVA-1.6: bash scripts/v1_6/eval/mmvet.sh TOKENS [RATIO]
# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../recipe.sh"
