"""What all hosts share: a request's settings are read here, and transformers' processor never sees them."""

from collections.abc import Mapping
from typing import Any

from vllm.multimodal.processing import BaseProcessingInfo, InputProcessingContext, ProcessorInputs

from llava.integrations.vllm.settings import ServedBudget, Tower, own_settings, read_budget
from llava.pruning.settings import NAMES


class WithoutSettings(InputProcessingContext):
    """vLLM's context. Pruning settings are left out of the options that it merges: they are no processor's."""

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, object], **options: Any) -> dict[str, Any]:
        merged = super().get_merged_mm_kwargs(kwargs, **options)
        return {name: value for name, value in merged.items() if name not in NAMES}


class PrunedInfo(BaseProcessingInfo):
    """Comes before a model's own ProcessingInfo."""

    tower: Tower

    def __init__(self, ctx: InputProcessingContext) -> None:
        super().__init__(WithoutSettings(ctx.model_config, ctx.tokenizer))

    @property
    def server_settings(self) -> dict[str, object]:
        return own_settings(self.ctx.get_mm_config().mm_processor_kwargs)

    def budget(self, given: Mapping[str, object]) -> ServedBudget:
        """That of a request with these `mm_processor_kwargs`. Raises InputError: vLLM tells the client."""
        return read_budget(own_settings(given), self.server_settings, self.tower)


class PrunedProcessor:
    """Comes before a model's own MultiModalProcessor."""

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """The largest pictures, unpruned: a request may ask for more tokens than the server's own settings keep."""
        inputs = super().get_dummy_inputs(*args, **kwargs)
        inputs.hf_processor_mm_kwargs = {**inputs.hf_processor_mm_kwargs, "visual_token_num": None}
        return inputs
