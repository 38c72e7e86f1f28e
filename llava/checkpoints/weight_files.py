"""A checkpoint folder -> its tensors. No file is left out, and none outside the folder is read."""

import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from llava.checkpoints.folders import fetch_weights
from llava.errors import InputError, list_some, one_line
from llava.files import read_json_object

StateDict = dict[str, torch.Tensor]

WEIGHT_FILES = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
# Files of weights that say nothing of the model itself, or the same once more.
_OF_TRAINING = ("training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt", "scheduler.pt")
_SAME_AGAIN = ("model*.safetensors", "pytorch_model*.bin", "mm_projector.bin")


def read_weights(folder: str | Path) -> StateDict:
    """All tensors of a checkpoint folder, memory-mapped: safetensors if there, else `.bin`, sharded or not.

    Raises InputError if there are none, a shard is missing, unreadable or outside the folder, a tensor is in no shard,
    or the folder has files of weights that belong to something else, such as LoRA.
    """
    files = find_weight_files(folder)
    tensors = {key: tensor for file in files for key, tensor in read_weight_file(file).items()}
    require_listed(files, tensors)
    return tensors


def find_weight_files(folder: str | Path) -> list[Path]:
    """The files of a checkpoint's weights, downloaded if it is a hub id's.

    Raises InputError as `read_weights` does, but for what can be seen in the files alone.
    """
    folder = Path(folder)
    fetch_weights(folder)
    for index_name, single_name in WEIGHT_FILES:
        index = folder / index_name
        if index.exists():
            _refuse_other_weights(folder)
            return _find_shards(index)
        if (folder / single_name).exists():
            _refuse_other_weights(folder)
            return [folder / single_name]
    raise InputError(_why_no_weights(folder))


def require_listed(files: list[Path], names: Collection[str]) -> None:
    """Raise InputError unless `names`, those in `files`, are all that the folder's index lists."""
    for index_name, _ in WEIGHT_FILES:
        index = files[0].with_name(index_name)
        if index.exists():
            if lost := _read_index(index).keys() - names:
                raise InputError(f"{index.parent}: {list_some(lost)} in {index.name} but in no shard")
            return


def _read_index(index: Path) -> dict[str, str]:
    """Which file each weight is in."""
    weight_map = read_json_object(index, "weight index").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{index} has no weight_map of file names")
    return weight_map


def _find_shards(index: Path) -> list[Path]:
    shards, folder = sorted(set(_read_index(index).values())), index.parent
    if outside := [name for name in shards if Path(name).name != name]:
        raise InputError(f"{index} names a file that is not in its folder: {list_some(outside)}")
    if missing := [name for name in shards if not (folder / name).exists()]:
        raise InputError(f"{folder} lacks {', '.join(missing)}, which {index.name} lists")
    return [folder / name for name in shards]


def _refuse_other_weights(folder: Path) -> None:
    """Raise InputError for a file of weights that would be left out."""
    files = {file for ending in ("*.bin", "*.safetensors") for file in folder.glob(ending)}
    known = {file for pattern in _SAME_AGAIN for file in folder.glob(pattern)}
    if left := sorted(file.name for file in files - known if file.name not in _OF_TRAINING):
        raise InputError(f"{folder} has weights that are not read here: {list_some(left)}{_ABOUT_LORA}")


_ABOUT_LORA = " (LoRA has an adapter_config.json and is read with its base model)"


def read_projector(folder: Path) -> StateDict:
    """The tensors of a projector-only checkpoint. Raises InputError if there are none, or other tensors too."""
    fetch_weights(folder)
    path = folder / "mm_projector.bin"
    others = [file.name for ending in ("*.bin", "*.safetensors") for file in folder.glob(ending)]
    others = sorted(name for name in others if name not in (path.name, *_OF_TRAINING))
    if others:
        raise InputError(f"{folder} has weights that --model-base does not read: {list_some(others)}{_ABOUT_LORA}")
    if not path.exists():
        raise InputError(f"{folder} has no mm_projector.bin, which a checkpoint on a base model must have")
    return read_weight_file(path)


def _why_no_weights(folder: Path) -> str:
    """What a folder is that has no weights of a whole model."""
    if any(folder.glob("adapter_model.*")):
        return f"{folder} is a LoRA checkpoint, but without adapter_config.json"
    if (folder / "mm_projector.bin").exists():
        return f"{folder} has a projector alone: --model-base must name the language model that it belongs to"
    names = ", ".join(name for pair in WEIGHT_FILES for name in pair)
    return f"no weights in {folder}: none of {names}"


def read_weight_file(path: Path) -> StateDict:
    """The tensors of one `.safetensors` or `.bin` file. Raises InputError, naming the file, if it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise InputError(f"cannot read weights from {path}: {one_line(error)}") from error
    except (EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError, ValueError, KeyError) as error:
        with path.open("rb") as file:
            is_pointer = file.read(20).startswith(b"version https://git")
        cause = "a Git LFS pointer, not the file itself" if is_pointer else "damaged, incomplete or not weights"
        raise InputError(f"cannot read weights from {path}: it is {cause}") from error
    named = isinstance(tensors, dict) and all(isinstance(key, str) for key in tensors)
    if not named or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise InputError(f"cannot read weights from {path}: it does not hold tensors by name")
    return tensors
