"""What decides the answers to a question file, written down, so that a run can tell whether answers are its own.

Files count by their contents: a checkpoint or pictures may have been moved or copied in between. Contents are read
when answers are begun; after that a stamp of names, sizes and times, kept among the settings, says that they are the
same, and contents are read again only where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import llava
from llava.checkpoints.folders import fetch_weights, find_folder, get_model_name_from_path, is_on_hub
from llava.eval.benchmarks.questions import Question
from llava.eval.run.stamps import digest_files, digest_texts, stamp_files
from llava.files import read_json_object
from llava.inference.options import AskingOptions, ModelOptions
from llava.pruning.method import method_file
from llava.pruning.settings import DEFAULTS as PRUNING_DEFAULTS
from llava.pruning.settings import Settings

# Files of a checkpoint that decide an answer, by the endings of their names, and those that training leaves there.
_DECISIVE = (".json", ".model", ".txt", ".jinja", ".safetensors", ".bin")
_OF_TRAINING = ("trainer_state.json", "training_args.bin", "optimizer.bin", "scheduler.bin")
# Defaults for keys that older settings files lack.
DEFAULTS = PRUNING_DEFAULTS | {
    "load_8bit": False,
    "load_4bit": False,
    "model_base": None,
    "pruning_file": None,
    "image_aspect_ratio": None,
    "mm_patch_merge_type": None,
    "image_grid_pinpoints": None,
    "top_p": None,
}
STAMPS = "stamps"  # the key of what says that files are the same, and decides nothing itself


@dataclass(frozen=True)
class Decisive:
    """What decides the answers of a model to questions, whatever the pruning settings are.

    What changes no answer is left out: the batch size, the number of processes, the device apart from its dtype.
    """

    model: ModelOptions
    asking: AskingOptions
    template: str
    questions: list[Question]

    def settings(self, pruning: Settings, known: dict | None = None) -> dict:
        """What decides the answers at these pruning settings, as JSON gives it back, and the stamps of files.

        `known` are the settings of answers that are there: contents whose stamp is the same are not read again.
        Raises InputError if there is no such checkpoint or a file cannot be read.
        """
        _check_before_download(self.model)
        model, generation, stamps = self.model, self.asking.generation, {}
        known_stamps = (known or {}).get(STAMPS)

        def digest(name: str, stamp: str, contents) -> str:
            stamps[name] = stamp
            if isinstance(known_stamps, dict) and known_stamps.get(name) == stamp and isinstance(known.get(name), str):
                return known[name].rpartition(" ")[2]
            return contents()

        def checkpoint(name: str, path: str) -> str:
            files = decisive_files(path)
            names = [file.name for file in files]
            contents = digest(name, stamp_files(files), lambda: digest_texts([*names, *digest_files(files)]))
            return f"{get_model_name_from_path(path)} {contents}"

        file = method_file(pruning.pruning_method)
        return {
            "llava": llava.__version__,
            "checkpoint": checkpoint("checkpoint", model.model_path),
            "model_base": checkpoint("model_base", model.model_base) if model.model_base else None,
            "dtype": _dtype(model.device),
            "load_8bit": model.load_8bit,
            "load_4bit": model.load_4bit,
            **heeded(pruning),
            "pruning_file": digest("pruning_file", stamp_files([file]), lambda: digest_files([file])[0][:16])
            if file
            else None,
            "image_aspect_ratio": model.image_aspect_ratio,
            "mm_patch_merge_type": model.mm_patch_merge_type,
            "image_grid_pinpoints": model.image_grid_pinpoints,
            "conv_mode": self.template,  # the checkpoint of a chat template has its digest above
            "temperature": generation.get("temperature", 0),
            "top_p": generation.get("top_p"),
            "num_beams": generation["num_beams"],
            "max_new_tokens": generation["max_new_tokens"],
            "question_file": self._question_digest,
            "images": digest("images", self._image_stamp, lambda: self._image_digest),
            STAMPS: stamps,
        }

    @cached_property
    def _question_digest(self) -> str:
        return digest_texts(part for q in self.questions for part in (str(q.question_id), q.asked, q.prompt))

    @cached_property
    def _image_files(self) -> list[Path]:
        return list(dict.fromkeys(q.image for q in self.questions if isinstance(q.image, Path)))

    @cached_property
    def _image_stamp(self) -> str:
        return self._digest_images([stamp_files([file]) for file in self._image_files])

    @cached_property
    def _image_digest(self) -> str:
        return self._digest_images(digest_files(self._image_files))

    def _digest_images(self, of_files: list[str]) -> str:
        """A digest of the questions' pictures and their order, from those of the files."""
        of_file = dict(zip(self._image_files, of_files, strict=True))
        return digest_texts(of_file[q.image] if isinstance(q.image, Path) else q.image or b"" for q in self.questions)


def decisive_files(path: str) -> list[Path]:
    """The files of a checkpoint and its vision tower that decide an answer; a hub id is downloaded for that."""
    folder = find_folder(path, "checkpoint")
    files = _decisive_files(folder)
    tower = read_json_object(folder / "config.json", "config").get("mm_vision_tower")
    if isinstance(tower, str):
        files += _decisive_files(find_folder(tower, "vision tower", relative_to=folder))
    return files


def _check_before_download(model: ModelOptions) -> None:
    """Raise InputError for a checkpoint that cannot be loaded before the digest of its weights downloads them."""
    names = [model.model_path, *([model.model_base] if model.model_base else [])]
    if any(is_on_hub(find_folder(name, "checkpoint")) for name in names):
        from llava.model.builder import CheckedFolder

        CheckedFolder.read(model.model_path, model.model_base, model.config)


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


def heeded(pruning: Settings) -> dict:
    """The settings that decide what is kept, less a method's file, which is named without its folder."""
    file = method_file(pruning.pruning_method)
    return pruning.read | ({} if file is None else {"pruning_method": file.name})
