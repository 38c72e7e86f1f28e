"""The folder that a training writes to, and whose it is: what decides its weights is kept there.

A training goes on from its own checkpoints alone. On those of other data, options or models it would write weights that
no training gives, or say that it is finished.
"""

import hashlib
import tempfile
from dataclasses import fields
from pathlib import Path

from llava.checkpoints.folders import get_model_name_from_path, write_errors
from llava.errors import InputError
from llava.files import read_json_object, require_writable, write_json
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments

RECORD, OPTIONS = "trainer_state.json", "training_options"  # the file, and the key in it
# LLaVA's own options all count but these, of transformers' those that follow.
_FREE = {"output_dir", "remove_unused_columns", "ddp_find_unused_parameters"}
# fmt: off
_OF_TRAINER = (
    "adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "data_seed", "fp16", "learning_rate", "lr_scheduler_kwargs",
    "lr_scheduler_type", "max_grad_norm", "max_steps", "num_train_epochs", "optim", "optim_args", "seed",
    "warmup_steps", "weight_decay",
)
# fmt: on
# What a training leaves, and what a model has, which it would write over.
_HELD = ("config.json", "*.bin", "*.safetensors", "checkpoint-*")


def deciding_options(
    model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments
) -> dict[str, object]:
    """What decides the weights that are written: options, digests of data and projector, the names of other folders.

    How a batch is divided among processes and steps changes nothing. A file that is not there has no digest.
    """
    own = [each.name for each in fields(TrainingArguments) if each.name in TrainingArguments.__annotations__]
    training = training_args.to_dict()
    options = vars(model_args) | vars(data_args)
    options |= {name: training[name] for name in [*own, *_OF_TRAINER] if name not in _FREE and name in training}
    options["batch"] = (
        training_args.per_device_train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size
    )
    for name in ("model_name_or_path", "vision_tower", "image_folder"):
        options[name] = get_model_name_from_path(str(Path(options[name] or ".").resolve()))
    for name in ("data_path", "pretrain_mm_mlp_adapter"):
        options[name] = _digest(options[name])
    return options


def _digest(path: str | None) -> str | None:
    try:
        if path is None or not Path(path).is_file():  # a pipe or a device may have no end
            return None
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return None


def require_own(result: Path, options: dict[str, object]) -> None:
    """Raise InputError if the folder of a result cannot be written, or has what no training with these options made.

    Nothing is made there yet.
    """
    folder = result.parent
    try:
        require_writable(result)
    except InputError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error
    if not any(path for pattern in _HELD for path in folder.glob(pattern)):
        return
    path = folder / RECORD
    old = read_json_object(path, "state of the training").get(OPTIONS) if path.exists() else None
    if not isinstance(old, dict):
        raise InputError(
            f"{folder} has a model or checkpoints, but no {RECORD} with their options: choose another folder"
        )
    gone = {"data_path"} if options["data_path"] is None else set()  # a finished training does not need its data
    changed = [name for name in options if old.get(name) != options[name] and name not in gone]
    if changed:
        what = ", ".join(f"{name} {old.get(name)!r} is now {options[name]!r}" for name in changed)
        raise InputError(f"{folder} holds another training: {what}; choose another --output_dir")


def make_folder(folder: Path, options: dict[str, object] | None) -> None:
    """Make the folder, with the options of its training if they are given.

    Raises InputError if it, or a file in it, cannot be made.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    if options is not None:
        write_state(folder, {}, options)


def write_state(folder: Path, state: dict, options: dict[str, object]) -> None:
    """Write the state of a training as Trainer does, with its options. Raises InputError if it cannot be written."""
    write_json(folder / RECORD, state | {OPTIONS: options})


def result_file(model_args: ModelArguments, training_args: TrainingArguments) -> Path:
    """The file that a training writes last: where it exists, the training is finished."""
    name = "mm_projector.bin" if model_args.tune_mm_mlp_adapter else "config.json"
    return Path(training_args.output_dir) / name
