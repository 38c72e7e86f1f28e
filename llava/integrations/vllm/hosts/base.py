"""What all hosts share: a request's settings are read here, and transformers' processor never sees them.

Shapes: n kept tokens of a picture, D channels of a token.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import BatchFeature
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItem, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseProcessingInfo,
    InputProcessingContext,
    ProcessorInputs,
    PromptUpdate,
    PromptUpdateDetails,
)

from llava.integrations.vllm.settings import ServedBudget, own_settings, pack, read_budget, tower_of, unpack
from llava.integrations.vllm.tower import use_plain_kernels
from llava.model.encode import encodes_one_by_one
from llava.pruning import Settings
from llava.pruning.settings import NAMES

MODALITIES = ("image", "video")
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
PATCHES_TOGETHER = 2**14  # of pictures that are encoded at once: vLLM counts the tokens that are kept


class WithoutSettings(InputProcessingContext):
    """vLLM's context. Pruning settings are left out of the options that it merges: they are no processor's."""

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, object], **options: Any) -> dict[str, Any]:
        merged = super().get_merged_mm_kwargs(kwargs, **options)
        return {name: value for name, value in merged.items() if name not in NAMES}


class PrunedInfo(BaseProcessingInfo):
    """Comes before a model's own ProcessingInfo."""

    def __init__(self, ctx: InputProcessingContext) -> None:
        super().__init__(WithoutSettings(ctx.model_config, ctx.tokenizer))

    @property
    def server_settings(self) -> dict[str, object]:
        return own_settings(self.ctx.get_mm_config().mm_processor_kwargs)

    def budget(self, given: Mapping[str, object]) -> ServedBudget:
        """That of a request with these `mm_processor_kwargs`. Raises InputError: vLLM tells the client."""
        return read_budget(own_settings(given), self.server_settings, tower_of(self.get_hf_config()))


class PrunedProcessor:
    """Comes before a model's own MultiModalProcessor. Its pictures have `image_pruning` or `video_pruning` too."""

    def crops(self, modality: str, data: BatchFeature) -> list[tuple[int, int]]:
        """For each picture the patches of one of its crops, or frames, and how many of these may share a budget."""
        raise NotImplementedError

    def settings_of(self, modality: str, item: MultiModalKwargsItem) -> Settings:
        """Those of a picture that is processed already."""
        return unpack(item[f"{modality}_pruning"].data, self.info.server_settings)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """The largest pictures, unpruned: a request may ask for more tokens than the server's own settings keep."""
        inputs = super().get_dummy_inputs(*args, **kwargs)
        inputs.hf_processor_mm_kwargs = {**inputs.hf_processor_mm_kwargs, "visual_token_num": None}
        return inputs

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
            if rows := [pack(budget.settings_for(*crops)) for crops in self.crops(modality, data)]:
                data[f"{modality}_pruning"] = torch.stack(rows)
        return data

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        own = {f"{name}_pruning": MultiModalFieldConfig.batched(name, keep_on_cpu=True) for name in MODALITIES}
        return {**super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs), **own}


class ShorteningProcessor(PrunedProcessor):
    """Its prompts are vLLM's own, with as many placeholders of a picture as are kept."""

    def shortened(
        self, modality: str, whole: list[int] | PromptUpdateDetails, item: MultiModalKwargsItem
    ) -> list[int] | PromptUpdateDetails:
        """What stands for a picture in a prompt, of `whole`, which stands for it unpruned."""
        raise NotImplementedError

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        return [self._with_shortened(update, out_mm_kwargs.get(update.modality, ())) for update in updates]

    def _with_shortened(self, update: PromptUpdate, items: Sequence[MultiModalKwargsItem]) -> PromptUpdate:
        def replacement(index: int) -> list[int] | PromptUpdateDetails:
            return self.shortened(update.modality, update.replacement(index), items[index])

        return replace(update, replacement=replacement)


class PrunedModel:
    """Comes before a model's own class.

    Attributes:
        tower_name: of the attribute that has the vision tower.
        server_settings: those that the server was started with.
        encodes_one_by_one: whether its pictures pass the tower one after another.
    """

    tower_name = "vision_tower"

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        model = vllm_config.model_config
        self.server_settings = own_settings(model.multimodal_config.mm_processor_kwargs)
        self.encodes_one_by_one = encodes_one_by_one(model.dtype, training=False)
        if self.encodes_one_by_one:
            use_plain_kernels(getattr(self, self.tower_name))

    def embed_pictures(self, modality: str, given: dict) -> Iterator[torch.Tensor]:
        """The kept tokens (n, D) of each picture of a modality, of which some are `given`."""
        raise NotImplementedError

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """The kept tokens (n, D) of each picture."""
        given = [modality for modality in MODALITIES if kwargs.get(PIXELS[modality]) is not None]
        return tuple(kept for modality in given for kept in self.embed_pictures(modality, kwargs))
