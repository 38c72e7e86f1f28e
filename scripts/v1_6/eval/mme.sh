#!/usr/bin/env bash
# MME with LLaVA-1.6: bash scripts/v1_6/eval/mme.sh TOKENS [RATIO]
# shellcheck source=scripts/benchmarks.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../benchmarks.sh"

mme
