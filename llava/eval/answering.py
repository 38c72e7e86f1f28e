"""From a question and pictures to an answer: what every command that asks a model shares."""

import argparse
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import psutil
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.conversation import get_conversation
from llava.eval.answers import AnswerStore, answer_line
from llava.eval.options import check_question_options, generation_options, load_model
from llava.eval.questions import Question, get_chunk
from llava.eval.ranks import Progress, Ranks, by_image, share
from llava.eval.settings import settings_of
from llava.mm_utils import get_model_name_from_path, load_image, process_images, tokenizer_image_token
from llava.model.prefix_sharing import generate_from_prefixes
from llava.utils import InputError, one_line

logger = logging.getLogger(__name__)


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
        loaded: what `load_pretrained_model` returned.
        prompt: text with one `<image>` for each of `images`.
        images: RGB images.
        streamer: transformers' streamer, if the answer is wanted word by word.
        options: see `options.generation_options`.
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
        loaded: what `load_pretrained_model` returned.
        prompts: texts with one `<image>` for each of their images.
        pixels: those of all prompts' images in order, as `process_images` returns them; None if there are none.
        image_sizes: original (width, height) of each image.
        options: see `options.generation_options`.
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


class _Pictures(Dataset):
    """Images of questions, decoded and processed; what cannot be read comes as the error itself.

    Pixels leave as NumPy's, which pass through a pipe: torch's pass through /dev/shm, of which a container has little.
    """

    def __init__(self, questions: list[Question], image_processor, config) -> None:
        self.questions, self.image_processor, self.config = questions, image_processor, config

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> tuple | InputError:
        try:
            image = open_image(self.questions[index])
        except InputError as error:
            return error
        return process_images([image], self.image_processor, self.config)[0].numpy(), image.size


def _as_it_is(item):
    return item


class _Eyes:
    """The visual tokens of one question's image after another, each image encoded once while it is asked about."""

    def __init__(self, loaded: tuple, questions: list[Question], num_workers: int) -> None:
        _, self.model, image_processor, _ = loaded
        self.image, self.tokens = None, None
        pictured = [question for question in questions if question.image is not None]
        first = [q for i, q in enumerate(pictured) if i == 0 or q.image != pictured[i - 1].image]
        pictures = _Pictures(first, image_processor, self.model.config)
        ahead = {"prefetch_factor": 8} if num_workers else {}
        self.pictures = iter(
            DataLoader(pictures, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, **ahead)
        )

    def see(self, batch: list[Question]) -> list[torch.Tensor]:
        """Visual tokens (length, D) of the image of each question of `batch`: for the same image the same tensor."""
        images, pixels, sizes = [self.image], [], []
        for question in batch:
            if question.image != images[-1]:
                picture = next(self.pictures)
                if isinstance(picture, InputError):
                    raise picture
                images.append(question.image)
                pixels.append(torch.from_numpy(picture[0]))
                sizes.append(picture[1])
        tokens = [self.tokens, *self._encode(pixels, sizes)]
        seen, at = [], 0
        for question in batch:
            at += question.image != images[at]
            seen.append(tokens[at])
        self.image, self.tokens = images[-1], tokens[-1]
        return seen

    @torch.inference_mode()
    def _encode(self, pixels: list[torch.Tensor], sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        """The visual tokens of images: all at once, or one by one where memory does not allow that."""
        if not pixels:
            return []
        alike = len({view.shape for view in pixels}) == 1
        try:
            return self.model.embed_images(torch.stack(pixels) if alike else pixels, sizes)
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise InputError("one image alone takes too much memory") from None
        return [self.model.embed_images(view.unsqueeze(0), [size])[0] for view, size in zip(pixels, sizes)]


def answer_questions(
    loaded: tuple,
    questions: list[Question],
    conv_mode: str,
    options: dict,
    batch_size: int | None = None,
    num_workers: int = 0,
) -> Iterator[tuple[Question, str]]:
    """Each of `questions` and its answer, in order, asked in batches (None: as large as free memory allows).

    An image is decoded, in `num_workers` processes ahead of the model, and encoded once for questions that follow one
    another, and passes through the language model once for those of a batch. Where memory runs out, batches shrink.
    Raises InputError if an image cannot be read, a prompt is longer than the context or one question takes too much
    memory.
    """
    model = loaded[1]
    size = batch_size or default_batch_size(model, options)
    eyes = _Eyes(loaded, questions, num_workers)
    start = 0
    while start < len(questions):
        has_image = questions[start].image is not None
        batch = []
        for question in questions[start : start + size]:
            if (question.image is not None) != has_image:
                break
            batch.append(question)
        seen = eyes.see(batch) if has_image else None
        done = 0
        while done < len(batch):
            part = slice(done, done + size)
            try:
                texts = _ask(loaded, batch[part], seen and seen[part], conv_mode, options)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise InputError(f"question {batch[done].question_id} alone takes too much memory") from error
                size = (size + 1) // 2
                logger.warning("out of memory: from here on at most %d questions at once", size)
                continue
            yield from zip(batch[part], texts, strict=True)
            done += len(texts)
        start += len(batch)


def _ask(
    loaded: tuple, questions: list[Question], seen: list[torch.Tensor] | None, conv_mode: str, options: dict
) -> list[str]:
    """The answers to questions that all have an image, whose visual tokens are `seen`, or all have none (None)."""
    tokenizer, model, *_ = loaded
    if seen is None:
        return answer_batch(loaded, [single_turn_prompt(q.asked, conv_mode) for q in questions], None, [], **options)
    embed, prefixes, visual_nums, prefix_of, endings = model.model.embed_tokens, [], [], [], []
    for i, (question, visual) in enumerate(zip(questions, seen, strict=True)):
        prompt = single_turn_prompt(f"{image_token(model.config)}\n{question.asked}", conv_mode)
        ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt")
        at = int((ids == IMAGE_TOKEN_INDEX).nonzero()[0])
        if i == 0 or visual is not seen[i - 1]:
            with torch.inference_mode():
                prefixes.append(torch.cat([embed(ids[:at].to(model.device)), visual.to(embed.weight)]))
            visual_nums.append(len(visual))
        prefix_of.append(len(prefixes) - 1)
        endings.append(ids[at + 1 :])
    with torch.inference_mode():
        output_ids = generate_from_prefixes(model, prefixes, prefix_of, endings, visual_nums, **options)
    return [text.strip() for text in tokenizer.batch_decode(output_ids, skip_special_tokens=True)]


def default_batch_size(model, options: dict) -> int:
    """How many questions fit into half of the memory that is free, at most 32, by the keys and values they take."""
    config, tower = model.config, model.get_vision_tower()
    crops = 5 if config.image_aspect_ratio == "anyres" else 1
    kept = min(model.visual_token_num, tower.num_patches) if model.pruning.prunes_before_decoder else tower.num_patches
    visual = crops * kept
    tokens = (visual + 512 + min(options.get("max_new_tokens") or 0, 128)) * options.get("num_beams", 1)
    heads = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    token = 2 * config.num_hidden_layers * heads * model.dtype.itemsize
    on_gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    # What is computed on the way takes about as much again.
    return int(min(32, max(1, free / 2 / (2 * token * tokens))))


def check_images(questions: Iterable[Question]) -> None:
    """Decode every image once, on all cores, so that a bad one is found before hours of work rather than after.

    Raises InputError naming the first that is missing, truncated or not an image.
    """
    images = {question.image: question for question in questions if question.image is not None}
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda question: open_image(question).close(), images.values()):
            pass


