"""What was measured, as a table."""

import torch

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
    times = [name for name, value in rows[0].items() if isinstance(value, dict)]
    head = ["method", "visual tokens", *(f"{name}, ms" for name in times)]
    head += [f"{name}, of unpruned" for name in SHARES]
    head += ["prefill FLOPs, of unpruned", "prefill, TFLOPs", "KV cache, MiB", "peak memory, GiB"]
    lines, whole = [head], rows[0]
    for row in rows:
        share = [f"{row[name]['median'] / whole[name]['median']:.0%}" for name in SHARES]
        share += [f"{row['prefill_flops'] / whole['prefill_flops']:.0%}"]
        sizes = [f"{row['prefill_flops'] / 1e12:.3g}", f"{row['kv_cache_bytes'] / MIB:.1f}"]
        cells = [row["method"], str(row["visual_tokens"]), *(_milliseconds(row[name]) for name in times)]
        lines.append([*cells, *share, *sizes, f"{row['peak_memory_bytes'] / GIB:.2f}"])
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items())
    return f"{said}\n\n{markdown_table(lines)}"
