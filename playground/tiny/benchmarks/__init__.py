"""The bundled benchmarks: questions about scenes that training never uses, in the file formats of the real benchmarks.

Folders and files have the names of the real ones, so that the same recipes read them.
"""

from pathlib import Path

from playground.tiny.benchmarks.multiple_choice import write_mmbench, write_scienceqa, write_seed
from playground.tiny.benchmarks.short_answers import write_gqa, write_mmvet, write_textvqa, write_vizwiz, write_vqav2
from playground.tiny.benchmarks.yes_no import write_mme, write_pope
from playground.tiny.options import make_folder
from playground.tiny.scenes import Scene, evaluation_scenes


def write(output: Path, part: float = 1) -> None:
    """Write all benchmarks, or a part of each (0 to 1). No two use the same scene."""
    make_folder(output)
    pools = evaluation_scenes()
    scenes, signs = iter(pools["any"]), iter(pools["sign"])

    def size(number: int) -> int:
        return max(1, int(number * part))

    def take(source, number: int) -> list[Scene]:
        return [next(source) for _ in range(size(number))]

    write_pope(output / "pope", take(scenes, 80))
    write_gqa(output / "gqa", take(scenes, 90))
    write_vqav2(output / "vqav2", take(scenes, 90))
    write_seed(output / "seed_bench", take(scenes, 50))
    write_mmbench(output / "mmbench", take(scenes, 50))
    write_scienceqa(output / "scienceqa", take(scenes, 60), size(40))
    write_vizwiz(output / "vizwiz", take(scenes, 80))
    write_mmvet(output / "mm-vet", take(scenes, 30))
    write_textvqa(output / "textvqa", take(signs, 220))
    write_mme(output / "MME", {"any": list(scenes), "sign": list(signs), "code": pools["code"]}, size(16))
