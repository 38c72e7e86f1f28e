"""What every pruning method returns: `VisualTokens` or `MergedTokens`.

Shapes: K crops, N patches, T kept tokens, C vision channels. This file does not import torch, as `views` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from llava.pruning.errors import MethodError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VisualTokens:
    """Tokens that are patches of the picture.

    Attributes:
        tokens: (K, T, C), in the tower's channels.
        patches: (K, T) int64, ascending: which patch each token is, in raster order. With a budget per image they are
            (1, T), and the patches of its crops are numbered crop after crop.
    """

    tokens: torch.Tensor
    patches: torch.LongTensor
    has_places: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("tokens", "patches"):
            if not hasattr(getattr(self, name), "ndim"):
                raise MethodError(f"{name} must be a tensor, not {type(getattr(self, name)).__name__}")
        if self.tokens.ndim != 3 or self.tokens.shape[:2] != self.patches.shape:
            shapes = f"{tuple(self.tokens.shape)} and {tuple(self.patches.shape)}"
            raise MethodError(f"tokens must be (K, T, C) and patches (K, T), got {shapes}")

    def project(self, project: Callable[[torch.Tensor], torch.Tensor]) -> VisualTokens:
        """The tokens in the model's channels: `project` takes (K, T, C) to (K, T, D)."""
        return replace(self, tokens=project(self.tokens))

    def split(self, counts: list[int]) -> list[VisualTokens]:
        """The tokens of one image after the other, of which each has so many crops."""
        return [VisualTokens(*part) for part in zip(self.tokens.split(counts), self.patches.split(counts), strict=True)]


@dataclass(frozen=True)
class MergedTokens:
    """Tokens that merge several patches each, so that none of them is a patch.

    Attributes:
        tokens: (K, T, C), in the tower's channels, or (K, T, D).
        patches: (K, T) int64: the patch at each token's centre; None where that is not known.
        projected: whether the tokens are in the model's channels already.
    """

    tokens: torch.Tensor
    patches: torch.LongTensor | None = None
    projected: bool = False
    has_places: ClassVar[bool] = False

    def project(self, project: Callable[[torch.Tensor], torch.Tensor]) -> MergedTokens:
        """As of `VisualTokens`; those that are projected already stay as they are."""
        return self if self.projected else replace(self, tokens=project(self.tokens), projected=True)

    def split(self, counts: list[int]) -> list[MergedTokens]:
        """The tokens of one image after the other, of which each has so many crops."""
        patches = [None] * len(counts) if self.patches is None else self.patches.split(counts)
        parts = zip(self.tokens.split(counts), patches, strict=True)
        return [replace(self, tokens=tokens, patches=own) for tokens, own in parts]


def keep_patches(features: torch.Tensor, patches: torch.LongTensor) -> torch.Tensor:
    """The features (K, T, C) of `patches` (K, T) out of (K, N, C)."""
    import torch

    crop = torch.arange(len(features), device=features.device).unsqueeze(1)
    return features[crop, patches]  # whole rows: on a CPU several times as fast as a gather


def highest(scores: torch.Tensor, number: int) -> torch.LongTensor:
    """Positions (K, number) of the highest of (K, N) scores, ascending; of equal ones the lower position is taken."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :number].sort(dim=1).values
