"""Pictures -> pixels, prompts -> token ids. Names and signatures are upstream LLaVA's."""

import base64
import math
from io import BytesIO

import torch
from PIL import Image
from transformers import StoppingCriteria

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from llava.pictures import PictureSource, read_picture
from llava.resizing import expand2square as expand2square  # upstream's place
from llava.resizing import resize_to_square
from llava.utils import InputError, is_anyres, parse_grid_pinpoints
from llava.utils import get_model_name_from_path as get_model_name_from_path  # upstream's place
from llava.utils import read_grid_pinpoints as read_grid_pinpoints


def load_image(image_file: PictureSource, as_displayed: bool = False) -> Image.Image:
    """Open a local file, an http(s) URL or a `data:` URI as an RGB image, fully decoded.

    The pixels are upstream's, as they are stored, and transparency is dropped; with `as_displayed` they are turned as
    EXIF says and lie on white. Raises InputError, naming the file; see `pictures.read_picture`.
    """
    return read_picture(image_file, as_displayed=as_displayed)


def load_image_from_base64(image: str | bytes) -> Image.Image:
    """Decode a base64 image file. Raises InputError if that cannot be done."""
    try:
        opened = Image.open(BytesIO(base64.b64decode(image)))
        opened.load()
    except Exception as error:  # of any class: see `pictures.read_picture`
        raise InputError("cannot read the base64 image: it is not base64, or not a whole picture") from error
    return opened


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


def resize_width_first(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to (W, H), in width first and in height then, as Pillow did before release 13.

    Later releases take the order that costs less, which changes the last bits where a picture shrinks more in height.
    """
    return image.resize((size[0], image.height)).resize(size)


def resize_and_pad_image(image: Image.Image, target_resolution: tuple[int, int]) -> Image.Image:
    """Scale the image into `target_resolution` (W, H), centred on black."""
    target_width, target_height = target_resolution
    scale_w, scale_h = target_width / image.width, target_height / image.height
    if scale_w < scale_h:
        new_size = (target_width, min(math.ceil(image.height * scale_w), target_height))
    else:
        new_size = (min(math.ceil(image.width * scale_h), target_width), target_height)
    padded = Image.new("RGB", (target_width, target_height), (0, 0, 0))
    padded.paste(
        resize_width_first(image, new_size), ((target_width - new_size[0]) // 2, (target_height - new_size[1]) // 2)
    )
    return padded


def divide_to_patches(image: Image.Image, patch_size: int) -> list[Image.Image]:
    """Cut the image into squares of `patch_size` pixels, row by row."""
    return [
        image.crop((left, top, left + patch_size, top + patch_size))
        for top in range(0, image.height, patch_size)
        for left in range(0, image.width, patch_size)
    ]


def get_anyres_image_grid_shape(
    image_size: tuple[int, int], grid_pinpoints: list | str, patch_size: int
) -> tuple[int, int]:
    """How many crops of `patch_size` pixels an image of `image_size` (W, H) is cut into: (across, down)."""
    width, height = select_best_resolution(image_size, parse_grid_pinpoints(grid_pinpoints, patch_size))
    return width // patch_size, height // patch_size


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


def unpad_image(tensor: torch.Tensor, original_size: tuple[int, int]) -> torch.Tensor:
    """The part of (C, height, width) in which the picture of `original_size` (W, H) lies inside its padding."""
    top, bottom, left, right = unpad_box(tensor.shape[2], tensor.shape[1], original_size)
    return tensor[:, top:bottom, left:right]


def process_anyres_image(image: Image.Image, processor, grid_pinpoints: list | str) -> torch.Tensor:
    """The whole image at the tower's resolution, then its crops row by row: (crops, 3, H, W) float32."""
    best_resolution = select_best_resolution(image.size, parse_grid_pinpoints(grid_pinpoints, processor.side))
    crops = divide_to_patches(resize_and_pad_image(image, best_resolution), processor.side)
    views = [resize_width_first(image, (processor.side, processor.side)), *crops]
    return torch.cat([processor.preprocess(view, return_tensors="pt")["pixel_values"] for view in views])


def process_images(images: list[Image.Image], image_processor, model_cfg) -> torch.Tensor | list[torch.Tensor]:
    """Turn images into the vision tower's pixels, as the checkpoint's `image_aspect_ratio` says.

    Images that are not RGB become it as in `load_image`.

    Returns float32: (B, 3, H, W) for `pad` and plain; (B, crops, 3, H, W) for `anyres`, or a list of
    (crops, 3, H, W) where the images have different numbers of crops.

    Raises InputError if one cannot be decoded, or is too large; see `pictures.read_picture`.
    """
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


def tokenizer_image_token(
    prompt: str, tokenizer, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> list[int] | torch.LongTensor:
    """Token ids of a prompt, with `image_token_index` for each `<image>` and one BOS at the front.

    Returns a list, or with `return_tensors="pt"` a (length,) int64 tensor.
    """
    # Not verbose: the model checks the length, and against its context rather than the tokenizer's setting.
    chunks = [tokenizer(chunk, verbose=False).input_ids for chunk in prompt.split(DEFAULT_IMAGE_TOKEN)]
    has_bos = bool(chunks[0]) and chunks[0][0] == tokenizer.bos_token_id
    if has_bos and chunks[0][1:2] == chunks[0][:1]:  # a template that writes BOS into the text
        chunks[0] = chunks[0][1:]
    ids = chunks[0][:1] if has_bos else []
    for i, chunk in enumerate(chunks):
        ids += ([image_token_index] if i else []) + chunk[has_bos:]
    if return_tensors is None:
        return ids
    if return_tensors != "pt":
        raise ValueError(f"unsupported tensor type {return_tensors!r}: only 'pt'")
    return torch.tensor(ids, dtype=torch.long)


class KeywordsStoppingCriteria(StoppingCriteria):
    """Stop a sample once its newest tokens are, or their text contains, one of the keywords.

    `input_ids` is the prompt (B, length); where the ids under test begin with it, it is not searched.
    """

    def __init__(self, keywords: list[str], tokenizer, input_ids: torch.LongTensor):
        self.keywords = keywords
        self.tokenizer = tokenizer
        self.prompt_ids = input_ids
        self.start_len = input_ids.shape[1]
        self.keyword_ids = []
        for keyword in keywords:
            ids = tokenizer(keyword).input_ids
            self.keyword_ids.append(ids[1:] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else ids)
        self.max_keyword_len = max(map(len, self.keyword_ids), default=0)

    def _is_done(self, new_ids: torch.LongTensor) -> bool:
        tail = new_ids[-self.max_keyword_len :].tolist() if self.max_keyword_len else []
        if any(tail[-len(ids) :] == ids for ids in self.keyword_ids):
            return True
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(keyword in text for keyword in self.keywords)

    def __call__(self, output_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        """(B, length) ids generated so far -> (B,) bool, true where generation should stop."""
        head = output_ids[:, : self.start_len]
        repeats_prompt = head.shape == self.prompt_ids.shape and torch.equal(head, self.prompt_ids.to(head.device))
        new_ids = output_ids[:, self.start_len :] if repeats_prompt else output_ids
        return torch.tensor([self._is_done(ids) for ids in new_ids], device=output_ids.device)
