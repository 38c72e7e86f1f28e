#!/usr/bin/env bash
# MME with LLaVA-1.5: bash scripts/v1_5/eval/mme.sh TOKENS [RATIO]
# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../recipe.sh"
