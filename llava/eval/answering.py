"""From a question and pictures to an answer: what every command that asks a model shares."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import get_conversation
from llava.eval.answers import answer_line
from llava.eval.questions import Question, get_chunk
from llava.mm_utils import get_model_name_from_path, load_image, process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.model.visual_token_pruning import check_budget
from llava.utils import CommandParser, InputError, atomic_writer, one_line


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
    pixels = process_images(images, loaded[2], loaded[1].config) if images else None
    return answer_batch(loaded, [prompt], pixels, [image.size for image in images], streamer=streamer, **options)[0]


def answer_batch(
    loaded: tuple,
    prompts: list[str],
    pixels: torch.Tensor | list[torch.Tensor] | None,
    image_sizes: list[tuple[int, int]],
    **options,
) -> list[str]:
    """The model's answers to several prompts at once; in float32 each is the one that the prompt gets alone.

    Args:
        loaded: what `load_model` returned.
        prompts: texts with one `<image>` for each of their images.
        pixels: those of all prompts' images in order, as `process_images` returns them; None if there are none.
        image_sizes: original (width, height) of each image.
        options: see `generation_options`.
    """
    tokenizer, model, *_ = loaded
    ids = [tokenizer_image_token(prompt, tokenizer, return_tensors="pt") for prompt in prompts]
    mask = [torch.ones_like(row) for row in ids]
    input_ids, attention_mask = (
        pad_sequence(rows, batch_first=True, padding_side="left").to(model.device) for rows in (ids, mask)
    )
    with torch.inference_mode():
        output_ids = model.generate(
            input_ids, images=pixels, image_sizes=image_sizes, attention_mask=attention_mask, **options
        )
    return [text.strip() for text in tokenizer.batch_decode(output_ids, skip_special_tokens=True)]


def open_image(question: Question) -> Image.Image:
    """A question's image as RGB. Raises InputError, naming the file or the question, if it cannot be read."""
    if isinstance(question.image, Path):
        return load_image(question.image)
    try:
        return load_image(BytesIO(question.image))
    except InputError as error:
        cause = one_line(error.__cause__ or error)
        raise InputError(f"cannot read the image of question {question.question_id}: {cause}") from error


def answer_questions(
    loaded: tuple, questions: list[Question], conv_mode: str, options: dict, batch_size: int
) -> Iterator[tuple[Question, str]]:
    """Each of `questions` and its answer, in order, asked in batches behind a progress bar.

    Images are decoded one batch ahead, while the model answers, and once for questions that follow one another.
    Raises InputError if an image cannot be read, a prompt is longer than the context or a batch takes too much memory.
    """
    _, model, image_processor, _ = loaded

    def see(question: Question) -> tuple[torch.Tensor, tuple[int, int]]:
        image = open_image(question)
        return process_images([image], image_processor, model.config)[0], image.size

    def prompt_of(question: Question) -> str:
        image = f"{image_token(model.config)}\n" if question.image is not None else ""
        return single_turn_prompt(image + question.asked, conv_mode)

    views: dict[Path | bytes, Future] = {}
    with ThreadPoolExecutor() as pool, tqdm(total=len(questions), desc="answering", unit="question") as progress:
        for start in range(0, len(questions), batch_size):
            soon = questions[start : start + 2 * batch_size]
            needed = {question.image: question for question in soon if question.image is not None}
            views = {image: views.get(image) or pool.submit(see, question) for image, question in needed.items()}
            batch = soon[:batch_size]
            seen = [views[question.image].result() for question in batch if question.image is not None]
            pixels, sizes = [view for view, _ in seen], [size for _, size in seen]
            if len({view.shape for view in pixels}) == 1:
                pixels = torch.stack(pixels)
            try:
                texts = answer_batch(loaded, list(map(prompt_of, batch)), pixels if seen else None, sizes, **options)
            except torch.OutOfMemoryError as error:
                raise InputError(f"{len(batch)} questions at once take too much memory: lower --batch-size") from error
            for question, text in zip(batch, texts, strict=True):
                yield question, text
                progress.update()


def check_images(questions: Iterable[Question]) -> None:
    """Decode every image once, on all cores, so that a bad one is found before hours of work rather than after.

    Raises InputError naming the first that is missing, truncated or not an image.
    """
    images = {question.image: question for question in questions if question.image is not None}
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda question: open_image(question).close(), images.values()):
            pass


def question_parser(description: str, max_new_tokens: int) -> CommandParser:
    """The options of every command that answers a question file, less those of its format."""
    parser = CommandParser(description=description)
    add_model_arguments(parser)
    parser.add_argument("--question-file", required=True, type=Path)
    parser.add_argument("--answers-file", required=True, help="JSON lines, written whole or not at all")
    parser.add_argument("--conv-mode", default="llava_v1", help="prompt template (llava_v1)")
    parser.add_argument("--num-chunks", type=int, default=1, help="processes that share the questions (1)")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which of them this one is (0)")
    parser.add_argument("--batch-size", type=int, default=16, help="questions answered at once (16)")
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=max_new_tokens)
    return parser


def answer_question_file(args: argparse.Namespace, questions: list[Question]) -> None:
    """Answer this process's share of `questions` as the options of `question_parser` say, and write the answer file.

    Raises InputError for impossible options and as `answer_questions` does; then no file is left behind.
    """
    get_conversation(args.conv_mode)
    options = generation_options(args)
    if args.batch_size < 1:
        raise InputError(f"batch-size must be at least 1, got {args.batch_size}")
    questions = get_chunk(questions, args.num_chunks, args.chunk_idx)
    check_images(questions)
    answers = []
    if questions:
        answers = answer_questions(load_model(args), questions, args.conv_mode, options, args.batch_size)
    model_id = get_model_name_from_path(args.model_path)
    with atomic_writer(args.answers_file) as file:
        for question, text in answers:
            file.write(answer_line(question, text, model_id))
            file.flush()
