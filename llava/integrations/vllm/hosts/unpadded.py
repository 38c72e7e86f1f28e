"""Models that join a picture's crops less their padding, a newline behind each row: LLaVA-NeXT and LLaVA-OneVision.

A patch that is padding has no token, so how many tokens are left of a picture would depend on which patches are kept.
vLLM must know the number before. So a picture that fills its crops is pruned, and any other refused; frames of a video
have no padding.

Shapes: K crops of a picture, the whole picture first, N patches of each, D channels of a token.
"""

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch.nn.functional import pad
from transformers import BatchFeature
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal.inputs import MultiModalKwargsItem

from llava.errors import InputError
from llava.integrations.vllm.hosts.base import PIXELS, PrunedInfo, PrunedModel, ShorteningProcessor
from llava.integrations.vllm.settings import choose, unpack
from llava.pruning import Views

# What transformers saves has names that the published files and vLLM have not.
AS_PUBLISHED = WeightsMapper(
    orig_to_new_regex={re.compile(r"\bvision_tower\.(?!vision_model\.)"): "vision_tower.vision_model."}
)
_SAYS = {"image": "image_sizes", "video": PIXELS["video"]}  # how large it is


def crops_of(config, size: torch.Tensor) -> tuple[int, int]:
    """How many crops a picture of `size` (height, width) is cut into, in a column and in a row."""
    grid = get_anyres_image_grid_shape(size.tolist(), config.image_grid_pinpoints, config.vision_config.image_size)
    return tuple(map(int, grid))


class UnpaddedInfo(PrunedInfo):
    def refuse_padding(self, size: torch.Tensor) -> None:
        """Raise InputError for a picture of `size` (height, width) that does not fill its crops."""
        (height, width), (down, across) = size.tolist(), crops_of(self.get_hf_config(), size)
        side = self.get_vision_encoder_info().get_patch_grid_length()
        left, newlines = self._get_num_unpadded_features(
            original_height=height,
            original_width=width,
            npatches=side,
            num_patch_height=down,
            num_patch_width=across,
        )
        if (left, newlines) != (down * side * across * side, down * side):
            raise InputError(
                f"a picture of {width} x {height} pixels does not fill its {across} x {down} crops, so that how many "
                "tokens are kept of it depends on which they are, and vLLM must know it before: pad or resize it to "
                "one of image_grid_pinpoints, or keep all"
            )


class UnpaddedProcessor(ShorteningProcessor):
    """Puts as many placeholders into a prompt as its settings keep of all crops of an image, or frames of a video."""

    def crops(self, modality: str, data: BatchFeature) -> list[tuple[int, int]]:
        return [self._crops_of(modality, given) for given in data.get(_SAYS[modality], ())]

    def _crops_of(self, modality: str, given: torch.Tensor) -> tuple[int, int]:
        """Patches and number of crops of an image's size, or of a video's frames."""
        if modality == "video":
            number, _, height, width = given.shape
            return self.info._get_num_frame_tokens(image_width=width, image_height=height), number
        down, across = crops_of(self.info.get_hf_config(), given)
        return self.info.get_vision_encoder_info().get_patch_grid_length() ** 2, 1 + down * across

    def _postprocess_hf_mm_data(
        self,
        mm_inputs: Mapping[str, object],
        hf_processor_mm_kwargs: Mapping[str, object],
        processed_data: BatchFeature,
    ) -> BatchFeature:
        data = super()._postprocess_hf_mm_data(mm_inputs, hf_processor_mm_kwargs, processed_data)
        for size, row in zip(data.get("image_sizes", ()), data.get("image_pruning", ()), strict=True):
            if self._dropped(row, self._crops_of("image", size)):
                self.info.refuse_padding(size)
        return data

    def _dropped(self, row: torch.LongTensor, crops: tuple[int, int]) -> int:
        """How many tokens of a picture of so many patches and crops are dropped."""
        patches, number = crops
        return patches * number - unpack(row, self.info.server_settings).kept(patches, number)

    def shortened(self, modality: str, whole: list[int], item: MultiModalKwargsItem) -> list[int]:
        data = item.get_data()
        crops = self._crops_of(modality, data[_SAYS[modality]])
        return whole[: len(whole) - self._dropped(data[f"{modality}_pruning"], crops)]


class Unpadded(PrunedModel):
    """Comes before a model's own class."""

    # What differs between hosts

    def encode(self, pixels: torch.Tensor) -> Views:
        """Of crops (K, 3, height, width)."""
        raise NotImplementedError

    def join(self, size: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(n, D) of the tokens (K, N, D) of a picture of `size` (height, width), newlines among them."""
        raise NotImplementedError

    def embed_video(self, frames: torch.Tensor, row: torch.LongTensor) -> torch.Tensor:
        """The kept tokens of a video, (n, D)."""
        raise NotImplementedError

    # From pixels to kept tokens

    def embed_pictures(self, modality: str, given: dict) -> Iterator[torch.Tensor]:
        pictures, rows = given[PIXELS[modality]], given[f"{modality}_pruning"]
        for i, (pixels, row) in enumerate(zip(pictures, rows, strict=True)):
            if modality == "video":
                yield self.embed_video(pixels, row)
            else:
                yield self._embed_image(pixels, given["image_sizes"][i], row)

    def _embed_image(self, pixels: torch.Tensor, size: torch.Tensor, row: torch.LongTensor) -> torch.Tensor:
        down, across = crops_of(self.config, size)
        views = self.encode(pixels[: 1 + down * across]).project_by(self.multi_modal_projector)
        patches = choose(views, unpack(row, self.server_settings)).patches
        whole = self.join(size, views.projected)
        crops, number, _ = views.features.shape
        if patches.numel() == crops * number:
            return whole
        kept = torch.zeros(len(patches), crops * number // len(patches), dtype=torch.bool, device=whole.device)
        kept = kept.scatter(1, patches, True).view(crops, *[math.isqrt(number)] * 2)
        rows = kept[1:].unflatten(0, (down, across)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        return whole[torch.cat([kept[0].flatten(), pad(rows, (0, 1), value=True).flatten()])]
