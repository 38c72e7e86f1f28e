#!/usr/bin/env bash
# What pruning costs and saves on this machine's GPU, in under nine minutes, into docs/results/gpu/<card>.json:
#   bash scripts/benchmarks/gpu_report.sh [--parts NAME...] [--overwrite] [--output FILE]
# The same command again goes on where it was ended; --help lists the parts. Nothing is downloaded.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"
export HF_HUB_OFFLINE=1
exec "$PYTHON" -m scripts.benchmarks.gpu_report "$@"
