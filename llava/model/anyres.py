"""Putting the crops of one high-resolution picture back together after each was pruned on its own.

Liu et al., "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge" (2024): the whole picture first, then the crops
as one large picture read row by row. Shapes: K crops, the whole picture first; T kept tokens of each; D channels.
"""

import torch

from llava.mm_utils import get_anyres_image_grid_shape


def merge_crops(
    tokens: torch.Tensor,
    kept: torch.LongTensor,
    grid: tuple[int, int],
    side: int,
    image_size: tuple[int, int],
    newline: torch.Tensor | None = None,
) -> torch.Tensor:
    """Join the crops of one image into one sequence.

    Args:
        tokens: (K, T, D), of the whole picture, then of its crops row by row.
        kept: (K, T) patch indices of the tokens.
        grid: crops (across, down) of the large picture; K = 1 + across * down.
        side: patches along one side of a crop.
        image_size: the picture's original (width, height).
        newline: (D,); if given, patches that are padding lose their tokens, and this one ends each row that is left.

    Returns: (length, D).
    """
    across, down = grid
    y, x = _positions(kept.to(tokens.device), across, side)
    rest, width = tokens[1:].flatten(0, 1), across * side
    if newline is not None:
        top, bottom, left, right = unpad_box(width, down * side, image_size)
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        row_ends = torch.arange(top, bottom, device=y.device)
        rest = torch.cat([rest[inside], newline.to(rest).expand(len(row_ends), -1)])
        y, x = torch.cat([y[inside], row_ends]), torch.cat([x[inside], torch.full_like(row_ends, width)])
    return torch.cat([tokens[0], rest[(y * (width + 1) + x).argsort()]])


def count_merged_tokens(image_size: tuple[int, int], config, side: int, image_processor) -> int:
    """Visual tokens of an image of `image_size` (W, H) as `config` has it cut and joined, none of them pruned."""
    if config.image_aspect_ratio != "anyres":
        return side * side
    crop = image_processor.side
    across, down = get_anyres_image_grid_shape(image_size, config.image_grid_pinpoints, crop)
    if "unpad" not in config.mm_patch_merge_type:
        return (1 + across * down) * side * side
    top, bottom, left, right = unpad_box(across * side, down * side, image_size)
    return side * side + (bottom - top) * (right - left + 1)


def unpad_box(width: int, height: int, original_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where, in a grid of `width` x `height` patches, the picture of `original_size` (W, H) lies inside its padding.

    Returns (top, bottom, left, right), the ends exclusive.
    """
    original_width, original_height = original_size
    if original_width / original_height > width / height:
        padding = (height - int(original_height * (width / original_width))) // 2
        return padding, height - padding, 0, width
    padding = (width - int(original_width * (height / original_height))) // 2
    return 0, height, padding, width - padding


def _positions(kept: torch.LongTensor, across: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column in the large picture of each kept patch of crops 1 to K - 1: two ((K - 1) * T,) int64."""
    patches = kept[1:]
    crop = torch.arange(len(patches), device=kept.device).unsqueeze(1)
    return (crop // across * side + patches // side).flatten(), (crop % across * side + patches % side).flatten()
