"""PaliGemma: a SigLIP tower, one crop an image; positions begin at 1, and all before the answer attends to itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.hosts.crops import CropHost
from llava.pruning.kv_cache import cache_in


class PaliGemmaHost(CropHost):
    models = ("PaliGemmaForConditionalGeneration",)
    aligned = ("token_type_ids",)  # 0 for what attends to one another
    first_position = 1

    @contextmanager
    def entering(
        self, model: PreTrainedModel, is_visual: torch.BoolTensor, layers: tuple[torch.Tensor, ...]
    ) -> Iterator[None]:
        """With a mask: a causal one is not handed on, and without, gaps between positions are ends of sequences."""
        thread = threading.get_ident()

        def add_mask(module: torch.nn.Module, args: tuple, kwargs: dict | None = None) -> tuple | None:
            if threading.get_ident() != thread:
                return None  # also where another thread has removed half of the hook, and there are no kwargs
            if cache_in(kwargs) is None and kwargs.get("attention_mask") is None:
                kwargs = {**kwargs, "attention_mask": torch.ones_like(is_visual, dtype=torch.long)}
            return args, kwargs

        handle = model.model.language_model.register_forward_pre_hook(add_mask, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


HOST = PaliGemmaHost()
