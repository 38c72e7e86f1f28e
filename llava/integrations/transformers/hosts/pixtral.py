"""Pixtral's tower: pictures of any size, packed into one sequence, whose patches attend to those of their picture.

Shapes: I pictures, P patches of all of them, n tokens of one.
"""

import functools

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.hosts.crops import whole_crops
from llava.integrations.transformers.hosts.vit import attention_of, layers_of, pool_mean
from llava.integrations.transformers.importance import Watched, watching
from llava.pruning import Views
from llava.pruning.importance import received_in_segments, rotation


class PixtralHost(Host):
    """A host with such a tower. Breaks between the rows of a picture are words, and stay."""

    inputs = ("pixel_values", "image_sizes")

    def merged(self, model: PreTrainedModel) -> int:
        """A token is a square of so many patches in height and width."""
        return getattr(model.config, "spatial_merge_size", 1)

    def sizes(self, model: PreTrainedModel, given: dict) -> list[tuple[int, int]]:
        """Height and width of each picture in patches."""
        patch = model.model.vision_tower.patch_size
        return [(int(height) // patch, int(width) // patch) for height, width in given["image_sizes"]]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, sizes, merged = given["pixel_values"], self.sizes(model, given), self.merged(model)
        options = {name: value for name, value in given.items() if name.startswith("vision_") and value is not None}
        read = options.get("vision_feature_layer", model.config.vision_feature_layer)
        attention = attention_of(layers_of(model.model.vision_tower, read)[-1])
        with watching(inputs=[attention]) as watched:
            output = model.model.get_image_features(pixels, image_sizes=given["image_sizes"], **options)
        importance, pictures = functools.cache(lambda: _importance(attention, watched, sizes)), []
        for i, (tokens, size) in enumerate(zip(output.pooler_output, sizes, strict=True)):
            views = Views(
                tokens[None],
                importance=lambda i=i, size=size: pool_mean(importance()[i][None], merged, size),
                pixels=pixels[i : i + 1],
                projected=tokens[None],
                grid=torch.tensor([size]) // merged,
            )
            pictures.append(whole_crops(tokens, views))
        return pictures

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        merged = self.merged(model)
        return max((height // merged) * (width // merged) for height, width in self.sizes(model, given))


def _importance(attention: torch.nn.Module, watched: Watched, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """(patches,) float32 of each picture: what they receive from it, mean over queries and heads."""
    given, lengths = watched.inputs[attention], [height * width for height, width in sizes]
    rotate = rotation(*given["position_embeddings"])
    sums = received_in_segments(attention, given["hidden_states"][0], lengths, rotate)
    return [own / length for own, length in zip(sums.split(lengths), lengths)]
