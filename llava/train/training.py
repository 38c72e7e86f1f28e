"""A training run from start to end: options, data, model, steps, the trained weights."""

import logging
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import TrainerCallback

from llava.checkpoints.tokenizer import load_tokenizer
from llava.checkpoints.weight_files import StateDict
from llava.checkpoints.weights import published_config, published_weights, save_checkpoint
from llava.errors import InputError
from llava.files import read_json_object, require_writable, write_json
from llava.model.lora import is_lora
from llava.train.arguments import SAVE_DTYPES, ModelArguments, TrainingArguments, parse_arguments
from llava.train.build import TrainingPlan
from llava.train.data import DataCollatorForSupervisedDataset, LazySupervisedDataset
from llava.train.labels import PromptTokenizer
from llava.train.llava_trainer import LLaVATrainer, write_errors
from llava.train.lora import write_lora
from llava.train.records import read_records

logger = logging.getLogger(__name__)


def train(
    args: list[str] | None = None,
    callbacks: list[TrainerCallback] | None = None,
    trainer_class: type[LLaVATrainer] = LLaVATrainer,
) -> None:
    """Train, and write the result to output_dir; resume from the newest checkpoint there if there is one.

    Args:
        args: options of the command line; those of `sys.argv` if None.
        callbacks: transformers' callbacks.
        trainer_class: what trains, for instance with another optimizer.

    Raises InputError for bad input, before the language model is loaded where that is possible.
    """
    transformers.utils.logging.set_verbosity_warning()
    model_args, data_args, training_args = parse_arguments(args)
    logging.getLogger("llava").setLevel(logging.INFO if training_args.process_index == 0 else logging.ERROR)
    result = result_file(model_args, training_args)
    require_place(result)
    if result.exists():
        require_result_of(model_args, training_args, result)
        logger.warning("%s exists: this training is finished; another one needs another --output_dir", result)
        return
    records = read_records(data_args.data_path, data_args.image_folder, model_args.version)
    plan = TrainingPlan(model_args, data_args, training_args)
    tokenizer = load_tokenizer(plan.folder)
    tokenizer.model_max_length, tokenizer.padding_side = training_args.model_max_length, "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    prompt_tokenizer = PromptTokenizer(tokenizer, model_args.version)
    prompt_tokenizer(records[0].turns, records[0].name)  # fails here if the template cannot be trained
    tower = plan.tower
    dataset = LazySupervisedDataset(
        records, prompt_tokenizer, tower.image_processor, plan.config, tower.num_patches_per_side
    )
    dataset.require_answers()
    make_folder(Path(training_args.output_dir))
    model = plan.build(tokenizer)
    collator = DataCollatorForSupervisedDataset(tokenizer.pad_token_id)
    trainer = trainer_class(model, training_args, dataset, collator, callbacks)
    checkpoint = trainer.newest_checkpoint()
    if checkpoint:
        logger.info("going on from %s", checkpoint)
    if checkpoint and trainer.is_complete(checkpoint):
        trainer.load_trained(checkpoint)
    else:
        _run_steps(trainer, checkpoint)
        if trainer.state.global_step < trainer.state.max_steps:
            logger.warning("stopped at step %d of %d", trainer.state.global_step, trainer.state.max_steps)
            return
    save_result(trainer, tokenizer, result)


def _run_steps(trainer: LLaVATrainer, checkpoint: str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except InputError as error:  # a worker of the data loader puts its traceback in front of the message
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        raise InputError(str(error).strip().splitlines()[-1].removeprefix(name)) from error
    with write_errors(Path(trainer.args.output_dir)):
        trainer.save_state()


def require_place(result: Path) -> None:
    """Raise InputError if the results cannot be written to their folder; nothing is made there yet."""
    try:
        require_writable(result)
    except InputError as error:
        raise InputError(f"cannot write to {result.parent}: {error}") from error


def make_folder(folder: Path) -> None:
    """Make the folder of the results. Raises InputError if it, or a file in it, cannot be made."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def result_file(model_args: ModelArguments, training_args: TrainingArguments) -> Path:
    """The file that a training writes last: where it exists, the training is finished."""
    name = "mm_projector.bin" if model_args.tune_mm_mlp_adapter else "config.json"
    return Path(training_args.output_dir) / name


def require_result_of(model_args: ModelArguments, training_args: TrainingArguments, result: Path) -> None:
    """Raise InputError for a result that is no training's, or that of another stage or kind of training."""
    folder = result.parent
    values = read_json_object(folder / "config.json", "config")
    is_trained = (folder / "trainer_state.json").exists() or any(folder.glob("checkpoint-*"))
    is_same = values.get("tune_mm_mlp_adapter") is model_args.tune_mm_mlp_adapter
    if not (is_trained and is_same and is_lora(folder) == training_args.lora_enable):
        raise InputError(f"{folder} has the result of something else than this training: choose another --output_dir")


def save_result(trainer: LLaVATrainer, tokenizer, result: Path) -> None:
    """Write the trained model: projector and config after stage 1, a complete checkpoint after stage 2.

    Raises InputError for weights that are not finite, and for a file that cannot be written.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        with write_errors(result.parent):
            _write_result(trainer, tokenizer, result, weights)
    trainer.accelerator.wait_for_everyone()


def _write_result(trainer: LLaVATrainer, tokenizer, result: Path, weights: StateDict) -> None:
    model, dtype = trainer.accelerator.unwrap_model(trainer.model), SAVE_DTYPES[trainer.args.save_dtype]
    trained = {name: weights[name] for name in trainer.trained}
    if trainer.args.lora_enable:
        write_lora(model, published_weights(model, trained, dtype), result.parent)
        write_json(result, published_config(model, dtype))
    elif result.name == "config.json":
        save_checkpoint(model, tokenizer, result.parent, dtype, weights)
    else:
        projector = published_weights(model, trained, dtype)
        write_json(result.with_name("config.json"), published_config(model, dtype))
        part = result.with_name(f"{result.name}.part")
        torch.save(projector, part)
        part.replace(result)
    logger.info("wrote %s", result.parent)
