"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT, and videos, whose frames' patches are pooled into tokens."""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Picture, split_first
from llava.integrations.transformers.hosts.crops import read_options, whole_crops
from llava.integrations.transformers.hosts.llava_next import LlavaNextHost
from llava.integrations.transformers.hosts.vit import pool_mean, run_of
from llava.pruning import Views
from llava.pruning.views import square_grids

VIDEO = "pixel_values_videos"


class LlavaNextVideoHost(LlavaNextHost):
    models = ("LlavaNextVideoForConditionalGeneration",)
    inputs = (*LlavaNextHost.inputs, VIDEO)

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        images = {name: value for name, value in given.items() if name != VIDEO}
        videos = {name: value for name, value in given.items() if name not in ("pixel_values", "image_sizes")}
        return [
            (model.config.image_token_id, split_first(images, self.inputs)),
            (model.config.video_token_id, split_first(videos, (VIDEO,))),
        ]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        if given.get(VIDEO) is None:
            return super().encode(model, token, given)
        pixels, options = given[VIDEO], read_options(model, given)
        videos, frames = pixels.shape[:2]
        with run_of(model.model.vision_tower, *options.values()) as run:
            output = model.model.get_video_features(pixels, **options)
        tokens = torch.stack(list(output.pooler_output)).reshape(videos * frames, -1, self.channels(model))
        stride = model.config.spatial_pool_stride
        views = Views(
            tokens,
            importance=lambda: pool_mean(run.importance(), stride),
            pixels=pixels.flatten(0, 1),
            projected=tokens,
            grid=square_grids(*tokens.shape[:2]),
        )
        parts = [slice(i * frames, (i + 1) * frames) for i in range(videos)]
        return [whole_crops(tokens[part], views.crops(part)) for part in parts]

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        if given.get(VIDEO) is None:
            return super().placeholders(model, token, given)
        return given[VIDEO].shape[1] * self.largest_crop(model, given)

    def channels(self, model: PreTrainedModel) -> int:
        """D."""
        return model.config.text_config.hidden_size

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        patches = super().largest_crop(model, given)
        return (
            patches
            if given.get(VIDEO) is None or given.get("pixel_values") is not None
            else patches // (model.config.spatial_pool_stride**2)
        )


HOST = LlavaNextVideoHost()
