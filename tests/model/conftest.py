"""What the tests of checkpoints share: changing a checkpoint's files, and what a model says."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.constants import IMAGE_TOKEN_INDEX
from llava.vision.pixels import process_images
from tests import tape
from tests.conftest import picture

TOWER_KEY = "vision_model.encoder.layers.0.mlp.fc1.weight"


def edit_json(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(path, change) -> None:
    """Rewrite a weight file, or each of a folder, as `change` of its tensors."""
    for file in [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")] if path.is_dir() else [path]:
        is_new = file.suffix == ".safetensors"
        tensors = change(load_file(file) if is_new else torch.load(file, weights_only=True))
        save_file(tensors, file) if is_new else torch.save(tensors, file)


def without(part: str):
    """A change of weights: those with `part` in their names are gone."""
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if part not in key}


def logits(loaded: tuple) -> torch.Tensor:
    """What a model says about a picture and a word."""
    _, model, image_processor, _ = loaded
    pixels = process_images([picture()], image_processor, model.config)
    with torch.no_grad():
        return model(torch.tensor([[1, IMAGE_TOKEN_INDEX, 5]]), images=pixels, image_sizes=[(200, 150)]).logits[0, -1]


@pytest.fixture
def recorded(loaded, monkeypatch):
    """recorded("v1.5", "llama"): a loaded checkpoint that records on a tape as long as the test runs."""

    def get(*checkpoint: str) -> tuple:
        llava = loaded(*checkpoint)
        tape.use_in(monkeypatch, llava[1])
        return llava

    with torch.no_grad():
        yield get
