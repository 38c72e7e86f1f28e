"""What pruning itself costs: the selection alongside a transcription of the paper's rounds, and the [CLS] attention."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from llava.bench.measure import spread, timed
from llava.bench.random_model import build_tower
from llava.bench.shapes import Shape
from llava.pruning import Settings, Views, VisualTokens, select_visual_tokens
from llava.pruning.kernels.duplicates import MAX_DROPPED_PER_ROUND


def transcription(
    features: torch.Tensor, cls_attention: torch.Tensor, number: int, important_ratio: float = 0.5
) -> torch.LongTensor:
    """Indices (B, T) by arXiv 2412.01818, section 3, step by step; arguments as those of `select_visual_tokens`."""
    important_num = int(number * important_ratio)
    by_attention = cls_attention.argsort(dim=1, descending=True, stable=True)
    important, left = by_attention[:, :important_num], by_attention[:, important_num:]
    unit = F.normalize(features, dim=-1)
    image = torch.arange(len(features), device=features.device).unsqueeze(1)
    while left.shape[1] > number - important_num:
        a, b = left[:, 0::2], left[:, 1::2]
        drop = min(MAX_DROPPED_PER_ROUND, left.shape[1] - (number - important_num), a.shape[1])
        score = (unit[image, a] @ unit[image, b].transpose(1, 2)).amax(dim=2)
        rest = score.argsort(dim=1, descending=True, stable=True)[:, drop:]
        left = torch.cat([a.gather(1, rest), b], dim=1)
    return torch.cat([important, left], dim=1).sort(dim=1).values


def select(views: Views, settings: Settings) -> VisualTokens:
    """The selection in float32, as the original code computes it: the method `scripts.benchmarks.selection_cost`."""
    features, importance = views.features.float(), views.importance
    return views.keep(transcription(features, importance, settings.visual_token_num, settings.important_ratio))


@torch.inference_mode()
def take_turns(
    variants: dict[str, Callable], device: torch.device, rounds: int, warmup: int
) -> dict[str, dict[str, float]]:
    """Median, least and most milliseconds of each variant, which take turns after warm-up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(warmup + rounds):
        for name, variant in variants.items():
            times[name].append(timed(device, variant))
    return {name: spread(values[warmup:]) for name, values in times.items()}


def selections(batch: int, patches: int, channels: int, number: int, device: torch.device) -> dict[str, Callable]:
    """The selection and its transcriptions, by name, on one random batch."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, patches, channels, generator=generator).to(device)
    attention = torch.rand(batch, patches, generator=generator).to(device)
    return {
        "transcription, float64": lambda: transcription(features.double(), attention, number),
        "transcription, float32": lambda: transcription(features, attention, number),
        "select_visual_tokens": lambda: select_visual_tokens(features, attention, number),
    }


def towers(shape: Shape, batch: int, device: torch.device) -> dict[str, Callable]:
    """A tower of this shape with random weights, without and with its [CLS] attention, on one random batch."""
    tower = build_tower(shape, device, torch.float32 if device.type == "cpu" else torch.float16)
    pixels = torch.randn(batch, 3, shape.image_size, shape.image_size).to(device, tower.dtype)
    return {
        "features": lambda: tower(pixels),
        "features and [CLS] attention": lambda: tower(pixels, output_attentions=True),
    }
