"""FastVLM: one crop an image, and a tower of timm with convolutions, whose last layers attend among its places.

A patch is such a place.

Shapes: K crops, n tokens.
"""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.hosts.crops import whole_crops
from llava.integrations.transformers.hosts.vit import attention_of
from llava.integrations.transformers.importance import watching
from llava.pruning import Views
from llava.pruning.importance import received_attention


class FastVlmHost(Host):
    models = ("FastVlmForConditionalGeneration",)
    inputs = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")  # which has one value each

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, tower = given["pixel_values"], model.model.vision_tower.timm_model
        attention = attention_of(tower.stages[-1].blocks[-1])
        with watching(inputs=[attention]) as watched:
            output = model.model.get_image_features(pixels)
        tokens = output.pooler_output
        views = Views(
            tokens,
            importance=lambda: received_attention(
                attention, watched.hidden_states(attention).flatten(2).transpose(1, 2)
            ),
            pixels=pixels,
            projected=tokens,
            grid=torch.tensor([output.last_hidden_state.shape[-2:]] * len(pixels)),
        )
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        step = model.model.vision_tower.timm_model.feature_info[-1]["reduction"]
        height, width = given["pixel_values"].shape[-2:]
        return -(-height // step) * -(-width // step)  # rounded up


HOST = FastVlmHost()
