"""Llama 4: crops of a picture, 2 x 2 patches shuffled into one token; its tower has a [CLS], which comes last.

Its rotary positions turn neighbouring channels.
"""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Picture
from llava.integrations.transformers.hosts.crops import CropHost, whole_crops
from llava.integrations.transformers.hosts.vit import attention_of, pool_mean, stack_of
from llava.integrations.transformers.importance import Watched, cls_attention, watching
from llava.pruning import Views
from llava.pruning.views import square_grids


class Llama4Host(CropHost):
    models = ("Llama4ForConditionalGeneration",)
    knows_pictures = False  # the processor writes words between the crops of a picture

    def tower_of(self, model: PreTrainedModel) -> torch.nn.Module:
        return model.vision_model

    def merged(self, model: PreTrainedModel) -> int:
        return round(1 / model.config.vision_config.pixel_shuffle_ratio)

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, attention = given["pixel_values"], attention_of(stack_of(model.vision_model)[-1])
        with watching(inputs=[attention]) as watched:
            features = model.vision_model(pixels).last_hidden_state
        tokens = model.multi_modal_projector(features)
        views = Views(
            tokens,
            importance=lambda: pool_mean(_importance(attention, watched), self.merged(model)),
            pixels=pixels,
            projected=tokens,
            grid=square_grids(*tokens.shape[:2]),
        )
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]


def _importance(attention: torch.nn.Module, watched: Watched) -> torch.Tensor:
    """(K, N) float32: the attention of [CLS]."""
    turns = watched.inputs[attention]["freqs_ci"].squeeze(1).roll(1, dims=0)  # complex, (1 + N, half a head's width)

    def rotate(states: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(states.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns.to(pairs.device)).flatten(-2).to(states.dtype)

    return cls_attention(attention, watched.hidden_states(attention).roll(1, dims=1), rotate)


HOST = Llama4Host()
