"""The same questions answered by several programs, in turns: start-up, questions per second, memory, equal answers.

python -m scripts.benchmarks.side_by_side --model-path CKPT --question-file Q --image-folder DIR --visual_token_num 16

    unpruned, transformers   transformers' own class, one question at a time, nothing pruned
    pruned, transformers     the same with llava.integrations.transformers.prune
    as the original          one question at a time, all attention maps of the tower, the rounds in float32
    this package             as the evaluation asks: batches, pictures encoded once, prefixes shared
    vLLM, with this plugin   all questions at once, as vLLM schedules them; with --vllm-python

Each is a process of its own, so that its start and its peak of memory are its own. CKPT is in LLaVA's layout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava.checkpoints.folders import find_folder, get_model_name_from_path
from llava.cli import CommandParser, run_command
from llava.conversation import get_conversation
from llava.errors import InputError
from llava.eval.benchmarks.questions import Question, read_question_file
from llava.files import write_json
from llava.inference.options import important_ratio, visual_token_num
from llava.pruning import Settings
from llava.tables import markdown_table
from scripts.benchmarks.answering import add_question_arguments, choose_questions

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch

    Answer = Callable[[list[Question]], Iterable[str]]

UNPRUNED, PRUNED, ORIGINAL, OURS = WAYS = (
    "unpruned, transformers",
    "pruned, transformers",
    "as the original",
    "this package",
)
VLLM = "vLLM, with this plugin"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """What all ways are given: the checkpoint in both layouts, the questions, the settings."""

    folder: str
    hf_folder: str
    questions: list[Question]
    conv_mode: str
    pruning: Settings
    max_new_tokens: int
    device: str
    vllm_python: str | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """The programs that are measured."""
        return (*WAYS, VLLM) if self.vllm_python else WAYS


def transformers_way(way: str, job: Job) -> Answer:
    """transformers' own class, one question at a time."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from llava.eval.run.answering import make_requests
    from llava.integrations.transformers import prune
    from llava.model.builder import CheckedFolder

    dtype = torch.float32 if job.device == "cpu" else torch.float16
    model = AutoModelForImageTextToText.from_pretrained(job.hf_folder, dtype=dtype).to(job.device).eval()
    processor = AutoProcessor.from_pretrained(job.hf_folder)
    if way == PRUNED:
        settings = {"important_ratio": job.pruning.important_ratio}
        model = prune(model, visual_token_num=job.pruning.visual_token_num, **settings)

    config = CheckedFolder.read(job.folder).config

    def answer_one(question: Question) -> str:
        prompt = make_requests([question], job.conv_mode, config)[0].prompt
        with Image.open(question.image) as picture:
            inputs = processor(images=picture.convert("RGB"), text=prompt, return_tensors="pt")
        inputs = inputs.to(job.device, dtype)
        output = model.generate(**inputs, do_sample=False, max_new_tokens=job.max_new_tokens)
        return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    return lambda questions: map(answer_one, questions)


def llava_way(way: str, job: Job) -> Answer:
    """This package: as the original's evaluation works, or as its own does."""
    from dataclasses import replace

    from llava.eval.run.answering import answer_questions
    from llava.model.builder import load_pretrained_model

    original = way == ORIGINAL
    attention = {"attn_implementation": "eager"} if original else {}
    name = get_model_name_from_path(job.folder)
    loaded = load_pretrained_model(job.folder, None, name, device=job.device, **attention)
    pruning = job.pruning
    if original:
        encode_with_all_attention(loaded.model.get_vision_tower())
        pruning = replace(pruning, pruning_method="scripts.benchmarks.selection_cost")
    options = {"do_sample": False, "max_new_tokens": job.max_new_tokens}

    def answer(questions: list[Question]) -> list[str]:
        parts = [[question] for question in questions] if original else [questions]
        asked = (answer_questions(loaded, part, job.conv_mode, options, pruning=pruning) for part in parts)
        return [text for part in asked for _, text in part]

    return answer


def encode_with_all_attention(tower) -> None:
    """Make this CLIP tower compute the attention maps of every layer and head, as a model in eager mode gives them."""
    from llava.pruning import Views

    def encode(pixels: torch.Tensor) -> Views:
        inputs = pixels.to(tower.device, tower.dtype)
        output = tower.vision_tower(inputs, output_hidden_states=True, output_attentions=True)
        importance = output.attentions[tower.select_layer][:, :, 0, 1:].mean(dim=1)
        return Views(output.hidden_states[tower.select_layer][:, 1:], importance=importance.float())

    tower.encode = encode


def work(way: str, job: Job, parent: Connection) -> None:
    """In a process of its own: report when the first question is answered, then what all of them took."""
    import torch

    from llava.bench.measure import PeakMemory

    make = transformers_way if way in (UNPRUNED, PRUNED) else llava_way
    with torch.inference_mode(), PeakMemory(torch.device(job.device)) as memory:
        answer = make(way, job)
        list(answer(job.questions[:1]))
        parent.send("ready")
        start = time.perf_counter()
        texts = list(answer(job.questions))
        seconds = time.perf_counter() - start
    parent.send({"rate": len(texts) / seconds, "memory": memory.bytes, "texts": texts})


