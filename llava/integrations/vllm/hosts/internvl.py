"""InternVL in vLLM with pruned pictures and videos: tiles of one size, or frames, and a tower with a [CLS].

It is vLLM's class for InternVL in transformers' layout, which is that of Intern-S1 too.

Shapes: K tiles, or frames, N tokens of each, T kept ones, D channels of a token.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import torch
from transformers import BatchFeature
from vllm.model_executor.models import interns1 as own
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalKwargsItem
from vllm.multimodal.processing import PromptUpdateDetails

from llava.integrations.transformers.hosts.vit import pool_mean
from llava.integrations.vllm.hosts.base import PATCHES_TOGETHER, PIXELS, PrunedInfo, PrunedModel, ShorteningProcessor
from llava.integrations.vllm.settings import choose, unpack
from llava.integrations.vllm.tower import heads_of, watching
from llava.pruning import Views
from llava.pruning.importance import paid_by_cls
from llava.pruning.settings import NAMES
from llava.pruning.views import square_grids


class Info(PrunedInfo, own.InternS1ProcessingInfo):
    def get_hf_processor(self, **kwargs: object) -> own.InternVLProcessor:
        return super().get_hf_processor(**{name: value for name, value in kwargs.items() if name not in NAMES})


class Processor(ShorteningProcessor, own.InternS1MultiModalProcessor):
    """Puts as many placeholders into a prompt as its settings keep of all tiles of an image, and of each frame."""

    def crops(self, modality: str, data: BatchFeature) -> list[tuple[int, int]]:
        patches, numbers = self.info.get_hf_processor().image_seq_length, data.get(f"{modality}_num_patches", ())
        return [(patches, int(number) if modality == "image" else 1) for number in numbers]

    def shortened(self, modality: str, whole: PromptUpdateDetails, item: MultiModalKwargsItem) -> PromptUpdateDetails:
        """Of the placeholders of each tile, or frame, those of kept tokens are left."""
        patches, settings = self.info.get_hf_processor().image_seq_length, self.settings_of(modality, item)
        left: list[int] = []
        for is_own, run in groupby(zip(whole.is_embed(whole.full).tolist(), whole.full), key=lambda pair: pair[0]):
            ids = [number for _, number in run]
            left += ids[: settings.kept(patches, len(ids) // patches)] if is_own else ids
        return replace(whole, full=left)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=own.InternS1DummyInputsBuilder)
class InternVLForConditionalGeneration(PrunedModel, own.InternS1ForConditionalGeneration):
    def embed_pictures(self, modality: str, given: dict) -> Iterator[torch.Tensor]:
        """The kept tokens of each image, or of all frames of each video, (n, D)."""
        views, start = self._encode(given[PIXELS[modality]]), 0
        for number, row in zip(given[f"{modality}_num_patches"].tolist(), given[f"{modality}_pruning"], strict=True):
            settings, end = unpack(row, self.server_settings), start + number
            step = number if modality == "image" else 1  # a frame has a budget of its own
            parts = [views.crops(slice(first, first + step)) for first in range(start, end, step)]
            yield torch.cat([choose(part, settings).tokens.flatten(0, 1) for part in parts])
            start = end

    def _encode(self, pixels: torch.Tensor) -> Views:
        """Of tiles (K, 3, height, width)."""
        of_tile = self.num_image_token / self.downsample_ratio**2
        together = 1 if self.encodes_one_by_one else max(1, int(PATCHES_TOGETHER / of_tile))
        return Views.joined([self._run_tower(part) for part in pixels.split(together)])

    def _run_tower(self, pixels: torch.Tensor) -> Views:
        attention = self.vision_tower.encoder.layer[-1].attention
        with watching(attention.attn) as watched:
            tokens = self.extract_feature(pixels)

        def importance() -> torch.Tensor:
            """(K, N) float32: the attention of [CLS] to the patches, mean over heads and over a token's patches."""
            query, key = heads_of(watched, attention.head_dim)
            of_patches = paid_by_cls(query[:, :, :1], key, attention.scale).mean(dim=1)
            return pool_mean(of_patches, round(1 / self.downsample_ratio))

        grid = square_grids(*tokens.shape[:2])
        return Views(tokens, importance=importance, pixels=pixels, projected=tokens, grid=grid)
