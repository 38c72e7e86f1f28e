"""ViP-LLaVA: as LLaVA 1.5, with the features of several tower layers one after the other."""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Picture
from llava.integrations.transformers.hosts.crops import whole_crops
from llava.integrations.transformers.hosts.llava import LlavaHost
from llava.integrations.transformers.hosts.vit import run_of

_NAMES = ("vision_feature_layer", "vision_feature_layers")  # transformers has renamed it


class VipLlavaHost(LlavaHost):
    models = ("VipLlavaForConditionalGeneration",)
    inputs = ("pixel_values", *_NAMES)

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, name = given["pixel_values"], next(name for name in _NAMES if hasattr(model.config, name))
        layers = next((given[n] for n in _NAMES if given.get(n) is not None), getattr(model.config, name))
        with run_of(model.model.vision_tower, layers, "default") as run:
            tokens = model.model.get_image_features(pixel_values=pixels, **{name: layers}).pooler_output
        views = run.views(pixels, torch.stack(list(tokens)))
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]


HOST = VipLlavaHost()
