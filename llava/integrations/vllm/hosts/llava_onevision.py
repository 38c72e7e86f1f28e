"""LLaVA-OneVision in vLLM with pruned videos, and pictures that fill their crops; its tower has no [CLS]."""

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models import llava_onevision as own
from vllm.model_executor.models.siglip import SiglipVisionModel
from vllm.multimodal import MULTIMODAL_REGISTRY

from llava.errors import InputError
from llava.integrations.vllm.hosts.unpadded import AS_PUBLISHED, Unpadded, UnpaddedInfo, UnpaddedProcessor
from llava.integrations.vllm.settings import choose, unpack
from llava.integrations.vllm.tower import heads_of, mean_over_ranks, watching
from llava.pruning import Views
from llava.pruning.importance import received
from llava.pruning.views import square_grids


class Info(UnpaddedInfo, own.LlavaOnevisionProcessingInfo):
    pass


class Processor(UnpaddedProcessor, own.LlavaOnevisionMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=own.LlavaOnevisionDummyInputsBuilder)
class LlavaOnevisionForConditionalGeneration(Unpadded, own.LlavaOnevisionForConditionalGeneration):
    hf_to_vllm_mapper = own.LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | AS_PUBLISHED

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if not isinstance(self.vision_tower, SiglipVisionModel) or self.config.vision_aspect_ratio != "anyres_max_9":
            raise InputError("LLaVA-OneVision is pruned in vLLM with SigLIP as its tower and anyres_max_9 alone")

    def encode(self, pixels: torch.Tensor) -> Views:
        attention = self.vision_tower.vision_model.encoder.layers[-1].self_attn
        with watching(attention.attn) as watched:
            features = self._image_pixels_to_features(self.vision_tower, pixels)

        def importance() -> torch.Tensor:
            """(K, N) float32: the attention that each patch receives, mean over queries and heads."""
            query, key = heads_of(watched, attention.head_dim)
            return mean_over_ranks(received(query, key, attention.scale) / features.shape[1], attention.tp_size)

        grid = square_grids(*features.shape[:2])
        return Views(features, importance=importance, pixels=pixels, grid=grid)

    def join(self, size: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        newline = self.image_newline
        return self._merge_image_patch_embeddings(size, tokens, image_newline=newline, strategy="spatial_unpad")

    def embed_video(self, frames: torch.Tensor, row: torch.LongTensor) -> torch.Tensor:
        whole = self.encode(frames)
        tokens = self.apply_pooling(self.multi_modal_projector(whole.features))
        views = Views(
            tokens,
            importance=lambda: self.apply_pooling(whole.importance.unsqueeze(-1)).squeeze(-1),
            pixels=frames,
            projected=tokens,
            grid=square_grids(*tokens.shape[:2]),
        )
        chosen = choose(views, unpack(row, self.server_settings))
        return torch.cat([chosen.tokens.flatten(0, 1), self.image_newline.unsqueeze(0)])
