#!/usr/bin/env bash
# Run the tests of lmms-eval in an environment of its own, .venv-lmms-eval: bash scripts/test_lmms_eval.sh [pytest options]
ENVIRONMENT=.venv-lmms-eval
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

install
# lmms-eval asks for some fifty packages, most of them for single models or tasks. One is torchvision, whose release on
# the package index fails with a CPU's torch. Evaluating needs these.
"$PYTHON" -m pip install --quiet pytest pytest-randomly \
    datasets==5.2.0 evaluate==0.4.6 loguru==0.7.3 pytablewriter==1.2.1 pytz==2026.6 sacrebleu==2.6.0 tenacity==9.2.1
"$PYTHON" -m pip install --quiet --no-deps lmms-eval==0.7.3
cd "$ROOT"
# Nothing is downloaded: the tasks are made of the bundled data, and lie in the environment's folder.
export HF_HOME=$VENV/huggingface HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
"$PYTHON" -m pytest tests/integrations/lmms_eval "$@"
