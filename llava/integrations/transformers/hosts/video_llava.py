"""Video-LLaVA: one crop an image, and videos, each frame of which has its [CLS] among its tokens, where it stays."""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture, split_first
from llava.integrations.transformers.hosts.crops import read_options, whole_crops
from llava.integrations.transformers.hosts.vit import patches_per_crop, run_of

_VIDEO = "pixel_values_videos"
_IMAGES = ("pixel_values", "pixel_values_images")  # transformers has renamed it


class VideoLlavaHost(Host):
    models = ("VideoLlavaForConditionalGeneration",)
    inputs = (*_IMAGES, _VIDEO, "vision_feature_layer", "vision_feature_select_strategy")

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        images = {name: value for name, value in given.items() if name != _VIDEO and value is not None}
        videos = {name: value for name, value in given.items() if name not in _IMAGES}
        return [
            (model.config.image_token_index, split_first(images, _IMAGES)),
            (model.config.video_token_index, split_first(videos, (_VIDEO,))),
        ]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        options = read_options(model, given)
        if given.get(_VIDEO) is not None:
            return self.encode_videos(model, given[_VIDEO], options["vision_feature_layer"])
        pixels = next(given[name] for name in _IMAGES if given.get(name) is not None)
        with run_of(model.model.image_tower, *options.values()) as run:
            tokens = model.model.get_image_features(pixels, **options).pooler_output
        views = run.views(pixels, tokens)
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]

    def encode_videos(self, model: PreTrainedModel, pixels: torch.Tensor, layers: int | list[int]) -> list[Picture]:
        """Videos (I, frames, 3, height, width)."""
        videos, frames = pixels.shape[:2]
        with run_of(model.model.video_tower, layers, "default") as run:
            output = model.model.get_video_features(pixels, vision_feature_layer=layers)
        tokens = output.pooler_output.unflatten(0, (videos, frames))  # [CLS] and N patches of each frame
        views = run.views(pixels.flatten(0, 1), tokens[:, :, 1:].flatten(0, 1))
        places = torch.arange(tokens[0, ..., 0].numel(), device=tokens.device).view(frames, -1)[:, 1:]
        parts = [slice(i * frames, (i + 1) * frames) for i in range(videos)]
        return [Picture(own.flatten(0, 1), views.crops(part), places) for own, part in zip(tokens, parts)]

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        patches = self.largest_crop(model, given)
        return patches if given.get(_VIDEO) is None else given[_VIDEO].shape[1] * (1 + patches)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        return patches_per_crop(model.model.image_tower)


HOST = VideoLlavaHost()
