"""Answers and scores of all settings."""

import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from llava.eval.benchmarks.questions import Question, by_image
from llava.eval.run.answering import answer_questions
from llava.files import read_json_object, write_json
from llava.model.builder import load_pretrained_model
from llava.pruning import Settings
from playground.tiny.evaluate.kinds import kinds, kinds_table
from playground.tiny.evaluate.scores import read_benchmarks, score_all
from playground.tiny.evaluate.settings import name_of, rows_of_table, table
from playground.tiny.options import make_folder
from scripts.tables.book import table_markdown

LONGEST = 96  # tokens of an answer; descriptions have about 60

Benchmarks = dict[str, list[Question]]
Answers = dict[str, list[str]]


def answer_all(model_path: str, benchmarks: Benchmarks, setting: Settings, batch_size: int, threads: int) -> Answers:
    """The answers to all questions, by benchmark, in the order of the questions."""
    torch.set_num_threads(threads)
    loaded = load_pretrained_model(model_path, None, "llava-tiny")
    loaded.model.pruning = setting
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": LONGEST}
    return {name: _answer(loaded, questions, options, batch_size) for name, questions in benchmarks.items()}


def _answer(loaded: tuple, questions: list[Question], options: dict, batch_size: int) -> list[str]:
    """The answers in the order of the questions. Questions about one image are asked together."""
    order = by_image(questions, list(range(len(questions))))
    answered = answer_questions(loaded, [questions[i] for i in order], "vicuna_v1", options, batch_size)
    texts = {i: text for i, (_, text) in zip(order, answered, strict=True)}
    return [texts[i] for i in range(len(questions))]


def evaluate_all(model_path: str, data: Path, output: Path, batch_size: int, processes: int | None) -> str:
    """Run the settings that `output` has no scores of, and write the tables there. Returns the table of scores."""
    benchmarks = read_benchmarks(data)
    make_folder(output)
    file = output / "scores.json"
    scores = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    settings = dict.fromkeys(setting for *_, row in rows_of_table() for setting in row)
    left = [setting for setting in settings if name_of(setting) not in scores]
    if processes is None:
        processes = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    threads = 1 if processes > 1 else torch.get_num_threads()
    os.environ["TQDM_DISABLE"] = "1"  # in the processes, whose bars would overwrite the one here
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        runs = {
            pool.submit(answer_all, model_path, benchmarks, setting, batch_size, threads): setting for setting in left
        }
        for run in tqdm(as_completed(runs), total=len(runs), desc="settings"):
            setting, answers = runs[run], run.result()
            if not setting.prunes:
                write_json(output / "kinds.json", kinds_table(kinds(data, answers)), sort_keys=False)
            scores[name_of(setting)] = score_all(data, benchmarks, answers)
            write_json(file, scores, sort_keys=False)
    tables = {"scores": table(scores), "kinds": read_json_object(output / "kinds.json", "table of kinds")}
    write_json(output / "tables.json", {"form": "tables 1", "tables": tables}, sort_keys=False)
    return table_markdown(tables["scores"])
