#!/usr/bin/env bash
# VQAv2 with LLaVA-1.5: bash scripts/v1_5/eval/vqav2.sh TOKENS [RATIO]
# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../recipe.sh"
