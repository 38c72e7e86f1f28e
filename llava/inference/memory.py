"""How many prompts fit into memory at once, and what to do when one does not."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from llava.errors import InputError
from llava.pruning import MethodError, Settings
from llava.vision.grids import anyres_max, get_anyres_image_grid_shape, is_anyres, parse_grid_pinpoints

MOST = 32  # prompts in a batch
TEXT = 512  # tokens: more than the text of nearly all prompts
ANSWER = 128  # tokens: most answers are shorter, whatever the limit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out, of the GPU or of the CPU, where torch raises a plain RuntimeError.

    So it may have in a user's pruning method, whose error then names that.
    """
    if isinstance(error, MethodError):
        return error.__cause__ is not None and is_out_of_memory(error.__cause__)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def refuse_too_large(name: str) -> Iterator[None]:
    """Raise InputError that `name` takes too much memory where memory runs out."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) and not isinstance(error, MethodError):
            raise InputError(f"{name} alone takes too much memory") from error
        raise


def default_batch_size(model, pruning: Settings, images: int, options: dict) -> int:
    """How many prompts fit into half of the memory that is free, at most 32, by the keys and values they take.

    Args:
        model: a LLaVA model.
        pruning: the settings of the prompts.
        images: how many images each of them has.
        options: generation options.
    """
    config = model.config
    visual = images * most_visual_tokens(model, pruning) if images else 0
    answer = min(options.get("max_new_tokens") or ANSWER, ANSWER)
    tokens = (visual + TEXT + answer) * (options.get("num_beams") or 1)
    heads = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    token = 2 * config.num_hidden_layers * heads * model.dtype.itemsize
    on_gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    # What is computed on the way takes about as much again.
    return int(min(MOST, max(1, free / 2 / (2 * token * tokens))))


def most_visual_tokens(model, pruning: Settings) -> int:
    """The visual tokens with which an image enters the prefill, in as many crops as the config allows."""
    config, tower = model.config, model.get_vision_tower()
    crops, patches = 1, tower.num_patches
    if is_anyres(config.image_aspect_ratio):
        sizes = parse_grid_pinpoints(config.image_grid_pinpoints)
        grids = [get_anyres_image_grid_shape(size, [size], tower.image_size) for size in sizes]
        crops = 1 + max(across * down for across, down in grids)
    if pruning.prunes_before_decoder:
        return pruning.kept(patches, crops)
    if (most_crops := anyres_max(config.image_aspect_ratio)) is not None:
        crops = min(crops, 1 + math.ceil(1.1**2 * most_crops))  # less than that is not shrunk
    return crops * patches
