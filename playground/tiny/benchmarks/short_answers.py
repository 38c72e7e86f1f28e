"""Benchmarks of open questions: GQA, VQAv2, TextVQA and VizWiz with short answers, MM-Vet with descriptions."""

import random
from pathlib import Path

from playground.tiny import questions as q
from playground.tiny.benchmarks.common import (
    annotators,
    draw_questions,
    save_image,
    save_json,
    save_lines,
    short_prompt,
)
from playground.tiny.scenes import Scene

GQA = (
    *(q.what_color, q.what_shape, q.what_is_beside, q.what_background, q.where) * 2,
    *(q.has_thing, q.has_both, q.has_either, q.is_color, q.is_related),
    *(q.which_color, q.which_size, q.which_side, q.which_relation, q.is_larger, q.same_color),
)


def write_gqa(folder: Path, scenes: list[Scene]) -> None:
    """GQA: up to four questions about each scene, with their types."""
    rows, truth = [], {}
    for i, scene in enumerate(scenes):
        image = f"n{100000 + i}"
        save_image(scene, folder / "data" / "images" / f"{image}.jpg")
        for question in draw_questions(GQA, scene, random.Random(f"gqa {scene.seed}"), 4):
            number = f"20{len(rows):06d}"
            row = {"question_id": number, "image": f"{image}.jpg", "text": short_prompt(question.text)}
            rows.append(row | {"category": "default"})
            types = {"structural": question.structural, "semantic": question.semantic, "detailed": question.kind}
            answer = {"question": question.text, "answer": question.answer.lower(), "imageId": image}
            truth[number] = answer | {"isBalanced": True, "types": types}
    save_lines(folder / "llava_gqa_testdev_balanced.jsonl", rows)
    save_json(folder / "data" / "questions" / "testdev_balanced_questions.json", truth)


def answer_type(answer: str) -> str:
    """Which of VQAv2's three types an answer is of."""
    return "yes/no" if answer in ("Yes", "No") else "number" if answer.isdigit() else "other"


def _vqav2_label(question: q.Question, rng: random.Random) -> dict:
    answers = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": k}
        for k, answer in enumerate(annotators(question.answer.lower(), rng), start=1)
    ]
    return {
        "question_type": question.kind,
        "answer_type": answer_type(question.answer),
        "multiple_choice_answer": question.answer.lower(),
        "answers": answers,
    }


def write_vqav2(folder: Path, scenes: list[Scene]) -> None:
    """VQAv2: the last question about each scene is in test2015 but not in test-dev, like most of the real ones."""
    everything, asked, truth = [], [], []
    makers = (*(q.count_all, q.count_kind) * 3, q.what_color, q.what_shape, q.what_word, *q.SHORT_ANSWERS)
    for i, scene in enumerate(scenes, start=1):
        rng, image = random.Random(f"vqav2 {scene.seed}"), f"COCO_test2015_{i:012d}.jpg"
        save_image(scene, folder / "test2015" / image)
        found = draw_questions(makers, scene, rng, 5)
        for j, question in enumerate(found):
            text = short_prompt(question.text)
            row = {"question_id": 1000 * i + j, "image": image, "text": text, "category": "default"}
            everything.append(row)
            if j == len(found) - 1:
                continue
            asked.append(row)
            truth.append({"question_id": row["question_id"], "image_id": i} | _vqav2_label(question, rng))
    save_lines(folder / "llava_vqav2_mscoco_test2015.jsonl", everything)
    save_lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", asked)
    save_json(folder / "v2_mscoco_test-dev2015_annotations.json", {"annotations": truth})


def write_textvqa(folder: Path, scenes: list[Scene]) -> None:
    """TextVQA: the prompt's list of recognised words is empty, so that the model must read the word in the picture."""
    rows, truth = [], []
    for scene in scenes:
        rng, image = random.Random(f"textvqa {scene.seed}"), f"{scene.seed:016x}"
        save_image(scene, folder / "train_images" / f"{image}.jpg")
        for question in draw_questions((q.what_word,), scene, rng, rng.choice((1, 2))):
            text = f"{question.text}\nReference OCR token: \n{q.SHORT}"
            rows.append({"question_id": image, "image": f"{image}.jpg", "text": text, "category": "default"})
            answers = {"question": question.text, "answers": annotators(question.answer, rng)}
            truth.append({"question_id": 34600 + len(truth), "image_id": image, **answers})
    save_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", rows)
    save_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": truth})


def write_vizwiz(folder: Path, scenes: list[Scene]) -> None:
    """VizWiz: every other question cannot be answered."""
    rows, truth = [], []
    for i, scene in enumerate(scenes):
        rng, image = random.Random(f"vizwiz {scene.seed}"), f"VizWiz_test_{i:08d}.jpg"
        known = q.ask((q.what_color, q.what_shape, q.what_word), scene, rng)
        question = q.unanswerable(scene, rng) if i % 2 or known is None else known
        save_image(scene, folder / "test" / image)
        text = f"{question.text}\n{q.UNANSWERABLE}\n{q.SHORT}"
        rows.append({"question_id": i, "image": image, "text": text, "category": "default"})
        answers = [{"answer": a, "answer_confidence": "yes"} for a in annotators(question.answer, rng)]
        kind = "unanswerable" if question.kind == "unanswerable" else "other"
        answer = {"image": image, "question": question.text, "answers": answers}
        truth.append(answer | {"answer_type": kind, "answerable": int(kind == "other")})
    save_lines(folder / "llava_test.jsonl", rows)
    save_json(folder / "test.json", truth)


def write_mmvet(folder: Path, scenes: list[Scene]) -> None:
    """MM-Vet: requests for descriptions; the label lists what a description must name."""
    rows, truth = [], {}
    for i, scene in enumerate(scenes):
        image, text = f"v1_{i}.jpg", ("Describe the image.", "What is in the image?")[i % 2]
        save_image(scene, folder / "images" / image)
        rows.append({"image": image, "text": text, "category": "conv", "question_id": i})
        parts = [thing.name for thing in scene.things] + ([scene.sign.word] if scene.sign is not None else [])
        answer = "<AND>".join([*parts, scene.background])
        truth[f"v1_{i}"] = {"imagename": image, "question": text, "answer": answer, "capability": ["rec", "gen"]}
    save_lines(folder / "llava-mm-vet.jsonl", rows)
    save_json(folder / "mm-vet.json", truth)
