"""The command-line options of everything that asks a model. This file imports neither torch nor transformers."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava.checkpoints.folders import find_folder, get_model_name_from_path
from llava.cli import CommandParser, output_file
from llava.constants import IMAGE_ASPECT_RATIOS, PATCH_MERGE_TYPES
from llava.conversation import check_conv_mode
from llava.errors import InputError
from llava.files import read_json_object
from llava.pruning.settings import NAMES, Settings, add_settings_arguments, parser_of, settings_from
from llava.vision.grids import read_grid_pinpoints

if TYPE_CHECKING:
    from llava.model.builder import LoadedModel


@dataclass(frozen=True)
class ModelOptions:
    """Which model answers, how much it sees, and in what form its weights are; see `load_pretrained_model`."""

    model_path: str
    model_base: str | None = None
    pruning: Settings = field(default_factory=Settings)
    image_aspect_ratio: str | None = None
    mm_patch_merge_type: str | None = None
    image_grid_pinpoints: str | None = None
    device: str = "cuda"
    load_8bit: bool = False
    load_4bit: bool = False
    compile: bool = False

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return get_model_name_from_path(self.model_path)

    @property
    def model_type(self) -> str | None:
        """`model_type` of the checkpoint's config. Raises InputError if there is no such checkpoint."""
        from llava.checkpoints.hf.config import model_type_of

        config = find_folder(self.model_path, "checkpoint") / "config.json"
        return model_type_of(read_json_object(config, "config"))

    @property
    def config(self) -> dict:
        """Keys of the checkpoint's config that are given other values. Raises InputError for an impossible one."""
        given = {
            "image_aspect_ratio": self.image_aspect_ratio,
            "mm_patch_merge_type": self.mm_patch_merge_type,
            "image_grid_pinpoints": read_grid_pinpoints(self.image_grid_pinpoints),
        }
        return {name: value for name, value in given.items() if value is not None}

    def load(self) -> LoadedModel:
        """Load the model. Raises InputError as `load_pretrained_model` does."""
        from transformers.utils.logging import disable_progress_bar

        from llava.model.builder import load_pretrained_model

        if not sys.stderr.isatty():
            disable_progress_bar()
        loaded = load_pretrained_model(
            self.model_path,
            self.model_base,
            self.name,
            load_8bit=self.load_8bit,
            load_4bit=self.load_4bit,
            device=self.device,
            pruning_method=self.pruning.pruning_method,
            compile=self.compile,
            **self.config,
        )
        loaded.model.pruning = self.pruning
        return loaded


