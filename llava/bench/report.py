"""What was measured, as a table and a plot."""

from pathlib import Path

import torch

from llava.bench.measure import TIMES
from llava.eval.report.plots import if_it_can_be_drawn, new_figure, save_figure
from llava.machine import device_name, versions
from llava.tables import markdown_table

GIB, MIB = 2**30, 2**20
SHARES = ("prefill", "first token", "answer")  # shown as shares of the unpruned model's


def machine(device: torch.device) -> dict[str, str]:
    """On what it was measured."""
    name = device_name(str(device))
    if device.type != "cuda":
        name = f"{torch.get_num_threads()} threads on {name}"
    found = versions()
    return {"machine": name} | {package: found[package] for package in ("python", "torch", "transformers")}


def _milliseconds(cell: dict[str, float]) -> str:
    median, least, most = (f"{cell[key]:.{1 if cell['median'] >= 10 else 2}f}" for key in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def table(about: dict, rows: list[dict]) -> str:
    """Markdown: times in milliseconds, median (least to most)."""
    head = ["method", "visual tokens", *(f"{name}, ms" for name in TIMES)]
    head += [f"{name}, of unpruned" for name in SHARES]
    head += ["prefill FLOPs, of unpruned", "prefill, TFLOPs", "KV cache, MiB", "peak memory, GiB"]
    lines, whole = [head], rows[0]
    for row in rows:
        share = [f"{row[name]['median'] / whole[name]['median']:.0%}" for name in SHARES]
        share += [f"{row['prefill_flops'] / whole['prefill_flops']:.0%}"]
        sizes = [f"{row['prefill_flops'] / 1e12:.3g}", f"{row['kv_cache_bytes'] / MIB:.1f}"]
        cells = [row["method"], str(row["visual_tokens"]), *(_milliseconds(row[name]) for name in TIMES)]
        lines.append([*cells, *share, *sizes, f"{row['peak_memory_bytes'] / GIB:.2f}"])
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items())
    return f"{said}\n\n{markdown_table(lines)}"


@if_it_can_be_drawn
def draw(about: dict, rows: list[dict], path: Path) -> None:
    """Time to the first token, time of the answer, and memory against visual tokens; the unpruned model dashed.

    Raises InputError if the file cannot be written.
    """
    panels = {
        "time to first token, ms": lambda row: row["first token"]["median"],
        f"answer of {about['answer_tokens']} tokens, ms": lambda row: row["answer"]["median"],
        "KV cache, MiB": lambda row: row["kv_cache_bytes"] / MIB,
        "peak memory, GiB": lambda row: row["peak_memory_bytes"] / GIB,
    }
    figure = new_figure(4 * len(panels), 3.6)
    axes = figure.subplots(1, len(panels))
    for axis, (name, value) in zip(axes, panels.items()):
        axis.axhline(value(rows[0]), color="black", linestyle="--", label=f"all {rows[0]['visual_tokens']}")
        for method in dict.fromkeys(row["method"] for row in rows[1:]):
            part = sorted((row["visual_tokens"], value(row)) for row in rows[1:] if row["method"] == method)
            axis.plot(*zip(*part), marker="o", label=method)
        axis.set_xlabel("visual tokens")
        axis.set_title(name)
        axis.set_ylim(0, 1.1 * max(value(row) for row in rows))
    axes[0].legend()
    figure.suptitle(f"{about['model']}, {about['dtype']}, {about['machine']}")
    save_figure(figure, path)
