"""Picking patches one by one, each the best after those before it: what DivPrune, SCOPE, MMTok and CDPruner share.

Three rules: farthest from those picked (max-min), what adds most coverage, what spans most volume
with them (DPP). On a GPU with Triton a pick costs no step of Python (`greedy_triton`); elsewhere `greedy_cpu` does it.
Of equal candidates the lowest position is picked.

Shapes: B images, N patches, T picks, R what is to be covered.
"""

from importlib.util import find_spec

import torch

_BITS = 44  # of a gain: sums of numbers of so many bits are exact in float64, in any order


def farthest(distance: torch.Tensor, number: int, first: torch.Tensor | None = None) -> torch.LongTensor:
    """Picks (B, T) whose least distance to those before is greatest.

    Args:
        distance: (B, N, N) float64, from the row's patch, picked before, to the column's.
        number: T.
        first: (B, N), of which the highest is picked first; None for the patch whose nearest other is farthest away.
    """
    if first is None:
        itself = torch.eye(distance.shape[1], dtype=torch.bool, device=distance.device)
        first = distance.masked_fill(itself, torch.inf).amin(dim=2)
    return _pick("farthest", distance, first.to(distance), number)


def most_covering(values: torch.Tensor, number: int, weight: torch.Tensor | None = None) -> torch.LongTensor:
    """Picks (B, T), of which each adds most to the sum over r of the greatest value [r, i] of a picked i, from 0 on.

    What a patch would add counts `weight` times. The values are rounded to 44 bits of the greatest sum, so that every
    sum is exact and what equals in theory does so here.

    Args:
        values: (B, R, N) float64, which are overwritten; what is below 0 covers nothing.
        number: T.
        weight: (B, N), not negative; None for 1.
    """
    values = values.clamp_(min=0)
    greatest = torch.frexp(values.sum(dim=1).amax(dim=1)).exponent
    values = values.mul_(torch.exp2((_BITS - greatest).double()).view(-1, 1, 1)).round_()
    first = values.sum(dim=1)
    weight = torch.ones_like(first) if weight is None else weight.to(first)
    return _pick("covering", values, first, number, weight)


def most_voluminous(kernel: torch.Tensor, number: int) -> torch.LongTensor:
    """Picks (B, T), each of which adds most to the determinant of the kernel (B, N, N) float64 of those picked.

    Chen et al., "Fast Greedy MAP Inference for Determinantal Point Process", NeurIPS 2018, arXiv 1709.05135. Where
    nothing is left that would add, the lowest positions come next.
    """
    return _pick("voluminous", kernel, kernel.diagonal(dim1=1, dim2=2).contiguous(), number)


def _pick(
    rule: str, matrix: torch.Tensor, first: torch.Tensor, number: int, weight: torch.Tensor | None = None
) -> torch.LongTensor:
    """Picks (B, `number`) int64 by a rule, in their order; `first` (B, N) is how good each patch is before any pick."""
    if matrix.is_cuda and find_spec("triton"):
        from llava.pruning.kernels import greedy_triton

        return greedy_triton.pick(rule, matrix, first, number, weight)
    from llava.pruning.kernels import greedy_cpu

    parts = (None if part is None else part.cpu().numpy() for part in (matrix, first, weight))
    return torch.from_numpy(greedy_cpu.pick(rule, *parts, number)).to(matrix.device)
