"""Views of vision towers that are plain stacks of layers: CLIP, SigLIP and InternVL's.

Shapes: K crops, N patches, M tokens (1 + N with [CLS]), C channels.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from llava.errors import InputError
from llava.integrations.transformers.importance import Watched, cls_attention, watching
from llava.pruning import Views
from llava.pruning.importance import object_place, received_attention
from llava.pruning.views import square_grids

_HAS_CLS = {
    "clip_vision_model": True,
    "siglip_vision_model": False,
    "internvl_vision": True,
}


class TowerRun:
    """One run of a tower, as far as the layers that the host reads are concerned."""

    def __init__(self, watched: Watched, layers: list[nn.Module], of_object: nn.Module, has_cls: bool) -> None:
        """`of_object` is the attention of the tower's object layer."""
        self._watched, self._layers, self._of_object, self._has_cls = watched, layers, of_object, has_cls

    def views(self, pixels: torch.Tensor, projected: torch.Tensor | None = None) -> Views:
        """What the layers say of crops `pixels` (K, 3, height, width), whose features the host made `projected`.

        Features are those that the host reads, of several layers one after the other; importance is that of the last.
        """
        features = torch.cat([self._watched.outputs[layer] for layer in self._layers], dim=-1)
        return Views(
            features[:, 1:] if self._has_cls else features,
            importance=self.importance,
            hidden_states=features if self._has_cls else None,
            received=lambda: self._received(_attention_of(self._layers[-1])),
            object_received=lambda: self._received(self._of_object),
            grid=square_grids(len(features), features.shape[1] - self._has_cls),
            pixels=pixels,
            projected=projected,
        )

    def importance(self) -> torch.Tensor:
        """(K, N) float32: of each patch, in the last of the layers."""
        attention = _attention_of(self._layers[-1])
        how = cls_attention if self._has_cls else received_attention
        return how(attention, self._watched.hidden_states(attention))

    def _received(self, attention: nn.Module) -> torch.Tensor:
        """(K, N) float32: what each patch receives in a layer, mean over all queries and over heads."""
        return received_attention(attention, self._watched.hidden_states(attention))[:, self._has_cls :]


@contextmanager
def run_of(tower: nn.Module, read_layers: int | list[int], strategy: str) -> Iterator[TowerRun]:
    """Note, until the block ends, what a run of `tower` says of the layers that the host reads.

    Args:
        read_layers: indices of hidden states, as in the config's `vision_feature_layer`.
        strategy: `default`, which drops [CLS], or `full`, as in `vision_feature_select_strategy`.

    Raises InputError for another tower and where [CLS] is among the features.
    """
    kind = tower.config.model_type
    if kind not in _HAS_CLS:
        raise InputError(f"pruning does not know the vision tower {kind!r}; it knows {', '.join(_HAS_CLS)}")
    if _HAS_CLS[kind] != (strategy == "default"):
        wanted = "default" if _HAS_CLS[kind] else "full"
        raise InputError(f"pruning needs vision_feature_select_strategy {wanted!r} with this tower, not {strategy!r}")
    layers = _layers(tower, [read_layers] if isinstance(read_layers, int) else list(read_layers))
    last = max(layers, key=list(_stack(tower)).index)
    ordered = [layer for layer in layers if layer is not last] + [last]
    stack = list(_stack(tower))
    of_object = _attention_of(stack[object_place(len(stack), 1 + stack.index(last))])
    with watching(inputs=[_attention_of(last), of_object], outputs=layers) as watched:
        yield TowerRun(watched, ordered, of_object, _HAS_CLS[kind])


def pool_mean(values: torch.Tensor, stride: int) -> torch.Tensor:
    """(K, n): the mean of values (K, N) of patches in squares over each `stride` x `stride` of them."""
    side = math.isqrt(values.shape[1])
    return torch.nn.functional.avg_pool2d(values.view(-1, 1, side, side), stride).flatten(1)


def patches_per_crop(tower: nn.Module) -> int:
    """N of a tower whose crops are squares of one size."""
    side, patch = tower.config.image_size, tower.config.patch_size
    side, patch = (side[0], patch[0]) if isinstance(side, list | tuple) else (side, patch)
    return (side // patch) ** 2


def _stack(tower: nn.Module) -> nn.ModuleList:
    """All layers; older releases of transformers have them one module deeper."""
    encoder = getattr(tower, "vision_model", tower).encoder
    return encoder.layers if hasattr(encoder, "layers") else encoder.layer


def _attention_of(layer: nn.Module) -> nn.Module:
    return layer.self_attn if hasattr(layer, "self_attn") else layer.attention


def _layers(tower: nn.Module, indices: list[int]) -> list[nn.Module]:
    """The layers whose outputs the hidden states `indices` are: 1 is the first layer's, -1 the last one's."""
    stack = _stack(tower)
    layers = []
    for index in indices:
        number = index - 1 if index > 0 else len(stack) + index
        if index == 0 or not 0 <= number < len(stack):
            raise InputError(f"vision_feature_layer {index} is outside the tower's {len(stack)} layers")
        layers.append(stack[number])
    return layers
