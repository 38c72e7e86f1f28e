"""Qwen3-VL-MoE in vLLM with pruned pictures and videos: as Qwen3-VL, on a language model with experts."""

from vllm.model_executor.models import qwen3_vl_moe as own
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.integrations.vllm.hosts.base import PrunedInfo
from llava.integrations.vllm.hosts.mrope import PrunedMRoPE
from llava.integrations.vllm.hosts.qwen3_vl import Processor


class Info(PrunedInfo, own.Qwen3VLMoeProcessingInfo):
    pass


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder)
class Qwen3VLMoeForConditionalGeneration(PrunedMRoPE, own.Qwen3VLMoeForConditionalGeneration):
    """The name is vLLM's: it looks for some classes by it."""
