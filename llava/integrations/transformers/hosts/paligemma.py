"""PaliGemma: a SigLIP tower, one crop an image; positions begin at 1, and all before the answer attends to itself."""

from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import handing_on
from llava.integrations.transformers.hosts.crops import CropHost
from llava.pruning.kv_cache import cache_in


class PaliGemmaHost(CropHost):
    models = ("PaliGemmaForConditionalGeneration",)
    aligned = ("token_type_ids",)  # 0 for what attends to one another
    first_position = 1

    def entering(
        self, model: PreTrainedModel, is_visual: torch.BoolTensor, layers: tuple[torch.Tensor, ...]
    ) -> AbstractContextManager:
        """With a mask: a causal one is not handed on, and without, gaps between positions are ends of sequences."""

        def with_mask(given: dict) -> dict:
            if cache_in(given) is not None or given.get("attention_mask") is not None:
                return given
            return {**given, "attention_mask": torch.ones_like(is_visual, dtype=torch.long)}

        return handing_on(model.model.language_model, with_mask)


HOST = PaliGemmaHost()
