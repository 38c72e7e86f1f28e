"""Putting the crops of one high-resolution picture back together after each was pruned on its own.

Liu et al., "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge" (2024): the whole picture first, then the crops
as one large picture read row by row. Shapes: K crops, the whole picture first; T kept tokens of each; D channels.
"""

import math

import torch
from torch import nn

from llava.errors import InputError
from llava.model.multimodal_encoder.vision_tower import VisionTower
from llava.pruning import MergedTokens, VisualTokens
from llava.vision.grids import anyres_max, get_anyres_image_grid_shape, is_anyres, unpad_box


def join_crops(
    chosen: VisualTokens | MergedTokens,
    config,
    tower: VisionTower,
    newline: torch.Tensor | None,
    image_size: tuple[int, int] | None,
    crops: int,
) -> torch.Tensor:
    """One sequence (length, D) of the visual tokens of one image's crops, as `mm_patch_merge_type` of `config` says.

    `crops` is how many there are, K: the tokens may be (K, T, D), or (1, T, D) of all of them.
    Raises InputError if the image's original size (width, height) is needed and missing, or does not fit the crops.
    """
    tokens, merge_type = chosen.tokens, config.mm_patch_merge_type
    if not merge_type.startswith("spatial"):
        return tokens.flatten(0, 1)
    newline = newline if "unpad" in merge_type else None
    is_whole = len(tokens) == 1 and crops == 1
    if is_whole or not chosen.has_places:
        return torch.cat([tokens.flatten(0, 1), *([] if newline is None else [newline.unsqueeze(0).to(tokens)])])
    if tower.select_feature != "patch":
        raise InputError(f"mm_patch_merge_type {merge_type!r} needs mm_vision_select_feature 'patch'")
    grid = crop_grid(config, tower, image_size, crops)
    most_crops = anyres_max(config.image_aspect_ratio)
    return merge_crops(tokens, chosen.patches, grid, tower.num_patches_per_side, image_size, newline, most_crops)


def crop_grid(config, tower: VisionTower, image_size: tuple[int, int] | None, crops: int) -> tuple[int, int]:
    """Crops (across, down) of the large picture. Raises InputError unless the image has so many by its size."""
    if image_size is None:
        raise InputError("image_sizes is needed: an image in several crops is put together by its original size")
    grid = get_anyres_image_grid_shape(image_size, config.image_grid_pinpoints, tower.image_size)
    if crops != 1 + grid[0] * grid[1]:
        raise InputError(f"an image of size {image_size} takes 1 + {grid[0]} x {grid[1]} crops, not {crops}")
    return grid


def merge_crops(
    tokens: torch.Tensor,
    kept: torch.LongTensor,
    grid: tuple[int, int],
    side: int,
    image_size: tuple[int, int],
    newline: torch.Tensor | None = None,
    most_crops: int | None = None,
) -> torch.Tensor:
    """Join the crops of one image into one sequence.

    Args:
        tokens: (K, T, D), of the whole picture, then of its crops row by row; or (1, T, D) of all these.
        kept: (K, T) patch indices of the tokens; or (1, T), the patches numbered one crop after the other.
        grid: crops (across, down) of the large picture; K = 1 + across * down.
        side: patches along one side of a crop.
        image_size: the picture's original (width, height).
        newline: (D,); if given, patches that are padding lose their tokens, and this one ends each row that is left.
        most_crops: see `shrink`, used only where no token was dropped: fewer tokens form no grid to interpolate.

    Returns: (length, D).
    """
    (across, down), patches, kept = grid, side * side, kept.to(tokens.device)
    if len(kept) > 1:
        kept = kept + patches * torch.arange(len(kept), device=kept.device).unsqueeze(1)
    tokens, kept = tokens.flatten(0, 1), kept.flatten()
    is_whole_picture = kept < patches
    whole, rest, width = tokens[is_whole_picture], tokens[~is_whole_picture], across * side
    y, x = row_and_column(kept[~is_whole_picture] - patches, across, side)
    if newline is not None:
        top, bottom, left, right = unpad_box(width, down * side, image_size)
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        row_ends = torch.arange(top, bottom, device=y.device)
        if most_crops is not None and len(kept) == (1 + across * down) * patches:
            rows = rest[inside][(y[inside] * width + x[inside]).argsort()].unflatten(0, (bottom - top, right - left))
            rows = shrink(rows, most_crops, side)
            return torch.cat([whole, *(part for row in rows for part in (row, newline.to(row).unsqueeze(0)))])
        rest = torch.cat([rest[inside], newline.to(rest).expand(len(row_ends), -1)])
        y, x = torch.cat([y[inside], row_ends]), torch.cat([x[inside], torch.full_like(row_ends, width)])
    return torch.cat([whole, rest[(y * (width + 1) + x).argsort()]])


def shrink(grid: torch.Tensor, most_crops: int, side: int) -> torch.Tensor:
    """A large picture (height, width, D) with no more tokens than `most_crops` crops of `side` x `side`, about.

    Li et al., "LLaVA-OneVision: Easy Visual Task Transfer", arXiv 2408.03326 (`anyres_max_9`): the features
    are interpolated if the picture is more than 1.1 times as wide and high.
    """
    size = shrunk_size(*grid.shape[:2], most_crops, side)
    if size == tuple(grid.shape[:2]):
        return grid
    channels_first = grid.permute(2, 0, 1).unsqueeze(0)
    return nn.functional.interpolate(channels_first, size, mode="bilinear")[0].permute(1, 2, 0)


def shrunk_size(height: int, width: int, most_crops: int, side: int) -> tuple[int, int]:
    """The (height, width) in patches of a large picture after `shrink`."""
    times = math.sqrt(height * width / (most_crops * side**2))
    return (int(height // times), int(width // times)) if times > 1.1 else (height, width)


def count_merged_tokens(image_size: tuple[int, int], config, side: int, image_processor) -> int:
    """Visual tokens of an image of `image_size` (W, H) as `config` has it cut and joined, none of them pruned."""
    if not is_anyres(config.image_aspect_ratio):
        return side * side
    crop = image_processor.side
    across, down = get_anyres_image_grid_shape(image_size, config.image_grid_pinpoints, crop)
    if "unpad" not in config.mm_patch_merge_type:
        return (1 + across * down) * side * side
    top, bottom, left, right = unpad_box(across * side, down * side, image_size)
    height, width = bottom - top, right - left
    if (most_crops := anyres_max(config.image_aspect_ratio)) is not None:
        height, width = shrunk_size(height, width, most_crops, side)
    return side * side + height * (width + 1)


def row_and_column(kept: torch.LongTensor, across: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column in the large picture of each kept patch (length,) of its crops: two (length,) int64."""
    crop, patch = kept // side**2, kept % side**2
    return crop // across * side + patch // side, crop % across * side + patch % side
