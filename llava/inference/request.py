"""What is asked and what comes back, and how a message becomes a prompt. This file does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN
from llava.conversation import question_in, without_pictures
from llava.errors import InputError
from llava.model.template import Template, named_template
from llava.pruning.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = Image | Path | str | bytes


@dataclass(frozen=True)
class Request:
    """One prompt to a model.

    Attributes:
        prompt: the complete text, with one `<image>` for each image.
        images: in the order of the prompt: PIL images, files, http(s) URLs or `data:` URIs as text, or encoded images
            as bytes.
        pruning: the settings of this request; the model's own if None.
        name: what messages call it.
        question: what is asked about the images, for methods that choose by it; None for what is read from the prompt,
            the user's text of the turn that holds the image.
        as_displayed: whether the images are turned as their EXIF says and lie on white where they are transparent.
            Otherwise their pixels are as stored and transparency is dropped, as upstream's benchmarks have them.

    Raises InputError if there are not as many images as `<image>`.
    """

    prompt: str
    images: tuple[Picture, ...] = ()
    pruning: Settings | None = None
    name: str = "the prompt"
    as_displayed: bool = True
    question: str | None = None

    def __post_init__(self) -> None:
        check_placeholders(self.prompt, len(self.images), self.name)

    def with_settings(self, default: Settings) -> Request:
        """This request with settings, its own or the default; where they show no image, without images and places."""
        pruning = self.pruning or default
        if not pruning.is_blind:
            return replace(self, pruning=pruning)
        return replace(self, prompt=without_pictures(self.prompt), images=(), pruning=pruning)


@dataclass(frozen=True)
class Completion:
    """The answer to one request.

    Attributes:
        text: the answer, without space around it.
        num_visual_tokens: how many visual tokens each image has in the prompt.
        prompt_tokens: tokens of the prompt, visual tokens included.
    """

    text: str
    num_visual_tokens: tuple[int, ...]
    prompt_tokens: int


def check_placeholders(text: str, images: int, name: str) -> None:
    """Raise InputError, naming whose `text` it is, unless it has one `<image>` for each of so many images."""
    placeholders = text.count(DEFAULT_IMAGE_TOKEN)
    if placeholders != images:
        raise InputError(f"{name}: {images} image(s) for {placeholders} <image> placeholder(s)")


def image_token(config) -> str:
    """What stands for one image in a prompt to the model of this config."""
    if config.mm_use_im_start_end:
        return DEFAULT_IM_START_TOKEN + DEFAULT_IMAGE_TOKEN + DEFAULT_IM_END_TOKEN
    return DEFAULT_IMAGE_TOKEN


def mark_images(message: str, images: int, config, name: str = "the message") -> str:
    """A message with the image token of this config for each of its images.

    `<image>` in the message marks where an image belongs; if there is none, the image is put in front, on a line of
    its own. Raises InputError if there are not as many images as `<image>` then.
    """
    if images and DEFAULT_IMAGE_TOKEN not in message:
        message = f"{DEFAULT_IMAGE_TOKEN}\n{message}"
    check_placeholders(message, images, name)
    return message.replace(DEFAULT_IMAGE_TOKEN, image_token(config))


def make_request(
    message: str,
    images: Sequence[Picture],
    conv_mode: str | Template,
    config,
    pruning: Settings | None = None,
    name: str = "the prompt",
    as_displayed: bool = True,
) -> Request:
    """The request that asks one message, marked as in `mark_images`, in the template `conv_mode` or of this name.

    `config` is the model's. Raises InputError as `mark_images` does.
    """
    marked = mark_images(message, len(images), config, name)
    prompt = named_template(conv_mode).prompt(marked)
    return Request(prompt, tuple(images), pruning, name, as_displayed, question_in(message))
