"""Benchmarks of multiple choice: SEED-Bench, ScienceQA, MMBench and MMBench-CN."""

import base64
import csv
import random
from pathlib import Path

from playground.tiny import questions as q
from playground.tiny.benchmarks.common import draw_questions, save_image, save_json, save_lines
from playground.tiny.data import hint
from playground.tiny.drawing import jpeg
from playground.tiny.scenes import Scene

TSV_COLUMNS = ("index", "question", "hint", *"ABCD", "answer", "category", "image", "source", "l2-category", "comment")
TSV_COLUMNS += ("split",)
SEED_TYPES = {
    "background": "Scene Understanding",
    "shape": "Instance Identity",
    "color": "Instance Attributes",
    "location": "Instance Location",
    "count": "Instances Counting",
    "relation": "Spatial Relation",
    "reading": "Text Understanding",
}


def draw_choices(makers: tuple[q.Maker, ...], scene: Scene, rng: random.Random, number: int) -> list[q.Choice]:
    """Up to `number` multiple-choice questions about a scene."""
    found = (q.as_choice(question, rng) for question in draw_questions(makers, scene, rng, number))
    return [choice for choice in found if choice is not None]


def write_seed(folder: Path, scenes: list[Scene]) -> None:
    """SEED-Bench: up to four questions about each scene, with their types."""
    rows, truth, types = [], [], {name: i for i, name in enumerate(SEED_TYPES.values(), start=1)}
    makers = (q.what_color, q.what_shape, q.where, q.what_background, q.count_all, q.what_is_beside, q.what_word)
    for i, scene in enumerate(scenes):
        image = f"SEED-Bench-image/{i:07d}.jpg"
        save_image(scene, folder / image)
        for choice in draw_choices(makers, scene, random.Random(f"seed {scene.seed}"), 4):
            number = str(100 + len(rows))
            text = f"{choice.lines}\n{q.LETTER}"
            rows.append({"question_id": number, "image": image, "text": text, "category": "default"})
            options = {f"choice_{x}": option for x, option in zip("abcd", choice.options)}
            row = {"question_id": number, "question": choice.question.text, **options, "answer": choice.answer}
            kind = {"question_type_id": types[SEED_TYPES[choice.question.kind]]}
            truth.append(row | kind | {"data_id": f"{i:07d}", "data_type": "image"})
    save_lines(folder / "llava-seed-bench.jsonl", rows)
    save_json(folder / "SEED-Bench.json", {"question_type": types, "questions": truth})


def write_scienceqa(folder: Path, scenes: list[Scene], without_image: int) -> None:
    """ScienceQA: a question about each scene, and `without_image` questions that need no picture."""
    rows, problems = [], {}
    pictured = [(scene, random.Random(f"scienceqa {scene.seed}")) for scene in scenes]
    for scene, rng in [*pictured, *((None, random.Random(f"fact {i}")) for i in range(without_image))]:
        number = str(len(rows) + 1)
        makers = q.OPEN if scene is not None else (q.fact,)
        choice = draw_choices(makers, scene, rng, 1)[0]
        context = hint(scene) if scene is not None and rng.random() < 0.2 else ""
        text = f"{context}\n{choice.lines}" if context else choice.lines
        value = f"<image>\n{text}" if scene is not None else text
        turns = [{"from": "human", "value": value}, {"from": "gpt", "value": choice.answer}]
        image = {"image": f"{number}/image.png"} if scene is not None else {}
        rows.append({"id": number, **image, "conversations": turns})
        problems[number] = _science_problem(choice, context, scene is not None)
        if scene is not None:
            save_image(scene, folder / "images" / "test" / number / "image.png")
    save_json(folder / "llava_test_CQM-A.json", rows)
    save_json(folder / "problems.json", problems)
    splits: dict[str, list] = {name: [] for name in ("train", "val", "trainval", "minitrain", "minival")}
    save_json(folder / "pid_splits.json", splits | {"test": list(problems), "minitest": list(problems)})


def _science_problem(choice: q.Choice, context: str, has_image: bool) -> dict:
    return {
        "question": choice.question.text,
        "choices": list(choice.options),
        "answer": "ABCD".index(choice.answer),
        "hint": context,
        "image": "image.png" if has_image else None,
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "split": "test",
    }


def write_mmbench(folder: Path, scenes: list[Scene]) -> None:
    """MMBench and MMBench-CN: questions about the same scenes, in English and in Chinese."""
    for name, chinese in (("mmbench_dev_20230712.tsv", False), ("mmbench_dev_cn_20231003.tsv", True)):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, TSV_COLUMNS, delimiter="\t", lineterminator="\n", restval="")
            writer.writeheader()
            for i, scene in enumerate(scenes):
                rng = random.Random(f"mmbench {chinese} {scene.seed}")
                image = base64.b64encode(jpeg(scene)).decode()
                for j, question in enumerate(_mmbench_questions(scene, rng, chinese)):
                    choice = q.as_choice(question, rng)
                    row = {"index": 10 * i + j, "question": choice.question.text, "answer": choice.answer}
                    row |= dict(zip("ABCD", choice.options)) | {"category": question.kind, "image": image}
                    row["hint"] = hint(scene) if rng.random() < 0.15 and not chinese else ""
                    writer.writerow(row | {"source": "scenes", "l2-category": question.semantic, "split": "dev"})


def _mmbench_questions(scene: Scene, rng: random.Random, chinese: bool) -> list[q.Question]:
    if not chinese:
        return draw_questions((*q.OPEN, q.what_is_beside), scene, rng, 2)
    found = draw_questions((q.what_color, q.what_shape, q.what_background), scene, rng, 2)
    return [translated for question in found if (translated := q.in_chinese(question)) is not None]
