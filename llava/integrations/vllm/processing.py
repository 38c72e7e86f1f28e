"""From a request's pictures to pixels and placeholders: how many visual tokens a picture has is decided here."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from transformers import BatchFeature, LlavaConfig
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from llava.checkpoints.folders import find_folder
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.integrations.vllm.processor import VisPrunerLlavaProcessor, patches_of_crop
from llava.integrations.vllm.settings import read_budget
from llava.pruning import Settings
from llava.vision.grids import get_anyres_image_grid_shape, is_anyres


class VisPrunerLlavaProcessingInfo(BaseProcessingInfo):
    """What vLLM asks of a checkpoint's pictures before it has run the model."""

    def get_hf_config(self) -> LlavaConfig:
        return self.ctx.get_hf_config(LlavaConfig)

    def get_hf_processor(self, **kwargs: object) -> VisPrunerLlavaProcessor:
        """The processor, one for all settings. Raises InputError for invalid settings: vLLM tells the client."""
        self.settings(kwargs)
        return self._processor

    @cached_property
    def _processor(self) -> VisPrunerLlavaProcessor:
        folder = find_folder(self.model_id, "checkpoint")
        return VisPrunerLlavaProcessor.from_folder(folder, self.get_tokenizer(), self.get_hf_config())

    def settings(self, given: Mapping[str, object]) -> Settings:
        """The settings of a request with these `mm_processor_kwargs`."""
        return read_budget(given, self.ctx.get_mm_config().mm_processor_kwargs).settings_for(self.patches)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    @property
    def patches(self) -> int:
        return patches_of_crop(self.get_hf_config())

    def get_num_image_tokens(self, *, image_width: int, image_height: int, settings: Settings) -> int:
        """Visual tokens of a picture of this size."""
        return settings.kept(self.patches, self._crops((image_width, image_height)))

    def _crops(self, size: tuple[int, int]) -> int:
        """Crops of a picture of `size` (W, H)."""
        config = self.get_hf_config()
        if not is_anyres(config.image_aspect_ratio):
            return 1
        across, down = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
        return 1 + across * down

    def largest_size(self) -> tuple[int, int]:
        """The (W, H) of a picture with as many crops as there can be."""
        config, side = self.get_hf_config(), self.get_hf_config().vision_config.image_size
        if not is_anyres(config.image_aspect_ratio):
            return side, side
        return max((tuple(size) for size in config.image_grid_pinpoints), key=self._crops)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """All patches: a request may ask for more than the server's own budget."""
        return {"image": self._crops(self.largest_size()) * self.patches}


class VisPrunerLlavaDummyInputs(BaseDummyInputsBuilder[VisPrunerLlavaProcessingInfo]):
    """The pictures that vLLM measures memory with."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return DEFAULT_IMAGE_TOKEN * mm_counts.get("image", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions
    ) -> MultiModalDataDict:
        width, height = self.info.largest_size()
        number, overrides = mm_counts.get("image", 0), mm_options.get("image")
        images = self._get_dummy_images(width=width, height=height, num_images=number, overrides=overrides)
        return {"image": images}


class VisPrunerLlavaMultiModalProcessor(BaseMultiModalProcessor[VisPrunerLlavaProcessingInfo]):
    """Puts as many placeholders into a prompt as the picture's settings keep visual tokens."""

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        on_cpu = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return {
            "pixel_values": MultiModalFieldConfig.batched("image"),
            "image_sizes": on_cpu,
            "pruning_settings": on_cpu,
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        placeholder = self.info.get_hf_config().image_token_index
        settings = self.info.settings(hf_processor_mm_kwargs)

        def placeholders(index: int) -> list[int]:
            size = mm_items.get_items("image", ImageProcessorItems).get_image_size(index)
            number = self.info.get_num_image_tokens(image_width=size.width, image_height=size.height, settings=settings)
            return [placeholder] * number

        return [PromptReplacement(modality="image", target=[placeholder], replacement=placeholders)]
