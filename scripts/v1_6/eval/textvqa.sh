#!/usr/bin/env bash
# TextVQA with LLaVA-1.6: bash scripts/v1_6/eval/textvqa.sh TOKENS [RATIO]
# shellcheck source=scripts/benchmarks.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../benchmarks.sh"

textvqa
