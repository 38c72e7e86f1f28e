"""What vLLM's CLIP gives the pruning methods: the views of the layer that LLaVA reads.

vLLM builds the tower up to that layer. Under tensor parallelism each rank has some of the heads, so that a mean over
heads is the mean of the ranks' own.

Shapes: K crops, N patches, C channels, H heads of this rank.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import nn
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.conv import ConvLayerBase
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.models.clip import CLIPEncoderLayer, CLIPVisionModel

from llava.pruning import Views
from llava.pruning.importance import object_place, paid_by_cls, received
from llava.pruning.views import square_grids


class _Layer:
    """A layer on K crops. Queries and keys are computed alongside it, when a method asks for what they give."""

    def __init__(self, layer: CLIPEncoderLayer, layer_input: torch.Tensor) -> None:
        """`layer_input` is (K, 1 + N, C), [CLS] first."""
        self.layer, self.layer_input = layer, layer_input

    @cached_property
    def _queries_and_keys(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(K, H, 1 + N, head width) each."""
        attention = self.layer.self_attn
        joined, _ = attention.qkv_proj(self.layer.layer_norm1(self.layer_input))
        # as if they had not been joined, to the last bit
        queries, keys = (part.contiguous() for part in joined.chunk(3, dim=-1)[:2])
        return tuple(x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (queries, keys))

    def importance(self) -> torch.Tensor:
        """(K, N) float32: the attention of [CLS] to the patches, mean over heads."""
        queries, keys = self._queries_and_keys
        of_cls = queries[:, :, :1].contiguous()
        return self._over_ranks(paid_by_cls(of_cls, keys, self.layer.self_attn.scale).mean(dim=1))

    def received(self) -> torch.Tensor:
        """(K, N) float32: the attention that each patch receives, mean over all 1 + N queries and over heads."""
        whole = received(*self._queries_and_keys, self.layer.self_attn.scale) / self.layer_input.shape[1]
        return self._over_ranks(whole)[:, 1:]

    def mean_keys(self) -> torch.Tensor:
        """(K, 1 + N, head width): the keys, mean over heads."""
        return self._over_ranks(self._queries_and_keys[1].mean(dim=1))

    def _over_ranks(self, mean: torch.Tensor) -> torch.Tensor:
        return mean_over_ranks(mean, self.layer.self_attn.tp_size)


def use_plain_kernels(tower: nn.Module) -> None:
    """Let a tower in float32 compute as the evaluation's does, to the last bit, on which the selection can turn.

    vLLM has other kernels for a CPU: a product in place of the convolution, and packed weights.
    """
    for module in tower.modules():
        if isinstance(module, ConvLayerBase):
            module.enable_linear = False
        if isinstance(module, LinearBase):
            module._cpu_skip_gemm_dispatch = True


def mean_over_ranks(mean: torch.Tensor, ranks: int) -> torch.Tensor:
    """The mean over all heads, of one over this rank's."""
    return mean if ranks == 1 else tensor_model_parallel_all_reduce(mean.contiguous()) / ranks


@contextmanager
def watching(operator: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Note the queries and keys that an attention operator of vLLM's gets, of this rank's heads, in its own shape."""
    watched: list[torch.Tensor] = []

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        watched[:] = args[:2] or (kwargs["query"], kwargs["key"])

    handle = operator.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield watched
    finally:
        handle.remove()


def heads_of(watched: list[torch.Tensor], width: int) -> Iterator[torch.Tensor]:
    """Queries and keys (K, M, H * width) -> (K, H, M, width) each."""
    return (joined.unflatten(-1, (-1, width)).transpose(1, 2) for joined in watched)


def encode(tower: CLIPVisionModel, pixels: torch.Tensor) -> Views:
    """What the selected layer says of crops (K, 3, height, width)."""
    encoder = tower.vision_model
    hidden_states = encoder.pre_layrnorm(encoder.embeddings(pixels))
    layers, inputs = encoder.encoder.layers, []
    of_object = object_place(encoder.config.num_hidden_layers, len(layers))
    for place, layer in enumerate(layers):
        if place in (of_object, len(layers) - 1):
            inputs.append(hidden_states)
        hidden_states = layer(hidden_states)
    selected = _Layer(layers[-1], inputs[-1])
    return Views(
        hidden_states[:, 1:],
        importance=selected.importance,
        received=selected.received,
        object_received=_Layer(layers[of_object], inputs[0]).received,
        hidden_states=hidden_states,
        keys=selected.mean_keys,
        grid=square_grids(len(pixels), hidden_states.shape[1] - 1),
        pixels=pixels,
    )
