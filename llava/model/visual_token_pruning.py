"""VisPruner: which visual tokens to keep, from visual cues alone.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
ICCV 2025, arXiv 2412.01818. Pure functions on tensors: this file knows nothing of LLaVA.

Shapes: B images, N patches, C channels, T kept tokens.
"""

import operator
from importlib.util import find_spec

import torch
import torch.nn.functional as F

MAX_DROPPED_PER_ROUND = 8


def check_budget(visual_token_num: int | None, important_ratio: float) -> None:
    """Raise ValueError unless `visual_token_num` is None or an integer >= 1 and `important_ratio` is in [0, 1]."""
    if visual_token_num is not None:
        try:
            if isinstance(visual_token_num, bool):
                raise TypeError
            count = operator.index(visual_token_num)
        except TypeError:
            raise ValueError(f"visual_token_num must be an integer, got {visual_token_num!r}") from None
        if count < 1:
            raise ValueError(f"visual_token_num must be at least 1, got {visual_token_num}")
    is_number = isinstance(important_ratio, int | float) and not isinstance(important_ratio, bool)
    if not is_number or not 0 <= important_ratio <= 1:
        raise ValueError(f"important_ratio must be a number in [0, 1], got {important_ratio!r}")


def select_visual_tokens(
    features: torch.Tensor, cls_attention: torch.Tensor, visual_token_num: int, important_ratio: float = 0.5
) -> torch.LongTensor:
    """Choose the patches of each image that become visual tokens (arXiv 2412.01818, section 3).

    `int(T * important_ratio)` patches are important: those with the highest [CLS] attention. The others fill up with
    what remains of the rest after near-duplicates are removed in rounds. Half-precision input is compared as float32,
    similarities are computed and compared in float64, and every sort is stable (lower position first), so one input
    gives one result whatever the device and the other images of the batch.

    Args:
        features: (B, N, C), any floating dtype: the vision tower's patch features.
        cls_attention: (B, N), any floating dtype: attention of [CLS] to the patches, mean over heads.
        visual_token_num: T, the tokens to keep of each image; all N are kept if T >= N.
        important_ratio: share of T in [0, 1] chosen by attention.

    Returns:
        (B, min(T, N)) int64, ascending: indices of the kept patches.

    Raises:
        ValueError: if the budget or the shapes make no sense.
    """
    check_budget(visual_token_num, important_ratio)
    if features.ndim != 3 or cls_attention.shape != features.shape[:2]:
        raise ValueError(
            "features must be (B, N, C) and cls_attention (B, N), "
            f"got {tuple(features.shape)} and {tuple(cls_attention.shape)}"
        )
    batch, patches, _ = features.shape
    if visual_token_num >= patches:
        return torch.arange(patches, device=features.device).repeat(batch, 1)

    important_num = int(visual_token_num * important_ratio)
    by_attention = cls_attention.float().argsort(dim=1, descending=True, stable=True)
    important, residual = by_attention[:, :important_num], by_attention[:, important_num:]

    similarity = cosine_similarity_matrix(keep_patches(features, residual))
    kept = drop_duplicates(similarity, visual_token_num - important_num)
    return torch.cat([important, residual.gather(1, kept)], dim=1).sort(dim=1).values


def keep_patches(features: torch.Tensor, kept: torch.LongTensor) -> torch.Tensor:
    """The features (B, T, C) of the patches `kept` (B, T) out of (B, N, C)."""
    image = torch.arange(len(features), device=features.device).unsqueeze(1)
    return features[image, kept]  # whole rows: on a CPU several times as fast as a gather


def cosine_similarity_matrix(features: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of every pair: (B, R, C) of any floating dtype -> (B, R, R) float64.

    float64 because the rounds amplify rounding: in float32 the scores of two patches often differ by less than the
    error of a dot product, and which of them is dropped, hence all that follows, would depend on the machine's BLAS.
    """
    unit = features.float().double()
    unit = F.normalize(unit, dim=-1, out=None if unit.requires_grad else unit)
    return unit @ unit.transpose(1, 2)


def drop_duplicates(similarity: torch.Tensor, keep: int) -> torch.LongTensor:
    """Remove near-duplicates in rounds until `keep` entries of each list are left (arXiv 2412.01818, section 3.3).

    A round splits the list into even positions a and odd positions b and drops those of a that are most similar to
    any b, 8 at most. The next list is the rest of a, most similar first, followed by b.

    Args:
        similarity: (B, R, R) float64, in the order of the list: the first row belongs to its first entry.
        keep: entries to leave, 0 <= keep <= R.

    Returns:
        (B, keep) int64: positions in the first list, in the order of the last.
    """
    if 0 < keep < similarity.shape[1]:
        if similarity.device.type == "cpu":
            from llava.model.rounds_cpu import drop_duplicates as all_rounds

            return all_rounds(similarity.detach(), keep, MAX_DROPPED_PER_ROUND)
        if similarity.is_cuda and find_spec("triton"):
            from llava.model.rounds_triton import drop_duplicates as all_rounds

            return all_rounds(similarity, keep, MAX_DROPPED_PER_ROUND)
    return drop_duplicates_in_torch(similarity, keep)


def drop_duplicates_in_torch(similarity: torch.Tensor, keep: int) -> torch.LongTensor:
    """`drop_duplicates` in plain PyTorch, on any device: what the faster ways are held to."""
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
        kept = torch.cat([a.gather(1, by_score[:, drop:]), b], dim=1)
    return kept
