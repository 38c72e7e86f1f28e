"""The options of `python -m llava.train.train`: upstream LLaVA's, and those of transformers' Trainer."""

from dataclasses import dataclass, field, fields

import torch
import transformers
from transformers import HfArgumentParser

from llava.cli import CommandParser
from llava.conversation import conv_templates
from llava.errors import InputError, one_line
from llava.train.option_checks import check_values

SAVE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_REQUIRED = ("output_dir", "model_name_or_path", "vision_tower", "data_path")


@dataclass
class ModelArguments:
    """Options that say which model is trained and where its weights come from."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "folder or hub id of the language model, or of a LLaVA, to start from"}
    )
    version: str = field(
        default="v1", metadata={"help": "conversation template: plain in stage 1, v1 (Vicuna) in stage 2"}
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "do not train the decoder layers"})
    tune_mm_mlp_adapter: bool = field(
        default=False, metadata={"help": "stage 1: train the projector alone and write mm_projector.bin"}
    )
    vision_tower: str | None = field(
        default=None,
        metadata={
            "help": "folder or hub id of the CLIP vision tower; a path relative to output_dir or to the current folder "
            "is written to the config as given"
        },
    )
    mm_vision_select_layer: int = field(
        default=-2, metadata={"help": "layer of the vision tower whose hidden states become the visual tokens"}
    )
    mm_vision_select_feature: str = field(
        default="patch", metadata={"help": "patch, or cls_patch to keep the [CLS] token as well"}
    )
    pretrain_mm_mlp_adapter: str | None = field(
        default=None, metadata={"help": "mm_projector.bin to start from; without it the projector starts at random"}
    )
    mm_projector_type: str = field(
        default="linear", metadata={"help": "linear, mlp2x_gelu (LLaVA-1.5) or another number of layers, identity"}
    )
    mm_patch_merge_type: str = field(
        default="flat",
        metadata={"help": "with image_aspect_ratio anyres: how crops are joined (flat, spatial, spatial_unpad)"},
    )
    mm_use_im_start_end: bool = field(default=False, metadata={"help": "only False is supported"})
    mm_use_im_patch_token: bool = field(default=False, metadata={"help": "only False is supported"})


@dataclass
class DataArguments:
    """Options that say which conversations and images the model is trained on."""

    data_path: str | None = field(default=None, metadata={"help": "JSON list of conversations in LLaVA's format"})
    image_folder: str | None = field(
        default=None, metadata={"help": "folder that the image paths of the data are relative to"}
    )
    image_aspect_ratio: str = field(
        default="square", metadata={"help": "square (centre crop), pad (LLaVA-1.5) or anyres (LLaVA-1.6)"}
    )
    image_grid_pinpoints: str | None = field(
        default=None,
        metadata={"help": "with anyres: the sizes that images are resized to, such as '[[336, 672], [672, 336]]'"},
    )


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """Options that say how the model is trained: those of transformers' Trainer, and LLaVA's own."""

    output_dir: str | None = field(default=None, metadata={"help": "folder for checkpoints and the trained model"})
    model_max_length: int = field(
        default=2048, metadata={"help": "tokens of a conversation with its visual tokens; longer ones are cut"}
    )
    mm_projector_lr: float | None = field(
        default=None, metadata={"help": "learning rate of the projector; learning_rate if not given"}
    )
    lora_enable: bool = field(
        default=False,
        metadata={"help": "train low-rank changes of the decoder's matrices and the projector, and write those"},
    )
    lora_r: int = field(default=64, metadata={"help": "rank of the changes"})
    lora_alpha: int = field(default=16, metadata={"help": "the changes count lora_alpha / lora_r times"})
    lora_dropout: float = field(default=0.05, metadata={"help": "share of a matrix's inputs that its change drops"})
    lora_bias: str = field(
        default="none", metadata={"help": "only none is supported: the language models that are trained have no biases"}
    )
    bits: int = field(default=16, metadata={"help": "with lora_enable: bits of the frozen weights, 16, 8 or 4 (QLoRA)"})
    double_quant: bool = field(default=True, metadata={"help": "with bits 4: quantize the scales of the weights too"})
    quant_type: str = field(default="nf4", metadata={"help": "with bits 4: nf4 or fp4"})
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "do not train the projector"})
    group_by_modality_length: bool = field(
        default=False, metadata={"help": "make batches of conversations of similar length, all with or without images"}
    )
    warmup_ratio: float = field(default=0.0, metadata={"help": "share of the steps in which the learning rate rises"})
    save_dtype: str = field(
        default="float16", metadata={"help": "dtype of the final weights: float16, bfloat16 or float32"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "has no effect on LLaVA's batches"})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "not needed: every step uses every trained weight"}
    )

    def __post_init__(self):
        if not self.output_dir:
            raise InputError("--output_dir is needed")
        check_values(vars(self), {each.name: each.default for each in fields(self)})
        if self.warmup_ratio:
            self.warmup_steps = self.warmup_ratio
        if not torch.accelerator.is_available():
            self.use_cpu = True  # transformers refuses --bf16 otherwise
        super().__post_init__()


class _Parser(CommandParser, HfArgumentParser):
    """HfArgumentParser that reports errors in one line."""


def parse_arguments(
    args: list[str] | None = None,
) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The options on the command line, or in `args`.

    Raises InputError for a bad value that shows without opening a file.
    """
    parser = _Parser((ModelArguments, DataArguments, TrainingArguments))
    if unknown := parser.parse_known_args(args)[1]:  # named before the required option that it may be meant for
        raise InputError(f"unrecognized arguments: {unknown[0]} (--help lists the options)")
    try:
        parsed = parser.parse_args_into_dataclasses(args)
    except InputError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise InputError(f"the training options: {one_line(error)}") from error
    _check_combinations(*parsed)
    return parsed


def _check_combinations(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Raise InputError for a required option that is empty, an unknown choice, or options that exclude each other."""
    given = vars(model_args) | vars(data_args) | vars(training_args)
    for name in _REQUIRED:
        if not given[name]:
            raise InputError(f"--{name} is needed")
    if model_args.version not in conv_templates:
        raise InputError(f"unknown --version {model_args.version!r}; known: {', '.join(conv_templates)}")
    if model_args.mm_use_im_start_end or model_args.mm_use_im_patch_token:
        raise InputError("training with mm_use_im_start_end or mm_use_im_patch_token is not supported")
    if model_args.tune_mm_mlp_adapter and training_args.freeze_mm_mlp_adapter:
        raise InputError("tune_mm_mlp_adapter trains the projector alone, which freeze_mm_mlp_adapter forbids")
    if training_args.save_dtype not in SAVE_DTYPES:
        raise InputError(f"unknown --save_dtype {training_args.save_dtype!r}: {', '.join(SAVE_DTYPES)}")
    for name in ("tune_mm_mlp_adapter", "freeze_backbone"):
        if training_args.lora_enable and given[name]:
            raise InputError(f"--{name} and --lora_enable exclude each other")
    if training_args.bits != 16:
        if not training_args.lora_enable:
            raise InputError(f"--bits {training_args.bits} freezes the language model: it needs --lora_enable True")
        if training_args.fsdp or training_args.deepspeed:
            raise InputError(f"--bits {training_args.bits} needs whole weights, which FSDP and DeepSpeed split")
