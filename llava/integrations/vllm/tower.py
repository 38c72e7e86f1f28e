"""What vLLM's CLIP gives the pruning methods: the views of the layer that LLaVA reads.

vLLM builds the tower up to that layer. Under tensor parallelism each rank has some of the heads, so that a mean over
heads is the mean of the ranks' own.

Shapes: K crops, N patches, C channels, H heads of this rank.
"""

import math
from functools import cached_property

import torch
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.models.clip import CLIPEncoderLayer, CLIPVisionModel

from llava.pruning import Views
from llava.pruning.importance import paid_by_cls


class _SelectedLayer:
    """The last layer, run on K crops. Keys and the [CLS] row are computed alongside it, when a method asks for them."""

    def __init__(self, layer: CLIPEncoderLayer, layer_input: torch.Tensor) -> None:
        """`layer_input` is (K, 1 + N, C), [CLS] first."""
        self.layer, self.layer_input = layer, layer_input
        self.hidden_states = layer(layer_input)

    @cached_property
    def _queries_and_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(K, H, 1, head width) of [CLS] and (K, H, 1 + N, head width)."""
        attention = self.layer.self_attn
        joined, _ = attention.qkv_proj(self.layer.layer_norm1(self.layer_input))
        query, keys, _ = joined.chunk(3, dim=-1)
        query, keys = query[:, :1].contiguous(), keys.contiguous()  # as if they had not been joined, to the last bit
        return tuple(x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (query, keys))

    def importance(self) -> torch.Tensor:
        """(K, N) float32: the attention of [CLS] to the patches, mean over heads."""
        return self._over_ranks(paid_by_cls(*self._queries_and_keys, self.layer.self_attn.scale).mean(dim=1))

    def mean_keys(self) -> torch.Tensor:
        """(K, 1 + N, head width): the keys, mean over heads."""
        return self._over_ranks(self._queries_and_keys[1].mean(dim=1))

    def _over_ranks(self, mean: torch.Tensor) -> torch.Tensor:
        """The mean over all heads, of one over this rank's."""
        ranks = self.layer.self_attn.tp_size
        return mean if ranks == 1 else tensor_model_parallel_all_reduce(mean.contiguous()) / ranks


def use_plain_kernels(tower: CLIPVisionModel) -> None:
    """Let a tower in float32 compute as the evaluation's does, to the last bit, on which the selection can turn.

    vLLM has other kernels for a CPU: a product in place of the convolution, and packed weights.
    """
    tower.vision_model.embeddings.patch_embedding.enable_linear = False
    for module in tower.modules():
        if isinstance(module, LinearBase):
            module._cpu_skip_gemm_dispatch = True


def encode(tower: CLIPVisionModel, pixels: torch.Tensor) -> Views:
    """What the selected layer says of crops (K, 3, height, width)."""
    encoder = tower.vision_model
    hidden_states = encoder.pre_layrnorm(encoder.embeddings(pixels))
    *before, last = encoder.encoder.layers
    for layer in before:
        hidden_states = layer(hidden_states)
    selected = _SelectedLayer(last, hidden_states)
    return Views(
        selected.hidden_states[:, 1:],
        importance=selected.importance,
        hidden_states=selected.hidden_states,
        keys=selected.mean_keys,
        grid=torch.tensor([[math.isqrt(selected.hidden_states.shape[1] - 1)] * 2] * len(pixels)),
        pixels=pixels,
    )
