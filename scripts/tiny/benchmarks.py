"""Write the bundled benchmarks, each in its own benchmark's files: python -m scripts.tiny.benchmarks --output DIR

The scenes are those that training never sees. Folders and file names are the ones under which the real data lie, so
that the same recipes read them.
"""

import base64
import csv
import io
import json
import random
from pathlib import Path

from llava.utils import CommandParser, run_command
from scripts.tiny import questions as q
from scripts.tiny.data import JPEG_QUALITY, hint
from scripts.tiny.scenes import COMPANIONS, SHAPES, Scene, draw_scene, evaluation_scenes

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


def jpeg(scene: Scene) -> bytes:
    """The picture as training's pictures are stored."""
    buffer = io.BytesIO()
    draw_scene(scene).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def save_image(scene: Scene, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        path.write_bytes(jpeg(scene))
    else:
        draw_scene(scene).save(path, optimize=True)


def save_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def save_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prompt(text: str) -> str:
    return f"{text}\n{q.SHORT}"


def several(makers: tuple[q.Maker, ...], scene: Scene, rng: random.Random, number: int) -> list[q.Question]:
    """Up to so many different questions about a scene."""
    found: dict[str, q.Question] = {}
    for _ in range(4 * number):
        question = q.ask(makers, scene, rng)
        if question is not None and len(found) < number:
            found.setdefault(question.text, question)
    return list(found.values())


def annotators(answer: str, rng: random.Random) -> list[str]:
    """Ten people's answers, of whom up to three say something else."""
    answers = [answer] * 10
    for i in rng.sample(range(10), rng.randint(0, 3)):
        answers[i] = rng.choice((answer.capitalize(), f"{answer}.", "unanswerable", "not sure"))
    return answers


def write_pope(folder: Path, scenes: list[Scene]) -> None:
    """A yes and a no about each scene in each category: absent is a random, a popular or a companion's shape."""
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
                row = {"question_id": len(rows) + 1, "image": image, "text": prompt(question.text)}
                rows.append(row | {"category": category})
                label = {"question_id": len(labels) + 1, "image": image, "text": question.text}
                labels.append(label | {"label": question.answer.lower()})
        save_lines(folder / "coco" / f"coco_pope_{category}.json", labels)
    save_lines(folder / "llava_pope_test.jsonl", rows)
    for i, scene in enumerate(scenes):
        save_image(scene, folder / "val2014" / f"COCO_val2014_{i:012d}.jpg")


GQA = (
    *(q.what_color, q.what_shape, q.what_is_beside, q.what_background, q.where) * 2,
    *(q.has_thing, q.has_both, q.has_either, q.is_color, q.is_related),
    *(q.which_color, q.which_size, q.which_side, q.which_relation, q.is_larger, q.same_color),
)


def write_gqa(folder: Path, scenes: list[Scene]) -> None:
    rows, truth = [], {}
    for i, scene in enumerate(scenes):
        image = f"n{100000 + i}"
        save_image(scene, folder / "data" / "images" / f"{image}.jpg")
        for question in several(GQA, scene, random.Random(f"gqa {scene.seed}"), 4):
            number = f"20{len(rows):06d}"
            row = {"question_id": number, "image": f"{image}.jpg", "text": prompt(question.text)}
            rows.append(row | {"category": "default"})
            types = {"structural": question.structural, "semantic": question.semantic, "detailed": question.kind}
            answer = {"question": question.text, "answer": question.answer.lower(), "imageId": image}
            truth[number] = answer | {"isBalanced": True, "types": types}
    save_lines(folder / "llava_gqa_testdev_balanced.jsonl", rows)
    save_json(folder / "data" / "questions" / "testdev_balanced_questions.json", truth)


def answer_type(answer: str) -> str:
    """VQAv2's three kinds of answers."""
    return "yes/no" if answer in ("Yes", "No") else "number" if answer.isdigit() else "other"


def write_vqav2(folder: Path, scenes: list[Scene]) -> None:
    """Of every scene's questions the last is in test2015 alone, as most of the real ones are."""
    everything, asked, truth = [], [], []
    makers = (*(q.count_all, q.count_kind) * 3, q.what_color, q.what_shape, q.what_word, *q.SHORT_ANSWERS)
    for i, scene in enumerate(scenes, start=1):
        rng, image = random.Random(f"vqav2 {scene.seed}"), f"COCO_test2015_{i:012d}.jpg"
        save_image(scene, folder / "test2015" / image)
        found = several(makers, scene, rng, 5)
        for j, question in enumerate(found):
            row = {"question_id": 1000 * i + j, "image": image, "text": prompt(question.text), "category": "default"}
            everything.append(row)
            if j == len(found) - 1:
                continue
            asked.append(row)
            answers = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": k}
                for k, answer in enumerate(annotators(question.answer.lower(), rng), start=1)
            ]
            truth.append(
                {
                    "question_id": row["question_id"],
                    "image_id": i,
                    "question_type": question.kind,
                    "answer_type": answer_type(question.answer),
                    "multiple_choice_answer": question.answer.lower(),
                    "answers": answers,
                }
            )
    save_lines(folder / "llava_vqav2_mscoco_test2015.jsonl", everything)
    save_lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", asked)
    save_json(folder / "v2_mscoco_test-dev2015_annotations.json", {"annotations": truth})


