"""LFM2-VL: crops of any shape, padded to one length, a SigLIP 2 tower, 2 x 2 patches of a crop put into one token."""

import functools

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.hosts.crops import whole_crops
from llava.integrations.transformers.hosts.vit import attention_of, pool_mean, stack_of
from llava.integrations.transformers.importance import watching
from llava.pruning import Views
from llava.pruning.importance import received_attention


class Lfm2VlHost(Host):
    models = ("Lfm2VlForConditionalGeneration",)
    inputs = ("pixel_values", "spatial_shapes", "pixel_attention_mask")
    knows_pictures = False  # the processor writes words between the crops of a picture

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        mask, shapes, merged = given["pixel_attention_mask"], given["spatial_shapes"], model.config.downsample_factor
        attention = attention_of(stack_of(model.model.vision_tower)[-1])
        with watching(inputs=[attention]) as watched:
            output = model.model.get_image_features(given["pixel_values"], shapes, mask).pooler_output
        importance = functools.cache(
            lambda: received_attention(attention, watched.hidden_states(attention), mask.bool())
        )
        pictures = []
        for i, (tokens, pixels, (height, width)) in enumerate(zip(output, given["pixel_values"], shapes.tolist())):
            views = Views(
                tokens[None],
                importance=functools.partial(_pooled, importance, i, (height, width), merged),
                pixels=pixels[None, : height * width],
                projected=tokens[None],
                grid=torch.tensor([[height, width]]) // merged,
            )
            pictures.append(whole_crops(tokens, views))
        return pictures

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        return self.largest_crop(model, given)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        return int((given["spatial_shapes"] // model.config.downsample_factor).prod(dim=1).max())


def _pooled(importance, crop: int, shape: tuple[int, int], merged: int) -> torch.Tensor:
    """(1, n): of a crop, mean over the patches of a token, from (K, longest) of all crops."""
    return pool_mean(importance()[crop : crop + 1, : shape[0] * shape[1]], merged, shape)


HOST = Lfm2VlHost()
