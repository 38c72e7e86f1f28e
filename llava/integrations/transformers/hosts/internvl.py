"""InternVL: crops of a picture, each 2 x 2 patches of which are shuffled into one token; its tower has a [CLS]."""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture, join_crops, runs_of
from llava.integrations.transformers.hosts.llava import read_options, whole_crops
from llava.integrations.transformers.hosts.vit import TowerRun, run_of
from llava.pruning import Views
from llava.pruning.views import square_grids


class InternVLHost(Host):
    models = ("InternVLForConditionalGeneration",)
    inputs = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy")
    splits_crops = True

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, options = given["pixel_values"], read_options(model, given)
        with run_of(model.model.vision_tower, *options.values()) as run:
            tokens = model.model.get_image_features(pixels, **options).pooler_output
        views = Views(
            tokens,
            importance=lambda: self.importance(model, run),
            pixels=pixels,
            projected=tokens,
            grid=square_grids(*tokens.shape[:2]),
        )
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]

    def importance(self, model: PreTrainedModel, run: TowerRun):
        """(K, n) float32: mean over the patches of a token, which the host's own shuffle puts together."""
        of_patches = run.importance()
        side = int(of_patches.shape[1] ** 0.5)
        shuffled = model.model.pixel_shuffle(of_patches.view(-1, side, side, 1), model.config.downsample_ratio)
        return shuffled.mean(dim=-1).flatten(1)

    def whole_pictures(self, parts: list[Picture], ids: torch.LongTensor, is_own: torch.BoolTensor) -> list[Picture]:
        lengths = [end - start for _, start, end in runs_of(is_own)]  # a picture's tiles follow one another
        return join_crops(parts, lengths)

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        patch = model.config.vision_config.patch_size
        height, width = (length // own for length, own in zip(given["pixel_values"].shape[-2:], patch))
        return int(height * width * model.config.downsample_ratio**2)


HOST = InternVLHost()
