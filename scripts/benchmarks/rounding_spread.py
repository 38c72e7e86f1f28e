"""How far rounding moves what a method keeps, and what it scores.

    python -m scripts.benchmarks.rounding_spread --model-path playground/checkpoints/llava-tiny --output out/rounding

Every picture is encoded once. What the methods compare is then multiplied by 1 + noise * N(0, 1), as another GPU, batch
or library would change it, and rounded to float32, float16 or bfloat16, with many seeds. Questions are answered from
the unchanged features of the patches that are kept, so that the spread is that of the choice alone. Methods that merge
patches or drop tokens inside the language model have no set of kept patches, and `random` does not compare; they are
left out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llava.cli import CommandParser, output_folder, run_command
from llava.errors import InputError
from llava.eval.report.plots import if_it_can_be_drawn, new_figure, save_figure
from llava.files import atomic_writer, write_json
from llava.inference.options import pruning_method, visual_token_num
from llava.pruning.method import METHOD_NAMES
from llava.tables import markdown_table

if TYPE_CHECKING:
    import torch

    from llava.eval.benchmarks import Benchmark
    from llava.eval.benchmarks.questions import Question
    from llava.inference import Request
    from llava.pruning import Settings, Views

DTYPES = ("float32", "float16", "bfloat16")
LEFT_OUT = ("none", "blind", "random", "uniform", "pool", "visionzip", "prunesid", "hiprune", "fastv", "dart")
BATCH, LONGEST = 32, 16  # questions answered at once; tokens of an answer
Patches = tuple[int, ...]


def perturbed(views: Views, dtype: torch.dtype, noise: float, seed: int | None, project) -> Views:
    """Views with relative noise (None: without), rounded to `dtype` and float32 again."""
    import torch

    from llava.pruning import Views

    draw = None if seed is None else torch.Generator().manual_seed(seed)

    def changed(values: torch.Tensor) -> torch.Tensor:
        values = values.float()
        if draw is not None:
            values = values * (1 + noise * torch.randn(values.shape, generator=draw).to(values.device))
        return values.to(dtype).float()

    features, importance = changed(views.features), changed(views.importance)
    return Views(features, importance=importance, image_embeds=lambda: changed(views.image_embeds)).project_by(project)


@dataclass
class Asked:
    """A benchmark's questions, what the tower saw of their pictures, and the answers so far."""

    loaded: tuple
    benchmark: Benchmark
    data_dir: Path
    questions: list[Question]
    requests: list[Request]
    views: dict[Path, Views]
    answers: dict[tuple[int, Patches], str] = field(default_factory=dict)

    @classmethod
    def from_benchmark(cls, loaded: tuple, benchmark: Benchmark, data_dir: Path) -> Asked:
        from llava.eval.run.answering import make_requests
        from llava.inference.images import open_image
        from llava.model.encode import encode
        from llava.vision.pixels import process_images

        questions = benchmark.read_questions(data_dir)
        if any(not isinstance(question.image, Path) for question in questions):
            raise InputError(f"{benchmark.name}: a question without a picture of its own in a file cannot be measured")
        requests = make_requests(questions, "vicuna_v1", loaded.model.config)
        views = {}
        for path in dict.fromkeys(question.image for question in questions):
            picture = open_image(path, str(path), as_displayed=False)
            pixels = process_images([picture], loaded.image_processor, loaded.model.config)
            views[path] = encode(loaded.model, pixels)[0].views
        return cls(loaded, benchmark, data_dir, questions, requests, views)

    def kept(self, pruning: Settings, dtype: torch.dtype, noise: float, seed: int | None) -> list[Patches]:
        """What is kept for each question."""
        from llava.pruning import select

        model, rounded, found = self.loaded.model, {}, {}
        keys = [(q.image, r.question if pruning.question_views else "") for q, r in zip(self.questions, self.requests)]
        for image, asked in dict.fromkeys(keys):
            if image not in rounded:
                rounded[image] = perturbed(self.views[image], dtype, noise, seed, model.project)
            views = rounded[image]
            if pruning.question_views:
                views = model.with_question(views, pruning, asked)
            found[image, asked] = tuple(select(views, pruning).patches[0].tolist())
        return [found[key] for key in keys]

    def score(self, kept: list[Patches]) -> float:
        """The benchmark's first figure when these patches are kept for the questions."""
        from llava.eval.evaluation import sample_scorer

        new = [i for i, patches in enumerate(kept) if (i, patches) not in self.answers]
        for start in range(0, len(new), BATCH):
            self._answer(new[start : start + BATCH], kept)
        texts = [self.answers[key] for key in enumerate(kept)]
        (figures,) = sample_scorer(self.benchmark, self.data_dir)(self.questions, [texts])
        return figures[self.benchmark.headlines[0].heading]

    def _answer(self, batch: list[int], kept: list[Patches]) -> None:
        from llava.checkpoints.tokenizer import tokenizer_image_token
        from llava.inference.prefix_sharing import generate_batch
        from llava.pruning import Settings

        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        ids = [tokenizer_image_token(self.requests[i].prompt, tokenizer, return_tensors="pt") for i in batch]
        visual = [[model.project(self.views[self.questions[i].image].features[:, list(kept[i])])[0]] for i in batch]
        options = {"do_sample": False, "max_new_tokens": min(self.benchmark.max_new_tokens, LONGEST)}
        output = generate_batch(model, ids, visual, Settings(), **options)
        for i, text in zip(batch, tokenizer.batch_decode(output, skip_special_tokens=True)):
            self.answers[i, kept[i]] = text.strip()


def overlap(one: list[Patches], other: list[Patches]) -> float:
    """The share of patches that two runs both keep."""
    return sum(len({*a} & {*b}) for a, b in zip(one, other, strict=True)) / sum(map(len, one))


