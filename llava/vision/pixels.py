"""Pictures -> the vision tower's pixels, without large images on the way. Names and signatures are upstream LLaVA's."""

import numpy as np
import torch
from PIL import Image

from llava.errors import InputError
from llava.vision.grids import fitted_box, is_anyres, parse_grid_pinpoints, select_best_resolution, unpad_box
from llava.vision.pictures import read_picture
from llava.vision.processors import tower_processor

MOST_ON_THE_WAY = 178_956_970  # of an image on the way: as many as Pillow takes at most from a file
_STRIP = 2**22  # pixels of a strip
_BITS = 22  # of Pillow's weights after the point


def expand2square(pil_img: Image.Image, background_color: tuple[int, ...]) -> Image.Image:
    """Centre the image on a square of its longer side, filled with `background_color`."""
    width, height = pil_img.size
    if width == height:
        return pil_img
    side = max(width, height)
    square = Image.new(pil_img.mode, (side, side), background_color)
    square.paste(pil_img, ((side - width) // 2, (side - height) // 2))
    return square


def resize_to_square(image: Image.Image, image_processor, color: tuple[int, ...] | None = None) -> Image.Image:
    """The part of an RGB image that the tower sees, at its resolution, bit for bit as the processor makes it.

    That is the whole image on a square of `color`, or without one its central square. Neither the square of its longer
    side (12.8 GB for 1000 x 30000) nor, for the central square, all of it at the tower's scale is made. A processor
    that does not scale and crop to one size gets the square, or the image, unchanged.

    Raises InputError for an image that would have more than 178,956,970 pixels on the way: at the tower's scale where
    it is not padded, or as a square where the processor is such a one, or tall images are not resized bicubically.
    """
    longer, shorter = max(image.size), min(image.size)
    side = image_processor.central_square if color is None else image_processor.padded_square
    edge = image_processor.shorter_side
    is_slow = image.height > 2 * image.width and image_processor.resample != Image.Resampling.BICUBIC
    pixels = edge**2 * longer // shorter if color is None else longer**2 if side is None or is_slow else 0
    if pixels > MOST_ON_THE_WAY:
        raise InputError(f"{image.width} x {image.height} pixels would become {pixels} on the way to the vision tower")
    if side is None:
        return image if color is None else expand2square(image, color)
    if color is None:
        canvas, scaled = image.size, tuple(int(side * length / shorter) for length in image.size)
    else:
        canvas, scaled = (longer, longer), (side, side)
    # Pillow resizes all rows, rounds them to 8 bits, and then resizes columns with the same arithmetic. Rows of padding
    # stay the colour that they are: their weights add up to 1 within 2**-23 each, of which there are too few to matter.
    for axis in (0, 1):
        image = _resize_rows(image, canvas[axis], scaled[axis], side, image_processor.resample, color)
        image = image.transpose(Image.Transpose.TRANSPOSE)
    return image


def _resize_rows(
    image: Image.Image, canvas: int, scaled: int, side: int, resample: int, color: tuple[int, ...] | None
) -> Image.Image:
    """The middle `side` pixels of each row, centred on a row of `canvas` pixels of `color` and resized to `scaled`."""
    width, height = image.size
    left, start = (canvas - width) // 2, (scaled - side) // 2
    result = Image.new("RGB", (side, height), color or 0)
    # Where most of the row is of one colour, or is cut off afterwards, Pillow would take far longer than the image's
    # pixels justify.
    is_sparse = resample == Image.Resampling.BICUBIC and (2 * width < canvas or 2 * side < scaled)
    weights = _bicubic_weights(canvas, scaled, range(start, start + side), left, width) if is_sparse else None
    lines = max(1, _STRIP // (max(width, side) if is_sparse else max(canvas, scaled)))
    for top in range(0, height, lines):
        bottom = min(height, top + lines)
        strip = image.crop((0, top, width, bottom))
        if weights is not None:
            first, strip = _weigh(strip, weights, color or (0, 0, 0))
            result.paste(strip, (first - start, top))
            continue
        if canvas != width:
            padded = Image.new("RGB", (canvas, bottom - top), color)
            padded.paste(strip, (left, 0))
            strip = padded
        strip = strip.resize((scaled, bottom - top), resample)
        result.paste(strip.crop((start, 0, start + side, bottom - top)), (0, top))
    return result


def _bicubic_weights(canvas: int, scaled: int, columns: range, left: int, width: int) -> list[tuple]:
    """How Pillow weighs the pixels of a row of `canvas` pixels that is resized to `scaled`.

    Returns, for those of these `columns` of the result that see pixels `left` to `left + width`: the column, the first
    that it sees of these pixels, their weights (n,), and the sum of all others', in units of 2**-22 as in Pillow.
    """
    scale, found = canvas / scaled, []
    reach = 2 * max(scale, 1.0)
    for column in columns:
        centre = (column + 0.5) * scale
        first, end = max(0, int(centre - reach + 0.5)), min(canvas, int(centre + reach + 0.5))
        if first >= left + width or end <= left:
            continue
        x = np.abs((np.arange(first, end) - centre + 0.5) / max(scale, 1.0))
        near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
        exact = np.where(x < 1, near, np.where(x < 2, far, 0))
        exact = exact / sum(exact.tolist()) * 2**_BITS
        weights = np.trunc(exact + np.copysign(0.5, exact))
        seen = slice(max(left, first) - first, min(left + width, end) - first)
        found.append((column, first + seen.start - left, weights[seen], weights.sum() - weights[seen].sum()))
    return found


def _weigh(strip: Image.Image, weights: list[tuple], color: tuple[int, ...]) -> tuple[int, Image.Image]:
    """The columns that have `weights`, of a strip on a canvas of `color`, and the number of the first of them."""
    start, end = weights[0][1], max(first + len(own) for _, first, own, _ in weights)
    pixels = np.asarray(strip)[:, start:end].transpose(0, 2, 1)
    values = np.ascontiguousarray(pixels, np.float64).reshape(-1, end - start)  # whose sums are exact below 2**53
    result = np.empty((strip.height, len(weights), 3), np.uint8)
    for i, (_, first, own, others) in enumerate(weights):
        total = (values[:, first - start : first - start + len(own)] @ own).reshape(-1, 3) + np.multiply(color, others)
        result[:, i] = np.clip(np.floor((total + 2 ** (_BITS - 1)) / 2**_BITS), 0, 255)
    return weights[0][0], Image.fromarray(result)


def resize_width_first(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to (W, H), in width first and in height then, as Pillow did before release 13.

    Later releases take the order that costs less, which changes the last bits where a picture shrinks more in height.
    """
    return image.resize((size[0], image.height)).resize(size)


def resize_and_pad_image(image: Image.Image, target_resolution: tuple[int, int]) -> Image.Image:
    """Scale the image into `target_resolution` (W, H), centred on black."""
    left, top, width, height = fitted_box(image.size, target_resolution)
    padded = Image.new("RGB", target_resolution, (0, 0, 0))
    padded.paste(resize_width_first(image, (width, height)), (left, top))
    return padded


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Cut the image into squares of `patch_size` pixels, row by row."""
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, image.height, patch_size)
        for left in range(0, image.width, patch_size)
    ]


def unpad_image(tensor: torch.Tensor, original_size: tuple[int, int]) -> torch.Tensor:
    """The part of (C, height, width) in which the picture of `original_size` (W, H) lies inside its padding."""
    top, bottom, left, right = unpad_box(tensor.shape[2], tensor.shape[1], original_size)
    return tensor[:, top:bottom, left:right]


def process_anyres_image(image: Image.Image, processor, grid_pinpoints: list | str) -> torch.Tensor:
    """The whole image at the tower's resolution, then its crops row by row: (crops, 3, H, W) float32."""
    processor = tower_processor(processor)
    best_resolution = select_best_resolution(image.size, parse_grid_pinpoints(grid_pinpoints, processor.side))
    crops = divide_to_patches(resize_and_pad_image(image, best_resolution), processor.side)
    views = [resize_width_first(image, (processor.side, processor.side)), *crops]
    return torch.cat([processor.preprocess(view, return_tensors="pt")["pixel_values"] for view in views])


def process_images(images: list[Image.Image], image_processor, model_cfg) -> torch.Tensor | list[torch.Tensor]:
    """Turn images into the vision tower's pixels, as the checkpoint's `image_aspect_ratio` says.

    Images that are not RGB become it as in `load_image`. The image processor is the vision tower's, or any of CLIP or
    SigLIP (see `processors.tower_processor`).

    Returns float32: (B, 3, H, W) for `pad` and plain; (B, crops, 3, H, W) for `anyres`, or a list of
    (crops, 3, H, W) where the images have different numbers of crops.

    Raises InputError if one cannot be decoded, or is too large; see `pictures.read_picture`.
    """
    image_processor = tower_processor(image_processor)
    images = [read_picture(image) if isinstance(image, Image.Image) else image for image in images]
    aspect_ratio = getattr(model_cfg, "image_aspect_ratio", None)
    if is_anyres(aspect_ratio):
        pixels = [process_anyres_image(image, image_processor, model_cfg.image_grid_pinpoints) for image in images]
    elif aspect_ratio == "pad":
        mean_color = tuple(int(x * 255) for x in image_processor.image_mean)
        squares = (resize_to_square(image, image_processor, mean_color) for image in images)
        pixels = [image_processor.preprocess(image, return_tensors="pt")["pixel_values"][0] for image in squares]
    else:
        squares = [resize_to_square(image, image_processor) for image in images]
        return image_processor.preprocess(squares, return_tensors="pt")["pixel_values"]
    if all(x.shape == pixels[0].shape for x in pixels):
        return torch.stack(pixels)
    return pixels
