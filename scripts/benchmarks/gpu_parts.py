"""The parts of `scripts.benchmarks.gpu_report`: each a function of a `Lab` that returns columns, rows and a note."""

import gc
import math
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from llava.bench.hosts import build_host, make_host_job, measure_host
from llava.bench.measure import make_job, measure
from llava.bench.random_model import build
from llava.bench.report import GIB, MIB
from llava.bench.shapes import HOSTS, SHAPES, HostShape, Shape
from llava.eval.benchmarks.questions import read_question_file
from llava.eval.run.answering import answer_questions, make_requests
from llava.inference import Engine
from llava.model.builder import LoadedModel, load_pretrained_model
from llava.pruning import Settings
from llava.pruning.importance import received
from llava.pruning.kernels.duplicates import drop_duplicates, drop_duplicates_in_torch
from llava.pruning.kernels.greedy import farthest, most_covering, most_voluminous
from llava.pruning.method import NONE
from llava.pruning.methods.vispruner import cosine_similarity_matrix
from scripts.benchmarks import gpu_throughput
from scripts.benchmarks.importance_cost import importances
from scripts.benchmarks.method_cost import methods
from scripts.benchmarks.selection_cost import selections, take_turns, towers

Benchmark = namedtuple("Benchmark", "name pictures")
BUNDLED = Path(__file__).parents[2] / "playground"
HOST_NAMES = {name.lower(): name for name in HOSTS}
SHARES = (0.5, 0.25, 0.1)
BENCHMARKS = {"pope": Benchmark("POPE", "val2014"), "textvqa": Benchmark("TextVQA", "train_images")}
COMPILED_ANSWERS = 40  # they are made one by one
PROMPT, ANSWER = 64, 32  # text tokens of a prompt, and tokens of an answer
HOST_ANSWER = 8
SERVED_ANSWER = 8
ATTENTION = {
    "sdpa": ("sdpa", "SDPA"),
    "compiled": ("sdpa", "SDPA, compiled"),
    "eager": ("eager", "eager"),
    "flash": ("flash_attention_2", "FlashAttention"),
}
TIME = ["{}", "{} ({} %)"]


