"""Prompts, token ids and pixels against tests/data: written by hand, or worked out plainly there.

With ../shared, the plain rules are themselves held against what the original implementation gave.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from sentencepiece import SentencePieceProcessor

from llava.checkpoints.tokenizer import load_tokenizer, tokenizer_image_token
from llava.conversation import conv_templates
from llava.model.multimodal_encoder.clip_encoder import CLIPTowerImageProcessor
from llava.vision.pixels import process_images
from tests.conftest import ROOT, picture, written
from tests.data import plain_inputs
from tests.data.make_cases import FILES, GRID, HERE, SIDE, TOKENIZER, write_cases

PROMPTS, TOKEN_IDS, PIXELS = (
    json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")) for name in ("prompts", "token_ids", "pixels")
)


@pytest.mark.parametrize("mode", sorted(conv_templates))
def test_a_template_writes_what_was_written_by_hand(mode):
    cases = [case for case in PROMPTS if mode in case["modes"]]
    assert cases
    for case in cases:
        first, *turns = case["turns"]
        first = (first, picture(), "Default") if case.get("picture") else first
        assert written(mode, [first, *turns]) == "".join(case["prompt"])


def test_token_ids_are_those_of_sentencepiece():
    tokenizer = load_tokenizer(TOKENIZER.parent)
    for case in TOKEN_IDS:
        assert tokenizer_image_token(case["text"], tokenizer) == case["ids"], case["text"]


@pytest.mark.parametrize(
    "case", PIXELS, ids=lambda case: f"{case['image_aspect_ratio']}-{case['width']}x{case['height']}"
)
def test_pixels_are_those_of_pillow_and_plain_arithmetic(case):
    image_processor = CLIPTowerImageProcessor.from_pretrained(
        ROOT / "playground" / "checkpoints" / "clip-vit-tiny-patch14-168"
    )
    drawn = plain_inputs.drawing(case["width"], case["height"])
    config = SimpleNamespace(image_aspect_ratio=case["image_aspect_ratio"], image_grid_pinpoints=GRID)
    pixels = process_images([Image.fromarray(drawn)], image_processor, config)
    crops = pixels[0] if pixels.ndim == 5 else pixels
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(crops.mean(dim=(2, 3)), torch.tensor(case["means"]), **close)
    torch.testing.assert_close(crops[:, :, 14::28, 14::28], torch.tensor(case["every_28th"]), **close)
    plainly = plain_inputs.pad(drawn, SIDE) if len(crops) == 1 else plain_inputs.anyres(drawn, SIDE, GRID)
    torch.testing.assert_close(crops, torch.from_numpy(plainly).float(), rtol=0, atol=1e-5)


def test_the_committed_files_are_what_make_cases_writes(tmp_path):
    write_cases(tmp_path)
    assert {path.name for path in HERE.glob("*.json")} == {*FILES, "prompts.json"}
    for name in FILES:
        assert (tmp_path / name).read_text(encoding="utf-8") == (HERE / name).read_text(encoding="utf-8"), name


def test_the_plain_token_ids_are_the_original_s(reference):
    sentencepiece = SentencePieceProcessor(str(reference / "llava-v1.5" / "llava-v1.5-tiny" / "tokenizer.model"))
    for case in json.loads((reference / "prompts.json").read_text()):
        assert plain_inputs.token_ids(case["prompt"], sentencepiece) == case["ids"], case["prompt"]


@pytest.mark.parametrize("mode", ["default", "paper", "native"])
def test_the_plain_pixels_are_the_original_s(reference, mode):
    version, checkpoint = {"default": ("llava-v1.5", "llava-v1.5-tiny")}.get(
        mode, ("llava-v1.6", "llava-v1.6-vicuna-tiny")
    )
    own_grid = json.loads((reference / version / checkpoint / "config.json").read_text()).get("image_grid_pinpoints")
    grid = [[672, 672]] if mode == "paper" else own_grid
    tensors = load_file(reference / version / "expected.safetensors")
    names = [key.rpartition("/")[2] for key in tensors if key.startswith(f"{mode}/pixels/")]
    assert len(names) == 3
    for name in names:
        photograph = np.asarray(Image.open(reference / "images" / name).convert("RGB"))
        ours = plain_inputs.pad(photograph, 336) if mode == "default" else plain_inputs.anyres(photograph, 336, grid)
        expected = tensors[f"{mode}/pixels/{name}"]
        np.testing.assert_allclose(ours[:, :, ::37, ::37], expected, rtol=0, atol=1e-5)
