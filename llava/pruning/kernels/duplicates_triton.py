"""All rounds of VisPruner's removal of near-duplicates in one launch, with the indices of the plain PyTorch version.

Zhang et al., arXiv 2412.01818, section 3.3. One program works through the rounds of one image. A round asks for the
greatest similarity of each entry of a to any entry of b. Half of what is left is in b, so that one of an entry's few
nearest neighbours mostly is: another launch finds these once, and the rest of the similarities is read only for entries
that have none of them in b. When the list has halved, so do the arrays of a round.

What is compared most, all similarities of a row and all scores of a round, is compared as integers of 32 bits, and as
float64 only where two of these are equal.

Shapes: B images, R patches. Needs Triton; see `duplicates.drop_duplicates` for what it computes.
"""

import torch
import triton
import triton.language as tl

WARPS = 16
# One program has a multiprocessor to itself: without the limit ptxas may spill to make room for a second.
LAUNCH = {"num_warps": WARPS} | ({} if torch.version.hip else {"maxnreg": 65536 // (32 * WARPS)})
NEIGHBOURS = 32
_PHASES = 5  # sizes that the arrays of a round have one after the other, each half of the one before


def constants(patches: int) -> dict[str, int]:
    """Of the rounds' kernel, for a list that begins with so many patches."""
    half = max(32, triton.next_power_of_2((patches + 1) // 2))
    phases = min(_PHASES, (half // 32).bit_length())
    return {"HALF": half, "PHASES": phases, "NEAR": min(NEIGHBOURS, patches)}


def columns_and_warps(patches: int) -> tuple[int, int]:
    """Of the kernel that finds neighbours: a program's columns, at least `patches`, and its warps."""
    columns = triton.next_power_of_2(patches)
    return columns, max(1, min(16, columns // 1024))


@triton.jit
def _key(score):
    """Scores from -1 to 1 as int32 in the same order; those closer than 2**-30 may become equal."""
    return (tl.minimum(tl.maximum(score, -1.0), 1.0) * 1073741824.0).to(tl.int32)


@triton.jit
def _nearest(
    similarity,  # (B R, R) float64
    near,  # (B R, NEAR) float64: the greatest of each row, in order
    neighbours,  # (B R, NEAR) int32: where they are
    patches,
    NEAR: tl.constexpr,
    COLUMNS: tl.constexpr,  # power of two, at least R
):
    LOWEST: tl.constexpr = -(2**31)
    row = tl.program_id(0).to(tl.int64)
    similarity += row * patches
    near += row * NEAR
    neighbours += row * NEAR
    place = tl.arange(0, COLUMNS)
    values = tl.load(similarity + place, mask=place < patches, other=float("-inf"))
    keys = tl.where(place < patches, _key(values), LOWEST)
    last, equal = -LOWEST - 1, 0
    for step in range(NEAR + 1):  # one more, which must not equal the last
        best = tl.max(keys, axis=0)
        first = tl.min(tl.where(keys == best, place, patches - 1), axis=0)
        tl.store(near + step, tl.load(similarity + first), mask=step < NEAR)
        tl.store(neighbours + step, first, mask=step < NEAR)
        keys = tl.where(place == first, LOWEST, keys)
        equal += (best == last).to(tl.int32)
        last = best
    if equal > 0:  # then by the scores themselves
        is_left = place < patches
        for step in range(NEAR):
            best = tl.max(values, axis=0)
            first = tl.min(tl.where(is_left & (values == best), place, patches - 1), axis=0)
            tl.store(near + step, best)
            tl.store(neighbours + step, first)
            is_left = is_left & (place != first)
            values = tl.where(is_left, values, float("-inf"))


@triton.jit
def _highest_similarity(
    neighbours, near, similarity, in_b, present, a, a_num, b_num, patches,
    NEAR: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The greatest similarity (HALF,) of each of `a` to any patch that is in b; -inf beyond `a_num`."""
    slot = tl.arange(0, HALF)
    score = tl.full((HALF,), float("-inf"), tl.float64)
    looking = slot < a_num
    at = 0
    while (at < NEAR) & (tl.sum(looking.to(tl.int32), axis=0) > 0):
        place = at + tl.arange(0, WIDTH)
        there = looking[:, None] & (place < NEAR)[None, :]
        other = tl.load(neighbours + a[:, None] * NEAR + place[None, :], mask=there, other=0)
        is_partner = tl.load(in_b + other, mask=there, other=0) != 0
        first = tl.min(tl.where(is_partner, place[None, :], NEAR), axis=1)
        found = looking & (first < NEAR)
        score = tl.where(found, tl.load(near + a * NEAR + first, mask=found, other=0.0), score)
        looking = looking & (first >= NEAR)
        at += WIDTH
    if tl.sum(looking.to(tl.int32), axis=0) > 0:
        greatest = tl.full((HALF, WIDTH), float("-inf"), tl.float64)
        for start in range(0, b_num, WIDTH):
            place = start + tl.arange(0, WIDTH)
            b = tl.load(present + 2 * place + 1, mask=place < b_num, other=0)
            there = looking[:, None] & (place < b_num)[None, :]
            value = tl.load(similarity + a[:, None] * patches + b[None, :], mask=there, other=float("-inf"))
            greatest = tl.where(value > greatest, value, greatest)
        score = tl.where(looking, tl.max(greatest, axis=1), score)
    return score


@triton.jit
def _exact_rank(score, scores, a_num, HALF: tl.constexpr, WIDTH: tl.constexpr):
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
def _rank_of(score, scores, keys, a_num, HALF: tl.constexpr, WIDTH: tl.constexpr):
    """As `_exact_rank`, by keys; `scores` and `keys` are scratch.

    Of two different keys one is ahead: only where some are equal is the sum of all ranks less than that of 0, 1, 2, ...
    """
    LOWEST: tl.constexpr = -(2**31)
    slot = tl.arange(0, HALF)
    key = tl.where(slot < a_num, _key(score), LOWEST)
    tl.store(keys + slot, key)
    tl.debug_barrier()
    ahead = tl.zeros((HALF, WIDTH), tl.int32)
    for start in range(0, a_num, WIDTH):
        rival = start + tl.arange(0, WIDTH)
        theirs = tl.load(keys + rival, mask=rival < a_num, other=LOWEST)
        ahead += (theirs[None, :] > key[:, None]).to(tl.int32)
    rank = tl.sum(ahead, axis=1)
    if tl.sum(tl.where(slot < a_num, rank, 0), axis=0) < a_num * (a_num - 1) // 2:
        tl.store(scores + slot, score)
        tl.debug_barrier()
        rank = _exact_rank(score, scores, a_num, HALF, WIDTH)
    return rank


@triton.jit
def _phase(
    neighbours, near, similarity, lists, in_b, keys, scores,  # of `_rounds`, of one image
    now, length, least, keep, patches,
    MAX_DROP: tl.constexpr, IN_ORDER: tl.constexpr, HALF: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """Rounds until the list, the one `now` of the two, has `least` entries at most: which it is, and its length."""
    # What an entry looks at in one go. Twice as much spills registers.
    WIDTH: tl.constexpr = 16 if HALF <= 128 else 2048 // HALF if HALF <= 1024 else 2
    slot = tl.arange(0, HALF)
    while length > least:
        a_num, b_num = (length + 1) // 2, length // 2
        present, following = lists + now * patches, lists + (1 - now) * patches
        a = tl.load(present + 2 * slot, mask=slot < a_num, other=0)
        b = tl.load(present + 2 * slot + 1, mask=slot < b_num, other=0)
        tl.store(in_b + a, tl.zeros_like(a).to(tl.int8), mask=slot < a_num)
        tl.store(in_b + b, tl.full(b.shape, 1, tl.int8), mask=slot < b_num)
        tl.debug_barrier()
        score = _highest_similarity(
            neighbours, near, similarity, in_b, present, a, a_num, b_num, patches, NEAR, HALF, WIDTH
        )
        rank = _rank_of(score, scores, keys, a_num, HALF, WIDTH)
        drop = min(min(MAX_DROP, length - keep), a_num)
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
    return now, length


@triton.jit
def _rounds(
    neighbours,  # (B, R, NEAR) int32: of each patch some others, most similar first
    near,  # (B, R, NEAR) float64: their similarities
    similarity,  # (B, R, R) float64
    lists,  # (B, 2, R) int32 scratch: the list, and the next one
    in_b,  # (B, R) int8 scratch: which patches are in b
    keys,  # (B, HALF) int32 scratch
    scores,  # (B, HALF) float64 scratch
    kept,  # (B, keep) int64: the result
    length,
    keep,
    MAX_DROP: tl.constexpr,
    IN_ORDER: tl.constexpr,
    HALF: tl.constexpr,  # power of two, at least (R + 1) / 2
    PHASES: tl.constexpr,
    NEAR: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    patches = length
    neighbours += image * patches * NEAR
    near += image * patches * NEAR
    similarity += image * patches * patches
    lists += image * 2 * patches
    in_b += image * patches
    keys += image * HALF
    scores += image * HALF
    kept += image * keep
    slot = tl.arange(0, HALF)
    for start in range(0, patches, HALF):
        tl.store(lists + start + slot, start + slot, mask=start + slot < patches)
    tl.debug_barrier()

    now = 0
    for phase in tl.static_range(PHASES):
        least = (HALF >> phase) if phase + 1 < PHASES else 0  # a list that the next phase has room for
        now, length = _phase(
            neighbours, near, similarity, lists, in_b, keys, scores, now, length, max(keep, least), keep, patches,
            MAX_DROP, IN_ORDER, HALF >> phase, NEAR,
        )  # fmt: skip

    for start in range(0, keep, HALF):
        left = start + slot
        tl.store(kept + left, tl.load(lists + now * patches + left, mask=left < keep).to(tl.int64), mask=left < keep)


def drop_duplicates(similarity: torch.Tensor, keep: int, max_drop: int, in_order: bool = False) -> torch.LongTensor:
    """Positions (B, keep) int64 of what is left of (B, R, R) float64, in the order of the last list; R <= 46340."""
    batch, patches, _ = similarity.shape
    similarity, sizes = similarity.contiguous(), constants(patches)

    def new(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(batch, *shape, dtype=dtype, device=similarity.device)

    near = new(patches, sizes["NEAR"], dtype=torch.float64)
    neighbours = new(patches, sizes["NEAR"], dtype=torch.int32)
    columns, warps = columns_and_warps(patches)
    _nearest[(batch * patches,)](
        similarity, near, neighbours, patches, NEAR=sizes["NEAR"], COLUMNS=columns, num_warps=warps
    )
    kept = new(keep, dtype=torch.int64)
    _rounds[(batch,)](
        neighbours,
        near,
        similarity,
        new(2, patches, dtype=torch.int32),
        new(patches, dtype=torch.int8),
        new(sizes["HALF"], dtype=torch.int32),
        new(sizes["HALF"], dtype=torch.float64),
        kept,
        patches,
        keep,
        MAX_DROP=max_drop,
        IN_ORDER=in_order,
        **LAUNCH,
        **sizes,
    )
    return kept
