"""VisPruner's removal of near-duplicates: one function, which takes the fastest version for the device.

Zhang et al., arXiv 2412.01818, section 3.3. On the CPU `duplicates_cpu`, on a GPU with Triton `duplicates_triton`,
elsewhere the plain version here; all three give the same indices.

Shapes: B images, R patches.
"""

from importlib.util import find_spec

import torch

MAX_DROPPED_PER_ROUND = 8


def drop_duplicates(similarity: torch.Tensor, keep: int, in_order: bool = False) -> torch.LongTensor:
    """Remove near-duplicates in rounds until `keep` entries of each list are left (arXiv 2412.01818, section 3.3).

    A round splits the list into even positions a and odd positions b and drops those of a that are most similar to
    any b, 8 at most. The next list is the rest of a, most similar first, followed by b.

    Args:
        similarity: (B, R, R) float64, in the order of the list: the first row belongs to its first entry.
        keep: entries to leave, 0 <= keep <= R.
        in_order: let the next list have the order of the one before, whatever the similarities.

    Returns:
        (B, keep) int64: positions in the first list, in the order of the last.
    """
    if 0 < keep < similarity.shape[1]:
        if similarity.device.type == "cpu":
            from llava.pruning.kernels import duplicates_cpu

            return duplicates_cpu.drop_duplicates(similarity.detach(), keep, MAX_DROPPED_PER_ROUND, in_order)
        if similarity.is_cuda and find_spec("triton"):
            from llava.pruning.kernels import duplicates_triton

            return duplicates_triton.drop_duplicates(similarity, keep, MAX_DROPPED_PER_ROUND, in_order)
    return drop_duplicates_in_torch(similarity, keep, in_order)


def drop_duplicates_in_torch(similarity: torch.Tensor, keep: int, in_order: bool = False) -> torch.LongTensor:
    """`drop_duplicates` in plain PyTorch, on any device: the reference for the faster versions."""
    batch, length, _ = similarity.shape
    if keep == 0:
        return torch.empty(batch, 0, dtype=torch.long, device=similarity.device)
    flat = similarity.flatten(1)
    kept = torch.arange(length, device=similarity.device).repeat(batch, 1)
    while kept.shape[1] > keep:
        a, b = kept[:, 0::2], kept[:, 1::2]
        drop = min(MAX_DROPPED_PER_ROUND, kept.shape[1] - keep, a.shape[1])
        pairs = a.unsqueeze(2) * length + b.unsqueeze(1)
        score = flat.gather(1, pairs.flatten(1)).view_as(pairs).amax(dim=2)
        by_score = score.argsort(dim=1, descending=True, stable=True)
        if in_order:
            is_left = torch.ones_like(kept, dtype=torch.bool).scatter(1, 2 * by_score[:, :drop], False)
            kept = kept[is_left].view(batch, -1)
        else:
            kept = torch.cat([a.gather(1, by_score[:, drop:]), b], dim=1)
    return kept
