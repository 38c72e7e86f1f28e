"""Views of vision towers that are plain stacks of layers, such as CLIP, SigLIP and InternVL's.

What a tower is follows from its modules: the layers, the attention of each, and whether it has a [CLS].

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
from llava.pruning.importance import Rotation, object_place, received_attention, rotation
from llava.pruning.views import square_grids

_CLS = ("class_embedding", "cls_token")  # what towers call the parameter


class TowerRun:
    """One run of a tower, as far as the layers that the host reads are concerned."""

    def __init__(self, watched: Watched, layers: list[nn.Module], of_object: nn.Module, has_cls: bool) -> None:
        """`of_object` is the attention of the tower's object layer."""
        self._watched, self._layers, self._of_object, self._has_cls = watched, layers, of_object, has_cls

    def views(
        self, pixels: torch.Tensor, projected: torch.Tensor | None = None, read: torch.Tensor | None = None
    ) -> Views:
        """What the layers say of crops `pixels` (K, 3, height, width), whose features the host made `projected`.

        Features are those that the host reads, of several layers one after the other; importance is that of the last.
        `read` (K, N, C) takes their place where the host reads them in another way.
        """
        features = torch.cat([self._watched.outputs[layer] for layer in self._layers], dim=-1)
        patches = features[:, 1:] if self._has_cls else features
        return Views(
            patches if read is None else read,
            importance=self.importance,
            hidden_states=features if self._has_cls else None,
            received=lambda: self._received(attention_of(self._layers[-1])),
            object_received=lambda: self._received(self._of_object),
            grid=square_grids(len(features), features.shape[1] - self._has_cls),
            pixels=pixels,
            projected=projected,
        )

    def importance(self) -> torch.Tensor:
        """(K, N) float32: of each patch, in the last of the layers."""
        attention = attention_of(self._layers[-1])
        if self._has_cls:
            return cls_attention(attention, self._watched.hidden_states(attention), self._rotation(attention))
        return self._received(attention)

    def _received(self, attention: nn.Module) -> torch.Tensor:
        """(K, N) float32: what each patch receives in a layer, mean over all queries and over heads."""
        hidden_states, rotate = self._watched.hidden_states(attention), self._rotation(attention)
        return received_attention(attention, hidden_states, rotate=rotate)[:, self._has_cls :]

    def _rotation(self, attention: nn.Module) -> Rotation | None:
        """What turns queries and keys of a layer; None where the tower has no rotary positions.

        Raises InputError for positions that are not of all tokens, or that an attention has in another way.
        """
        given = self._watched.inputs[attention]
        others = [name for name, value in given.items() if isinstance(value, torch.Tensor) and name != "hidden_states"]
        positions = given.get("position_embeddings")
        if others or (positions is not None and positions[0].shape[-2] != given["hidden_states"].shape[1]):
            what = min([*others, "its positions"])
            raise InputError(f"pruning does not know what {type(attention).__name__} makes of {what}")
        return None if positions is None else rotation(*positions)


@contextmanager
def run_of(tower: nn.Module, read_layers: int | list[int], strategy: str) -> Iterator[TowerRun]:
    """Note, until the block ends, what a run of `tower` says of the layers that the host reads.

    Args:
        read_layers: indices of hidden states, as in the config's `vision_feature_layer`.
        strategy: `default`, which drops [CLS], or `full`, as in `vision_feature_select_strategy`.

    Raises InputError for a tower that is no such stack, or has tokens that are no patches, such as registers, and where
    [CLS] is among the features.
    """
    kind, stack = tower.config.model_type, list(stack_of(tower))
    names = [name.split(".") for name, _ in tower.named_parameters()]
    has_cls = any(name[-1] in _CLS and "head" not in name for name in names)  # a head may have a query of that name
    if has_cls != (strategy == "default"):
        wanted = "default" if has_cls else "full"
        raise InputError(f"pruning needs vision_feature_select_strategy {wanted!r} with this tower, not {strategy!r}")
    layers = layers_of(tower, read_layers)
    last = max(layers, key=stack.index)
    ordered = [layer for layer in layers if layer is not last] + [last]
    of_object = attention_of(stack[object_place(len(stack), 1 + stack.index(last))])
    with watching(inputs=[attention_of(last), of_object], outputs=layers) as watched:
        yield TowerRun(watched, ordered, of_object, has_cls)
    shape = watched.outputs[last].shape
    if len(shape) != 3 or math.isqrt(shape[1] - has_cls) ** 2 != shape[1] - has_cls:
        raise InputError(f"pruning finds no square of patches among the tokens of the vision tower {kind!r}")


def pool_mean(values: torch.Tensor, stride: int, shape: tuple[int, int] | None = None) -> torch.Tensor:
    """(K, n): the mean of values (K, N) of patches in squares over each `stride` x `stride` of them.

    `shape` is of a crop in patches; None for a square.
    """
    shape = shape or (math.isqrt(values.shape[1]),) * 2
    return torch.nn.functional.avg_pool2d(values.view(-1, 1, *shape), stride).flatten(1)


def patches_per_crop(tower: nn.Module) -> int:
    """N of a tower whose crops are squares of one size."""
    side, patch = tower.config.image_size, tower.config.patch_size
    side, patch = (side[0], patch[0]) if isinstance(side, list | tuple) else (side, patch)
    return (side // patch) ** 2


def stack_of(tower: nn.Module) -> nn.ModuleList:
    """All layers. Raises InputError for a tower that is no stack of layers with an attention that is known."""
    stacks = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module)]
    found = next((stack for stack in stacks if all(attention_of(layer) is not None for layer in stack)), None)
    if found is None:
        raise InputError(f"pruning finds no layers with attention in the vision tower {tower.config.model_type!r}")
    return found


def attention_of(layer: nn.Module) -> nn.Module | None:
    """The module in it that makes queries and keys; None if there is none."""
    names = ("q_proj", "qkv")
    return next((m for m in layer.modules() if any(getattr(m, name, None) is not None for name in names)), None)


def layers_of(tower: nn.Module, indices: int | list[int]) -> list[nn.Module]:
    """The layers whose outputs the hidden states `indices` are: 1 is the first layer's, -1 the last one's."""
    stack = stack_of(tower)
    layers = []
    for index in [indices] if isinstance(indices, int) else indices:
        number = index - 1 if index > 0 else len(stack) + index
        if index == 0 or not 0 <= number < len(stack):
            raise InputError(f"vision_feature_layer {index} is outside the tower's {len(stack)} layers")
        layers.append(stack[number])
    return layers
