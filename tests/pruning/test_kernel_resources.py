"""The rounds' kernel in machine code for three generations of GPU, built without one: what it takes of each."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

triton = pytest.importorskip("triton")

BUILD = """
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from llava.pruning.duplicates_triton import WARPS, _rounds, width_of

half = triton.next_power_of_2(({patches} + 1) // 2)
pointers = {{"neighbours": "*i16", "similarity": "*fp64", "lists": "*i32"}}
pointers |= {{"in_b": "*i8", "scores": "*fp64", "kept": "*i32"}}
constants = {{"MAX_DROP": 8, "HALF": half, "WIDTH": width_of(half)}}
signature = pointers | {{"length": "i32", "keep": "i32"}} | dict.fromkeys(constants, "constexpr")
source = ASTSource(fn=_rounds, signature=signature, constexprs=constants)
for generation in {generations}:
    built = triton.compile(source, target=GPUTarget("cuda", generation, 32), options={{"num_warps": WARPS}})
    Path({folder!r}, f"{{generation}}.ptx").write_text(built.asm["ptx"])
    print(generation, built.metadata.shared)
"""
GENERATIONS = (80, 90, 100)  # A100, H100 and H200, B200
ASSEMBLERS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def assemble(ptx: Path) -> str:
    """What the newest assembler of Triton says of registers and spills."""
    target = re.search(r"^\.target (sm_\w+)", ptx.read_text(encoding="utf-8"), re.MULTILINE)[1]
    newest = max(ASSEMBLERS.glob("ptxas*"))
    options = ["-v", f"--gpu-name={target}", "-o", "/dev/null", str(ptx)]
    done = subprocess.run([newest, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# 576 patches less 32 important ones; 729 of SigLIP; the five crops of LLaVA-1.6 in one list.
@pytest.mark.parametrize("patches", [144, 544, 729, 2816])
def test_no_register_is_spilled(patches, tmp_path, record_property):
    """At most 128 of 65,536 / 512 registers a thread, no spill, and shared memory that every GPU has."""
    program = BUILD.format(patches=patches, generations=GENERATIONS, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    shared = dict(map(int, line.split()) for line in done.stdout.splitlines())
    assert shared.keys() == set(GENERATIONS)
    for generation in GENERATIONS:
        said = assemble(tmp_path / f"{generation}.ptx")
        registers = int(re.search(r"Used (\d+) registers", said)[1])
        record_property(f"sm_{generation}", f"{registers} registers, {shared[generation]} bytes of shared memory")
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in said, said
        assert registers <= 128
        assert shared[generation] <= 48 * 1024
