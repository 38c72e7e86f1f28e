"""LLaVA-OneVision: a SigLIP tower, up to 36 crops whose tokens are scaled down (anyres_max_9), several images, videos.

The patches are chosen before the tokens are scaled down: a token stays if the patch nearest to it was chosen.
"""

import math

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Picture, split_first
from llava.integrations.transformers.hosts.crops import read_options
from llava.integrations.transformers.hosts.llava_next import LlavaNextHost
from llava.integrations.transformers.hosts.vit import run_of
from llava.pruning import Views
from llava.pruning.views import square_grids

VIDEO = "pixel_values_videos"
_IMAGES = ("pixel_values", "image_sizes", "images_of_prompt")


class LlavaOnevisionHost(LlavaNextHost):
    models = ("LlavaOnevisionForConditionalGeneration",)
    inputs = (*LlavaNextHost.inputs, VIDEO, "image_sizes_videos", "vision_aspect_ratio", "batch_num_images")

    def split(self, model: PreTrainedModel, given: dict) -> list[tuple[int, list[dict]]]:
        options = {name: given[name] for name in self.inputs if name.startswith("vision_") and name in given}
        images = {name: given[name] for name in _IMAGES if given.get(name) is not None}
        if images and given.get("batch_num_images") is not None:
            numbers = torch.as_tensor(given["batch_num_images"])
            images["images_of_prompt"] = numbers.repeat_interleave(numbers)
        videos = {VIDEO: given[VIDEO]} if given.get(VIDEO) is not None else {}
        return [
            (model.config.image_token_id, split_first({**images, **options}, _IMAGES)),
            (model.config.video_token_id, split_first({**videos, **options}, (VIDEO,))),
        ]

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        if given.get(VIDEO) is None:
            return super().encode(model, token, given)
        pixels, options = given[VIDEO], read_options(model, given)
        videos, frames = pixels.shape[:2]
        with run_of(model.model.vision_tower, *options.values()) as run:
            tokens = model.model.get_video_features(pixels, **options).pooler_output
        newline = model.model.image_newline.to(tokens).expand(videos, 1, -1)
        if tokens.shape[1] == frames * self.pooled(model):  # transformers has it among the features from 5.23 on
            tokens = torch.cat([tokens, newline], dim=1)
        features = tokens[:, :-1].reshape(videos * frames, -1, tokens.shape[-1])
        views = Views(
            features,
            importance=lambda: model.model.apply_pooling(run.importance().unsqueeze(-1)).squeeze(-1),
            pixels=pixels.flatten(0, 1),
            projected=features,
            grid=square_grids(*features.shape[:2]),
        )
        places = torch.arange(tokens.shape[1] - 1, device=tokens.device).view(frames, -1)
        parts = [slice(i * frames, (i + 1) * frames) for i in range(videos)]
        return [Picture(own, views.crops(part), places) for own, part in zip(tokens, parts)]

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        if given.get(VIDEO) is None:
            return super().placeholders(model, token, given)
        return given[VIDEO].shape[1] * self.pooled(model) + 1  # and a newline

    def pooled(self, model: PreTrainedModel) -> int:
        """Tokens of a frame."""
        return math.ceil(math.sqrt(self.largest_crop(model, {})) / 2) ** 2

    def more_options(self, given: dict) -> dict:
        options = {"vision_aspect_ratio": given.get("vision_aspect_ratio")}
        if "images_of_prompt" in given:
            numbers, each = [], given["images_of_prompt"].tolist()
            while each:  # back to a number for each prompt
                numbers.append(each[0])
                each = each[each[0] :]
            options["batch_num_images"] = numbers
        return options

    def crops(self, model: PreTrainedModel, given: dict) -> list[int]:
        counts = super().crops(model, given)
        numbers = given["images_of_prompt"].tolist() if "images_of_prompt" in given else [1] * len(counts)
        return [count if number == 1 else 1 for count, number in zip(counts, numbers)]

    def pack(self, model: PreTrainedModel, values: torch.Tensor, size: torch.Tensor, options: dict) -> torch.Tensor:
        newline = torch.full((values.shape[-1],), -1.0)
        ratio = options.get("vision_aspect_ratio") or model.config.vision_aspect_ratio
        return model.model.pack_image_features([values], [size], newline, ratio)[0][0]


HOST = LlavaOnevisionHost()
