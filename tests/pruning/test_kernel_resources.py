"""The kernels in machine code for three generations of GPU, built without one: what they take of each."""

import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

import torch  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from llava.pruning.kernels import duplicates_triton, greedy_triton, received_triton  # noqa: E402

GENERATIONS = (
    pytest.param(80, marks=pytest.mark.slow),
    90,
    pytest.param(100, marks=pytest.mark.slow),
)  # A100, H200, B200
REGISTERS, SHARED = 65536, 99 * 1024  # of a multiprocessor, and what every GPU since the A100 lends to a program
# Kernels whose registers one release of Triton spills, and how many bytes of them.
SPILLED = {("3.8", "covering 576", 90): 48}
READER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {"neighbours": "*i32", "lists": "*i32", "in_b": "*i8", "kept": "*i64", "changed": "*i32", "picked": "*i32"}
TYPES |= dict.fromkeys(("length", "keep", "rows", "columns", "number", "patches", "heads"), "i32")
TYPES |= {"NOTHING": "fp32", "scale": "fp32", "is_patch": "*u8", "top": "*fp32", "share": "*fp32", "received": "*fp32"}
SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def rounds(patches: int, in_order: bool = False) -> tuple:
    constants = {"MAX_DROP": 8, "IN_ORDER": in_order, **duplicates_triton.constants(patches)}
    return duplicates_triton._rounds, constants, duplicates_triton.WARPS, {"keys": "*i32"}


def nearest(patches: int) -> tuple:
    columns, warps = duplicates_triton.columns_and_warps(patches)
    return duplicates_triton._nearest, {"NEAR": duplicates_triton.NEIGHBOURS, "COLUMNS": columns}, warps, {}


def picks(rule: str, patches: int) -> tuple:
    columns = triton.next_power_of_2(patches)
    tile = max(1, greedy_triton._ELEMENTS // columns)
    return greedy_triton._pick, {"RULE": greedy_triton._RULES[rule], "COLUMNS": columns, "TILE": tile}, 16, {}


def attention(function: str, dtype: str, width: int, rows: int) -> tuple:
    size = received_triton.blocks(getattr(torch, dtype), rows)
    warps, vectors = size.pop("num_warps"), dict.fromkeys(("queries", "keys"), f"*{SHORT[dtype]}")
    strides = {f"{what}_of_{of}": "i32" for what in ("crop", "head", "row") for of in ("queries", "keys")}
    constants = {"MASKED": True, **received_triton.widths(width), **size}
    return getattr(received_triton, function), constants, warps, vectors | strides


# 576 patches less 32 important ones; the five crops of LLaVA-1.6 in one list.
KERNELS = {f"rounds {patches}": rounds(patches) for patches in (144, 544, 2816)}
KERNELS["rounds in order 544"] = rounds(544, in_order=True)
KERNELS |= {f"nearest {patches}": nearest(patches) for patches in (144, 544, 2816)}
KERNELS |= {
    f"{rule} {patches}": picks(rule, patches)
    for rule in ("farthest", "covering", "voluminous")
    for patches in (576, 2880)
}
# Heads of Qwen2.5-VL, SigLIP and the widest; many patches and few.
KERNELS |= {
    f"{function} {width} {dtype}": attention(function, dtype, width, rows)
    for function in ("_normalisers", "_sums")
    for width, dtype, rows in (
        (80, "bfloat16", 2**16),
        (72, "float16", 2**13),
        (128, "float16", 2**16),
        (128, "float32", 2**16),
    )
}


def build(function, constants: dict, warps: int, types: dict, generation: int):
    """A kernel in machine code, for aligned memory. Arguments of no type here or above are pointers to float64."""
    known = TYPES | types | dict.fromkeys(constants, "constexpr")
    signature = {name: known.get(name, "*fp64") for name in function.arg_names}
    aligned = [i for i, (name, type_) in enumerate(signature.items()) if type_[0] == "*" or "_of_" in name]
    options = {"num_warps": warps} | (duplicates_triton.LAUNCH if function is duplicates_triton._rounds else {})
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", generation, 32), options=options)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_register_is_spilled(kernel, generation, tmp_path, record_property):
    """What a program takes is there on every such GPU, and it has nothing on the stack that is not known."""
    built = build(*KERNELS[kernel], generation)
    file = tmp_path / "kernel.cubin"
    file.write_bytes(built.asm["cubin"])
    said = subprocess.run([READER, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"\b{what}:(\d+)", said)[1]) for what in ("REG", "STACK"))
    record_property("resources", f"{registers} registers, {stack} bytes of stack, {built.metadata.shared} shared")
    assert registers * 32 * built.metadata.num_warps <= REGISTERS
    assert stack == SPILLED.get((triton.__version__.rpartition(".")[0], kernel, generation), 0)
    assert built.metadata.shared <= SHARED


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_of_half_precision_are_on_tensor_cores(dtype):
    built = build(*attention("_sums", dtype, 80, 2**16), 90)
    assert "wgmma" in built.asm["ptx"]
