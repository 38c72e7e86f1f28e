"""LLaVA 1.5 in transformers' own class: one crop an image, N visual tokens of it."""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.hosts.vit import patches_per_crop, run_of
from llava.pruning import Views


class LlavaHost(Host):
    models = ("LlavaForConditionalGeneration",)
    inputs = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, options = given["pixel_values"], read_options(model, given)
        with run_of(model.model.vision_tower, *options.values()) as run:
            tokens = model.model.get_image_features(pixel_values=pixels, **options).pooler_output
        views = run.views(pixels, torch.stack(list(tokens)))
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        return patches_per_crop(model.model.vision_tower)


def read_options(model: PreTrainedModel, given: dict) -> dict:
    """The layers that the host reads and what of them, of the call or else of the config."""
    names = ("vision_feature_layer", "vision_feature_select_strategy")
    return {name: given[name] if given.get(name) is not None else getattr(model.config, name) for name in names}


def whole_crops(tokens: torch.Tensor, views: Views) -> Picture:
    """A picture whose crops (K, N, C) have all their patches in a row among its placeholders: K N tokens."""
    crops, patches, _ = views.features.shape
    places = torch.arange(crops * patches, device=tokens.device).view(crops, patches)
    return Picture(tokens.flatten(0, -2), views, places)


HOST = LlavaHost()
