"""Qwen3-VL: as Qwen2-VL, and features of some tower layers enter the first layers of the language model (deepstack)."""

from contextlib import AbstractContextManager

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.base import handing_on
from llava.integrations.transformers.hosts.qwen2_vl import Qwen2VLHost


class Qwen3VLHost(Qwen2VLHost):
    models = ("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
    written = r"<\d+(?:\.\d+)? seconds>"  # before each time step of a video

    def entering(
        self, model: PreTrainedModel, is_visual: torch.BoolTensor, layers: tuple[torch.Tensor, ...]
    ) -> AbstractContextManager:
        deepstack = {"visual_pos_masks": is_visual, "deepstack_visual_embeds": list(layers)}
        return handing_on(model.model.language_model, lambda given: given | deepstack)


HOST = Qwen3VLHost()
