"""Qwen2-VL in vLLM with pruned pictures and videos."""

from vllm.model_executor.models import qwen2_vl as own
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.integrations.vllm.hosts.base import PrunedInfo
from llava.integrations.vllm.hosts.grids import GridProcessor
from llava.integrations.vllm.hosts.mrope import PrunedMRoPE


class FramesInARow(PrunedMRoPE):
    """A video's frames follow one another without text between them, at positions that say the time."""

    def time_between(self, modality: str, given: dict, index: int) -> float:
        if modality != "video":
            return 0
        seconds = given.get("second_per_grid_ts")
        per_second = getattr(self.config.vision_config, "tokens_per_second", 1.0)
        return per_second * (1.0 if seconds is None else float(seconds[index]))


class Info(PrunedInfo, own.Qwen2VLProcessingInfo):
    pass


class Processor(GridProcessor, own.Qwen2VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=own.Qwen2VLDummyInputsBuilder)
class Qwen2VLForConditionalGeneration(FramesInARow, own.Qwen2VLForConditionalGeneration):
    """The name is vLLM's: it looks for some classes by it."""
