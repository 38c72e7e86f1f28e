#!/usr/bin/env bash
# MMBench-CN with LLaVA-1.6: bash scripts/v1_6/eval/mmbench_cn.sh TOKENS [RATIO]
# shellcheck source=scripts/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../recipe.sh"
