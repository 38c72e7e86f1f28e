"""What the model is given, worked out plainly: token ids by sentencepiece itself, pixels by NumPy and Pillow.

Nothing is shared with `llava`. Pictures are (height, width, 3) arrays of uint8, pixels (crops, 3, side, side) float64.
"""

import math
import re

import numpy as np
from PIL import Image
from sentencepiece import SentencePieceProcessor

IMAGE, IMAGE_ID = "<image>", -200
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])


def token_ids(prompt: str, sentencepiece: SentencePieceProcessor) -> list[int]:
    """BOS, then the ids of each text between images, with -200 for each `<image>`."""
    ids = [sentencepiece.bos_id()]
    for i, text in enumerate(prompt.split(IMAGE)):
        ids += ([IMAGE_ID] if i else []) + _text_ids(text, sentencepiece)
    return ids


def _text_ids(text: str, sentencepiece: SentencePieceProcessor) -> list[int]:
    """Special tokens are one id each. The start of a text gets a leading space, what follows a special token none.

    sentencepiece puts a space in front of all that it encodes. So text after a special token is encoded after a line
    break, which is always a token of its own, and the space and the line break are cut off.
    """
    ids = []
    for i, part in enumerate(re.split(r"(<unk>|<s>|</s>)", text)):
        if i % 2:
            ids.append(sentencepiece.piece_to_id(part))
        elif part:
            ids += sentencepiece.encode(part) if i == 0 else sentencepiece.encode("\n" + part)[2:]
    return ids


def drawing(width: int, height: int) -> np.ndarray:
    """Red grows to the right, green downwards; a blue checkerboard, a white bar and a black disc. All in integers."""
    y, x = np.indices((height, width))
    picture = np.stack([255 * x // (width - 1), 255 * y // (height - 1), 200 * ((x // 16 + y // 16) % 2)], axis=2)
    picture[height // 8 : height // 4, width // 8 : -width // 8] = 255
    picture[(x - width // 3) ** 2 + (y - 2 * height // 3) ** 2 < (min(width, height) // 5) ** 2] = 0
    return picture.astype(np.uint8)


def pad(picture: np.ndarray, side: int) -> np.ndarray:
    """One crop: the picture in the middle of a square of the mean colour, at the tower's size."""
    height, width, _ = picture.shape
    longest = max(height, width)
    square = np.empty((longest, longest, 3), dtype=np.uint8)
    square[:] = [int(255 * mean) for mean in CLIP_MEAN]
    top, left = (longest - height) // 2, (longest - width) // 2
    square[top : top + height, left : left + width] = picture
    return np.stack([_normalised(_resized(square, side, side))])


def anyres(picture: np.ndarray, side: int, grid: list[list[int]]) -> np.ndarray:
    """The whole picture squeezed into a square, then the squares of the fitting resolution of the grid, row by row."""
    height, width, _ = picture.shape
    target_width, target_height = best_resolution(width, height, grid)
    scale = min(target_width / width, target_height / height)
    new_width = min(math.ceil(width * scale), target_width)
    new_height = min(math.ceil(height * scale), target_height)
    canvas = np.zeros((target_height, target_width, 3), dtype=np.uint8)
    top, left = (target_height - new_height) // 2, (target_width - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = _resized(picture, new_width, new_height)
    crops = [_normalised(_resized(picture, side, side))]
    for y in range(0, target_height, side):
        for x in range(0, target_width, side):
            crops.append(_normalised(canvas[y : y + side, x : x + side]))
    return np.stack(crops)


def best_resolution(width: int, height: int, grid: list[list[int]]) -> tuple[int, int]:
    """Of [width, height] resolutions the first that keeps most of the picture's pixels and wastes fewest of its own."""
    best, most_kept, least_wasted = None, -1, -1
    for w, h in grid:
        scale = min(w / width, h / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = w * h - kept
        if kept > most_kept or (kept == most_kept and wasted < least_wasted):
            best, most_kept, least_wasted = (w, h), kept, wasted
    return best


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _normalised(picture: np.ndarray) -> np.ndarray:
    """(height, width, 3) of 0 to 255 -> (3, height, width), less CLIP's mean, over its standard deviation."""
    return ((picture / 255 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
