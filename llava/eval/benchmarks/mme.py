"""MME: yes or no, two questions to an image.

Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models", arXiv 2306.13394.
"""

from collections import defaultdict
from pathlib import Path

from llava.cli import CommandParser
from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.items import Item, Items, make_items
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.scoring import add_result_arguments, group_answers, read_answers, save_scores, score_file_of
from llava.files import read_text

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
FORMAT_SENTENCES = ("Answer the question using a single word or phrase.", "Please answer yes or no.")

Key = tuple[str, str, str]


def question_key(category: str, image: str, question: str) -> Key:
    """What joins an answer to its label: category, the image's name without ending, and the question alone.

    The sentences that say how to answer are cut off: labels have one of them, prompts another or both.
    """
    question = question.strip()
    for sentence in FORMAT_SENTENCES:
        question = question.removesuffix(sentence).rstrip()
    return category, image.rpartition(".")[0] or image, " ".join(question.split())


def says(answer: str) -> str | None:
    """`yes` or `no`, whichever the first four characters of an answer hold; None for neither."""
    start = answer.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)


def read_labels(data_dir: Path) -> dict[Key, str]:
    """`yes` or `no` by `question_key`, for the categories whose folders are there.

    A category's text files lie in its folder or in `questions_answers_YN` inside. Raises InputError if there is no
    category, a category has no questions, or a line is not `question<TAB>Yes` or `No`.
    """
    labels = {}
    for category in (*PERCEPTION, *COGNITION):
        folder = data_dir / category
        if not folder.is_dir():
            continue
        if (folder / "questions_answers_YN").is_dir():
            folder = folder / "questions_answers_YN"
        files = sorted(folder.glob("*.txt"))
        if not files:
            raise InputError(f"no questions (*.txt) in {folder}")
        for file in files:
            for line in filter(str.strip, read_text(file, "label file").split("\n")):
                question, _, label = line.rpartition("\t")
                key = question_key(category, file.name, question)
                if not question or label.strip().lower() not in ("yes", "no") or key in labels:
                    raise InputError(f"{file}: {line!r} is not a new question, a tab, and Yes or No")
                labels[key] = label.strip().lower()
    if not labels:
        raise InputError(f"no folder of an MME category (existence, count, ...) in {data_dir}")
    return labels


def answer_key(row: dict) -> Key:
    """The `question_key` of a row of an answer file, whose id is `<category>/.../<image>`."""
    parts = str(row["question_id"]).split("/")
    return question_key(parts[0], parts[-1], row["prompt"])


def evaluate(
    data_dir: Path, result_file: Path, questions: list[Question] | None = None
) -> tuple[dict, dict[str, Items]]:
    """MME's scores, of the categories that `data_dir` has, joined by image and question.

    Given `questions`, the labels of others do not count: a picture with one of its questions there counts by that one.
    Returns the scores, and the items of `perception` and `cognition` as far as these are there. The scores are
        `categories`: by name `samples`, `accuracy` (of questions) and `accuracy_plus` (of images with every question
        right) in percent, and `score`, their sum; `perception` and `cognition`: the sums of scores over the categories
        of each, None where `data_dir` has none of them.

    Raises InputError if a question has no answer or several, or an answer no question.
    """
    labels = read_labels(data_dir)
    if questions is not None:
        asked = {answer_key({"question_id": q.question_id, "prompt": q.prompt}) for q in questions}
        labels = {key: label for key, label in labels.items() if key in asked}
    pairs = [(answer_key(row), row["text"]) for row in read_answers(result_file, ["prompt"])]
    images = defaultdict(lambda: defaultdict(dict))
    for key, (text,) in group_answers(pairs, labels, result_file).items():
        category, image, question = key
        images[category][image][question] = says(text) == labels[key]
    categories, items = {}, {}
    for kind, names in (("perception", PERCEPTION), ("cognition", COGNITION)):
        present = [name for name in names if name in images]
        categories |= {name: _score_category(images[name]) for name in present}
        if present:
            terms = {term: rows for name in present for term, rows in _items(name, images[name]).items()}
            items[kind] = make_items(terms, "sum")
    sums = {kind: items[kind].figure if kind in items else None for kind in ("perception", "cognition")}
    return sums | {"categories": categories}, items


def _score_category(images: dict[str, dict[str, bool]]) -> dict:
    """The scores of a category from its hits, by image and question."""
    hits = [hit for of_image in images.values() for hit in of_image.values()]
    plain = 100 * sum(hits) / len(hits)
    plus = 100 * sum(all(of_image.values()) for of_image in images.values()) / len(images)
    return {"samples": len(hits), "accuracy": plain, "accuracy_plus": plus, "score": plain + plus}


def _items(category: str, images: dict[str, dict[str, bool]]) -> dict[str, list[Item]]:
    """The items of a category's two terms. The same name is another picture in another category."""
    plain, plus = [], []
    for image, hits in images.items():
        picture = f"{category}/{image}"
        plain += [(f"{picture}/{question}", picture, hit, 1) for question, hit in hits.items()]
        plus.append((picture, picture, all(hits.values()), 1))
    return {f"{category} accuracy": plain, f"{category} accuracy_plus": plus}


def describe(scores: dict) -> str:
    """The sums of perception and cognition, and the score of each category."""
    lines = []
    for kind, names in (("perception", PERCEPTION), ("cognition", COGNITION)):
        present = [name for name in names if name in scores["categories"]]
        total = "none" if scores[kind] is None else f"{scores[kind]:.2f}"
        lines.append(f"{kind.capitalize()}: {total} ({len(present)} of {len(names)} categories)")
        lines += [
            "  {0}: {score:.2f} = {accuracy:.2f} + {accuracy_plus:.2f}".format(name, **scores["categories"][name])
            for name in present
        ]
    return "\n".join(lines)


DATA = "MME_Benchmark_release_version"


def _score(data: Path, answers: Path, questions: list[Question] | None = None) -> Scored:
    scores, items = evaluate(data / DATA, answers, questions)
    return Scored(scores, describe(scores), items)


BENCHMARKS = (
    Benchmark(
        name="mme",
        folder="MME",
        questions="llava_mme.jsonl",
        headlines=(Headline("MME-P", "perception", "points"), Headline("MME-C", "cognition", "points")),
        images=DATA,
        score=_score,
        place=7,
    ),
)


def main() -> None:
    parser = CommandParser(description="Score MME answers.")
    parser.add_argument("--data-dir", required=True, type=Path, help="MME_Benchmark_release_version")
    add_result_arguments(parser)
    args = parser.parse_args()
    score_file_of(args)
    scores, items = evaluate(args.data_dir, args.result_file)
    print(describe(scores))
    save_scores(scores, items, args)
