"""The options of `python -m llava.train.train`: upstream LLaVA's names over those of transformers' Trainer."""

from dataclasses import dataclass, field

import torch
import transformers
from transformers import HfArgumentParser

from llava.conversation import conv_templates
from llava.utils import CommandParser, InputError, one_line

SAVE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class ModelArguments:
    """What is trained, and from which weights."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "folder or hub id of the language model to start from (Llama or Mistral)"}
    )
    version: str = field(
        default="v1", metadata={"help": "template of the conversations: plain in stage 1, v1 (Vicuna) in stage 2"}
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "leave the decoder layers as they are"})
    tune_mm_mlp_adapter: bool = field(
        default=False, metadata={"help": "stage 1: train the projector alone and write mm_projector.bin"}
    )
    vision_tower: str | None = field(
        default=None,
        metadata={"help": "CLIP folder or hub id; written to the config as given, relative to output_dir or to here"},
    )
    mm_vision_select_layer: int = field(default=-2, metadata={"help": "layer of the tower whose output is used"})
    mm_vision_select_feature: str = field(
        default="patch", metadata={"help": "patch, or cls_patch to keep the [CLS] token too"}
    )
    pretrain_mm_mlp_adapter: str | None = field(
        default=None, metadata={"help": "mm_projector.bin to start from; without it the projector starts random"}
    )
    mm_projector_type: str = field(default="linear", metadata={"help": "linear, mlp2x_gelu (LLaVA-1.5) or the like"})
    mm_patch_merge_type: str = field(
        default="flat", metadata={"help": "how crops are joined with image_aspect_ratio anyres"}
    )
    mm_use_im_start_end: bool = field(default=False, metadata={"help": "only False is supported"})
    mm_use_im_patch_token: bool = field(default=False, metadata={"help": "only False is supported"})


@dataclass
class DataArguments:
    """What it is trained on."""

    data_path: str | None = field(default=None, metadata={"help": "JSON list of conversations in LLaVA's format"})
    image_folder: str | None = field(default=None, metadata={"help": "folder that the records' image paths start from"})
    image_aspect_ratio: str = field(
        default="square", metadata={"help": "square (centre crop), pad (LLaVA-1.5) or anyres (LLaVA-1.6)"}
    )
    image_grid_pinpoints: str | None = field(
        default=None, metadata={"help": "for anyres: sizes a picture may be cut to, such as '[[336, 672], [672, 336]]'"}
    )


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """How it is trained. Everything that transformers' Trainer takes, and LLaVA's own."""

    output_dir: str | None = field(default=None, metadata={"help": "where checkpoints and the result go"})
    model_max_length: int = field(
        default=2048, metadata={"help": "tokens of a conversation, those of its image included; the rest is cut"}
    )
    mm_projector_lr: float | None = field(
        default=None, metadata={"help": "learning rate of the projector, where it is not to be learning_rate"}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "train matrices other than embeddings by Muon at this rate, the rest by --optim"},
    )
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "leave the projector as it is"})
    group_by_modality_length: bool = field(
        default=False, metadata={"help": "batches of conversations of similar length, with or without images"}
    )
    warmup_ratio: float = field(default=0.0, metadata={"help": "share of the steps in which the learning rate rises"})
    save_dtype: str = field(
        default="float16", metadata={"help": f"dtype of the weights written at the end: {', '.join(SAVE_DTYPES)}"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "without effect on LLaVA's batches"})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "not needed: every step uses every trained weight"}
    )

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("--output_dir is needed")
        if self.warmup_ratio:
            self.warmup_steps = self.warmup_ratio
        if not torch.accelerator.is_available():
            self.use_cpu = True  # or else transformers refuses --bf16
        super().__post_init__()


class _Parser(CommandParser, HfArgumentParser):
    """HfArgumentParser with this package's one-line complaints."""


def parse_arguments(
    args: list[str] | None = None,
) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The options of the command line, or of `args`. Raises InputError for what can be told wrong without a file."""
    parser = _Parser((ModelArguments, DataArguments, TrainingArguments), description=__doc__)
    try:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses(args)
    except (ValueError, ImportError) as error:
        raise InputError(one_line(error)) from error
    for name, value in (
        ("model_name_or_path", model_args.model_name_or_path),
        ("vision_tower", model_args.vision_tower),
        ("data_path", data_args.data_path),
    ):
        if not value:
            raise InputError(f"--{name} is needed")
    if model_args.version not in conv_templates:
        raise InputError(f"unknown --version {model_args.version!r}; known: {', '.join(conv_templates)}")
    if model_args.mm_use_im_start_end or model_args.mm_use_im_patch_token:
        raise InputError("training with mm_use_im_start_end or mm_use_im_patch_token is not supported")
    if model_args.tune_mm_mlp_adapter and training_args.freeze_mm_mlp_adapter:
        raise InputError("tune_mm_mlp_adapter trains the projector alone, which freeze_mm_mlp_adapter forbids")
    if training_args.save_dtype not in SAVE_DTYPES:
        raise InputError(f"unknown --save_dtype {training_args.save_dtype!r}: {', '.join(SAVE_DTYPES)}")
    if training_args.train_sampling_strategy != "random":
        raise InputError("--train_sampling_strategy is not used here: see --group_by_modality_length")
    if training_args.muon_learning_rate is not None and (training_args.fsdp or training_args.deepspeed):
        raise InputError("--muon_learning_rate needs whole matrices, which FSDP and DeepSpeed cut into pieces")
    return model_args, data_args, training_args
