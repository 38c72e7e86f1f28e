"""LLaVA-NeXT of transformers' layout in vLLM with pruned pictures, those that fill their crops."""

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models import llava_next as own
from vllm.model_executor.models.clip import CLIPVisionModel
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.errors import InputError
from llava.integrations.vllm.hosts.unpadded import AS_PUBLISHED, Unpadded, UnpaddedInfo, UnpaddedProcessor
from llava.integrations.vllm.tower import encode
from llava.pruning import Views


class Info(UnpaddedInfo, own.LlavaNextProcessingInfo):
    pass


class Processor(UnpaddedProcessor, own.LlavaNextMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=LlavaDummyInputsBuilder)
class LlavaNextForConditionalGeneration(Unpadded, own.LlavaNextForConditionalGeneration):
    hf_to_vllm_mapper = own.LlavaNextForConditionalGeneration.hf_to_vllm_mapper | AS_PUBLISHED

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if not isinstance(self.vision_tower, CLIPVisionModel) or self.select_layers is not None:
            raise InputError("LLaVA-NeXT is pruned in vLLM with one layer of CLIP as its tower alone")

    def encode(self, pixels: torch.Tensor) -> Views:
        return encode(self.vision_tower, pixels)

    def join(self, size: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self._merge_image_patch_embeddings(size, tokens, strategy="spatial_unpad")
