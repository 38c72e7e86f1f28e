"""The original implementations' results, where they are to be had (../shared/reference)."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llava.checkpoints.tokenizer import load_tokenizer, tokenizer_image_token
from llava.pruning.methods import vispruner
from llava.vision.pixels import process_images
from tests.conftest import count_visual_tokens, inputs_of, load, written

CHECKPOINTS = {
    "default": ("llava-v1.5", "llava-v1.5-tiny", {}),
    "native": ("llava-v1.6", "llava-v1.6-vicuna-tiny", {}),
    "paper": (
        "llava-v1.6",
        "llava-v1.6-vicuna-tiny",
        {"mm_patch_merge_type": "spatial", "image_grid_pinpoints": [[672, 672]]},
    ),
}


def test_every_prompt_and_its_ids_are_reproduced(reference):
    tokenizer = load_tokenizer(reference / "llava-v1.5" / "llava-v1.5-tiny")
    for case in json.loads((reference / "prompts.json").read_text()):
        assert written(case["mode"], [f"<image>\n{case['question']}", None]) == case["prompt"]
        assert tokenizer_image_token(case["prompt"], tokenizer) == case["ids"], case["prompt"]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def cases(request, reference):
    """The loaded checkpoint of a mode, its records, and their tensors."""
    version, name, options = CHECKPOINTS[request.param]
    records = json.loads((reference / version / "expected.json").read_text())
    tensors = load_file(reference / version / "expected.safetensors")
    return load(reference / version / name, **options), [r for r in records if r["mode"] == request.param], tensors


def crops_of(loaded, file) -> torch.Tensor:
    pixels = process_images([Image.open(file)], loaded.image_processor, loaded.model.config)
    return pixels[0] if pixels.ndim == 5 else pixels


def test_pixels_are_the_same_bits(cases, reference):
    loaded, records, tensors = cases
    for name in {record["image"] for record in records}:
        crops = crops_of(loaded, reference / "images" / name)
        assert torch.equal(crops[:, :, ::37, ::37], tensors[f"{records[0]['mode']}/pixels/{name}"])


def test_features_and_cls_attention_are_close(cases, reference):
    """The random towers amplify rounding: features differ between two attention kernels by up to 3e-2 of 50."""
    loaded, records, tensors = cases
    for name in {record["image"] for record in records}:
        key = f"{records[0]['mode']}/tower/{name}"
        if f"{key}/features" not in tensors:
            continue
        crops = crops_of(loaded, reference / "images" / name)
        features, cls_attention = loaded.model.get_vision_tower()(crops, output_attentions=True)
        torch.testing.assert_close(features, tensors[f"{key}/features"], rtol=1e-2, atol=5e-2)
        torch.testing.assert_close(cls_attention.mean(1), tensors[f"{key}/cls_attention"], rtol=1e-2, atol=1e-4)


def test_answers_with_the_original_s_choice_of_tokens_are_the_same(cases, reference, monkeypatch):
    """With its `kept` in place of ours, since rounding of the features can end in another choice."""
    loaded, records, tensors = cases
    model = loaded.model
    for record in records:
        kept = torch.tensor(record["kept"])
        monkeypatch.setattr(vispruner, "select_visual_tokens", lambda *args, kept=kept: kept)
        model.visual_token_num, model.important_ratio = record["visual_token_num"], record["important_ratio"]
        image = Image.open(reference / "images" / record["image"])
        ids, given = inputs_of(loaded, [record["prompt"]], [image])
        assert ids[0].tolist() == record["input_ids"]
        with torch.no_grad():
            logits = model(ids, **given).logits[0]
        assert len(logits) == record["sequence_length"]
        assert count_visual_tokens(loaded, [record["prompt"]], [image]) == [record["num_visual_tokens"]]
        torch.testing.assert_close(logits[-1], tensors[f"{record['key']}/logits"], rtol=1e-3, atol=1e-3)
        output = model.generate(ids, **given, do_sample=False, max_new_tokens=16)
        assert output[0].tolist() == record["generated"], record["key"]
