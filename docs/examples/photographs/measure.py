"""What a converted ViT attends to and what each method keeps; whether it computes what its ONNX graph does.

Shapes: N patches, C channels, T kept tokens.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from docs.examples.photographs.convert_vit import VitTower
from llava.errors import InputError
from llava.pruning import METHOD_NAMES, MergedTokens, Settings, select
from llava.pruning.method import NONE
from llava.vision.pixels import process_images

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from llava.pruning import Views

MOST = 1e-3  # of the difference between tower and graph
RANDOM = "random"


def load_tower(folder: Path, layer: int) -> VitTower:
    return VitTower(folder, SimpleNamespace(mm_vision_select_layer=layer))


def shuffled_tower(folder: Path, layer: int, seed: int) -> VitTower:
    """The tower with the values of each weight tensor in random order: random weights of the same shapes and spread."""
    tower, generator = load_tower(folder, layer), torch.Generator().manual_seed(seed)
    for weight in tower.vision_tower.parameters():
        order = torch.randperm(weight.numel(), generator=generator)
        weight.copy_(weight.flatten()[order].view_as(weight))
    return tower


def pixels_of(image: Image.Image, tower: VitTower) -> torch.Tensor:
    """(1, 3, H, W): the photograph on a square of its longer side, as LLaVA-1.5 shows it to its tower."""
    return process_images([image], tower.image_processor, SimpleNamespace(image_aspect_ratio="pad"))


def views_of(image: Image.Image, tower: VitTower) -> Views:
    """What the tower sees. There is no projector: methods that ask for projected features get the tower's own."""
    return tower.encode(pixels_of(image, tower)).project_by(lambda features: features)


def largest_difference(
    tower: VitTower, pixels: torch.Tensor, states: list[np.ndarray], attention: np.ndarray
) -> tuple[float, float]:
    """How far the tower is from its graph on pixels (1, 3, H, W).

    Args:
        states: what the graph says is the output of each layer, (1, 1 + N, C).
        attention: what it says is the attention of the last layer, (1, heads, 1 + N, 1 + N).

    Returns:
        The largest difference of a hidden state, over the root mean square of its layer, in any layer; and that of a
        patch's [CLS] attention, mean over heads, over the mean of the patches.

    Raises InputError, naming the layer, if either is more than 1e-3.
    """
    chosen = tower.select_layer
    worst = 0.0
    try:
        for layer, expected in enumerate(map(torch.from_numpy, states), 1):
            tower.select_layer = layer
            views = tower.encode(pixels)
            scale = expected.square().mean().sqrt()
            worst = max(worst, _require_small(views.hidden_states, expected, scale, f"the output of layer {layer}"))
    finally:
        tower.select_layer = chosen
    importance = torch.from_numpy(attention[:, :, 0, 1:]).mean(dim=1)
    return worst, _require_small(views.importance, importance, importance.mean(), "the [CLS] attention")


def _require_small(ours: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor, what: str) -> float:
    difference = float((ours - expected).abs().max() / scale)
    if not difference <= MOST:  # nor is NaN
        raise InputError(f"{what} differs from the ONNX graph's by {difference:.1e}, more than {MOST:.0e}")
    return difference


def kept_patches(views: Views, budget: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The patches (T,) that each bundled method keeps of one picture, random last; and why others are left out.

    Those are the methods that need a language model or a question, that merge patches or show no picture.
    """
    kept, left_out = {}, {}
    for name in sorted(METHOD_NAMES, key=lambda name: name == RANDOM):
        settings = Settings(budget, pruning_method=name)
        if name == NONE:
            continue
        if settings.is_blind:
            left_out[name] = "it shows no picture"
        elif settings.prunes_in_decoder:
            left_out[name] = "it drops tokens inside the language model"
        elif settings.question_views:
            left_out[name] = "it chooses by a question"
        elif isinstance(tokens := select(views, settings), MergedTokens):
            left_out[name] = "it merges patches"
        else:
            kept[name] = tokens.patches[0].numpy()
    return kept, left_out
