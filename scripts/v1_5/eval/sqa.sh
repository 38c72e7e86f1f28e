#!/usr/bin/env bash
# ScienceQA with LLaVA-1.5: bash scripts/v1_5/eval/sqa.sh TOKENS [RATIO]
# shellcheck source=scripts/benchmarks.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../benchmarks.sh"

sqa