def measure(asked: Asked, pruning: Settings, noise: float, seeds: int) -> Iterator[dict]:
    """A row for each dtype."""
    import torch

    exact = asked.kept(pruning, torch.float32, noise, None)
    for name in DTYPES:
        dtype = getattr(torch, name)
        plain = asked.kept(pruning, dtype, noise, None)
        noisy = [asked.kept(pruning, dtype, noise, seed) for seed in range(seeds)]
        overlaps = [overlap(plain, kept) for kept in noisy]
        yield {
            "method": pruning.pruning_method,
            "dtype": name,
            "with_float32": overlap(exact, plain),
            "overlap": statistics.mean(overlaps),
            "least_overlap": min(overlaps),
            "score": asked.score(plain),
            "scores": [asked.score(kept) for kept in noisy],
        }


def table(rows: dict[str, list[dict]], noise: float, seeds: int) -> str:
    """Markdown, a table for each benchmark."""
    head = ["method", "features", "kept as in float32", f"kept with noise of {noise:g}: mean, least of {seeds}"]
    parts = []
    for name, measured in rows.items():
        lines = [[*head, name, f"{name} with noise: least to most"]]
        for row in measured:
            shares = [f"{row['with_float32']:.1%}", f"{row['overlap']:.1%}, {row['least_overlap']:.1%}"]
            scores = [f"{row['score']:.1f}", f"{min(row['scores']):.1f} to {max(row['scores']):.1f}"]
            lines.append([row["method"], row["dtype"], *shares, *scores])
        parts.append(markdown_table(lines, left=2))
    return "\n\n".join(parts) + "\n"


@if_it_can_be_drawn
def draw(rows: dict[str, list[dict]], path: Path) -> None:
    """Above the share that float16 and bfloat16 keep of float32's patches, below the spread of the scores."""
    figure = new_figure(5.5 * len(rows), 6)
    panels = figure.subplots(2, len(rows), squeeze=False)
    for column, (name, measured) in enumerate(rows.items()):
        methods = list(dict.fromkeys(row["method"] for row in measured))
        above, below = panels[:, column]
        for number, dtype in enumerate(DTYPES):
            own = {row["method"]: row for row in measured if row["dtype"] == dtype}
            places = [i + 0.26 * (number - 1) for i in range(len(methods))]
            color = f"C{number}"
            above.bar(places, [own[m]["with_float32"] for m in methods], width=0.24, color=color, label=dtype)
            for place, method in zip(places, methods):
                values = [own[method]["score"], *own[method]["scores"]]
                below.plot([place, place], [min(values), max(values)], color=color, linewidth=8, solid_capstyle="butt")
                below.plot(place, own[method]["score"], marker="_", color="black", markersize=9, markeredgewidth=2)
        above.set_title(f"{name}: patches kept as with float32 features")
        above.set_ylim(0, 1.02)
        below.set_title(f"{name}: score, all seeds; the dash is without noise")
        for panel in (above, below):
            panel.set_xticks(range(len(methods)), methods, rotation=35, ha="right")
            panel.grid(axis="y", alpha=0.3)
            panel.set_axisbelow(True)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(DTYPES))
    save_figure(figure, path)


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--data-dir", type=Path, help="the bundled scenes for the bundled model")
    parser.add_argument("--benchmarks", nargs="+", default=["pope", "textvqa"], help="pope textvqa")
    parser.add_argument("--visual_token_num", type=visual_token_num, default=16, help="budget (16)")
    choices = [name for name in METHOD_NAMES if name not in LEFT_OUT]
    parser.add_argument("--pruning_method", type=pruning_method, nargs="+", default=choices, help="all that have a set")
    parser.add_argument("--noise", type=float, default=1e-6, help="relative (1e-6)")
    parser.add_argument("--seeds", type=int, default=20, help="20")
    files = ("rounding.json", "rounding.md", "rounding.png")
    parser.add_argument("--output", type=output_folder(*files), required=True, help=f"folder for {', '.join(files)}")
    args = parser.parse_args()
    if args.seeds < 1 or not 0 <= args.noise < 1:
        raise InputError("seeds must be at least 1, noise in [0, 1)")
    for name in args.pruning_method:
        if name in LEFT_OUT:
            raise InputError(f"{name} compares nothing, reads other views, or has no set of kept patches")
    from llava.checkpoints.folders import get_model_name_from_path
    from llava.eval.benchmarks import find_benchmark
    from llava.eval.evaluation import default_data_dir
    from llava.model.builder import load_pretrained_model

    benchmarks = [find_benchmark(name) for name in args.benchmarks]
    data_dir = args.data_dir or Path(default_data_dir(args.model_path))
    for benchmark in benchmarks:
        if benchmark.score is None:
            raise InputError(f"{benchmark.name} has no local score")
        benchmark.require_data(data_dir)
    import torch

    from llava.pruning import Settings

    loaded = load_pretrained_model(args.model_path, None, get_model_name_from_path(args.model_path))
    rows: dict[str, list[dict]] = {}
    with torch.inference_mode():
        for benchmark in benchmarks:
            asked = Asked.from_benchmark(loaded, benchmark, data_dir)
            for name in args.pruning_method:
                pruning = Settings(args.visual_token_num, pruning_method=name)
                found = list(measure(asked, pruning, args.noise, args.seeds))
                rows.setdefault(benchmark.headlines[0].heading, []).extend(found)
                write_json(args.output / "rounding.json", rows, sort_keys=False)
    text = table(rows, args.noise, args.seeds)
    with atomic_writer(args.output / "rounding.md") as file:
        file.write(text)
    print(text)
    draw(rows, args.output / "rounding.png")


if __name__ == "__main__":
    run_command(main)
