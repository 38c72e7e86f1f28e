"""The checks of the training options: ranges of numbers, forms of JSON values, and what the options forbid together.

Options that are not named here are checked by transformers' parser or by its Trainer.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Json

from llava.checkpoints.schemas import Count, Positive, Share, Size, check
from llava.conversation import conv_templates
from llava.errors import InputError
from llava.train.option_names import REQUIRED

if TYPE_CHECKING:
    from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments

SAVE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Momentum = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy takes no other


class Checkpointing(BaseModel):
    """The arguments of torch.utils.checkpoint that an option can give."""

    model_config = ConfigDict(extra="forbid", strict=True)

    use_reentrant: bool = False
    preserve_rng_state: bool = True
    determinism_check: Literal["default", "none"] = "default"
    debug: bool = False
    early_stop: bool = True
    every_n_layers: Size = 1


class TrainerOptions(BaseModel):
    """Ranges and forms of options that transformers checks late, with a traceback, or not at all."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    learning_rate: NonNegative
    mm_projector_lr: NonNegative | None
    muon_learning_rate: NonNegative | None
    weight_decay: NonNegative
    adam_beta1: Momentum
    adam_beta2: Momentum
    adam_epsilon: NonNegative
    max_grad_norm: NonNegative
    warmup_ratio: Share
    warmup_steps: NonNegative
    lr_scheduler_kwargs: Json[dict[str, Any]] | None
    num_train_epochs: Annotated[FiniteFloat, Field(gt=0, le=1e6)]
    max_steps: Annotated[int, Field(ge=-1, lt=2**31)]
    per_device_train_batch_size: Size
    gradient_accumulation_steps: Size
    gradient_checkpointing_kwargs: Json[Checkpointing] | None
    activation_checkpointing_kwargs: Json[Checkpointing] | None = None  # transformers 5.17 does not have it
    torch_compile_mode: (
        Literal["default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    )
    logging_steps: Positive
    save_steps: Positive
    save_total_limit: Count | None
    seed: Seed
    data_seed: Seed | None
    model_max_length: Size
    lora_r: Size
    lora_alpha: Size
    lora_dropout: Momentum
    lora_bias: Literal["none"]
    bits: Literal[4, 8, 16]
    quant_type: Literal["nf4", "fp4"]
    dataloader_num_workers: Count
    dataloader_prefetch_factor: Size | None
    ddp_timeout: Size


_NO_EVALUATION = "training does not evaluate; afterwards python -m llava.eval does"
UNSUPPORTED = {
    "do_eval": _NO_EVALUATION,
    "do_predict": _NO_EVALUATION,
    "eval_on_start": _NO_EVALUATION,
    "eval_strategy": _NO_EVALUATION,
    "load_best_model_at_end": _NO_EVALUATION,
    "label_smoothing_factor": "the loss is the cross-entropy on the answers",
    "neftune_noise_alpha": "the embeddings of images take no noise",
    "push_to_hub": "upload the output_dir when training has ended",
    "resume_from_checkpoint": "training goes on from the newest checkpoint in the output_dir by itself",
    "train_sampling_strategy": "--group_by_modality_length orders the samples",
    "use_liger_kernel": "there are no Liger kernels for LLaVA's classes",
}


def check_values(args: "TrainingArguments") -> None:
    """Check the Trainer's options before transformers interprets them.

    Raises InputError for a value out of range, and for an option that has no effect here.
    """
    if not args.output_dir:
        raise InputError("--output_dir is needed")
    check(vars(args), TrainerOptions, "the training options")
    defaults = {field.name: field.default for field in fields(args)}
    for name, reason in UNSUPPORTED.items():
        if name in defaults and getattr(args, name) != defaults[name]:
            raise InputError(f"--{name} is not supported: {reason}")


def check_combinations(
    model_args: "ModelArguments", data_args: "DataArguments", training_args: "TrainingArguments"
) -> None:
    """Raise InputError for a required option that is empty, an unknown choice, or options that exclude each other."""
    given = vars(model_args) | vars(data_args) | vars(training_args)
    for name in REQUIRED:
        if not given[name]:
            raise InputError(f"--{name} is needed")
    if model_args.version not in conv_templates:
        raise InputError(f"unknown --version {model_args.version!r}; known: {', '.join(conv_templates)}")
    if model_args.mm_use_im_start_end or model_args.mm_use_im_patch_token:
        raise InputError("training with mm_use_im_start_end or mm_use_im_patch_token is not supported")
    if model_args.tune_mm_mlp_adapter and training_args.freeze_mm_mlp_adapter:
        raise InputError("tune_mm_mlp_adapter trains the projector alone, which freeze_mm_mlp_adapter forbids")
    _check_lora(model_args, training_args)
    if training_args.save_dtype not in SAVE_DTYPES:
        raise InputError(f"unknown --save_dtype {training_args.save_dtype!r}: {', '.join(SAVE_DTYPES)}")
    if training_args.muon_learning_rate is not None and (training_args.fsdp or training_args.deepspeed):
        raise InputError("--muon_learning_rate needs whole matrices, which FSDP and DeepSpeed split")


def _check_lora(model_args: "ModelArguments", training_args: "TrainingArguments") -> None:
    """Raise InputError for options that LoRA excludes, or that need it."""
    if not training_args.lora_enable:
        if training_args.bits != 16:
            raise InputError(f"--bits {training_args.bits} freezes the language model: it needs --lora_enable True")
        return
    excluded = {
        "tune_mm_mlp_adapter": model_args.tune_mm_mlp_adapter,
        "freeze_backbone": model_args.freeze_backbone,
        "muon_learning_rate": training_args.muon_learning_rate is not None,
    }
    for name, is_given in excluded.items():
        if is_given:
            raise InputError(f"--{name} and --lora_enable exclude each other")
    if training_args.bits != 16 and (training_args.fsdp or training_args.deepspeed):
        raise InputError(f"--bits {training_args.bits} needs whole weights, which FSDP and DeepSpeed split")
