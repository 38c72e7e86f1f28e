"""From a question and pictures to an answer: what every command that asks a model shares."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import get_conversation
from llava.mm_utils import get_model_name_from_path, load_image, process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.visual_token_pruning import check_budget
from llava.utils import InputError


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


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model answers, and how much it sees."""
    parser.add_argument("--model-path", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--model-base", help="the language model of a projector-only checkpoint")
    parser.add_argument("--visual_token_num", type=visual_token_num, help="visual tokens kept of each crop (all)")
    parser.add_argument(
        "--important_ratio", type=important_ratio, default=0.5, help="share of them chosen by [CLS] attention (0.5)"
    )
    parser.add_argument("--device", default="cuda", help="cuda (the CPU where there is no GPU), cuda:N or cpu")
    parser.add_argument("--load-8bit", action="store_true", help="quantize the language model to 8 bits")
    parser.add_argument("--load-4bit", action="store_true", help="quantize the language model to 4 bits")


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
    options = {name: getattr(args, name) for name in names if hasattr(args, name)}
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


def image_token(config) -> str:
    """What stands for one image in a prompt to the model of this config."""
    if config.mm_use_im_start_end:
        return DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN
    return DEFAULT_IMAGE_TOKEN


def single_turn_prompt(message: str, conv_mode: str) -> str:
    """The prompt that asks one thing and leaves the answer to the model."""
    conversation = get_conversation(conv_mode)
    conversation.append_message(conversation.roles[0], message)
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


def answer(loaded: tuple, prompt: str, images: list[Image.Image], streamer=None, **options) -> str:
    """The model's answer to one prompt.

    Args:
        loaded: what `load_model` returned.
        prompt: text with one `<image>` for each of `images`.
        images: RGB images.
        streamer: transformers' streamer, if the answer is wanted word by word.
        options: see `generation_options`.
    """
    tokenizer, model, image_processor, _ = loaded
    input_ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt").unsqueeze(0).to(model.device)
    pixels = process_images(images, image_processor, model.config) if images else None
    with torch.inference_mode():
        output_ids = model.generate(
            input_ids, images=pixels, image_sizes=[image.size for image in images], streamer=streamer, **options
        )
    return tokenizer.batch_decode(output_ids, skip_special_tokens=True)[0].strip()


def answer_questions(
    loaded: tuple, questions: list[dict], image_folder: Path, conv_mode: str, options: dict
) -> Iterator[tuple[dict, str]]:
    """Each of `questions` (with `image` and `text`) and its answer, one by one in order, behind a progress bar."""
    for question in tqdm(questions, desc="answering", unit="question"):
        prompt = single_turn_prompt(f"{image_token(loaded[1].config)}\n{question['text']}", conv_mode)
        yield question, answer(loaded, prompt, [load_image(image_folder / question["image"])], **options)


def check_images(paths: Iterable[Path]) -> None:
    """Decode every image once, on all cores, so that a bad one is found before hours of work rather than after.

    Raises InputError naming the first that is missing, truncated or not an image.
    """
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda path: load_image(path).close(), sorted(set(paths))):
            pass
