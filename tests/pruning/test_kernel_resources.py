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

GENERATIONS = (80, 90, 100)  # A100, H100 and H200, B200
WARPS = 16
READER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {"neighbours": "*i16", "lists": "*i32", "in_b": "*i8", "kept": "*i32", "changed": "*i32", "picked": "*i32"}
INTEGERS = ("length", "keep", "rows", "columns", "number")


def rounds(patches: int, in_order: bool = False) -> tuple:
    half = triton.next_power_of_2((patches + 1) // 2)
    constants = {"MAX_DROP": 8, "IN_ORDER": in_order, "HALF": half, "WIDTH": duplicates_triton.width_of(half)}
    return duplicates_triton._rounds, constants


def picks(rule: str, patches: int) -> tuple:
    columns = triton.next_power_of_2(patches)
    tile = max(1, greedy_triton._ELEMENTS // columns)
    return greedy_triton._pick, {"RULE": greedy_triton._RULES[rule], "COLUMNS": columns, "TILE": tile}


def attention(function: str, dtype: str, width: int, rows: int = 10**6) -> tuple:
    constants = {"MASKED": True, **received_triton.widths(width)}
    constants |= received_triton.blocks(getattr(torch, dtype), rows)
    return getattr(received_triton, function), constants, dtype


# 576 patches less 32 important ones; 729 of SigLIP; the five crops of LLaVA-1.6 in one list.
KERNELS = {f"rounds {patches}": rounds(patches) for patches in (144, 544, 729, 2816)}
KERNELS["rounds in order 544"] = rounds(544, in_order=True)
KERNELS |= {
    f"{rule} {patches}": picks(rule, patches)
    for rule in ("farthest", "covering", "voluminous")
    for patches in (576, 2880)
}


def build(function, constants: dict, generation: int):
    """A kernel in machine code. Pointers that are not named above are to float64."""
    others = {"NOTHING": "fp32"} | dict.fromkeys(INTEGERS, "i32") | POINTERS | dict.fromkeys(constants, "constexpr")
    signature = {name: others.get(name, "*fp64") for name in function.arg_names}
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", generation, 32), options={"num_warps": WARPS})


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_register_is_spilled(kernel, generation, tmp_path, record_property):
    """At most 128 of 65,536 / 512 registers a thread, nothing on the stack, and shared memory that every GPU has."""
    built = build(*KERNELS[kernel], generation)
    file = tmp_path / "kernel.cubin"
    file.write_bytes(built.asm["cubin"])
    said = subprocess.run([READER, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"\b{what}:(\d+)", said)[1]) for what in ("REG", "STACK"))
    record_property("resources", f"{registers} registers, {stack} bytes of stack, {built.metadata.shared} shared")
    assert registers <= 128
    assert stack == 0
    assert built.metadata.shared <= 48 * 1024
