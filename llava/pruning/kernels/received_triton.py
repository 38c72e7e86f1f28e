"""The attention that keys receive, on a GPU: no map of queries and keys is in memory.

Two passes over the products, each in blocks. The first finds what the softmax of each query subtracts and divides by.
The second adds up the shares that each key receives. A program owns its rows of either: no two add to one sum, and one
input has one result. Products are summed in float32, and those of float32 are not rounded to TF32.

Shapes: K crops, N patches, H heads. Needs Triton; see `importance.received` for what it computes.
"""

import math

import torch
import triton
import triton.language as tl

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_WIDEST = 128  # channels of a head whose blocks fit into the shared memory of every GPU
_ENOUGH = 2**15  # rows of all maps that give every multiprocessor a large block


def takes(queries: torch.Tensor) -> bool:
    """Whether the kernels are for such queries (K, H, N, head width) and their GPU."""
    if queries.dtype not in _DTYPES or queries.shape[3] > _WIDEST:
        return False
    return torch.cuda.get_device_capability(queries.device) >= (8, 0)


def widths(width: int) -> dict[str, int]:
    """A head of `width` channels as two parts of 16, 32, ... each, so that 80 are 64 and 16; REST may be 0."""
    main = max(16, 2 ** (width.bit_length() - 1))
    return {"WIDTH": width, "MAIN": main, "REST": max(16, triton.next_power_of_2(width - main)) if width > main else 0}


def blocks(dtype: torch.dtype, rows: int) -> dict[str, int]:
    """How many rows a program owns, of so many in all, how many it looks at in one go, and its warps."""
    if dtype is torch.float32:  # not on tensor cores: larger blocks have no room in registers
        return {"OWN": 32, "OTHERS": 32, "num_warps": 8}
    return {"OWN": 128, "OTHERS": 64, "num_warps": 8} if rows >= _ENOUGH else {"OWN": 64, "OTHERS": 64, "num_warps": 4}


