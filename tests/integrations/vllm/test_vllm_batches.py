"""Which pictures vLLM's model encodes at once."""

from types import SimpleNamespace

import pytest
import torch

from llava.pruning import Settings
from tests.integrations.vllm.conftest import NO_VLLM, questions, request

pytest.importorskip("vllm.version", reason=NO_VLLM)

SETTINGS = [Settings(16)] * 5 + [Settings(32)] * 2 + [Settings(16)]


def batches(one_by_one: bool, crops: list[int], settings: list[Settings]) -> list[list[int]]:
    """The places of the pictures of each batch."""
    from llava.integrations.vllm.model import VisPrunerLlavaForConditionalGeneration as Model

    images = [(torch.zeros(k, 1), i, each) for i, (k, each) in enumerate(zip(crops, settings, strict=True))]
    made = list(Model._batches(SimpleNamespace(encodes_one_by_one=one_by_one), images))
    assert all(image[2] == own for batch, own in made for image in batch)
    return [[image[1] for image in batch] for batch, _ in made]


def test_half_precision_encodes_pictures_of_the_same_settings_together():
    assert batches(False, [1] * 8, SETTINGS) == [[0, 1, 2, 3, 4], [5, 6], [7]]
    assert batches(False, [5] * 8, SETTINGS) == [[0, 1, 2], [3, 4], [5, 6], [7]]
    assert batches(False, [20, 1, 1], [Settings(8)] * 3) == [[0], [1, 2]]


def test_float32_encodes_every_picture_by_itself():
    assert batches(True, [1] * 8, SETTINGS) == [[i] for i in range(8)]


def test_bfloat16_answers_about_as_float32_does(prepared, ask_offline, ask_package):
    """Rounding changes few answers of a batch."""
    asked = [request(*question, visual_token_num=48) for question in questions("pope")[::8]]
    (completions,) = ask_offline(prepared, asked, dtype="bfloat16")
    equal = [completion["text"] == own for completion, own in zip(completions, ask_package(asked), strict=True)]
    assert sum(equal) >= 0.85 * len(equal)
