"""LLaVA-NeXT: the whole picture and crops of it, put together without their padding, with a newline after each row.

Each crop is pruned on its own. The newlines stay, and a patch that is padding has no placeholder.

Shapes: K crops of a picture, the whole picture first, N patches of each, n placeholders.
"""

import math

import torch
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, image_size_to_num_patches

from llava.errors import InputError
from llava.integrations.transformers.hosts.base import Host, Picture
from llava.integrations.transformers.hosts.crops import read_options
from llava.integrations.transformers.hosts.vit import patches_per_crop, run_of


class LlavaNextHost(Host):
    models = ("LlavaNextForConditionalGeneration",)
    inputs = ("pixel_values", "image_sizes", "vision_feature_layer", "vision_feature_select_strategy")

    def encode(self, model: PreTrainedModel, token: int, given: dict) -> list[Picture]:
        pixels, sizes = given["pixel_values"], given["image_sizes"]
        if pixels.ndim != 5:
            raise InputError(f"pixel_values must be (I, K, 3, height, width), got {tuple(pixels.shape)}")
        options, more = read_options(model, given), self.more_options(given)
        with run_of(model.model.vision_tower, *options.values()) as run:
            output = model.model.get_image_features(pixels, sizes, **options, **more)
        counts = self.crops(model, given)
        views = run.views(torch.cat([own[:count] for own, count in zip(pixels, counts)]))
        views.project_by(model.model.multi_modal_projector)
        pictures, start = [], 0
        for tokens, count, size in zip(output.pooler_output, counts, sizes):
            own = views.crops(slice(start, start + count))
            places = self.places(model, count, size, options | more)
            pictures.append(Picture(tokens, own, places.to(tokens.device)))
            start += count
        return pictures

    def more_options(self, given: dict) -> dict:
        """More arguments of `get_image_features`."""
        return {}

    def crops(self, model: PreTrainedModel, given: dict) -> list[int]:
        """K of each picture."""
        config = model.config
        side = config.vision_config.image_size
        return [image_size_to_num_patches(size, config.image_grid_pinpoints, side) for size in given["image_sizes"]]

    def placeholders(self, model: PreTrainedModel, token: int, given: dict) -> int:
        (crops,), (size,) = self.crops(model, given), given["image_sizes"]
        return len(self.packed(model, crops, size, read_options(model, given) | self.more_options(given))[0])

    def packed(self, model: PreTrainedModel, crops: int, size: torch.Tensor, options: dict) -> tuple[torch.Tensor, int]:
        """(n, 2), -1 for newlines, and the crops across: the host packs coordinates of patches instead of features."""
        side = math.isqrt(self.largest_crop(model, {}))
        ahead = torch.arange(side).float()
        across = 1
        coordinates = torch.stack(torch.meshgrid(ahead, ahead, indexing="ij"), dim=-1).expand(crops, -1, -1, -1).clone()
        if crops > 1:
            config = model.config
            grid = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
            across, crop = grid[1], torch.arange(crops - 1).view(-1, 1, 1)
            coordinates[1:, ..., 0] += crop // across * side
            coordinates[1:, ..., 1] += crop % across * side
        return self.pack(model, coordinates.flatten(1, 2), size, options), across

    def places(self, model: PreTrainedModel, crops: int, size: torch.Tensor, options: dict) -> torch.LongTensor:
        """(K, N): which placeholder each patch ends up in.

        Where the host scales a large picture's tokens down, a token is that of the patch nearest to it, and the patches
        between have none.
        """
        side = math.isqrt(self.largest_crop(model, {}))
        packed, across = self.packed(model, crops, size, options)
        places = torch.full((crops, side * side), -1)
        places[0] = torch.arange(side * side)
        (tokens,) = (packed[side * side :, 0] >= 0).nonzero(as_tuple=True)
        y, x = packed[side * side :][tokens].round().long().unbind(1)
        places[1 + y // side * across + x // side, y % side * side + x % side] = tokens + side * side
        return places

    def pack(self, model: PreTrainedModel, values: torch.Tensor, size: torch.Tensor, options: dict) -> torch.Tensor:
        """(n, c): values (K, N, c) of all patches as the host packs them, with -1 for a newline."""
        newline = torch.full((values.shape[-1],), -1.0)
        strategy = options["vision_feature_select_strategy"]
        return model.model.pack_image_features([values], [size], strategy, image_newline=newline)[0][0]

    def largest_crop(self, model: PreTrainedModel, given: dict) -> int:
        return patches_per_crop(model.model.vision_tower)


HOST = LlavaNextHost()
