"""Fewer visual tokens by a smaller picture, the baseline of pruning where the tower takes pictures of any size.

Liao et al., "Are We Using the Right Benchmark: An Evaluation Framework for Visual Token Compression Methods", arXiv
2510.07143, find that it beats many methods. Nothing is pruned: the processor is told how large a picture may be.
"""

from typing import Any

import torch

from llava.errors import InputError

_LEAST_SHARE = 4  # of the most pixels: what is enlarged is rounded up, at most to twice each side


def downsample(processor: Any, visual_token_num: int) -> Any:
    """Let a processor make pictures so small that each has `visual_token_num` visual tokens at most.

    A picture keeps its shape, and its sides are rounded down to whole tokens, so most have fewer: state the mean of
    `count_tokens`. One that is very long and narrow may have more, since each side has a token. Videos stay.

    Args:
        processor: transformers' processor of a model whose tower takes any size, such as Qwen's; it is changed.
        visual_token_num: T, at least 1: pictures have at most T u^2 pixels, u being the side of a token in pixels.

    Returns: the processor.
    Raises: InputError for a processor without such a limit, as of towers of a fixed size, and for an invalid number.
    """
    if type(visual_token_num) is not int or visual_token_num < 1:
        raise InputError(f"downsample must be an integer of at least 1, got {visual_token_num!r}")
    images = getattr(processor, "image_processor", processor)
    size = getattr(images, "size", None) or {}
    sides = getattr(images, "patch_size", None), getattr(images, "merge_size", None)
    if not all(isinstance(side, int) for side in sides) or not {"shortest_edge", "longest_edge"} <= set(dict(size)):
        raise InputError(
            f"downsample: {type(images).__name__} has no limit of a picture's pixels; for a tower of a fixed size "
            "shrinking and enlarging again is worse than pooling and saves nothing: use the method pool"
        )
    most = visual_token_num * (sides[0] * sides[1]) ** 2
    least = min(size["shortest_edge"], most // _LEAST_SHARE)
    images.size = type(size)(shortest_edge=least, longest_edge=most)
    return processor


def count_tokens(processor: Any, inputs: dict) -> list[int]:
    """The visual tokens of each picture of a batch that such a processor made."""
    images = getattr(processor, "image_processor", processor)
    grids: torch.Tensor = inputs.get("image_grid_thw", torch.zeros(0, 3, dtype=torch.long))
    return (grids.prod(dim=1) // images.merge_size**2).tolist()
