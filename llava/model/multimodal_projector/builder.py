"""The projector: from the vision tower's channels to the language model's."""

import re

from torch import nn

from llava.errors import InputError

MOST_LAYERS = 16  # published projectors have two


def build_vision_projector(config, delay_load: bool = False, **kwargs) -> nn.Module:
    """The projector that `config.mm_projector_type` names, (..., mm_hidden_size) -> (..., hidden_size).

    `linear` is one layer, `mlpNx_gelu` N layers with GELU between them, `identity` none. Raises InputError for others.
    """
    name = getattr(config, "mm_projector_type", None) or "linear"
    if name == "identity":
        return nn.Identity()
    mlp = re.fullmatch(r"mlp([1-9]\d{0,8})x_gelu", name)
    if name != "linear" and not mlp:
        raise InputError(f"unknown mm_projector_type {name!r}: linear, mlpNx_gelu or identity")
    if mlp and int(mlp[1]) > MOST_LAYERS:
        raise InputError(f"mm_projector_type {name!r} has more than {MOST_LAYERS} layers")
    first = nn.Linear(config.mm_hidden_size, config.hidden_size)
    if name == "linear":
        return first
    layers = [first]
    for _ in range(int(mlp[1]) - 1):
        layers += [nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)]
    return nn.Sequential(*layers)
