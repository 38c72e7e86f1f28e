"""Train LLaVA in its two stages: the projector alone on captions, then projector and language model on instructions.

Liu et al., "Improved Baselines with Visual Instruction Tuning", arXiv 2310.03744. The flags are upstream's.
"""

import logging
from pathlib import Path

import torch
import transformers
from transformers import TrainerCallback

from llava.model.checkpoint import published_config, published_weights, save_checkpoint, write_json
from llava.model.tokenizer import load_tokenizer
from llava.model.weight_files import StateDict
from llava.train.arguments import SAVE_DTYPES, ModelArguments, TrainingArguments, parse_arguments
from llava.train.build import TrainingPlan
from llava.train.data import DataCollatorForSupervisedDataset, LazySupervisedDataset
from llava.train.labels import PromptTokenizer
from llava.train.llava_trainer import LLaVATrainer
from llava.train.records import read_records
from llava.utils import InputError

logger = logging.getLogger(__name__)


def train(args: list[str] | None = None, callbacks: list[TrainerCallback] | None = None) -> None:
    """Train as the command line, or `args`, says; go on from the newest checkpoint in output_dir if there is one.

    `callbacks` are transformers'. Raises InputError, before the language model is loaded, for bad input.
    """
    transformers.utils.logging.set_verbosity_warning()
    model_args, data_args, training_args = parse_arguments(args)
    logging.getLogger("llava").setLevel(logging.INFO if training_args.process_index == 0 else logging.ERROR)
    result = result_file(model_args, training_args)
    if result.exists():
        logger.warning("%s is there: this training is finished; another needs another --output_dir", result)
        return
    records = read_records(data_args.data_path, data_args.image_folder, model_args.version)
    plan = TrainingPlan(model_args, data_args, training_args)
    tokenizer = load_tokenizer(plan.folder)
    tokenizer.model_max_length, tokenizer.padding_side = training_args.model_max_length, "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    prompt_tokenizer = PromptTokenizer(tokenizer, model_args.version)
    prompt_tokenizer(records[0].turns, records[0].name)  # a template that cannot be trained shows here
    model = plan.build(tokenizer)
    tower = model.get_vision_tower()
    dataset = LazySupervisedDataset(
        records, prompt_tokenizer, tower.image_processor, model.config, tower.num_patches_per_side
    )
    collator = DataCollatorForSupervisedDataset(tokenizer.pad_token_id)
    trainer = LLaVATrainer(model, training_args, dataset, collator, callbacks)
    checkpoint = trainer.newest_checkpoint()
    if checkpoint:
        logger.info("going on from %s", checkpoint)
    if checkpoint and trainer.is_complete(checkpoint):
        trainer.load_trained(checkpoint)
    else:
        _train(trainer, checkpoint)
        trainer.save_state()
        if trainer.state.global_step < trainer.state.max_steps:
            logger.warning("stopped at step %d of %d", trainer.state.global_step, trainer.state.max_steps)
            return
    save_result(trainer, tokenizer, result)


def _train(trainer: LLaVATrainer, checkpoint: str | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except InputError as error:  # from a worker of the loader it comes with the text of a traceback
        raise InputError(str(error).strip().splitlines()[-1].removeprefix("llava.utils.InputError: ")) from error


def result_file(model_args: ModelArguments, training_args: TrainingArguments) -> Path:
    """The last file that a training writes, so that it is finished where this file exists."""
    name = "mm_projector.bin" if model_args.tune_mm_mlp_adapter else "config.json"
    return Path(training_args.output_dir) / name


def save_result(trainer: LLaVATrainer, tokenizer, result: Path) -> None:
    """Write what was trained: the projector and the config in stage 1, a whole checkpoint in stage 2."""
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        _write_result(trainer, tokenizer, result, weights)
    trainer.accelerator.wait_for_everyone()


def _write_result(trainer: LLaVATrainer, tokenizer, result: Path, weights: StateDict) -> None:
    model, dtype = trainer.accelerator.unwrap_model(trainer.model), SAVE_DTYPES[trainer.args.save_dtype]
    if result.name == "config.json":
        save_checkpoint(model, tokenizer, result.parent, dtype, weights)
    else:
        projector = published_weights(model, {name: weights[name] for name in trainer.trained}, dtype)
        write_json(result.with_name("config.json"), published_config(model, dtype))
        part = result.with_name(f"{result.name}.part")
        torch.save(projector, part)
        part.replace(result)
    logger.info("wrote %s", result.parent)
