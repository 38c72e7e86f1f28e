"""What decides the answers to a question file, written down, so that a run can tell whether answers are its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import llava
from llava.checkpoints.folders import fetch_weights, find_folder, get_model_name_from_path, is_on_hub
from llava.eval.digests import digest_files, digest_texts
from llava.eval.questions import Question
from llava.files import read_json_object
from llava.pruning.method import METHOD_NAMES, NONE, VISPRUNER, method_file
from llava.pruning.settings import CROP, Settings

if TYPE_CHECKING:
    from llava.eval.options import AskingOptions, ModelOptions

# Files of a checkpoint that decide an answer, by the endings of their names, and those that training leaves there.
_DECISIVE = (".json", ".model", ".txt", ".jinja", ".safetensors", ".bin")
_OF_TRAINING = ("trainer_state.json", "training_args.bin", "optimizer.bin", "scheduler.bin")
# What a key that is not in the file of settings stands for: an option that came later, with its default.
DEFAULTS = {
    "load_8bit": False,
    "load_4bit": False,
    "model_base": None,
    "pruning_seed": 0,
    "pruning_file": None,
    "budget_per": "crop",
    "image_aspect_ratio": None,
    "mm_patch_merge_type": None,
    "image_grid_pinpoints": None,
    "top_p": None,
}


def settings_of(model: ModelOptions, asking: AskingOptions, conv_mode: str, questions: list[Question]) -> dict:
    """What decides the answers, as JSON gives it back.

    Files count by their contents: a checkpoint, a question file or pictures may have been moved in between. What
    changes no answer is left out: the batch size, the number of processes, the device apart from its dtype.
    Raises InputError if there is no such checkpoint or a file cannot be read.
    """
    _check_before_download(model)
    return {
        "llava": llava.__version__,
        "checkpoint": _checkpoint(model.model_path),
        "model_base": _checkpoint(model.model_base) if model.model_base else None,
        "dtype": _dtype(model.device),
        "load_8bit": model.load_8bit,
        "load_4bit": model.load_4bit,
        **_pruning(model.pruning),
        "image_aspect_ratio": model.image_aspect_ratio,
        "mm_patch_merge_type": model.mm_patch_merge_type,
        "image_grid_pinpoints": model.image_grid_pinpoints,
        "conv_mode": conv_mode.partition(":")[0],  # the checkpoint that a chat template is of has its digest above
        "temperature": asking.generation.get("temperature", 0),
        "top_p": asking.generation.get("top_p"),
        "num_beams": asking.generation["num_beams"],
        "max_new_tokens": asking.generation["max_new_tokens"],
        "question_file": digest_texts(part for q in questions for part in (str(q.question_id), q.asked, q.prompt))[:16],
        "images": _images(questions),
    }


def _check_before_download(model: ModelOptions) -> None:
    """Raise InputError for a checkpoint that cannot be loaded before the digest of its weights downloads them."""
    names = [model.model_path, *([model.model_base] if model.model_base else [])]
    if any(is_on_hub(find_folder(name, "checkpoint")) for name in names):
        from llava.model.builder import CheckedFolder

        CheckedFolder.of(model.model_path, model.model_base, model.config)


def _checkpoint(path: str) -> str:
    """A checkpoint's name and a digest of what it and its vision tower are made of; a hub id is downloaded for that."""
    folder = find_folder(path, "checkpoint")
    files = _decisive_files(folder)
    tower = read_json_object(folder / "config.json", "config").get("mm_vision_tower")
    if isinstance(tower, str):
        files += _decisive_files(find_folder(tower, "vision tower", relative_to=folder))
    names = [file.name for file in files]
    return f"{get_model_name_from_path(path)} {digest_texts([*names, *digest_files(files)])[:16]}"


def _decisive_files(folder: Path) -> list[Path]:
    fetch_weights(folder)
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix in _DECISIVE and file.name not in _OF_TRAINING and file.is_file()
    )


def _dtype(device: str) -> str:
    """The dtype in which a model is loaded on this device."""
    import torch

    return "float16" if device != "cpu" and torch.cuda.is_available() else "float32"


def reads_ratio(method: str) -> bool:
    """Whether a method may go by `important_ratio`: VisPruner and those that are not this package's."""
    return method == VISPRUNER or method_file(method) is not None


def _pruning(pruning: Settings) -> dict:
    """The pruning settings that decide what is kept: a method of this package does not read those of others."""
    method = pruning.pruning_method
    file = method_file(method)
    return {
        "visual_token_num": pruning.visual_token_num if method != NONE else None,
        "important_ratio": pruning.important_ratio if reads_ratio(method) else None,
        "pruning_method": method if file is None else file.name,
        "pruning_seed": pruning.pruning_seed if method not in METHOD_NAMES or method == "random" else 0,
        "budget_per": pruning.budget_per if pruning.prunes else CROP,
        "pruning_file": digest_files([file])[0][:16] if file else None,
    }


def _images(questions: list[Question]) -> str:
    """A digest of the questions' pictures and their order."""
    files = list(dict.fromkeys(q.image for q in questions if isinstance(q.image, Path)))
    of_file = dict(zip(files, digest_files(files)))
    parts = (of_file[q.image] if isinstance(q.image, Path) else q.image or b"" for q in questions)
    return digest_texts(parts)[:16]
