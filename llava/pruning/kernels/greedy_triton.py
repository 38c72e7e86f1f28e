"""The rules of `greedy` on a GPU: one program picks all patches of one image, in one launch.

Float64 throughout, and no tensor cores. What a rule keeps of all patches is in registers; `scratch` holds what one pick
leaves to those after it. Gains of coverage are exact sums, so that their order does not matter.

Shapes: B images, N patches, T picks, R what is to be covered. Needs Triton.
"""

import torch
import triton
import triton.language as tl

from llava.pruning.kernels.greedy_cpu import NOTHING

_ELEMENTS = 8192  # of the matrix that are looked at in one go
_FARTHEST, _COVERING, _VOLUMINOUS = 0, 1, 2
_RULES = {"farthest": _FARTHEST, "covering": _COVERING, "voluminous": _VOLUMINOUS}


@triton.jit
def _newly_covered(gain, matrix, covered, changed, pick, rows, columns, COLUMNS: tl.constexpr, TILE: tl.constexpr):
    """The gains (COLUMNS,) that remain after a pick: only rows that it covers better than earlier picks change."""
    slot, lane = tl.arange(0, COLUMNS), tl.arange(0, TILE)
    number = 0
    for start in range(0, rows, TILE):  # the rows that change, listed without gaps
        row = start + lane
        value = tl.load(matrix + row * columns + pick, mask=row < rows, other=0.0)
        before = tl.load(covered + row, mask=row < rows, other=0.0)
        changes = (value > before) & (row < rows)
        place = number + tl.cumsum(changes.to(tl.int32), 0) - 1
        tl.store(changed + place, row, mask=changes)
        number += tl.sum(changes.to(tl.int32), axis=0)
    tl.debug_barrier()
    for start in range(0, number, TILE):
        place = start + lane
        row = tl.load(changed + place, mask=place < number, other=0)
        before = tl.load(covered + row, mask=place < number, other=0.0)
        now = tl.load(matrix + row * columns + pick, mask=place < number, other=0.0)
        there = (place < number)[:, None] & (slot < columns)[None, :]
        value = tl.load(matrix + row[:, None] * columns + slot[None, :], mask=there, other=0.0)
        lost = tl.minimum(tl.maximum(value, before[:, None]), now[:, None]) - before[:, None]
        gain -= tl.sum(tl.where(there, lost, 0.0), axis=0)
        tl.debug_barrier()  # all threads have read what is covered so far
        tl.store(covered + row, now, mask=place < number)
    tl.debug_barrier()
    return gain


@triton.jit
def _spanned(volume, matrix, factor, pick, step, best, columns, COLUMNS: tl.constexpr, TILE: tl.constexpr):
    """The volumes (COLUMNS,) that remain after a pick, whose row of the Cholesky factor is added."""
    slot, lane = tl.arange(0, COLUMNS), tl.arange(0, TILE)
    row = tl.load(matrix + pick * columns + slot, mask=slot < columns, other=0.0)
    for start in range(0, step, TILE):
        earlier = start + lane
        there = (earlier < step)[:, None] & (slot < columns)[None, :]
        of_pick = tl.load(factor + earlier * columns + pick, mask=earlier < step, other=0.0)
        of_all = tl.load(factor + earlier[:, None] * columns + slot[None, :], mask=there, other=0.0)
        row -= tl.sum(of_pick[:, None] * of_all, axis=0)
    row = tl.where(best > 0, row / tl.sqrt(tl.where(best > 0, best, 1.0)), 0.0)
    tl.store(factor + step * columns + slot, row, mask=slot < columns)
    tl.debug_barrier()
    return volume - row * row


@triton.jit
def _pick(
    matrix,  # (B, R, N) float64
    first,  # (B, N) float64: how good each patch is before any pick
    weight,  # (B, N) float64, of coverage
    scratch,  # float64: coverage (B, R) of zeros, how far each row is covered; volume (B, T, N), the Cholesky factor
    changed,  # (B, R) int32 scratch, of coverage
    picked,  # (B, T) int32: the result
    rows,
    columns,
    number,
    NOTHING,  # the share of a volume below which none is left
    RULE: tl.constexpr,
    COLUMNS: tl.constexpr,  # power of two, at least N
    TILE: tl.constexpr,  # rows of the matrix that are looked at in one go
):
    image = tl.program_id(0).to(tl.int64)
    matrix += image * rows * columns
    first += image * columns
    picked += image * number
    slot = tl.arange(0, COLUMNS)
    is_left = slot < columns
    state = tl.load(first + slot, mask=is_left, other=0.0)
    times = tl.full((COLUMNS,), 1.0, tl.float64)
    if RULE == 1:
        times = tl.load(weight + image * columns + slot, mask=is_left, other=0.0)
        scratch += image * rows
        changed += image * rows
    if RULE == 2:
        scratch += image * number * columns
    for step in range(number):
        score = tl.where(is_left, state * times, float("-inf"))
        best = tl.max(score, axis=0)
        pick = tl.min(tl.where(is_left & (score == best), slot, COLUMNS), axis=0)
        tl.store(picked + step, pick)
        is_left = is_left & (slot != pick)
        if RULE == 0:
            distance = tl.load(matrix + pick * columns + slot, mask=slot < columns, other=0.0)
            state = tl.where(step == 0, distance, tl.minimum(state, distance))
        if RULE == 1:
            state = _newly_covered(state, matrix, scratch, changed, pick, rows, columns, COLUMNS, TILE)
        if RULE == 2:
            state = _spanned(state, matrix, scratch, pick, step, best, columns, COLUMNS, TILE)
            whole = tl.load(first + slot, mask=slot < columns, other=0.0)
            state = tl.where(state < NOTHING * whole, 0.0, state)


def pick(
    rule: str, matrix: torch.Tensor, first: torch.Tensor, number: int, weight: torch.Tensor | None
) -> torch.LongTensor:
    """(B, T) int64: see `greedy`."""
    images, rows, patches = matrix.shape
    columns = triton.next_power_of_2(patches)
    new = {"device": matrix.device}
    scratch_of = {"covering": (images, rows), "voluminous": (images, number, patches), "farthest": (1,)}
    picked = torch.empty(images, number, dtype=torch.int32, **new)
    _pick[(images,)](
        matrix.contiguous(),
        first.contiguous(),
        (first if weight is None else weight).contiguous(),
        torch.zeros(scratch_of[rule], dtype=torch.float64, **new),
        torch.empty(images, rows, dtype=torch.int32, **new),
        picked,
        rows,
        patches,
        number,
        NOTHING,
        RULE=_RULES[rule],
        COLUMNS=columns,
        TILE=max(1, _ELEMENTS // columns),
        num_warps=16,
    )
    return picked.long()
