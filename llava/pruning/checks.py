"""What a user's method returns: refused, by a MethodError that names the value, if it cannot be used.

Built-in methods are trusted: nothing of theirs is checked. This file does not import torch, as `method` does not.

Shapes: K crops, N patches, T kept tokens, C vision channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from llava.pruning.errors import MethodError
from llava.pruning.tokens import MergedTokens, VisualTokens
from llava.pruning.views import Views

if TYPE_CHECKING:
    import torch


def check_patches(patches: object, features: torch.Tensor, least: int = 1) -> None:
    """Raise MethodError unless `patches` have the form of at least so many indices of each crop of (K, N, C) features.

    Their values are not looked at, for which a GPU would have to be waited for.
    """
    import torch

    crops, number, _ = features.shape
    wanted = f"patches must be a tensor ({crops}, T) of int64"
    if not isinstance(patches, torch.Tensor):
        raise MethodError(f"{wanted}, got {_shown(patches)}")
    if patches.dtype is not torch.int64 or patches.ndim != 2 or len(patches) != crops:
        raise MethodError(f"{wanted}, got {tuple(patches.shape)} of {_name(patches.dtype)}")
    if patches.device != features.device:
        raise MethodError(f"patches are on {patches.device}, the features on {features.device}")
    if not least <= patches.shape[1] <= number:
        raise MethodError(f"{patches.shape[1]} patches are kept of each crop: they must be {least} to {number}")


def check_chosen(chosen: object, views: Views, kept: Iterable[torch.LongTensor] = ()) -> VisualTokens | MergedTokens:
    """What `select` returned for views of K crops, as tensors of its own in the dtype of their features.

    Its form is looked at first, and then all values together, with the patches that it has `kept` on the way, so that a
    GPU is waited for once. Raises MethodError for what cannot be used.
    """
    import torch

    if not isinstance(chosen, VisualTokens | MergedTokens):
        raise MethodError(f"select must return VisualTokens or MergedTokens, not {type(chosen).__name__}")
    features = views.projected if getattr(chosen, "projected", False) else views.features
    tokens, number = _check_tokens(chosen.tokens, features), features.shape[1]
    checked = [patches for patches in kept if not chosen.has_places or patches is not chosen.patches]
    if not chosen.has_places and chosen.patches is not None:
        chosen = replace(chosen, patches=_check_centres(chosen.patches, tokens, features))
    if chosen.has_places:
        check_patches(chosen.patches, features)
        if chosen.patches.shape != tokens.shape[:2]:
            raise MethodError(f"it returns {tokens.shape[1]} tokens of {chosen.patches.shape[1]} patches")
        checked.append(chosen.patches.clone())
    total = tokens.detach().sum(dtype=torch.float32)
    total, *steps = torch.stack([total, *(_least_step(patches, number) for patches in checked)]).tolist()
    for patches, step in zip(checked, steps, strict=True):
        if step < 1:
            raise MethodError(_fault(patches, number))
    if not math.isfinite(total) and not tokens.isfinite().all() and features.isfinite().all():
        raise MethodError("it returns tokens that are not finite")
    return VisualTokens(tokens, checked[-1]) if chosen.has_places else replace(chosen, tokens=tokens)


def _check_centres(patches: object, tokens: torch.Tensor, features: torch.Tensor) -> torch.LongTensor:
    """A copy of the patches (K, T) at the centres of merged tokens. Raises MethodError for what cannot be such."""
    check_patches(patches, features)
    if patches.shape != tokens.shape[:2]:
        raise MethodError(f"it returns {tokens.shape[1]} tokens at {patches.shape[1]} patches")
    least, most = patches.amin(), patches.amax()
    if least < 0 or most >= features.shape[1]:
        raise MethodError(f"its tokens stand at patches {int(least)} to {int(most)} of {features.shape[1]}")
    return patches.clone()


def check_values(patches: torch.LongTensor, number: int) -> None:
    """Raise MethodError unless patches (K, T) are distinct ones of `number`, in ascending order."""
    if _least_step(patches, number) < 1:
        raise MethodError(_fault(patches, number))


def check_hidden(output: object, inputs_embeds: torch.Tensor) -> None:
    """Raise MethodError unless a decoder's output has hidden states (B, L', D), for embeddings (B, L, D)."""
    import torch

    hidden, (prompts, _, width) = getattr(output, "last_hidden_state", None), inputs_embeds.shape
    wanted = f"prune_decoder must return an output whose last_hidden_state is ({prompts}, L, {width})"
    if not isinstance(hidden, torch.Tensor):
        raise MethodError(f"{wanted}, got {type(output).__name__} with {_shown(hidden)}")
    if hidden.ndim != 3 or (len(hidden), hidden.shape[2]) != (prompts, width) or not hidden.shape[1]:
        raise MethodError(f"{wanted}, got {tuple(hidden.shape)}")


def _check_tokens(tokens: object, features: torch.Tensor) -> torch.Tensor:
    """A copy of tokens (K, T, C) in the features' dtype. Raises MethodError unless they have the form of them."""
    import torch

    crops, number, channels = features.shape
    wanted = f"tokens must be a tensor ({crops}, T, {channels}) of floating numbers"
    if not isinstance(tokens, torch.Tensor):
        raise MethodError(f"{wanted}, got {_shown(tokens)}")
    if not tokens.is_floating_point() or tokens.ndim != 3 or (len(tokens), tokens.shape[2]) != (crops, channels):
        raise MethodError(f"{wanted}, got {tuple(tokens.shape)} of {_name(tokens.dtype)}")
    if tokens.device != features.device:
        raise MethodError(f"tokens are on {tokens.device}, the features on {features.device}")
    if not 1 <= tokens.shape[1] <= number:
        raise MethodError(f"it returns {tokens.shape[1]} tokens of each crop: they must be 1 to {number}")
    return tokens.to(features.dtype, copy=True)


def _least_step(patches: torch.LongTensor, number: int) -> torch.Tensor:
    """(): the least step from -1 over the patches (K, T) to N: at least 1 if they ascend and are patches at all."""
    if not patches.shape[1]:
        return patches.new_ones(()).float()
    before, after = (patches.new_full((len(patches), 1), end) for end in (-1, number))
    return patches.diff(dim=1, prepend=before, append=after).amin().float()


def _fault(patches: torch.LongTensor, number: int) -> str:
    """What is wrong with patches (K, T) that are not distinct ones of `number`, in ascending order."""
    for crop, row in enumerate(patches.tolist()):
        for before, patch in pairwise([-1, *row]):
            if not 0 <= patch < number:
                return f"it keeps patch {patch} of crop {crop}, which has the patches 0 to {number - 1}"
            if patch == before:
                return f"it keeps patch {patch} of crop {crop} twice"
            if patch < before:
                return f"it returns patch {patch} of crop {crop} after {before}: they must ascend, as by views.keep"
    return "it changes what it has returned"


def _shown(value: object) -> str:
    """A value that is no tensor, in a message."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a user's class
        text = ""
    return f"{type(value).__name__} {text if len(text) <= 60 else f'{text[:60]}...'}".strip()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
