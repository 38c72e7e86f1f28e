"""Qwen3.5 and Qwen3.5-MoE in vLLM with pruned pictures and videos: Qwen3-VL's tower without deepstack."""

from vllm.model_executor.models import qwen3_5 as own
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.integrations.vllm.hosts.base import PrunedInfo
from llava.integrations.vllm.hosts.mrope import PrunedMRoPE
from llava.integrations.vllm.hosts.qwen3_vl import Processor


class Info(PrunedInfo, own.Qwen3_5ProcessingInfo):
    pass


class MoeInfo(PrunedInfo, own.Qwen3_5MoeProcessingInfo):
    pass


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder)
class Qwen3_5ForConditionalGeneration(PrunedMRoPE, own.Qwen3_5ForConditionalGeneration):
    """The name is vLLM's: it looks for some classes by it."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=MoeInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class Qwen3_5MoeForConditionalGeneration(PrunedMRoPE, own.Qwen3_5MoeForConditionalGeneration):
    """The name is vLLM's: it looks for some classes by it."""
