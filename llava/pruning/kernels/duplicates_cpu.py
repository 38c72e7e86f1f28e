"""All rounds of VisPruner's removal of near-duplicates on the CPU, with the indices of the plain PyTorch version.

Zhang et al., arXiv 2412.01818, section 3.3. A round asks for the greatest similarity of each entry of a to any entry of
b. Half of what is left is in b, so that one of an entry's few nearest neighbours mostly is: these are found once, and
the rest of the similarities is read only for entries that have none of them in b. NumPy, since a round's arrays are
small and what it costs is the calls.

Shapes: B images, R patches. See `duplicates.drop_duplicates` for what it computes.
"""

import numpy as np
import torch

NEIGHBOURS = 8


def drop_duplicates(similarity: torch.Tensor, keep: int, max_drop: int, in_order: bool = False) -> torch.LongTensor:
    """Positions (B, keep) int64 of what is left of (B, R, R) float64, in the order of the last list."""
    near, neighbours = similarity.topk(min(NEIGHBOURS, similarity.shape[2]), dim=2)
    rows = zip(similarity.numpy(), near.numpy(), neighbours.numpy())
    return torch.stack([torch.from_numpy(_of_one_image(*row, keep, max_drop, in_order)) for row in rows])


def _of_one_image(
    similarity: np.ndarray, near: np.ndarray, neighbours: np.ndarray, keep: int, max_drop: int, in_order: bool
) -> np.ndarray:
    """(R, R) similarities, the greatest (R, n) of each row and where they are -> (keep,) int64."""
    patches, n = neighbours.shape
    in_b, kept = np.zeros(patches, dtype=bool), np.arange(patches)
    while len(kept) > keep:
        a, b = kept[0::2], kept[1::2]
        in_b[:] = False
        in_b[b] = True
        is_partner = in_b.take(neighbours.take(a, axis=0))
        first = is_partner.argmax(axis=1)
        score = near.reshape(-1).take(a * n + first)
        alone = np.flatnonzero(~is_partner.reshape(-1).take(np.arange(len(a)) * n + first))
        if len(alone):
            score[alone] = similarity.reshape(-1).take((a[alone] * patches)[:, None] + b).max(axis=1)
        drop = min(max_drop, len(kept) - keep, len(a))
        by_score = (-score).argsort(kind="stable")
        kept = np.delete(kept, 2 * by_score[:drop]) if in_order else np.concatenate([a.take(by_score[drop:]), b])
    return kept
