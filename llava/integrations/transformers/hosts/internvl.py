"""InternVL: crops of a picture, each 2 x 2 patches of which are shuffled into one token; its tower has a [CLS]."""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Picture, join_crops, runs_of
from llava.integrations.transformers.hosts.crops import CropHost, read_options


class InternVLHost(CropHost):
    models = ("InternVLForConditionalGeneration",)
    inputs = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
    splits_crops = True

    def options(self, model: PreTrainedModel, given: dict) -> dict:
        return read_options(model, given)

    def merged(self, model: PreTrainedModel) -> int:
        return round(1 / model.config.downsample_ratio)

    def whole_pictures(
        self, model: PreTrainedModel, parts: list[Picture], ids: torch.LongTensor, is_own: torch.BoolTensor
    ) -> list[Picture]:
        lengths = [end - start for _, start, end in runs_of(is_own)]  # a picture's tiles follow one another
        return join_crops(parts, lengths)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        patch = model.config.vision_config.patch_size
        height, width = (length // own for length, own in zip(given["pixel_values"].shape[-2:], patch))
        return height * width // self.merged(model) ** 2


HOST = InternVLHost()
