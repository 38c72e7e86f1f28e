"""An image -> the square that the vision tower sees, without large images on the way."""

from PIL import Image

from llava.utils import InputError

MOST_PIXELS = 178_956_970  # of an image on the way: as many as Pillow takes at most from a file
_STRIP = 2**22  # pixels of a strip


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
    it is not padded, or as a square where the processor is such a one.
    """
    longer, shorter = max(image.size), min(image.size)
    side = image_processor.central_square if color is None else image_processor.padded_square
    edge = image_processor.shorter_side
    pixels = edge**2 * longer // shorter if color is None else longer**2 if side is None else 0
    if pixels > MOST_PIXELS:
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
    result = Image.new("RGB", (side, height))
    lines = max(1, _STRIP // max(canvas, scaled))
    for top in range(0, height, lines):
        bottom = min(height, top + lines)
        strip = image.crop((0, top, width, bottom))
        if canvas != width:
            padded = Image.new("RGB", (canvas, bottom - top), color)
            padded.paste(strip, (left, 0))
            strip = padded
        strip = strip.resize((scaled, bottom - top), resample)
        result.paste(strip.crop((start, 0, start + side, bottom - top)), (0, top))
    return result
