"""What each method's selection costs, on the same random views."""

import math
from collections.abc import Callable
from functools import partial

import torch

from llava.pruning import METHOD_NAMES, Settings, Views, select

EMBEDDING, WORDS = 768, 16  # channels of CLIP's embeddings, and tokens of a question


def methods(batch: int, patches: int, channels: int, number: int, device: torch.device) -> dict[str, Callable]:
    """The selection of each method that chooses before the language model, by name, on one random batch.

    The views are there already: what a method takes of tower, projector and text tower is not measured.
    """
    generator, side = torch.Generator().manual_seed(0), math.isqrt(patches)
    grid = [side, side] if side * side == patches else [1, patches]

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    features, hidden_states = draw(batch, patches, channels), draw(batch, 1 + patches, channels)
    of_question = {"text_embeds": draw(1, EMBEDDING), "word_embeds": draw(WORDS, channels)}
    views = Views(
        features,
        importance=draw(batch, patches).softmax(dim=1),
        hidden_states=hidden_states,
        keys=draw(batch, 1 + patches, 64),
        received=draw(batch, patches).softmax(dim=1),
        object_received=draw(batch, patches).softmax(dim=1),
        grid=torch.tensor([grid] * batch),
        pixels=draw(batch, 3, 28, 28),
        projected=draw(batch, patches, channels),
        image_embeds=draw(batch, patches, EMBEDDING),
        **of_question,
    )
    settings = [Settings(number, pruning_method=name) for name in METHOD_NAMES]
    return {s.pruning_method: partial(select, views, s) for s in settings if s.prunes_before_decoder}
