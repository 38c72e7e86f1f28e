"""All rounds of VisPruner's removal of near-duplicates in one launch, with the indices of the plain PyTorch version.

Zhang et al., arXiv 2412.01818, section 3.3. One program works through the rounds of one image. What a round asks for,
the greatest similarity of each entry of a to any entry of b, is not computed anew: each row of the similarities is
sorted once, and an entry's best partner is the first of its row that is in b. An entry looks at few before it finds
one, since half of what is left is in b.

Shapes: B images, R patches. Needs Triton; see `duplicates.drop_duplicates` for what it computes.
"""

import torch
import triton
import triton.language as tl

WARPS = 16


def width_of(half: int) -> int:
    """The widest step of an entry that spills no register, for `half` entries in a program of `WARPS` warps."""
    return max(2, min(16, 4096 // half))


@triton.jit
def _highest_similarity(neighbours, similarity, in_b, a, a_num, patches, HALF: tl.constexpr, WIDTH: tl.constexpr):
    """The greatest similarity (HALF,) of each of `a` to any patch that is in b; -inf beyond `a_num`."""
    slot = tl.arange(0, HALF)
    score = tl.full((HALF,), float("-inf"), tl.float64)
    looking = slot < a_num
    at = 0
    while (at < patches) & (tl.sum(looking.to(tl.int32)) > 0):
        place = at + tl.arange(0, WIDTH)
        there = looking[:, None] & (place < patches)[None, :]
        other = tl.load(neighbours + a[:, None] * patches + place[None, :], mask=there, other=0).to(tl.int32)
        is_partner = tl.load(in_b + other, mask=there, other=0) != 0
        first = tl.min(tl.where(is_partner, place[None, :], patches), axis=1)
        found = looking & (first < patches)
        best = tl.load(similarity + a * patches + first, mask=found, other=0.0)
        score = tl.where(found, best, score)
        looking = looking & (first >= patches)
        at += WIDTH
    return score


@triton.jit
def _rank_of(score, scores, a_num, HALF: tl.constexpr, WIDTH: tl.constexpr):
    """How many of `scores` (`a_num`,) come before each of `score` (HALF,): higher ones, or equal and earlier."""
    slot = tl.arange(0, HALF)
    rank = tl.zeros((HALF,), tl.int32)
    for start in range(0, a_num, WIDTH):
        rival = start + tl.arange(0, WIDTH)
        theirs = tl.load(scores + rival, mask=rival < a_num, other=float("-inf"))
        earlier = rival[None, :] < slot[:, None]
        ahead = (theirs[None, :] > score[:, None]) | ((theirs[None, :] == score[:, None]) & earlier)
        rank += tl.sum((ahead & (rival < a_num)[None, :]).to(tl.int32), axis=1)
    return rank


@triton.jit
def _rounds(
    neighbours,  # (B, R, R) int16: of each patch all others, most similar first
    similarity,  # (B, R, R) float64: sorted in the same way
    lists,  # (B, 2, R) int32 scratch: the list, and the next one
    in_b,  # (B, R) int8 scratch, zero: which patches are in b
    scores,  # (B, HALF) float64 scratch
    kept,  # (B, keep) int32: the result
    length,
    keep,
    MAX_DROP: tl.constexpr,
    HALF: tl.constexpr,  # power of two, at least (R + 1) / 2
    IN_ORDER: tl.constexpr,
    WIDTH: tl.constexpr,  # partners that an entry looks at in one go, and scores that it is compared to
):
    image = tl.program_id(0).to(tl.int64)
    patches = length
    neighbours += image * patches * patches
    similarity += image * patches * patches
    lists += image * 2 * patches
    in_b += image * patches
    scores += image * HALF
    slot = tl.arange(0, HALF)
    for start in range(0, patches, HALF):
        tl.store(lists + start + slot, start + slot, mask=start + slot < patches)
    tl.debug_barrier()

    now = 0
    while length > keep:
        a_num, b_num = (length + 1) // 2, length // 2
        a = tl.load(lists + now * patches + 2 * slot, mask=slot < a_num, other=0)
        b = tl.load(lists + now * patches + 2 * slot + 1, mask=slot < b_num, other=0)
        tl.store(in_b + a, tl.zeros_like(a).to(tl.int8), mask=slot < a_num)
        tl.store(in_b + b, tl.full(b.shape, 1, tl.int8), mask=slot < b_num)
        tl.debug_barrier()

        score = _highest_similarity(neighbours, similarity, in_b, a, a_num, patches, HALF, WIDTH)
        tl.store(scores + slot, score)
        tl.debug_barrier()

        rank = _rank_of(score, scores, a_num, HALF, WIDTH)
        drop = min(min(MAX_DROP, length - keep), a_num)
        following = lists + (1 - now) * patches
        stays = (slot < a_num) & (rank >= drop)
        if IN_ORDER:
            gone = tl.cumsum(((slot < a_num) & (rank < drop)).to(tl.int32), 0)
            tl.store(following + 2 * slot - gone, a, mask=stays)
            tl.store(following + 2 * slot + 1 - gone, b, mask=slot < b_num)
        else:
            tl.store(following + rank - drop, a, mask=stays)
            tl.store(following + a_num - drop + slot, b, mask=slot < b_num)
        tl.debug_barrier()
        now = 1 - now
        length -= drop

    for start in range(0, keep, HALF):
        left = start + slot
        tl.store(kept + image * keep + left, tl.load(lists + now * patches + left, mask=left < keep), mask=left < keep)


def drop_duplicates(similarity: torch.Tensor, keep: int, max_drop: int, in_order: bool = False) -> torch.LongTensor:
    """Positions (B, keep) int64 of what is left of (B, R, R) float64, in the order of the last list; R <= 32767."""
    batch, patches, _ = similarity.shape
    half = triton.next_power_of_2((patches + 1) // 2)
    ordered, neighbours = similarity.sort(dim=2, descending=True)
    new = {"device": similarity.device}
    kept = torch.empty(batch, keep, dtype=torch.int32, **new)
    _rounds[(batch,)](
        neighbours.to(torch.int16),
        ordered,
        torch.empty(batch, 2, patches, dtype=torch.int32, **new),
        torch.zeros(batch, patches, dtype=torch.int8, **new),
        torch.empty(batch, half, dtype=torch.float64, **new),
        kept,
        patches,
        keep,
        MAX_DROP=max_drop,
        IN_ORDER=in_order,
        HALF=half,
        WIDTH=width_of(half),
        num_warps=WARPS,
    )
    return kept.long()
