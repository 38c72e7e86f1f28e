"""Stand-ins for what pruning costs most: small print, places, counting and existence, asked about drawn scenes.

One folder has a file of questions for each and the pictures of them all; a question's line has its label. lmms-eval's
tasks of the same names, in scripts/lmms_eval, read the same files.
"""

from functools import partial
from pathlib import Path

from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.files import read_jsonl
from llava.eval.benchmarks.items import accuracy_items
from llava.eval.benchmarks.questions import Question
from llava.eval.benchmarks.scoring import accuracy, describe_accuracy, ids_of, join_answers, read_answers

FOLDER = "standins"
HEADINGS = {
    "scenes_ocr": "OCR scenes",
    "scenes_places": "Place scenes",
    "scenes_count": "Count scenes",
    "scenes_exists": "Existence scenes",
}


def score(name: str, data: Path, answers_file: Path, questions: list[Question] | None) -> Scored:
    """`samples` and `accuracy` in percent: exact match, whatever the case, without a full stop at the end.

    Raises InputError if a question has no answer or several, or an answer no question.
    """
    from llava.eval.benchmarks.rows import QuestionRow

    fields = ["question_id", "image", "text", "label"]
    rows = read_jsonl(data / f"{name}.jsonl", "question file", fields, schema=QuestionRow)
    if questions is not None:
        asked = ids_of(questions)
        rows = [row for row in rows if str(row["question_id"]) in asked]
    said = join_answers(read_answers(answers_file), [row["question_id"] for row in rows], answers_file)
    ids = [str(row["question_id"]) for row in rows]
    hits = [said[key].strip().removesuffix(".").lower() == row["label"].lower() for key, row in zip(ids, rows)]
    scores = accuracy(hits)
    items = accuracy_items(ids, [row["image"] for row in rows], hits)
    return Scored(scores, describe_accuracy(scores), {"accuracy": items})


BENCHMARKS = tuple(
    Benchmark(
        name=name,
        folder=FOLDER,
        questions=f"{name}.jsonl",
        headlines=(Headline(heading),),
        images="images",
        score=partial(score, name),
        made_by="python -m playground.tiny.standins",
    )
    for name, heading in HEADINGS.items()
)