class Lab:
    """Where it is measured, the sizes, and one random model at a time, which the parts of a shape share."""

    def __init__(self, device: torch.device, is_tiny: bool = False) -> None:
        self.device, self.is_tiny = device, is_tiny
        self.dtype = torch.float32 if device.type == "cpu" else torch.float16
        self.rounds, self.warmup = (1, 0) if is_tiny else (3, 1)
        self._name, self._model = None, None

    def answer(self, tokens: int) -> int:
        """The length of an answer that has so many tokens, or fewer where all is tiny."""
        return 3 if self.is_tiny else tokens

    def shape(self, name: str) -> Shape | HostShape:
        """The shape of this name, or a tiny one of its kind."""
        shape = SHAPES[name] if name in SHAPES else HOSTS[HOST_NAMES[name]]
        return _tiny(shape) if self.is_tiny else shape

    def model(self, name: str):
        """The random model of a shape."""
        if name != self._name:
            self.drop()
            make, more = (build, ()) if name in SHAPES else (build_host, (None,))
            self._model = make(self.shape(name), *more, self.device, self.dtype, "sdpa")
            self._name = name
        return self._model

    def drop(self) -> None:
        """Free the model's memory."""
        self._name = self._model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _tiny(shape: Shape | HostShape) -> Shape | HostShape:
    if isinstance(shape, Shape):
        small = {"vision_width": 32, "vision_layers": 3, "vision_heads": 2, "image_size": 168, "width": 48}
        return replace(shape, **small, layers=2, heads=4, mlp_width=96, vocabulary=1400)
    layers = {"fullatt_block_indexes": [1], "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    width = {"hidden_size": 32, "intermediate_size": 64}
    vision = width | {"depth": 2, "num_heads": 2, "out_hidden_size": 32}
    vision |= {name: value for name, value in layers.items() if name in shape.vision}
    rope = shape.text["rope_parameters"] | {"mrope_section": [2, 3, 3]}
    text = width | {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    return replace(shape, vision=shape.vision | vision, text=shape.text | text | {"rope_parameters": rope})


def _figure(value: float) -> float | int:
    """A figure to three digits."""
    short = float(f"{value:.3g}")
    return int(short) if abs(short) >= 100 else short


def _share(row: dict, whole: dict, name: str) -> float | int | list:
    """A time in milliseconds, and but for the unpruned model its share of that one's in percent."""
    mine, its = row[name]["median"], whole[name]["median"]
    return _figure(mine) if row is whole else [_figure(mine), round(100 * mine / its)]


def _column(heading: str, form: str | list[str] | None = None, once: bool = False) -> dict:
    return {"heading": heading} | ({"format": form} if form else {}) | ({"once": True} if once else {})


@torch.inference_mode()
def kernels(lab: Lab) -> dict:
    """Each kernel alongside a plain version: whether they give the same, and both times."""
    sizes, rows = ([(1, 40, 8), (2, 33, 5)] if lab.is_tiny else [(1, 544, 32), (32, 544, 32), (1, 2848, 32)]), []
    for images, patches, keep in sizes:
        for name, where, kernel, plain in _choices(lab, images, patches, keep):
            same = (kernel().cpu() == plain().cpu()).sum().item()
            times = _medians(lab, {"kernel": kernel, "plain": plain})
            rows.append([name, images, patches, f"{same} of {images * keep}", times["kernel"], where, times["plain"]])
    headings = ("", "images", "patches", "the same", "kernel, ms", "plain version", "plain version, ms")
    note = "Kernels and plain versions of them. Of the importance where there is no [CLS], the largest difference"
    return {"columns": [_column(each) for each in headings], "rows": [*rows, _importance(lab)], "note": note}


def _choices(lab: Lab, images: int, patches: int, keep: int) -> Iterator[tuple[str, str, Callable, Callable]]:
    """Name, place of the plain version, kernel and plain version of each way to choose, on the same random images."""
    generator = torch.Generator().manual_seed(patches)
    there = cosine_similarity_matrix(torch.randn(images, patches, 1024, generator=generator).to(lab.device))
    here = there.cpu()
    for name, in_order in (("rounds", False), ("rounds in raster order", True)):
        rounds, plain = (partial(each, there, keep, in_order) for each in (drop_duplicates, drop_duplicates_in_torch))
        yield name, "PyTorch", rounds, plain
    for name, rule, change in (
        ("farthest", farthest, lambda similarity: 1 - similarity),
        ("most covering", most_covering, torch.clone),
        ("most voluminous", most_voluminous, torch.clone),
    ):
        pick = partial(_pick, rule, change, keep)
        yield name, "NumPy, on the CPU", partial(pick, there), partial(pick, here)


def _pick(rule: Callable, change: Callable, keep: int, similarity: torch.Tensor) -> torch.Tensor:
    return rule(change(similarity), keep)


def _importance(lab: Lab) -> list:
    """The row of the attention that patches receive, of 4,096 patches as Qwen2.5-VL's tower has them."""
    heads, patches, width = (2, 64, 16) if lab.is_tiny else (16, 4096, 80)
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(1, heads, patches, width, generator=generator) for _ in range(2))
    queries, keys = queries.to(lab.device, lab.dtype), keys.to(lab.device, lab.dtype)

    def plain() -> torch.Tensor:
        maps = (queries.float() @ keys.float().transpose(2, 3) * width**-0.5).softmax(dim=3)
        return maps.sum(dim=2).mean(dim=1)

    own = partial(received, queries, keys, width**-0.5)
    difference = ((own() - plain()).abs() / plain()).max().item()
    times = _medians(lab, {"kernel": own, "plain": plain})
    return ["importance without [CLS]", 1, patches, f"to {difference:.0e}", times["kernel"], "PyTorch", times["plain"]]


def _medians(lab: Lab, variants: dict[str, Callable]) -> dict[str, float | int]:
    """Milliseconds of variants that take turns."""
    times = take_turns(variants, lab.device, 2 * lab.rounds, lab.warmup)
    return {name: _figure(cell["median"]) for name, cell in times.items()}


@torch.inference_mode()
def selection(lab: Lab) -> dict:
    """What each method's selection costs, and a tower with and without its [CLS] attention."""
    batches, (patches, channels, number) = ((1, 2), (40, 16, 8)) if lab.is_tiny else ((1, 8, 32), (576, 1024, 64))
    found: dict[str, list] = {}
    for batch in batches:
        plain = selections(batch, patches, channels, number, lab.device)["transcription, float32"]
        variants = {"the rounds transcribed, float32": plain}
        variants |= {f"`{name}`": each for name, each in methods(batch, patches, channels, number, lab.device).items()}
        without, with_attention = towers(lab.shape("llava-v1.5-7b"), batch, lab.device).values()
        variants |= {"CLIP's tower": without, "CLIP's tower and its [CLS] attention": with_attention}
        for name, time in _medians(lab, variants).items():
            found.setdefault(name, []).append(time)
    columns = [_column(""), *(_column(f"batch {batch}") for batch in batches)]
    note = f"The selection of {number} of {patches} patches with {channels} channels by each method, milliseconds"
    return {"columns": columns, "rows": [[name, *times] for name, times in found.items()], "note": note}


@torch.inference_mode()
def importance(lab: Lab) -> dict:
    """What the importance costs where there is no [CLS], alongside the tower and one call of its attention."""
    rows, batches = [], (1, 2) if lab.is_tiny else (1, 8)
    for tower in ("siglip-tiny",) if lab.is_tiny else ("siglip-so400m-384", "qwen2.5-vl"):
        for batch in batches:
            times = _medians(lab, importances(tower, batch, lab.device))
            share = round(100 * times["importance"] / times["tower"], 1)
            rows.append([tower, batch, times["tower"], [times["importance"], share], *list(times.values())[2:]])
    headings = ("tower", "batch", "tower", "importance", "of it `received`", "plain PyTorch", "one SDPA call")
    columns = [_column(each, TIME if each == "importance" else None) for each in headings]
    return {"columns": columns, "rows": rows, "note": "The importance of patches without [CLS], milliseconds"}


def equal(lab: Lab, precision: str, is_compiled: bool = False) -> dict:
    """How many answers of the bundled model are those that it gives on the CPU in float32."""
    number = 6 if lab.is_tiny else COMPILED_ANSWERS if is_compiled else None
    rows, label = [], f"{precision}, compiled" if is_compiled else precision
    for benchmark, tokens in (("pope", None), ("pope", 16), ("textvqa", 16)):
        right = _bundled("cpu", "float32", False, benchmark, tokens, 6 if lab.is_tiny else None)
        given = _bundled(str(lab.device), precision, is_compiled, benchmark, tokens, number)
        same = sum(a == b for a, b in zip(given, right))
        rows.append([BENCHMARKS[benchmark].name, tokens or 144, label, f"{same} of {len(given)}"])
    columns = [_column(each) for each in ("bundled", "visual tokens", "precision", "the CPU's answers in float32")]
    return {"columns": columns, "rows": rows, "note": "Answers of the bundled model, by `vispruner`"}


@cache
def _bundled(
    device: str, precision: str, is_compiled: bool, benchmark: str, tokens: int | None, number: int | None
) -> list[str]:
    """The bundled model's answers to the first `number` questions of a bundled benchmark."""
    loaded, folder = _load(device, precision), BUNDLED / "data" / "scenes" / benchmark
    loaded.model.records = is_compiled
    questions = read_question_file(next(folder.glob("*.jsonl")), folder / BENCHMARKS[benchmark].pictures)[:number]
    options, pruning = {"do_sample": False, "max_new_tokens": 16}, Settings(tokens)
    if not is_compiled:
        return [text for _, text in answer_questions(loaded, questions, loaded.template, options, pruning=pruning)]
    # What prompts of a batch share has a cache of its own, which is not compiled.
    requests, engine = make_requests(questions, loaded.template, loaded.model.config, pruning), Engine(loaded)
    return ["".join(engine.stream(request, **options)) for request in requests]


@cache
def _load(device: str, precision: str) -> LoadedModel:
    path = BUNDLED / "checkpoints" / "llava-tiny"
    disable_progress_bar()
    return load_pretrained_model(str(path), None, path.name, device=device, dtype=getattr(torch, precision))


def answer(lab: Lab, shape: str, attention: str, batch: int, tokens: tuple[int, ...]) -> dict:
    """A whole answer of a random LLaVA, stage by stage, unpruned and at budgets of `tokens` of each crop."""
    model, own = lab.model(shape), lab.shape(shape)
    implementation, label = ATTENTION[attention]
    model.set_attn_implementation(implementation)
    crops = 1 if own.grid is None else 1 + math.prod(own.grid)
    job = make_job(
        own.image_size, crops, own.grid, PROMPT, model, lab.answer(ANSWER), 2 if lab.is_tiny and batch > 1 else batch
    )
    settings = [Settings(pruning_method=NONE), *map(Settings, tokens)]
    model.records = attention == "compiled"
    found = measure(model, job, settings, lab.rounds, lab.warmup)
    rows = []
    for row in found:
        flops = round(100 * row["prefill_flops"] / found[0]["prefill_flops"])
        times = [_share(row, found[0], name) for name in ("prefill", "first token", "answer")]
        token, cache_size = _figure(row["per token"]["median"]), round(row["kv_cache_bytes"] / MIB)
        rows.append([shape, label, batch, row["visual_tokens"], flops, *times, token, cache_size])
    columns = [*(_column(each, once=True) for each in ("shape", "attention", "batch")), _column("visual tokens")]
    columns += [_column("prefill FLOPs", "{} %")]
    columns += [_column(each, TIME) for each in ("prefill", "first token", "answer")]
    note = (
        f"A whole answer of {ANSWER} tokens after {PROMPT} tokens of text and a picture, milliseconds, and in brackets "
    )
    note += "the share of the unpruned model; random weights; medians of rounds; FLOPs and KV cache are arithmetic"
    return {"columns": [*columns, _column("a token"), _column("KV cache, MiB")], "rows": rows, "note": note}


def host(lab: Lab, name: str, picture: int) -> dict:
    """A whole answer of a random model of transformers that `prune` prunes, about a picture of so many tokens."""
    model = lab.model(name)
    job = make_host_job(model, picture // 64 if lab.is_tiny else picture, PROMPT, lab.answer(HOST_ANSWER))
    budgets = [{"visual_token_num": share} for share in SHARES]
    budgets.insert(0, {"visual_token_num": 1.0, "pruning_method": NONE})
    found, rows = measure_host(model, job, budgets, lab.rounds, lab.warmup), []
    for row in found:
        flops = round(100 * row["prefill_flops"] / found[0]["prefill_flops"])
        stages = [_figure(row[each]["median"]) for each in ("vision", "importance", "selection")]
        times = [_share(row, found[0], each) for each in ("prefill", "first token", "answer")]
        sizes = [round(row["kv_cache_bytes"] / MIB, 1), round(row["peak_memory_bytes"] / GIB, 1)]
        rows.append([HOST_NAMES[name], picture, row["visual_tokens"], flops, *stages, *times, *sizes])
    columns = [
        _column("model", once=True),
        _column("picture", once=True),
        _column("kept"),
        _column("prefill FLOPs", "{} %"),
    ]
    columns += [_column("tower"), _column("importance"), _column("selection")]
    columns += [_column(each, TIME) for each in ("prefill", "first token", "answer")]
    note = f"Models of transformers with `prune`, one prompt of {PROMPT} tokens of text and a picture, {HOST_ANSWER} "
    note += "tokens of answer; milliseconds, and in brackets the share of the unpruned model; random weights"
    return {"columns": [*columns, _column("KV cache, MiB"), _column("memory, GiB")], "rows": rows, "note": note}


def throughput(lab: Lab, shape: str, budget: int | None) -> dict:
    """Requests a second through the package's HTTP API, at several numbers of clients."""
    model, own = lab.model(shape), lab.shape(shape)
    model.set_attn_implementation("sdpa")
    model.records = False
    pruning = Settings(budget) if budget else Settings(pruning_method=NONE)
    tokens, requests = SERVED_ANSWER, {1: 2, 2: 3} if lab.is_tiny else {1: 8, 8: 16, 32: 32}  # of so many clients
    asked, rows = gpu_throughput.bodies(max(requests.values()), own.image_size, tokens), []
    with gpu_throughput.served(model, pruning) as address:
        gpu_throughput.ask(address, asked[0], tokens)
        for clients, number in requests.items():
            rate, wait = gpu_throughput.rates(address, asked[:number], clients, tokens)
            kept = budget or (own.image_size // 14) ** 2
            rows.append([shape, kept, clients, _figure(rate), _figure(1000 * wait)])
    columns = [_column("shape", once=True), _column("visual tokens", once=True), _column("clients")]
    note = f"Requests through the HTTP API of `llava page`, each a picture of its own and {tokens} tokens of answer; "
    note += "random weights"
    return {"columns": [*columns, _column("requests/s"), _column("median wait, ms")], "rows": rows, "note": note}
