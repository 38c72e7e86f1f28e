#!/usr/bin/env bash
# MMBench with LLaVA-1.6: bash scripts/v1_6/eval/mmbench.sh TOKENS [RATIO]
# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../recipe.sh"
