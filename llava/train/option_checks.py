"""The ranges and forms of training options that transformers checks late, with a traceback, or not at all.

Options that are not named here are checked by transformers' parser or by its Trainer.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Json, create_model

from llava.checkpoints.schemas import Count, Positive, Share, Size, check
from llava.errors import InputError

NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Momentum = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy takes no other
CompileMode = Literal["default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class Checkpointing(BaseModel):
    """The arguments of torch.utils.checkpoint that an option can give."""

    model_config = ConfigDict(extra="forbid", strict=True)

    use_reentrant: bool = False
    preserve_rng_state: bool = True
    determinism_check: Literal["default", "none"] = "default"
    debug: bool = False
    early_stop: bool = True
    every_n_layers: Size = 1


_KINDS = {
    "learning_rate mm_projector_lr weight_decay adam_epsilon max_grad_norm warmup_steps": NonNegative,
    "adam_beta1 adam_beta2 lora_dropout": Momentum,
    "warmup_ratio": Share,
    "num_train_epochs": Annotated[FiniteFloat, Field(gt=0, le=1e6)],
    "max_steps": Annotated[int, Field(ge=-1, lt=2**31)],
    "logging_steps save_steps": Positive,
    "per_device_train_batch_size gradient_accumulation_steps model_max_length lora_r lora_alpha ddp_timeout": Size,
    "dataloader_prefetch_factor": Size,
    "save_total_limit dataloader_num_workers": Count,
    "seed data_seed": Seed,
    "lr_scheduler_kwargs": Json[dict[str, Any]],
    "gradient_checkpointing_kwargs activation_checkpointing_kwargs": Json[Checkpointing],
    "torch_compile_mode": CompileMode,
    "lora_bias": Literal["none"],
    "bits": Literal[4, 8, 16],
    "quant_type": Literal["nf4", "fp4"],
}
# Not every release of transformers has every option, so that each may be absent.
TrainerOptions = create_model(
    "TrainerOptions",
    __config__=ConfigDict(extra="allow", strict=True, protected_namespaces=()),
    **{name: (kind | None, None) for names, kind in _KINDS.items() for name in names.split()},
)
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


def check_values(values: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise InputError for an option whose value is out of range, or that has no effect here and is given.

    Args:
        values: of the training's options by name, before transformers interprets them.
        defaults: what each option is if it is not given.
    """
    check(values, TrainerOptions, "the training options")
    for name, reason in UNSUPPORTED.items():
        if name in defaults and values[name] != defaults[name]:
            raise InputError(f"--{name} is not supported: {reason}")
