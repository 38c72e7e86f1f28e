#!/usr/bin/env bash
# SEED-Bench with LLaVA-1.6: bash scripts/v1_6/eval/seed.sh TOKENS [RATIO]
# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../recipe.sh"
