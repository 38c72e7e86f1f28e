"""A training run from start to end: options, data, model, steps, the trained weights."""

import logging
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from transformers import TrainerCallback

from llava.checkpoints.folders import write_errors
from llava.checkpoints.tokenizer import load_tokenizer
from llava.checkpoints.weight_files import StateDict
from llava.checkpoints.weights import published_config, published_weights, save_checkpoint
from llava.errors import InputError
from llava.files import write_json
from llava.train.arguments import SAVE_DTYPES, parse_arguments
from llava.train.build import TrainingPlan
from llava.train.data import DataCollatorForSupervisedDataset, LazySupervisedDataset
from llava.train.labels import PromptTokenizer
from llava.train.llava_trainer import LLaVATrainer
from llava.train.lora import write_lora
from llava.train.output_folder import deciding_options, make_folder, require_own, result_file, write_state
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
    result, options = result_file(model_args, training_args), deciding_options(model_args, data_args, training_args)
    require_own(result, options)
    if result.exists():
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
    make_folder(result.parent, options if training_args.should_save else None)
    model = plan.build(tokenizer)
    collator = DataCollatorForSupervisedDataset(tokenizer.pad_token_id)
    trainer = trainer_class(model, training_args, dataset, collator, callbacks)
    checkpoint = trainer.newest_checkpoint()
    if checkpoint:
        logger.info("going on from %s", checkpoint)
    if checkpoint and trainer.is_complete(checkpoint):
        trainer.load_trained(checkpoint)
    else:
        _run_steps(trainer, checkpoint, options)
        if trainer.state.global_step < trainer.state.max_steps:
            logger.warning("stopped at step %d of %d", trainer.state.global_step, trainer.state.max_steps)
            return
    save_result(trainer, tokenizer, result)


def _run_steps(trainer: LLaVATrainer, checkpoint: str | None, options: dict) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except InputError as error:  # a worker of the data loader puts its traceback in front of the message
        name = f"{InputError.__module__}.{InputError.__qualname__}: "
        raise InputError(str(error).strip().splitlines()[-1].removeprefix(name)) from error
    if trainer.args.should_save:
        write_state(Path(trainer.args.output_dir), asdict(trainer.state), options)


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
