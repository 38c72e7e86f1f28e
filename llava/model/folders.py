"""From a name to a checkpoint's folder. This file imports neither torch nor transformers."""

import re
from pathlib import Path

from llava.utils import InputError, one_line


def find_folder(name: str, what: str, relative_to: Path | None = None) -> Path:
    """The local folder that `name` means: a path relative to `relative_to`, a path, or a hub id (downloaded).

    Raises InputError, calling it `what`, if it is none of these.
    """
    candidates = [relative_to / name] if relative_to else []
    for folder in [*candidates, Path(name)]:
        if folder.is_dir():
            return folder
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise InputError(f"no such {what} folder: {candidates[0] if candidates else name}")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.model", "*.txt", "mm_projector.bin"]))
        for weights in ("model*.safetensors", "pytorch_model*.bin"):
            snapshot_download(name, allow_patterns=[weights])
            if any(folder.glob(weights)):
                break
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {name}: no such folder, and as a hub id: {one_line(error)}") from error
    return folder
