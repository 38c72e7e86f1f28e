"""PerceptionLM: tiles of a picture or frames of a video in a row, and a tower of timm, with [CLS] or without.

Shapes: I pictures, K tiles of each, N patches of a tile, n tokens.
"""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture, split_first
from llava.integrations.transformers.hosts.crops import whole_crops
from llava.integrations.transformers.hosts.vit import attention_of, stack_of
from llava.integrations.transformers.importance import Watched, cls_attention, watching
from llava.pruning import Views
from llava.pruning.importance import received_attention
from llava.pruning.views import square_grids

_IMAGE, _VIDEO = "pixel_values", "pixel_values_videos"


class PerceptionLMHost(Host):
    models = ("PerceptionLMForConditionalGeneration",)
    inputs = (_IMAGE, _VIDEO)

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        tokens = {_IMAGE: model.config.image_token_id, _VIDEO: model.config.video_token_id}
        parts = {name: {name: given[name]} if given.get(name) is not None else {} for name in tokens}
        return [(token, split_first(parts[name], (name,))) for name, token in tokens.items()]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        ((_, pixels),) = given.items()
        attention = attention_of(stack_of(model.model.vision_tower)[-1])
        with watching(inputs=[attention]) as watched:
            tokens = model.model.get_image_features(pixels).pooler_output
        pool = model.model.multi_modal_projector.pooling
        views = Views(
            tokens,
            importance=lambda: pool(self.importance(model, attention, watched).unsqueeze(-1)).squeeze(-1),
            pixels=pixels.flatten(0, 1),
            projected=tokens,
            grid=square_grids(*tokens.shape[:2]),
        )
        parts = [slice(i * pixels.shape[1], (i + 1) * pixels.shape[1]) for i in range(len(pixels))]
        return [whole_crops(tokens[part], views.crops(part)) for part in parts]

    def importance(self, model: PreTrainedModel, attention: torch.nn.Module, watched: Watched) -> torch.Tensor:
        """(I K, N) float32: of each patch, in the last layer. A [CLS] is not turned, and the patches by neighbours."""
        sin, cos = watched.inputs[attention]["rope"].float().chunk(2, dim=-1)
        first = watched.hidden_states(attention).shape[1] - len(cos)

        def rotate(states: torch.Tensor) -> torch.Tensor:
            patches = states[:, :, first:].float()
            turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
            return torch.cat([states[:, :, :first], (patches * cos + turned * sin).to(states.dtype)], dim=2)

        how = cls_attention if model.config.vision_use_cls_token else received_attention
        return how(attention, watched.hidden_states(attention), rotate=rotate)

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        ((_, pixels),) = given.items()
        return pixels.shape[1] * self.largest_crop(model, given)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        patch, ratio = model.model.vision_tower.timm_model.patch_embed.patch_size, model.config.projector_pooling_ratio
        pixels = [given[name] for name in (_IMAGE, _VIDEO) if given.get(name) is not None]
        return max((own.shape[-2] // patch[0] // ratio) * (own.shape[-1] // patch[1] // ratio) for own in pixels)


HOST = PerceptionLMHost()
