"""Hosts whose pictures are square crops of one size: a tower, a projector, and a placeholder for each token.

Shapes: K crops, N patches, n tokens of a crop, C vision channels, D model channels.
"""

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.hosts.vit import TowerRun, patches_per_crop, pool_mean, run_of
from llava.pruning import Views
from llava.pruning.views import square_grids


class CropHost(Host):
    """A host of that kind.

    Attributes:
        tower: the name of the vision tower in `model.model`.
    """

    tower = "vision_tower"

    def tower_of(self, model: PreTrainedModel) -> torch.nn.Module:
        """The vision tower."""
        return getattr(model.model, self.tower)

    def merged(self, model: PreTrainedModel) -> int:
        """A token is a square of so many patches in height and width."""
        return 1

    def options(self, model: PreTrainedModel, given: dict) -> dict:
        """What of the tower the host reads, as `run_of` takes it, if that can be chosen; or else the last layer."""
        return {}

    def more_options(self, given: dict) -> dict:
        """More arguments of `get_image_features`."""
        return {}

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, options = given["pixel_values"], self.options(model, given)
        with run_of(self.tower_of(model), *(options.values() or (-1, "full"))) as run:
            output = model.model.get_image_features(pixels, **options, **self.more_options(given))
        tokens = torch.stack(list(output.pooler_output))
        if self.merged(model) == 1:
            views = run.views(pixels, tokens, None if options else output.last_hidden_state)
        else:
            views = merged_views(run, pixels, tokens, self.merged(model))
        return [whole_crops(tokens[i], views.crops(slice(i, i + 1))) for i in range(len(pixels))]

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        return patches_per_crop(self.tower_of(model)) // self.merged(model) ** 2


def merged_views(run: TowerRun, pixels: torch.Tensor, tokens: torch.Tensor, merged: int) -> Views:
    """Of crops whose tokens (K, n, D) are squares of `merged` x `merged` patches: methods compare the tokens."""
    return Views(
        tokens,
        importance=lambda: pool_mean(run.importance(), merged),
        pixels=pixels,
        projected=tokens,
        grid=square_grids(*tokens.shape[:2]),
    )


def whole_crops(tokens: torch.Tensor, views: Views) -> Picture:
    """A picture whose crops (K, N, C) have all their patches in a row among its placeholders: K N tokens."""
    crops, patches, _ = views.features.shape
    places = torch.arange(crops * patches, device=tokens.device).view(crops, patches)
    return Picture(tokens.flatten(0, -2), views, places)


def read_options(model: PreTrainedModel, given: dict) -> dict:
    """The layers that the host reads and what of them, of the call or else of the config."""
    names = ("vision_feature_layer", "vision_feature_select_strategy")
    return {name: given[name] if given.get(name) is not None else getattr(model.config, name) for name in names}
