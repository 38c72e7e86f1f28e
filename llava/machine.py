"""On what something was measured: the processor or GPU, and the versions. This file imports torch when it is asked."""

import os
import platform
from pathlib import Path

import llava


def device_name(device: str) -> str:
    """The name of a GPU, or of the processor where `device` is none."""
    import torch

    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor()


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """The processor's cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """The versions of this package, Python, torch and transformers."""
    import torch
    import transformers

    return {
        "llava": llava.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
