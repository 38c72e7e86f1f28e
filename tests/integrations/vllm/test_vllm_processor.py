"""The HF processor of the plugin: the package's own pixels, and settings. Needs no vLLM."""

import pytest
import torch
from transformers import AutoTokenizer, LlavaConfig, LlavaProcessor

from llava.errors import InputError
from llava.integrations.vllm.folder import prepare
from llava.integrations.vllm.processor import VisPrunerLlavaProcessor
from llava.integrations.vllm.settings import unpack
from llava.pruning import Settings
from llava.vision.pixels import process_images
from tests.conftest import load, picture

SIZES = [(200, 150), (90, 300), (168, 168)]
GRIDS = {"mm_patch_merge_type": "spatial", "image_grid_pinpoints": [[168, 336], [336, 168], [336, 336]]}


def open_processor(folder) -> VisPrunerLlavaProcessor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return VisPrunerLlavaProcessor.from_folder(folder, tokenizer, LlavaConfig.from_pretrained(folder))


@pytest.mark.parametrize(("version", "config"), [("v1.5", {}), ("v1.6", GRIDS)])
def test_pixels_are_the_packages(version, config, checkpoints, tmp_path):
    prepare(str(checkpoints(version)), tmp_path / "out", overrides=config)
    processor = open_processor(tmp_path / "out")
    _, model, image_processor, _ = load(checkpoints(version), **config)
    images = [picture(*size, seed=seed) for seed, size in enumerate(SIZES)]
    features = processor(images)
    for image, pixels in zip(images, features["pixel_values"], strict=True):
        own = process_images([image], image_processor, model.config)[0]
        assert torch.equal(pixels, own if own.ndim == 4 else own.unsqueeze(0))
    assert [tuple(size) for size in features["image_sizes"].tolist()] == SIZES
    assert isinstance(processor, LlavaProcessor)


def test_settings_are_of_every_picture(prepared):
    processor = open_processor(prepared)
    features = processor([picture(), picture(seed=1)], visual_token_num=7, important_ratio=0.8, pruning_seed=5)
    assert features["pixel_values"].shape == (2, 1, 3, 168, 168)
    settings = [unpack(row) for row in features["pruning_settings"]]
    assert settings == [Settings(7, 0.8, "vispruner", 5)] * 2
    assert unpack(processor(picture())["pruning_settings"][0]) == Settings()
    assert unpack(processor(picture(), visual_token_num=0.25)["pruning_settings"][0]) == Settings(36)  # of 12 x 12


@pytest.mark.parametrize("settings", [{"visual_token_num": 0}, {"important_ratio": 2}, {"pruning_method": "fastv"}])
def test_bad_settings_are_refused(settings, prepared):
    with pytest.raises(InputError, match=next(iter(settings.values())) if "pruning_method" in settings else "must be"):
        open_processor(prepared)(picture(), **settings)