def run_way(way: str, job: Job) -> dict:
    """`ready` and `whole` in seconds since the start of the process, `rate` in questions per second, `memory` in bytes.

    Raises InputError if the process fails; it has said why.
    """
    if way == VLLM:
        return run_vllm(job)
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=work, args=(way, job, child))
    start = time.perf_counter()
    process.start()
    child.close()
    try:
        parent.recv()
        ready = time.perf_counter() - start
        row = parent.recv()
    except EOFError:
        raise InputError(f"{way}: the process failed, see above") from None
    finally:
        process.join()
    return row | {"ready": ready, "whole": time.perf_counter() - start}


def run_vllm(job: Job) -> dict:
    """As `run_way`, by the Python of `vllm_python`, which has vLLM: see `vllm_way`."""
    from llava.eval.run.answering import make_requests
    from llava.integrations.vllm.folder import prepare
    from llava.model.builder import CheckedFolder

    requests = make_requests(job.questions, job.conv_mode, CheckedFolder.read(job.folder).config)
    asked = [(request.prompt, str(question.image)) for request, question in zip(requests, job.questions)]
    with tempfile.TemporaryDirectory() as folder:
        served, spec, answers = (Path(folder) / name for name in ("served", "spec.json", "answers.json"))
        prepare(job.folder, served, job.conv_mode)
        options = {"model": str(served), "dtype": "float32" if job.device == "cpu" else "float16"}
        given = {"options": options, "settings": vars(job.pruning), "asked": asked}
        write_json(spec, given | {"max_tokens": job.max_new_tokens})
        command = [job.vllm_python, "-m", "scripts.benchmarks.vllm_way", str(spec), str(answers)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            ready = next((time.perf_counter() - start for line in process.stdout if line == "ready\n"), None)
            process.communicate()
        whole = time.perf_counter() - start
        if ready is None or process.returncode:
            raise InputError(f"{VLLM}: the process failed, see above")
        return json.loads(answers.read_text(encoding="utf-8")) | {"ready": ready, "whole": whole}


def measure(job: Job, rounds: int) -> dict[str, dict]:
    """Medians of every way, which take turns, and how many of its answers are those of `OURS`."""
    rows: dict[str, list[dict]] = {way: [] for way in job.ways}
    for _ in range(rounds):
        for way in job.ways:
            rows[way].append(run_way(way, job))
    ours = rows[OURS][-1]["texts"]
    found = {}
    for way, measured in rows.items():
        medians = {key: statistics.median(row[key] for row in measured) for key in ("ready", "whole", "rate", "memory")}
        equal = sum(a == b for a, b in zip(ours, measured[-1]["texts"], strict=True))
        found[way] = medians | {"rates": [row["rate"] for row in measured], "equal": equal}
    return found


def table(found: dict[str, dict], questions: int) -> str:
    """Markdown."""
    head = ["", "first answer, s", "whole process, s", "questions/s", "of the original's"]
    lines = [[*head, "peak memory, MiB", "equal answers"]]
    for way, row in found.items():
        spread = f"{row['rate']:.1f} ({min(row['rates']):.1f} to {max(row['rates']):.1f})"
        cells = [f"{row['ready']:.1f}", f"{row['whole']:.1f}", spread, f"{row['rate'] / found[ORIGINAL]['rate']:.2f}"]
        cells += [f"{row['memory'] / 2**20:.0f}", f"{row['equal']} of {questions}"]
        lines.append([way, *cells])
    return markdown_table(lines)


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-path", required=True, help="checkpoint folder or hub id, in LLaVA's layout")
    add_question_arguments(parser)
    parser.add_argument("--visual_token_num", type=visual_token_num, required=True, help="budget of each crop")
    parser.add_argument("--important_ratio", type=important_ratio, default=0.5, help="share of it by attention (0.5)")
    parser.add_argument("--max_new_tokens", type=int, default=16, help="of an answer (16)")
    parser.add_argument("--device", help="cuda, or cpu where there is no GPU")
    parser.add_argument("--vllm-python", help="of an environment with vLLM, such as .venv-vllm/bin/python: a row of it")
    args = parser.parse_args()
    if args.vllm_python and shutil.which(args.vllm_python) is None:
        raise InputError(f"--vllm-python: {args.vllm_python} is no program")
    if min(args.images, args.per_image, args.rounds, args.max_new_tokens) < 1:
        raise InputError("images, per-image, rounds and max_new_tokens must be at least 1")
    pruning = Settings(args.visual_token_num, args.important_ratio)
    get_conversation(args.conv_mode)
    find_folder(args.model_path, "checkpoint")
    questions = choose_questions(read_question_file(args.question_file, args.image_folder), args.images, args.per_image)
    import torch

    from llava.bench.report import machine
    from llava.model.converting import convert_checkpoint

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        hf_folder = Path(folder) / "hf"
        convert_checkpoint(args.model_path, hf_folder, "hf", 5 * 10**9)
        how = (args.conv_mode, pruning, args.max_new_tokens, device, args.vllm_python)
        job = Job(args.model_path, str(hf_folder), questions, *how)
        found = measure(job, args.rounds)
    about = {"questions": len(questions), "visual tokens": args.visual_token_num, "rounds": args.rounds}
    about |= machine(torch.device(device))
    print(", ".join(f"{name} {value}" for name, value in about.items()) + "\n\n" + table(found, len(questions)))
    if args.output:
        write_json(args.output, {**about, "ways": found}, sort_keys=False)


if __name__ == "__main__":
    run_command(main)