def answer_question_file(args: argparse.Namespace, questions: list[Question]) -> None:
    """Answer `questions` as the options of `options.question_parser` say, together with the other processes of the run.

    The answers come to stand in the answer file in the order of the questions; see `answers`. Only what has no answer
    yet is asked. Raises InputError for impossible options, before a model is loaded, and as `answer_questions` and
    `AnswerStore` do; the answers so far are kept.
    """
    check_question_options(args)
    questions = get_chunk(questions, args.num_chunks, args.chunk_idx)
    store = AnswerStore(args.answers_file, questions)

    def prepare() -> list[int]:
        check_images(questions)
        return store.resume(settings_of(args, questions), args.overwrite)

    with Ranks() as ranks:
        missing = ranks.from_first(prepare)
        if len(missing) < len(questions) and ranks.rank == 0:
            logger.warning("%d of %d questions are answered already", len(questions) - len(missing), len(questions))
        mine = [questions[i] for i in share(questions, by_image(questions, missing), ranks.rank, ranks.count)]
        args.device = ranks.device(args.device)
        loaded = load_model(args) if mine else None
        with Progress(store, len(missing), hidden=ranks.rank > 0 or not missing):
            if mine:
                _answer_share(args, loaded, mine, store, ranks)
            ranks.wait()
        if ranks.rank == 0 and not args.answers_file.exists():
            store.finish(ranks.count)


def _answer_share(
    args: argparse.Namespace, loaded: tuple, mine: list[Question], store: AnswerStore, ranks: Ranks
) -> None:
    """Answer this process's questions, writing each answer as it comes."""
    cores = (os.cpu_count() or 1) // ranks.count
    workers = args.num_workers if args.num_workers is not None else min(4, cores // 2)
    answers = answer_questions(loaded, mine, args.conv_mode, generation_options(args), args.batch_size, workers)
    model_id = get_model_name_from_path(args.model_path)
    with store.appending(ranks.rank) as file:
        for question, text in answers:
            file.write(answer_line(question, text, model_id))
            file.flush()
