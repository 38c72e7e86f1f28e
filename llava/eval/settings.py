"""What decides the answers to a question file, written down, so that a run can tell whether answers are its own."""

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from llava.eval.questions import Question
from llava.mm_utils import get_model_name_from_path
from llava.model.checkpoint import find_folder

# Options that change no answer.
WITHOUT_EFFECT = {"answers_file", "batch_size", "num_workers", "overwrite", "device", "image_folder", "model_path"}
SAMPLE = 2**20  # bytes at both ends of a file of weights


def settings_of(args: argparse.Namespace, questions: list[Question]) -> dict:
    """The options of a command and what its files hold, as JSON would give them back.

    Files count by their contents: a checkpoint, a question file or pictures may have been moved in between.
    Raises InputError if there is no such checkpoint.
    """
    settings = {name: value for name, value in vars(args).items() if name not in WITHOUT_EFFECT}
    settings["checkpoint"] = _checkpoint(args.model_path)
    settings["question_file"] = _digest([args.question_file.read_bytes()])
    settings["model_base"] = _checkpoint(args.model_base) if args.model_base else None
    settings["prompts"] = _digest(f"{q.question_id}\0{q.asked}\0".encode() for q in questions)
    images = [q.image for q in questions if isinstance(q.image, Path)]
    settings["images"] = _digest(f"{image.name} {image.stat().st_size}\n".encode() for image in images)
    return json.loads(json.dumps(settings, default=str))


def _checkpoint(path: str) -> str:
    """A checkpoint's name and a digest of its config and of samples of its weights; a hub id is downloaded for that."""
    folder = find_folder(path, "checkpoint")
    weights = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    config = [file.read_bytes() for file in (folder / "config.json",) if file.is_file()]
    return f"{get_model_name_from_path(path)} {_digest([*config, *map(_sample, weights)])}"


def _sample(file: Path) -> bytes:
    """A file's name, its size and its two ends."""
    size = file.stat().st_size
    with file.open("rb") as weights:
        start = weights.read(SAMPLE)
        weights.seek(max(0, size - SAMPLE))
        return f"{file.name} {size} ".encode() + start + weights.read(SAMPLE)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
