"""Benchmarks of yes/no questions: POPE and MME."""

import random
from pathlib import Path

from playground.tiny import questions as q
from playground.tiny.benchmarks.common import save_image, save_lines, short_prompt
from playground.tiny.scenes import COMPANIONS, SHAPES, Scene

MME = {
    "existence": q.has_shape,
    "count": q.is_count,
    "position": q.is_related,
    "color": q.is_color,
    "OCR": q.is_word,
    "commonsense_reasoning": q.has_color_of,
    "numerical_calculation": q.is_sum,
    "text_translation": q.is_translation,
    "code_reasoning": q.is_output,
}


def write_pope(folder: Path, scenes: list[Scene]) -> None:
    """POPE: two questions about each scene in each category, one answered with yes and one with no.

    The shape that is absent is a random one, the most popular one, or the companion of a shape that is present.
    """
    rows: list[dict] = []
    for category in ("adversarial", "popular", "random"):
        labels = []
        for i, scene in enumerate(scenes):
            rng = random.Random(f"pope {category} {scene.seed}")
            present = {thing.shape for thing in scene.things}
            absent = [shape for shape in SHAPES if shape not in present]
            companions = [shape for shape in absent if COMPANIONS[shape] in present]
            negative = {"random": rng.choice(absent), "popular": absent[0], "adversarial": (companions or absent)[0]}
            for shape in (rng.choice(sorted(present)), negative[category]):
                question = q.has_shape(scene, rng, shape)
                image = f"COCO_val2014_{i:012d}.jpg"
                row = {"question_id": len(rows) + 1, "image": image, "text": short_prompt(question.text)}
                rows.append(row | {"category": category})
                label = {"question_id": len(labels) + 1, "image": image, "text": question.text}
                labels.append(label | {"label": question.answer.lower()})
        save_lines(folder / "coco" / f"coco_pope_{category}.json", labels)
    save_lines(folder / "llava_pope_test.jsonl", rows)
    for i, scene in enumerate(scenes):
        save_image(scene, folder / "val2014" / f"COCO_val2014_{i:012d}.jpg")


def yes_and_no(maker: q.Maker, scene: Scene, rng: random.Random) -> list[q.Question]:
    """One question answered with yes and one with no, by the same maker; empty if the scene does not allow both."""
    found: dict[str, q.Question] = {}
    for _ in range(40):
        question = maker(scene, rng)
        if question is not None:
            found.setdefault(question.answer, question)
    return [found["Yes"], found["No"]] if len(found) == 2 else []


def write_mme(folder: Path, pools: dict[str, list[Scene]], number: int) -> None:
    """MME: two questions about each of `number` scenes in each category, one answered with yes and one with no."""
    rows = []
    pools = {name: list(scenes) for name, scenes in pools.items()}
    for category, maker in MME.items():
        pool = pools[{"OCR": "sign", "text_translation": "sign", "code_reasoning": "code"}.get(category, "any")]
        for i in range(1, number + 1):
            image, pair = f"{i:04d}.jpg", []
            while not pair:
                scene = pool.pop(0)
                pair = yes_and_no(maker, scene, random.Random(f"mme {category} {scene.seed}"))
            target = folder / "MME_Benchmark_release_version" / category
            save_image(scene, target / image)
            lines = [f"{question.text} Please answer yes or no.\t{question.answer}" for question in pair]
            (target / f"{i:04d}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            name = f"{category}/{image}"
            for question in pair:
                row = {"question_id": name, "image": name, "text": short_prompt(question.text), "category": category}
                rows.append(row)
    save_lines(folder / "llava_mme.jsonl", rows)
