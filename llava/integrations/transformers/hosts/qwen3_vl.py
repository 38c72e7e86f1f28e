"""Qwen3-VL: as Qwen2-VL, and features of some tower layers enter the first layers of the language model (deepstack)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.qwen2_vl import Qwen2VLHost


class Qwen3VLHost(Qwen2VLHost):
    models = ("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
    written = r"<\d+(?:\.\d+)? seconds>"  # before each time step of a video

    @contextmanager
    def entering(
        self, model: PreTrainedModel, is_visual: torch.BoolTensor, layers: tuple[torch.Tensor, ...]
    ) -> Iterator[None]:
        thread = threading.get_ident()

        def add_features(module: torch.nn.Module, args: tuple, kwargs: dict | None = None) -> tuple | None:
            if threading.get_ident() != thread:
                return None  # also where another thread has removed half of the hook, and there are no kwargs
            return args, {**kwargs, "visual_pos_masks": is_visual, "deepstack_visual_embeds": list(layers)}

        handle = model.model.language_model.register_forward_pre_hook(add_features, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


HOST = Qwen3VLHost()
