"""Processors of models that say a picture's size as a grid of patches, merged m x m: how many of them are kept.

A frame is what the tower sees at once: an image, or one of the time steps of a video; T counts per frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItem, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import ProcessorInputs, PromptUpdate

from llava.integrations.vllm.hosts.base import PrunedInfo, PrunedProcessor
from llava.integrations.vllm.settings import Tower, own_settings, pack, unpack

MODALITIES = ("image", "video")


class GridInfo(PrunedInfo):
    tower = Tower(("importance", "grid", "pixels", "projected"), merges=False)


class GridProcessor(PrunedProcessor):
    """Puts as many placeholders into a prompt as its settings keep of each frame."""

    @property
    def _merged(self) -> int:
        """How many patches become a token."""
        return self.info.get_hf_config().vision_config.spatial_merge_size ** 2

    def _get_cache_missing_processor_kwargs(
        self, inputs: ProcessorInputs, mm_is_cached: Mapping[str, list[bool]]
    ) -> Mapping[str, object]:
        """A video's own options may be merged here, less the settings."""
        options = super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached)
        return {**options, **own_settings(inputs.hf_processor_mm_kwargs)}

    def _postprocess_hf_mm_data(
        self,
        mm_inputs: Mapping[str, object],
        hf_processor_mm_kwargs: Mapping[str, object],
        processed_data: BatchFeature,
    ) -> BatchFeature:
        """Adds each picture's settings: one row of `pack`, in which a share has become a number."""
        data = super()._postprocess_hf_mm_data(mm_inputs, hf_processor_mm_kwargs, processed_data)
        budget = self.info.budget(hf_processor_mm_kwargs)
        for modality in MODALITIES:
            if len(grids := data.get(f"{modality}_grid_thw", ())):
                patches = (grids[:, 1] * grids[:, 2] // self._merged).tolist()
                data[f"{modality}_pruning"] = torch.stack([pack(budget.settings_for(number)) for number in patches])
        return data

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        own = {f"{name}_pruning": MultiModalFieldConfig.batched(name, keep_on_cpu=True) for name in MODALITIES}
        return {**super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs), **own}

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
        settings = unpack(item[f"{modality}_pruning"].data, self.info.server_settings)
        kept = settings.kept(height * width // self._merged)
        return MultiModalKwargsItem({**item, name: replace(grid, data=torch.tensor([frames, self._merged, kept]))})
