"""What a share of the visual tokens costs and saves in a model of transformers, stage by stage, in turns.

Shapes: B prompts, n visual tokens of a picture.
"""

import math
from dataclasses import dataclass

import torch
import transformers
from transformers import PreTrainedModel

from llava.bench.measure import Clock, PeakMemory, spread, timed
from llava.bench.random_model import RandomTokens, fill_with_random_weights, weights_on
from llava.bench.shapes import HostShape
from llava.integrations.transformers import prune
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.encoding import encode_pictures
from llava.integrations.transformers.hosts import find_host
from llava.integrations.transformers.hosts.base import Picture
from llava.integrations.transformers.prompts import kept_places
from llava.integrations.transformers.question import Asked, with_questions
from llava.model.flops import Decoder
from llava.pruning import method_label
from llava.pruning.kv_cache import cache_in

QUESTION = "What is in the picture?"
HOST_TIMES = ("vision", "importance", "selection", "prefill", "first token", "per token", "answer")


def build_host(
    shape: HostShape, layers: int | None, device: torch.device, dtype: torch.dtype, attn_implementation: str
) -> PreTrainedModel:
    """A model of this shape in eval mode with random weights; `layers` are of its language model, or None."""
    text = shape.text | ({} if layers is None else {"num_hidden_layers": layers})
    config = getattr(transformers, f"{shape.name}Config")(
        vision_config=dict(shape.vision), text_config=text, **shape.others
    )
    config._attn_implementation = attn_implementation
    with weights_on(device, dtype):
        model = getattr(transformers, f"{shape.name}ForConditionalGeneration")(config)
    fill_with_random_weights(model)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    model.processor = RandomTokens(text["vocab_size"])
    return model.eval().requires_grad_(False)


@dataclass(frozen=True)
class HostJob:
    """A picture of `visual_tokens` and a prompt around it, B times: what the model takes, and the answers' length."""

    visual_tokens: int
    inputs: dict
    answer_tokens: int

    def answer(self, model: PreTrainedModel, tokens: int, **options):
        """Generate exactly so many tokens of each answer."""
        number = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        return model.generate(**self.inputs, do_sample=False, question=QUESTION, **number, **options)


def make_host_job(model, visual_tokens: int, prompt_tokens: int, answer_tokens: int, batch: int = 1) -> HostJob:
    """A picture of noise, as square as may be, in a prompt of `prompt_tokens` random text tokens, `batch` times."""
    config, generator = model.config, torch.Generator().manual_seed(0)
    vision = config.vision_config
    rows = next(n for n in range(math.isqrt(visual_tokens), 0, -1) if visual_tokens % n == 0)
    merge = vision.spatial_merge_size
    grid = torch.tensor([[1, rows * merge, visual_tokens // rows * merge]])
    size = 3 * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(int(grid.prod()), size, generator=generator).to(model.dtype)
    most = min(config.get_text_config().vocab_size, config.image_token_id, config.vision_start_token_id)
    text = torch.randint(3, most, (prompt_tokens,), generator=generator)
    picture = torch.full((visual_tokens,), config.image_token_id)
    start, end = torch.tensor([config.vision_start_token_id]), torch.tensor([config.vision_end_token_id])
    half = prompt_tokens // 2
    ids = torch.cat([text[:half], start, picture, end, text[half:]]).repeat(batch, 1)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": pixels.repeat(batch, 1),
        "image_grid_thw": grid.repeat(batch, 1),
    }
    return HostJob(visual_tokens, {name: value.to(model.device) for name, value in inputs.items()}, answer_tokens)


@torch.inference_mode()
def encode(model: PreTrainedModel, job: HostJob, needs: tuple[str, ...]) -> tuple[float, list[Picture]]:
    """Milliseconds of the tower, and the pictures with `needs` of a question; their importance is not computed yet."""
    host, found = find_host(model), {}
    kinds = dict(host.split(model, {name: job.inputs[name] for name in host.inputs if name in job.inputs}))
    spent = timed(model.device, lambda: found.update(encode_pictures(model, host, kinds)))
    asked = Asked(job.inputs["input_ids"], job.inputs["attention_mask"].bool())
    pictures = with_questions(model, host, list(found.items()), asked, QUESTION, needs) if needs else found.items()
    return spent, [picture for _, own in pictures for picture in own]


@torch.inference_mode()
def choose(model: PreTrainedModel, pictures: list[Picture], budget: Budget) -> tuple[float, float]:
    """Milliseconds of what the method reads of pictures, such as their importance, and of its choice.

    Views are computed when they are first read: the first choice is both, and the second is the choice alone.
    """

    def work() -> None:
        for picture in pictures:
            kept_places(picture, budget)

    both, alone = timed(model.device, work), timed(model.device, work)
    return max(0.0, both - alone), alone


@torch.inference_mode()
def answer_times(model: PreTrainedModel, job: HostJob, budget: dict) -> dict[str, float]:
    """Milliseconds of one answer: the prefill, all up to the first token, each later one, all.

    The tower, which costs most where a picture is large, runs once for them all.
    """
    clock, decoder = Clock(model.device), model.get_decoder()
    handles = [
        decoder.register_forward_pre_hook(lambda *_: clock.mark()),
        decoder.register_forward_hook(lambda *_: clock.mark()),
    ]
    try:
        clock.mark()
        job.answer(model, job.answer_tokens, **budget)
        clock.mark()
    finally:
        for handle in handles:
            handle.remove()
    before, prefill, after, *later = clock.milliseconds()
    first = before + prefill + after
    each = sum(later) / max(1, job.answer_tokens - 1)
    return {"prefill": prefill, "first token": first, "per token": each, "answer": first + sum(later)}


def measure_host_once(model: PreTrainedModel, job: HostJob, budget: dict) -> dict[str, float]:
    """Milliseconds of every stage, once, of a model that is pruned by the settings `budget`."""
    row = dict.fromkeys(HOST_TIMES, 0.0)
    own = Budget.from_options(**budget)
    row["vision"], pictures = encode(model, job, own.settings.question_views)
    if not own.keeps_all_of(job.visual_tokens):
        row["importance"], row["selection"] = choose(model, pictures, own)
    return row | answer_times(model, job, budget)


def measure_host(model: PreTrainedModel, job: HostJob, budgets: list[dict], rounds: int, warmup: int) -> list[dict]:
    """A row for each of some settings, as `measure.measure` makes them; they take turns."""
    prune(model, 1.0)
    times = [[] for _ in budgets]
    for _ in range(warmup + rounds):
        for own, budget in zip(times, budgets):
            own.append(measure_host_once(model, job, budget))
    return [_row(model, job, budget, own[warmup:]) for own, budget in zip(times, budgets)]


def _row(model: PreTrainedModel, job: HostJob, budget: dict, times: list[dict]) -> dict:
    with PeakMemory(model.device) as memory:
        output = job.answer(model, job.answer_tokens, return_dict_in_generate=True, **budget)
    layers, batch = cache_in(output).layers, len(job.inputs["input_ids"])
    own = Budget.from_options(**budget).settings_for(job.visual_tokens)
    visual = own.kept(job.visual_tokens)
    length = job.inputs["input_ids"].shape[1] - job.visual_tokens + visual
    return {
        "method": method_label(own.pruning_method),
        "tokens": budget["visual_token_num"],
        "visual_tokens": visual,
        "prompt_tokens": length,
        "prefill_flops": batch * Decoder.from_config(model.config.get_text_config()).prefill_flops(length),
        "kv_cache_bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
        "peak_memory_bytes": memory.bytes,
    } | {name: spread([time[name] for time in times]) for name in HOST_TIMES}