# For commands that take some of the settings.
visual_token_num, important_ratio, pruning_method = map(
    parser_of, ("visual_token_num", "important_ratio", "pruning_method")
)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model answers, and how much it sees."""
    parser.add_argument("--model-path", required=True, help="checkpoint folder or hub id")
    add_weights_arguments(parser)
    add_settings_arguments(parser)
    add_crop_arguments(parser)


def add_crop_arguments(parser: argparse.ArgumentParser) -> None:
    """How pictures are cut into crops and joined."""
    parser.add_argument(
        "--image_aspect_ratio",
        choices=IMAGE_ASPECT_RATIOS,
        help="how a picture becomes square: its centre, padded, or in crops (as the checkpoint says)",
    )
    parser.add_argument(
        "--mm_patch_merge_type",
        choices=PATCH_MERGE_TYPES,
        help="how crops are joined (as the checkpoint's config says)",
    )
    parser.add_argument(
        "--image_grid_pinpoints", help="sizes that a picture may be cut to, such as '[[672, 672]]' (the config's)"
    )


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """In what form the weights are, and where."""
    parser.add_argument("--model-base", help="the language model of a projector-only checkpoint")
    parser.add_argument("--device", default="cuda", help="cuda (the CPU where there is no GPU), cuda:N or cpu")
    parser.add_argument("--load-8bit", action="store_true", help="quantize the language model to 8 bits")
    parser.add_argument("--load-4bit", action="store_true", help="quantize the language model to 4 bits")


def pruning_settings(options: Mapping[str, Any]) -> Settings:
    """The settings among some options, with defaults for absent ones. Raises InputError for invalid ones."""
    try:
        return settings_from(options)
    except ValueError as error:
        raise InputError(str(error)) from error


def pruning_grid(options: Mapping[str, Any]) -> list[Settings]:
    """The settings with every combination of values; an option is one value or a list or tuple of them.

    The first field of `Settings` changes fastest. Raises InputError for invalid ones.
    """
    names = [name for name in NAMES if name in options][::-1]
    values = [value if isinstance(value, list | tuple) else [value] for value in map(options.get, names)]
    return [pruning_settings(dict(zip(names, combined))) for combined in product(*values)]


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """For commands that answer one prompt after another."""
    parser.add_argument(
        "--compile",
        "--compile_decoding",
        action="store_true",
        help="on a GPU, run tower, selection, prefill and each token as CUDA graphs (first answer: a minute)",
    )


def add_generation_arguments(parser: argparse.ArgumentParser, temperature: float, max_new_tokens: int | None) -> None:
    """How the answer is decoded; without `max_new_tokens` the command has its own default for it."""
    tokens = "as the benchmark's" if max_new_tokens is None else max_new_tokens
    parser.add_argument("--temperature", type=float, default=temperature, help=f"0 is greedy ({temperature})")
    parser.add_argument("--top_p", type=float, help="sample from this share of the probability (the checkpoint's)")
    parser.add_argument("--num_beams", type=int, default=1, help="beams (1)")
    parser.add_argument(
        "--max_new_tokens", "--max-new-tokens", type=int, default=max_new_tokens, help=f"at most ({tokens})"
    )


def model_options(args: argparse.Namespace, pruning: Settings | None = None) -> ModelOptions:
    """The model options of a command line, with its pruning settings or others. Raises InputError for impossible ones.

    Options that are not there have their defaults: upstream's clients make `args` by hand.
    """
    if pruning is None:
        pruning = pruning_settings(vars(args))
    names = ("model_base", "image_aspect_ratio", "mm_patch_merge_type", "image_grid_pinpoints", "device")
    names += ("load_8bit", "load_4bit")
    options = {name: getattr(args, name) for name in names if hasattr(args, name)}
    options["compile"] = any(getattr(args, name, False) for name in ("compile", "compile_decoding"))
    read_grid_pinpoints(options.get("image_grid_pinpoints"))
    return ModelOptions(str(args.model_path), pruning=pruning, **options)


def generation_options(args: argparse.Namespace) -> dict:
    """The command line's decoding options in transformers' terms. Raises InputError for impossible ones."""
    return decoding(args.temperature, args.top_p, args.num_beams, args.max_new_tokens)


def decoding(temperature: float, top_p: float | None, num_beams: int, max_new_tokens: int) -> dict:
    """How answers are decoded, in transformers' terms; a temperature of 0 is greedy.

    Raises InputError for impossible values.
    """
    if not 0 <= temperature < math.inf or num_beams < 1 or max_new_tokens < 1:
        raise InputError("temperature must be a number of at least 0, num_beams and max_new_tokens at least 1")
    if 0 < temperature < 1e-4:
        raise InputError(f"a temperature of {temperature} overflows: 0 is greedy, the least other is 0.0001")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p must be in (0, 1], got {top_p}")
    options = {"do_sample": temperature > 0, "num_beams": num_beams, "max_new_tokens": max_new_tokens}
    if options["do_sample"]:
        options["temperature"] = temperature
    return options | ({"top_p": top_p} if top_p is not None else {})


@dataclass(frozen=True)
class AskingOptions:
    """How questions are asked.

    Attributes:
        generation: transformers' generation options.
        conv_mode: the prompt template; the checkpoint's own if None.
        batch_size: questions answered at once; as many as free memory allows if None.
        num_workers: threads that decode images ahead of the model; by the number of cores if None.
    """

    generation: dict
    conv_mode: str | None = None
    batch_size: int | None = None
    num_workers: int | None = None

    def __post_init__(self) -> None:
        """Raises InputError for a template that is not known and for impossible numbers."""
        if self.conv_mode is not None:
            check_conv_mode(self.conv_mode)
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch-size must be at least 1, got {self.batch_size}")
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"num-workers must not be negative, got {self.num_workers}")


def add_asking_arguments(parser: argparse.ArgumentParser) -> None:
    """How questions are asked, less how answers are decoded."""
    parser.add_argument("--conv-mode", help="prompt template (the checkpoint's)")
    parser.add_argument("--batch-size", type=int, help="questions answered at once (as free memory allows)")
    parser.add_argument("--num-workers", type=int, help="threads that decode images ahead of the model (up to 4)")


def asking_options(args: argparse.Namespace) -> AskingOptions:
    """The asking options of a command line. Raises InputError for impossible ones."""
    return AskingOptions(generation_options(args), args.conv_mode, args.batch_size, args.num_workers)


def question_parser(description: str, max_new_tokens: int) -> CommandParser:
    """The options of every command that answers a question file, less those of its format."""
    parser = CommandParser(description=description)
    add_model_arguments(parser)
    parser.add_argument("--question-file", required=True, type=Path)
    parser.add_argument(
        "--answers-file",
        required=True,
        type=output_file,
        help="JSON lines, in the order of the questions; until all are answered, in the folder NAME.parts",
    )
    parser.add_argument("--overwrite", action="store_true", help="drop answers that were made with other settings")
    parser.add_argument("--num-chunks", type=int, default=1, help="parts that the questions are cut into (1)")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which of them is answered (0)")
    add_asking_arguments(parser)
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=max_new_tokens)
    return parser
