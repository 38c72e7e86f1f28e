"""How a large picture is cut into crops, and where it lies in them. This file does not import torch.

Liu et al., "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge" (2024); names are upstream's.
"""

import ast
import math
import re

from llava.constants import IMAGE_ASPECT_RATIOS
from llava.errors import InputError


def is_anyres(image_aspect_ratio: str | None) -> bool:
    """Whether pictures are cut into crops: `anyres`, or `anyres_max_9` as LLaVA-OneVision writes it."""
    return image_aspect_ratio == "anyres" or anyres_max(image_aspect_ratio) is not None


def check_aspect_ratio(image_aspect_ratio: str | None) -> str | None:
    """Return it. Raises InputError for a way of making squares of pictures that is not known."""
    if image_aspect_ratio not in (None, *IMAGE_ASPECT_RATIOS) and not is_anyres(image_aspect_ratio):
        known = ", ".join([*IMAGE_ASPECT_RATIOS, "anyres_max_N"])
        raise InputError(f"unknown image_aspect_ratio {image_aspect_ratio!r}: {known}")
    return image_aspect_ratio


def anyres_max(image_aspect_ratio: str | None) -> int | None:
    """The number in `anyres_max_9`: crops whose tokens a large picture has at most. None for any other value."""
    found = re.fullmatch(r"anyres_max_([1-9]\d?)", image_aspect_ratio or "")
    return int(found[1]) if found else None


def read_grid_pinpoints(text: str | None) -> list[list[int]] | None:
    """What a user wrote for `image_grid_pinpoints`, such as `[[672, 672]]`. Raises InputError for another form.

    A range, `(1x1),...,(6x6)`, which needs the tower's size, comes as it is.
    """
    if not text:
        return None
    return text if _GRID_RANGE.fullmatch(text.strip()) else parse_grid_pinpoints(text)


_GRID_RANGE = re.compile(r"\((\d{1,2})x(\d{1,2})\),\.\.\.,\((\d{1,2})x(\d{1,2})\)")
MOST_CROPS = 100


def parse_grid_pinpoints(grid_pinpoints: list | str, side: int | None = None) -> list[list[int]]:
    """A config's `image_grid_pinpoints` as a list of [W, H] in pixels.

    Args:
        grid_pinpoints: such a list, or its text, or a range in crops, as LLaVA-NeXT writes it: `(1x1),...,(6x6)`.
        side: pixels along one side of a crop, which a range needs, and which others must be made of.

    Raises InputError for anything else, and for more than 100 crops.
    """
    sizes = grid_pinpoints
    if isinstance(sizes, str):
        if side and (found := _GRID_RANGE.fullmatch(sizes.strip())):
            low, high = [int(found[1]), int(found[2])], [int(found[3]), int(found[4])]
            across, down = (range(start, end + 1) for start, end in zip(low, high))
            sizes = [[x * side, y * side] for x in across for y in down]
        else:
            try:
                sizes = ast.literal_eval(sizes)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                sizes = None
    if not isinstance(sizes, list | tuple) or not sizes or not all(map(_is_size, sizes)):
        raise InputError(f"image_grid_pinpoints must be a list of [width, height], not {str(grid_pinpoints)[:80]!r}")
    for width, height in sizes:
        if side and (width % side or height % side):
            raise InputError(
                f"image_grid_pinpoints has {width} x {height}, which is not made of crops of {side} pixels"
            )
        if side and width // side * (height // side) > MOST_CROPS:
            raise InputError(f"image_grid_pinpoints has {width} x {height}, which is more than {MOST_CROPS} crops")
    return [list(size) for size in sizes]


def _is_size(size: object) -> bool:
    """Whether this is [width, height] in pixels."""
    if not isinstance(size, list | tuple) or len(size) != 2:
        return False
    return all(isinstance(length, int) and not isinstance(length, bool) and 0 < length < 2**31 for length in size)


def select_best_resolution(original_size: tuple[int, int], possible_resolutions: list) -> tuple[int, int]:
    """The resolution (W, H) that keeps most of the image's pixels and, among those, wastes least."""
    original_width, original_height = original_size

    def fitness(resolution: tuple[int, int]) -> tuple[int, int]:
        width, height = resolution
        scale = min(width / original_width, height / original_height)
        scaled = int(original_width * scale) * int(original_height * scale)
        effective = min(scaled, original_width * original_height)
        return effective, effective - width * height

    return tuple(max(possible_resolutions, key=fitness))


def get_anyres_image_grid_shape(
    image_size: tuple[int, int], grid_pinpoints: list | str, patch_size: int
) -> tuple[int, int]:
    """How many crops of `patch_size` pixels an image of `image_size` (W, H) is cut into: (across, down)."""
    width, height = select_best_resolution(image_size, parse_grid_pinpoints(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


def fitted_box(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a picture of `size` (W, H) lies when it is scaled into `target` (W, H) and centred there.

    Returns (left, top, width, height) in pixels; the rest of the target is padding.
    """
    scale_w, scale_h = target[0] / size[0], target[1] / size[1]
    if scale_w < scale_h:
        width, height = target[0], min(math.ceil(size[1] * scale_w), target[1])
    else:
        width, height = min(math.ceil(size[0] * scale_h), target[0]), target[1]
    return (target[0] - width) // 2, (target[1] - height) // 2, width, height


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
