"""Qwen2.5-VL in vLLM with pruned pictures and videos; most layers of its tower attend within windows."""

import torch
from vllm.model_executor.models import qwen2_5_vl as own
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.integrations.vllm.hosts.base import PrunedInfo
from llava.integrations.vllm.hosts.grids import GridProcessor
from llava.integrations.vllm.hosts.qwen2_vl import FramesInARow


class Info(PrunedInfo, own.Qwen2_5_VLProcessingInfo):
    pass


class Processor(GridProcessor, own.Qwen2_5_VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=own.Qwen2_5_VLDummyInputsBuilder)
class Qwen2_5_VLForConditionalGeneration(FramesInARow, own.Qwen2_5_VLForConditionalGeneration):
    """The name is vLLM's: it looks for some classes by it."""

    def segments(self, frames: int, height: int, width: int) -> list[int]:
        if len(self.visual.blocks) - 1 in self.visual.fullatt_block_indexes:
            return super().segments(frames, height, width)
        ends = self.visual.get_rope_by_thw(frames, height, width)[3]
        return ends.diff(prepend=ends.new_zeros(1)).tolist()

    def in_raster_order(self, of_tokens: torch.Tensor, frames: int, height: int, width: int) -> torch.Tensor:
        of_windows = self.visual.get_rope_by_thw(frames, height, width)[2]
        return of_tokens[of_windows.argsort().to(of_tokens.device)]