@triton.jit
def _part(vectors, row, number, stride, FIRST: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """SIZE channels, from FIRST on, of vectors of WIDTH; zeros beyond these and beyond `number` vectors."""
    channel = FIRST + tl.arange(0, SIZE)
    there = (row < number)[:, None] & (channel < WIDTH)[None, :]
    return tl.load(vectors + row[:, None] * stride + channel[None, :], mask=there, other=0.0)


@triton.jit
def _own_rows(vectors, row, number, stride, MAIN: tl.constexpr, REST: tl.constexpr, WIDTH: tl.constexpr):
    """The two parts of a program's own vectors; where there is one, it is there twice."""
    main = _part(vectors, row, number, stride, 0, MAIN, WIDTH)
    rest = main
    if REST > 0:
        rest = _part(vectors, row, number, stride, MAIN, REST, WIDTH)
    return main, rest


@triton.jit
def _whose(heads, patches, OWN: tl.constexpr):
    """The crop, the head and the number of the map that a program has a part of, and its rows (OWN,) there."""
    number = tl.cdiv(patches, OWN)
    attention_map = (tl.program_id(0) // number).to(tl.int64)
    row = tl.program_id(0) % number * OWN + tl.arange(0, OWN)
    return attention_map // heads, attention_map % heads, attention_map, row


@triton.jit
def _products(main, rest, vectors, row, number, stride, MAIN: tl.constexpr, REST: tl.constexpr, WIDTH: tl.constexpr):
    """(OWN, OTHERS) float32: of the vectors at hand, in two parts, and those of other rows."""
    others = _part(vectors, row, number, stride, 0, MAIN, WIDTH)
    products = tl.dot(main, tl.trans(others), input_precision="ieee")
    if REST > 0:
        others = _part(vectors, row, number, stride, MAIN, REST, WIDTH)
        products = tl.dot(rest, tl.trans(others), products, input_precision="ieee")
    return products


@triton.jit
def _normalisers(
    queries,  # (K, H, N, WIDTH)
    keys,  # (K, H, N, WIDTH)
    is_patch,  # (K, N) uint8, read if MASKED
    top,  # (K, H, N) float32, a result: the highest score of each query
    share,  # (K, H, N) float32, a result: 1 over the sum of its powers; 0 of padding
    heads,
    patches,
    crop_of_queries,  # strides
    head_of_queries,
    row_of_queries,
    crop_of_keys,
    head_of_keys,
    row_of_keys,
    scale,  # of powers of 2
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    OWN: tl.constexpr,
    OTHERS: tl.constexpr,
):
    LOWEST: tl.constexpr = -3e38  # not -inf, of which two have no difference
    crop, head, attention_map, row = _whose(heads, patches, OWN)
    queries += crop * crop_of_queries + head * head_of_queries
    keys += crop * crop_of_keys + head * head_of_keys
    main, rest = _own_rows(queries, row, patches, row_of_queries, MAIN, REST, WIDTH)
    highest = tl.full((OWN,), LOWEST, tl.float32)
    total = tl.zeros((OWN,), tl.float32)
    for start in range(0, patches, OTHERS):
        other = start + tl.arange(0, OTHERS)
        there = other < patches
        if MASKED:
            there = there & (tl.load(is_patch + crop * patches + other, mask=there, other=0) != 0)
        products = _products(main, rest, keys, other, patches, row_of_keys, MAIN, REST, WIDTH)
        scores = tl.where(there[None, :], products * scale, LOWEST)
        now = tl.maximum(highest, tl.max(scores, axis=1))
        total = total * tl.exp2(highest - now) + tl.sum(tl.exp2(scores - now[:, None]), axis=1)
        highest = now
    part = 1.0 / total
    if MASKED:
        part = tl.where(tl.load(is_patch + crop * patches + row, mask=row < patches, other=0) != 0, part, 0.0)
    tl.store(top + attention_map * patches + row, highest, mask=row < patches)
    tl.store(share + attention_map * patches + row, part, mask=row < patches)


@triton.jit
def _sums(
    queries,  # as of `_normalisers`, up to `scale`
    keys,
    is_patch,
    top,
    share,
    heads,
    patches,
    crop_of_queries,
    head_of_queries,
    row_of_queries,
    crop_of_keys,
    head_of_keys,
    row_of_keys,
    scale,
    received,  # (K, H, N) float32: the result
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    OWN: tl.constexpr,
    OTHERS: tl.constexpr,
):
    crop, head, attention_map, row = _whose(heads, patches, OWN)
    queries += crop * crop_of_queries + head * head_of_queries
    keys += crop * crop_of_keys + head * head_of_keys
    main, rest = _own_rows(keys, row, patches, row_of_keys, MAIN, REST, WIDTH)
    total = tl.zeros((OWN,), tl.float32)
    for start in range(0, patches, OTHERS):
        other = start + tl.arange(0, OTHERS)
        products = _products(main, rest, queries, other, patches, row_of_queries, MAIN, REST, WIDTH)
        highest = tl.load(top + attention_map * patches + other, mask=other < patches, other=0.0)
        part = tl.load(share + attention_map * patches + other, mask=other < patches, other=0.0)
        total += tl.sum(tl.exp2(products * scale - highest[None, :]) * part[None, :], axis=1)
    if MASKED:
        total = tl.where(tl.load(is_patch + crop * patches + row, mask=row < patches, other=0) != 0, total, 0.0)
    tl.store(received + attention_map * patches + row, total, mask=row < patches)


def received(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, is_patch: torch.BoolTensor | None = None
) -> torch.Tensor:
    """(K, N) float32: see `importance.received`; of queries and keys that it `takes`."""
    crops, heads, patches, width = queries.shape
    queries, keys = (states if states.stride(3) == 1 else states.contiguous() for states in (queries, keys))
    top, share, total = (torch.empty(crops, heads, patches, device=queries.device) for _ in range(3))
    mask = top if is_patch is None else is_patch.contiguous().view(torch.uint8)
    given = (queries, keys, mask, top, share, heads, patches, *queries.stride()[:3], *keys.stride()[:3])
    size = blocks(queries.dtype, total.numel())
    constants = {"MASKED": is_patch is not None, **widths(width), **size}
    grid = (crops * heads * triton.cdiv(patches, size["OWN"]),)
    _normalisers[grid](*given, scale * math.log2(math.e), **constants)
    _sums[grid](*given, scale * math.log2(math.e), total, **constants)
    return total.mean(dim=1)
