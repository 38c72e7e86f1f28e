"""What an answer costs, stage by stage, for one model at many budgets, in turns.

Shapes: B prompts, K crops, L prompt tokens with the image in place, T visual tokens of each crop.
"""

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import psutil
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.encode import choose, encode
from llava.model.flops import Decoder, tokens_later
from llava.model.splice import EmbeddedPrompts
from llava.model.steps import Prompts, begun
from llava.pruning import Settings, method_label, select
from llava.pruning.kv_cache import cache_in

TIMES = ("vision", "selection", "projection", "prefill", "first token", "per token", "answer")


@dataclass(frozen=True)
class Job:
    """Pictures, prompts and the length of the answers: pixels (B, K, 3, h, w), ids (B, length), equal in every row."""

    pixels: torch.Tensor
    image_size: tuple[int, int]
    input_ids: torch.LongTensor
    answer_tokens: int
    question: str = "What is in the picture?"

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        return [self.image_size] * len(self.pixels)

    def answer(self, model, tokens: int, **options):
        """Generate exactly so many tokens of each answer."""
        sizes = {"images": self.pixels, "image_sizes": self.image_sizes, "question": self.question}
        return model.generate(
            self.input_ids, **sizes, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, **options
        )


def make_job(
    shape_size: int,
    crops: int,
    grid: tuple[int, int] | None,
    prompt_tokens: int,
    model,
    answer_tokens: int,
    batch: int = 1,
) -> Job:
    """A picture of noise and a prompt of `prompt_tokens` random text tokens around it, `batch` times."""
    generator = torch.Generator().manual_seed(0)
    tower = model.get_vision_tower()
    pixels = torch.randn(1, crops, 3, shape_size, shape_size, generator=generator).to(tower.device, tower.dtype)
    ids = torch.randint(3, model.config.vocab_size, (1, prompt_tokens + 1), generator=generator)
    ids[0, prompt_tokens // 2] = IMAGE_TOKEN_INDEX
    size = (shape_size, shape_size) if grid is None else (grid[0] * shape_size, grid[1] * shape_size)
    return Job(pixels.repeat(batch, 1, 1, 1, 1), size, ids.repeat(batch, 1).to(model.device), answer_tokens)


class Clock:
    """Marks in time: events of the device where there is one, else the wall clock."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.marks = device, []

    def mark(self) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """The times between the marks."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return [first.elapsed_time(second) for first, second in zip(self.marks, self.marks[1:])]
        return [1000 * (second - first) for first, second in zip(self.marks, self.marks[1:])]


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """The milliseconds that `work` takes."""
    clock = Clock(device)
    clock.mark()
    work()
    clock.mark()
    return clock.milliseconds()[0]


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most of some measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


@torch.inference_mode()
def encode_images(model, pixels: torch.Tensor, pruning: Settings, question: str) -> list[float]:
    """Milliseconds of vision encoding, selection and projection of crops (K, 3, h, w), as `encode_images` has them.

    The selection has what its method asks for, such as the question's embeddings. Where no picture is shown, all is 0.
    """
    if pruning.is_blind:
        return [0.0, 0.0, 0.0]
    clock, prunes = Clock(model.device), pruning.prunes_before_decoder
    clock.mark()
    (image,) = encode(model, [pixels])
    clock.mark()
    if image.ran:  # selection and projection are one graph
        choose(model, image.views, pruning, question, image.ran)
        clock.mark()
        return [*clock.milliseconds(), 0.0]
    chosen = select(model.with_question(image.views, pruning, question), pruning)
    clock.mark()
    chosen.project(model.project)
    clock.mark()
    vision, selection, projection = clock.milliseconds()
    return [vision, selection if prunes else 0.0, projection]


@torch.inference_mode()
def prefill(model, job: Job, pruning: Settings) -> tuple[float, EmbeddedPrompts]:
    """Milliseconds of the prompts' way through the language model, and the prompts."""
    sizes, question = job.image_sizes, job.question
    prompts = model.embed_prompts(job.input_ids, None, None, job.pixels, sizes, "left", pruning, question)
    options = {"is_visual": prompts.is_visual, "pruning": pruning, "use_cache": True, "logits_to_keep": 1}
    whole = Prompts(prompts.inputs_embeds, prompts.attention_mask, prompts.positions(), None)
    given = {"inputs_embeds": whole.embeds, "attention_mask": whole.mask, "position_ids": whole.positions}

    def run() -> None:
        new = job.answer_tokens
        with begun(model, whole, {}, pruning, None, new, new) if model.records else nullcontext() as cache:
            if cache is None:
                model(**given, **options)

    return timed(model.device, run), prompts


class PeakMemory:
    """The most memory while inside: allocated on the device, or this process's resident set, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self.inside, process = True, psutil.Process()

        def watch() -> None:
            while self.inside:
                self.bytes = max(self.bytes, process.memory_info().rss)
                time.sleep(0.002)

        self.thread = threading.Thread(target=watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self.inside = False
            self.thread.join()


def measure_once(model, job: Job, pruning: Settings) -> dict[str, float]:
    """Milliseconds of every stage, once."""
    pixels = job.pixels.flatten(0, 1)
    row = dict(zip(TIMES, encode_images(model, pixels, pruning, job.question)))
    row["prefill"], _ = prefill(model, job, pruning)
    for name, tokens in (("first token", 1), ("answer", job.answer_tokens)):
        row[name] = timed(model.device, lambda tokens=tokens: job.answer(model, tokens, pruning=pruning))
    row["per token"] = (row["answer"] - row["first token"]) / max(1, job.answer_tokens - 1)
    return row


def measure(model, job: Job, settings: list[Settings], rounds: int, warmup: int) -> list[dict]:
    """A row for each setting: median, least and most of every stage in milliseconds, memory and arithmetic.

    The settings take turns, so that a machine that becomes slower does so for all of them.
    """
    times: dict[Settings, list[dict]] = {setting: [] for setting in settings}
    for _ in range(warmup + rounds):
        for setting in settings:
            times[setting].append(measure_once(model, job, setting))
    return [_row(model, job, setting, times[setting][warmup:]) for setting in settings]


def _row(model, job: Job, pruning: Settings, times: list[dict]) -> dict:
    with PeakMemory(model.device) as memory:
        output = job.answer(model, job.answer_tokens, return_dict_in_generate=True, pruning=pruning)
    layers = cache_in(output).layers
    prompts = prefill(model, job, pruning)[1]
    length, visual = prompts.longest, int(prompts.is_visual[0].sum())
    decoder = Decoder.from_config(model.config)
    left, full_layers = tokens_later(pruning, length, visual, model.get_vision_tower().num_patches)
    row = {
        "method": method_label(pruning.pruning_method),
        "tokens": pruning.visual_token_num,
        "visual_tokens": visual - (length - left),
        "prompt_tokens": length,
        "prefill_flops": len(job.pixels) * decoder.prefill_flops(length, left, full_layers),
        "kv_cache_bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
        "peak_memory_bytes": memory.bytes,
    }
    return row | {name: spread([time[name] for time in times]) for name in TIMES}