def write_textvqa(folder: Path, scenes: list[Scene]) -> None:
    """The list of recognised words is empty: the word has to be read in the picture."""
    rows, truth = [], []
    for scene in scenes:
        rng, image = random.Random(f"textvqa {scene.seed}"), f"{scene.seed:016x}"
        save_image(scene, folder / "train_images" / f"{image}.jpg")
        for question in several((q.what_word,), scene, rng, rng.choice((1, 2))):
            text = f"{question.text}\nReference OCR token: \n{q.SHORT}"
            rows.append({"question_id": image, "image": f"{image}.jpg", "text": text, "category": "default"})
            answers = {"question": question.text, "answers": annotators(question.answer, rng)}
            truth.append({"question_id": 34600 + len(truth), "image_id": image, **answers})
    save_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", rows)
    save_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": truth})


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


def yes_and_no(maker: q.Maker, scene: Scene, rng: random.Random) -> list[q.Question]:
    """A question of which each answer is right, if the scene has both."""
    found: dict[str, q.Question] = {}
    for _ in range(40):
        question = maker(scene, rng)
        if question is not None:
            found.setdefault(question.answer, question)
    return [found["Yes"], found["No"]] if len(found) == 2 else []


def write_mme(folder: Path, pools: dict[str, list[Scene]], number: int) -> None:
    """Two questions about each of so many scenes in each category."""
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
                row = {"question_id": name, "image": name, "text": prompt(question.text), "category": category}
                rows.append(row)
    save_lines(folder / "llava_mme.jsonl", rows)


def choices(makers: tuple[q.Maker, ...], scene: Scene, rng: random.Random, number: int) -> list[q.Choice]:
    """Up to so many multiple-choice questions about a scene."""
    found = (q.as_choice(question, rng) for question in several(makers, scene, rng, number))
    return [choice for choice in found if choice is not None]


def write_seed(folder: Path, scenes: list[Scene]) -> None:
    rows, truth, types = [], [], {name: i for i, name in enumerate(SEED_TYPES.values(), start=1)}
    makers = (q.what_color, q.what_shape, q.where, q.what_background, q.count_all, q.what_is_beside, q.what_word)
    for i, scene in enumerate(scenes):
        image = f"SEED-Bench-image/{i:07d}.jpg"
        save_image(scene, folder / image)
        for choice in choices(makers, scene, random.Random(f"seed {scene.seed}"), 4):
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
    """Questions on scenes, and questions of fact."""
    rows, problems = [], {}
    pictured = [(scene, random.Random(f"scienceqa {scene.seed}")) for scene in scenes]
    for scene, rng in [*pictured, *((None, random.Random(f"fact {i}")) for i in range(without_image))]:
        number = str(len(rows) + 1)
        makers = q.OPEN if scene is not None else (q.fact,)
        choice = choices(makers, scene, rng, 1)[0]
        context = hint(scene) if scene is not None and rng.random() < 0.2 else ""
        text = f"{context}\n{choice.lines}" if context else choice.lines
        value = f"<image>\n{text}" if scene is not None else text
        turns = [{"from": "human", "value": value}, {"from": "gpt", "value": choice.answer}]
        image = {"image": f"{number}/image.png"} if scene is not None else {}
        rows.append({"id": number, **image, "conversations": turns})
        problems[number] = {
            "question": choice.question.text,
            "choices": list(choice.options),
            "answer": "ABCD".index(choice.answer),
            "hint": context,
            "image": "image.png" if scene is not None else None,
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "split": "test",
        }
        if scene is not None:
            save_image(scene, folder / "images" / "test" / number / "image.png")
    save_json(folder / "llava_test_CQM-A.json", rows)
    save_json(folder / "problems.json", problems)
    splits: dict[str, list] = {name: [] for name in ("train", "val", "trainval", "minitrain", "minival")}
    save_json(folder / "pid_splits.json", splits | {"test": list(problems), "minitest": list(problems)})


def write_mmbench(folder: Path, scenes: list[Scene]) -> None:
    """The same scenes in English and, where a question has a translation, in Chinese."""
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
        return several((*q.OPEN, q.what_is_beside), scene, rng, 2)
    found = several((q.what_color, q.what_shape, q.what_background), scene, rng, 2)
    return [translated for question in found if (translated := q.in_chinese(question)) is not None]


def write_vizwiz(folder: Path, scenes: list[Scene]) -> None:
    """Every other question cannot be answered."""
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
    """Descriptions; what must be in one is what the scene has."""
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


def write(output: Path, part: float = 1) -> None:
    """All benchmarks, or a small part of each; no two on the same scene."""
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


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    write(parser.parse_args().output)


if __name__ == "__main__":
    run_command(main)
