"""From a name to a checkpoint's folder, and new ones. This file imports neither torch nor transformers."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from llava.errors import InputError, one_line
from llava.files import read_json_object, require_new_folder

# What a folder says of itself, and its weights in the formats that are read, the first that it has.
_SETTINGS = ["*.json", "*.jinja", "*.model", "*.txt"]
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_ON_A_BASE = ["mm_projector.bin", "adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin"]
ADAPTER_CONFIG = "adapter_config.json"
_WRITTEN = ("*.json", "*.part", "*.jinja", "*.model", "*.safetensors", "merges.txt", "vocab.txt", "vision_tower")
_SNAPSHOT = re.compile(r"models--(?P<name>[\w.-]+)/snapshots/(?P<revision>[0-9a-f]+)")


def find_folder(name: str, what: str, relative_to: Path | None = None, cache_dir: str | None = None) -> Path:
    """The local folder that `name` means: a path relative to `relative_to`, a path, or a hub id.

    Of a hub id all but the weights is downloaded: those follow where they are read (`fetch_weights`), once what the
    folder says of itself was found good. It goes to `cache_dir`, or where the checkpoint `relative_to` was downloaded
    to, or to the library's own place. Raises InputError, calling it `what`, for anything else, and for a peft adapter
    that is no LoRA checkpoint of LLaVA's.
    """
    candidates = [relative_to / name] if relative_to else []
    for folder in [*candidates, Path(name)]:
        if folder.is_dir():
            return _no_bare_adapter(folder, what)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise InputError(f"no such {what} folder: {candidates[0] if candidates else name}")
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(name, allow_patterns=_SETTINGS, cache_dir=cache_dir or _cache_of(relative_to))
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {name}: no such folder, and as a hub id: {one_line(error)}") from error
    return _no_bare_adapter(Path(path), what)


def _no_bare_adapter(folder: Path, what: str) -> Path:
    """The folder. Raises InputError for a peft adapter, unless it is LLaVA's LoRA and may be one."""
    path, config = folder / ADAPTER_CONFIG, folder / "config.json"
    if not path.exists():
        return folder
    if config.exists() and "text_config" not in read_json_object(config, "config"):
        if what != "checkpoint":
            raise InputError(f"the {what} {folder} is a LoRA checkpoint: see scripts/merge_lora_weights.py")
        return folder
    values = read_json_object(path, "adapter config")
    mapping = values.get("auto_mapping")
    of = [mapping.get("base_model_class") if isinstance(mapping, dict) else None, values.get("base_model_name_or_path")]
    model = " ".join(map(str, filter(None, of))) or "another model"
    raise InputError(
        f"the {what} {folder} is a peft adapter of {model}, not a LoRA checkpoint of LLaVA's training: merge it with "
        "peft (merge_and_unload, save_pretrained) and give the merged folder"
    )


def is_on_hub(folder: Path) -> bool:
    """Whether `find_folder` gave this folder for a hub id."""
    return _SNAPSHOT.fullmatch("/".join(folder.parts[-3:])) is not None


def _cache_of(folder: Path | None) -> Path | None:
    """The cache that `find_folder` downloaded a folder to; None for any other folder."""
    return folder.parents[2] if folder is not None and is_on_hub(folder) else None


def fetch_weights(folder: Path) -> None:
    """Download the weights of a hub id whose folder `find_folder` gave; for any other folder do nothing.

    Raises InputError if they cannot be downloaded.
    """
    found = _SNAPSHOT.fullmatch("/".join(folder.parts[-3:]))
    if found is None:
        return
    from huggingface_hub import snapshot_download

    name = found["name"].replace("--", "/")
    fetch = partial(snapshot_download, name, revision=found["revision"], cache_dir=_cache_of(folder))
    try:
        fetch(allow_patterns=_ON_A_BASE)
        for weights in _WEIGHTS:
            fetch(allow_patterns=[weights])
            if any(folder.glob(weights)):
                return
    except (OSError, ValueError) as error:
        raise InputError(f"the weights of {name} cannot be downloaded: {one_line(error)}") from error


def get_model_name_from_path(model_path: str) -> str:
    """The checkpoint's name: the last part of its path, with the run's in front of a `checkpoint-N`."""
    *parents, name = str(model_path).strip("/").split("/")
    return f"{parents[-1]}_{name}" if name.startswith("checkpoint-") and parents else name


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Raise InputError for a file in `folder` that cannot be written, as on a full disk.

    For that torch, safetensors and tokenizers have classes of their own, or none, which do not always say the cause.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {one_line(error)}") from error
    except Exception as error:
        if not re.search(r"inline_container|\(os error", str(error)):
            raise
        at = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = f"({shutil.disk_usage(at).free // 2**20} MiB are free)"
        raise InputError(f"cannot write to {folder}: {one_line(error)} {free}") from error


@contextlib.contextmanager
def new_checkpoint(target: Path) -> Iterator[Path]:
    """A folder to write a checkpoint to that gets the name `target` when it is complete; until then it is `NAME.part`.

    What ends it early removes that; what a killed process has left of it, the next one removes. Raises InputError if
    `target` exists, another process is writing it, `NAME.part` is something else, or it cannot be written.
    """
    require_new_folder(target)
    part = target.with_name(f"{target.name}.part")
    with write_errors(target):
        part.mkdir(parents=True, exist_ok=True)
        folder = os.open(part, os.O_RDONLY)
        try:
            _hold(folder, part, target)
            for left in part.iterdir():
                if not any(left.match(pattern) for pattern in _WRITTEN):
                    raise InputError(f"{part} is in the way: it has {left.name}, which is no part of a checkpoint")
            with _removed_if_it_fails(part):
                for left in part.iterdir():
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
                yield part
                part.rename(target)
        finally:
            os.close(folder)


def _hold(folder: int, part: Path, target: Path) -> None:
    """Lock an open folder until it is closed. Raises InputError if another process holds it, or has just let go."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(folder), part.stat()):
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # a disk without locks
        return
    raise InputError(f"another process is writing {target}")


@contextlib.contextmanager
def _removed_if_it_fails(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
