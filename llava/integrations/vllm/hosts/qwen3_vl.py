"""Qwen3-VL in vLLM with pruned pictures and videos.

Behind a token's own channels are those that enter the first layers of the language model (deepstack).
"""

from vllm.model_executor.models import qwen3_vl as own
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.integrations.vllm.hosts.base import PrunedInfo
from llava.integrations.vllm.hosts.grids import GridProcessor
from llava.integrations.vllm.hosts.mrope import PrunedMRoPE


class Info(PrunedInfo, own.Qwen3VLProcessingInfo):
    pass


class Processor(GridProcessor, own.Qwen3VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=own.Qwen3VLDummyInputsBuilder)
class Qwen3VLForConditionalGeneration(PrunedMRoPE, own.Qwen3VLForConditionalGeneration):
    """The name is vLLM's: it looks for some classes by it."""
