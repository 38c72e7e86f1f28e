"""Processors of models that say a picture's size as a grid of patches, merged m x m: how many of them are kept.

A frame is what the tower sees at once: an image, or one of the time steps of a video; T counts per frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import PromptUpdate

from llava.integrations.vllm.hosts.base import PrunedProcessor


class GridProcessor(PrunedProcessor):
    """Puts as many placeholders into a prompt as its settings keep of each frame."""

    @property
    def _merged(self) -> int:
        """How many patches become a token."""
        return self.info.get_hf_config().vision_config.spatial_merge_size ** 2

    def crops(self, modality: str, data: BatchFeature) -> list[tuple[int, int]]:
        grids = data.get(f"{modality}_grid_thw", ())
        return [(height * width // self._merged, 1) for _, height, width in map(torch.Tensor.tolist, grids)]

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        """vLLM's own, of frames that have as many patches as are kept."""
        kept = {
            modality: [self._with_kept_grid(modality, item) for item in items]
            for modality, items in out_mm_kwargs.items()
        }
        return super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, MultiModalKwargsItems(kept))

    def _with_kept_grid(self, modality: str, item: MultiModalKwargsItem) -> MultiModalKwargsItem:
        grid = item[name := f"{modality}_grid_thw"]
        frames, height, width = grid.data.tolist()
        kept = self.settings_of(modality, item).kept(height * width // self._merged)
        return MultiModalKwargsItem({**item, name: replace(grid, data=torch.tensor([frames, self._merged, kept]))})
