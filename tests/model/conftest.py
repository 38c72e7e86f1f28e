"""What the tests of checkpoints share: changing a checkpoint's files, and what a model says."""

import json

import torch
from safetensors.torch import load_file, save_file

from llava.constants import IMAGE_TOKEN_INDEX
from llava.vision.pixels import process_images
from tests.conftest import picture

TOWER_KEY = "vision_model.encoder.layers.0.mlp.fc1.weight"


def edit_json(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(path, change) -> None:
    """Rewrite one weight file as `change` of its tensors."""
    tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    tensors = change(tensors)
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


def logits(loaded: tuple) -> torch.Tensor:
    """What a model says about a picture and a word."""
    _, model, image_processor, _ = loaded
    pixels = process_images([picture()], image_processor, model.config)
    with torch.no_grad():
        return model(torch.tensor([[1, IMAGE_TOKEN_INDEX, 5]]), images=pixels, image_sizes=[(200, 150)]).logits[0, -1]
