"""The command-line options of everything that asks a model."""

import argparse
import sys
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from llava.constants import PATCH_MERGE_TYPES
from llava.conversation import get_conversation
from llava.mm_utils import get_model_name_from_path, read_grid_pinpoints
from llava.model.builder import load_pretrained_model
from llava.pruning import METHOD_NAMES
from llava.pruning.base import check_budget
from llava.pruning.registry import check_pruning_method
from llava.utils import CommandParser, InputError


def visual_token_num(text: str) -> int:
    """Command-line form of `visual_token_num`: an integer >= 1."""
    try:
        value = int(text)
        check_budget(value, 0.5)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}") from None
    return value


def important_ratio(text: str) -> float:
    """Command-line form of `important_ratio`: a number in [0, 1]."""
    try:
        value = float(text)
        check_budget(None, value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1], got {text!r}") from None
    return value


def pruning_method(text: str) -> str:
    """Command-line form of `pruning_method`: a name, a `.py` file or a module."""
    try:
        check_pruning_method(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("pruning_method ")) from None
    return text


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model answers, and how much it sees."""
    parser.add_argument("--model-path", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--model-base", help="the language model of a projector-only checkpoint")
    parser.add_argument("--visual_token_num", type=visual_token_num, help="visual tokens kept of each crop (all)")
    parser.add_argument(
        "--important_ratio", type=important_ratio, default=0.5, help="share of them chosen by [CLS] attention (0.5)"
    )
    parser.add_argument(
        "--pruning_method",
        type=pruning_method,
        default="vispruner",
        help=f"how they are chosen: {', '.join(METHOD_NAMES)}, a .py file or a package.module (vispruner)",
    )
    parser.add_argument("--pruning_seed", type=int, default=0, help="seed of the method random (0)")
    parser.add_argument(
        "--mm_patch_merge_type",
        choices=PATCH_MERGE_TYPES,
        help="how crops are joined (as the checkpoint's config says)",
    )
    parser.add_argument(
        "--image_grid_pinpoints", help="sizes that a picture may be cut to, such as '[[672, 672]]' (the config's)"
    )
    parser.add_argument("--device", default="cuda", help="cuda (the CPU where there is no GPU), cuda:N or cpu")
    parser.add_argument("--load-8bit", action="store_true", help="quantize the language model to 8 bits")
    parser.add_argument("--load-4bit", action="store_true", help="quantize the language model to 4 bits")


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """For commands that answer one prompt after another."""
    parser.add_argument(
        "--compile_decoding",
        action="store_true",
        help="compile a token's step into a CUDA graph (first answer: minutes)",
    )


def add_generation_arguments(parser: argparse.ArgumentParser, temperature: float, max_new_tokens: int) -> None:
    """How the answer is decoded."""
    parser.add_argument("--temperature", type=float, default=temperature, help=f"0 is greedy ({temperature})")
    parser.add_argument("--top_p", type=float, help="sample from this share of the probability (the checkpoint's)")
    parser.add_argument("--num_beams", type=int, default=1, help="beams (1)")
    parser.add_argument(
        "--max_new_tokens", "--max-new-tokens", type=int, default=max_new_tokens, help=f"at most ({max_new_tokens})"
    )


def load_model(args: argparse.Namespace) -> tuple:
    """Tokenizer, model, image processor and context length that the command line asks for."""
    if not sys.stderr.isatty():
        disable_progress_bar()
    # Those that are there: upstream's clients make `args` by hand, without the options that upstream lacks.
    names = ("load_8bit", "load_4bit", "device", "visual_token_num", "important_ratio")
    names += ("pruning_method", "pruning_seed", "compile_decoding")
    options = {name: getattr(args, name) for name in names if hasattr(args, name)}
    config = {
        "mm_patch_merge_type": getattr(args, "mm_patch_merge_type", None),
        "image_grid_pinpoints": read_grid_pinpoints(getattr(args, "image_grid_pinpoints", None)),
    }
    options |= {name: value for name, value in config.items() if value is not None}
    return load_pretrained_model(args.model_path, args.model_base, get_model_name_from_path(args.model_path), **options)


def generation_options(args: argparse.Namespace) -> dict:
    """The command line's decoding options in transformers' terms. Raises InputError for impossible ones."""
    if args.temperature < 0 or args.num_beams < 1 or args.max_new_tokens < 1:
        raise InputError("temperature must be at least 0, num_beams and max_new_tokens at least 1")
    if args.top_p is not None and not 0 < args.top_p <= 1:
        raise InputError(f"top_p must be in (0, 1], got {args.top_p}")
    options = {"do_sample": args.temperature > 0, "num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}
    if options["do_sample"]:
        options["temperature"] = args.temperature
    return options | ({"top_p": args.top_p} if args.top_p is not None else {})


def conv_mode_of(model_name: str) -> str:
    """The conversation template that a published checkpoint of this name was trained with."""
    name = model_name.lower()
    for part, mode in (
        ("llama-2", "llava_llama_2"),
        ("mistral", "mistral_instruct"),
        ("34b", "chatml_direct"),
        ("qwen", "qwen_1_5"),
    ):
        if part in name:
            return mode
    return "llava_v1"


def question_parser(description: str, max_new_tokens: int) -> CommandParser:
    """The options of every command that answers a question file, less those of its format."""
    parser = CommandParser(description=description)
    add_model_arguments(parser)
    parser.add_argument("--question-file", required=True, type=Path)
    parser.add_argument(
        "--answers-file",
        required=True,
        type=Path,
        help="JSON lines, in the order of the questions; until all are answered, in the folder NAME.parts",
    )
    parser.add_argument("--overwrite", action="store_true", help="drop answers that were made with other settings")
    parser.add_argument("--conv-mode", default="llava_v1", help="prompt template (llava_v1)")
    parser.add_argument("--num-chunks", type=int, default=1, help="parts that the questions are cut into (1)")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which of them is answered (0)")
    parser.add_argument("--batch-size", type=int, help="questions answered at once (as free memory allows)")
    parser.add_argument("--num-workers", type=int, help="processes that decode images ahead of the model (up to 4)")
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=max_new_tokens)
    return parser


def check_question_options(args: argparse.Namespace) -> None:
    """Raise InputError for options of `question_parser` that cannot be."""
    get_conversation(args.conv_mode)
    generation_options(args)
    read_grid_pinpoints(args.image_grid_pinpoints)
    if args.batch_size is not None and args.batch_size < 1:
        raise InputError(f"batch-size must be at least 1, got {args.batch_size}")
    if args.num_workers is not None and args.num_workers < 0:
        raise InputError(f"num-workers must not be negative, got {args.num_workers}")
