"""VQAv2: what its server takes, and VQA accuracy on a split with public labels (val), also per type of answer.

Goyal et al., "Making the V in VQA Matter", CVPR 2017, arXiv 1612.00837.
"""

from pathlib import Path

from llava.cli import CommandParser, output_file
from llava.errors import InputError
from llava.eval.benchmarks.base import Benchmark, Headline, Scored
from llava.eval.benchmarks.files import iterate_jsonl
from llava.eval.benchmarks.items import accuracy_items
from llava.eval.benchmarks.scoring import (
    accuracy,
    accuracy_by,
    describe_accuracy,
    join_answers,
    read_answers,
    score_command,
)
from llava.eval.benchmarks.submission import answers_to, write_upload
from llava.eval.benchmarks.vqa_accuracy import normalize_answer, vqa_accuracy
from llava.files import read_json_object, require_writable

TEST2015 = "llava_vqav2_mscoco_test2015.jsonl"
TEST_DEV = "llava_vqav2_mscoco_test-dev2015"


def evaluate(annotation_file: Path, result_file: Path) -> Scored:
    """`samples` and VQA `accuracy` in percent, in all and under `answer_type` by type, joined by id.

    Raises InputError if a question has no answer or several, an answer no question, or a label a wrong type.
    """
    from llava.eval.benchmarks.rows import VqaLabel, check

    labels = read_json_object(annotation_file, "annotation file").get("annotations")
    if not isinstance(labels, list) or not labels:
        raise InputError(f"the annotation file {annotation_file} has no annotations")
    for number, label in enumerate(labels, start=1):
        check(label, VqaLabel, f"annotation file {annotation_file}, annotation {number}")
    answers = join_answers(read_answers(result_file), [label["question_id"] for label in labels], result_file)
    hits = [
        vqa_accuracy(answers[str(label["question_id"])], [given["answer"] for given in label["answers"]])
        for label in labels
    ]
    ids = [label["question_id"] for label in labels]
    pictures = [label.get("image_id", f"of {number}") for number, label in zip(ids, labels)]
    scores = accuracy(hits) | {"answer_type": accuracy_by([label["answer_type"] for label in labels], hits)}
    return Scored(scores, describe_accuracy(scores), {"accuracy": accuracy_items(ids, pictures, hits)})


def convert(test_file: Path, result_file: Path, upload_file: Path) -> str:
    """What VQAv2's server takes: an entry for every question of test2015, of which test-dev is a part.

    Returns a line that says what was written. Raises InputError for an id that is no number, which the server asks for,
    and as `answers_to` does.
    """
    ids = []
    for row in iterate_jsonl(test_file, "test file", ["question_id"]):
        try:
            ids.append(int(str(row["question_id"])))
        except ValueError as error:
            raise InputError(f"test file {test_file}: the id {row['question_id']!r} is not a whole number") from error
    answers = answers_to(ids, test_file, result_file, partial=True)
    upload = [{"question_id": number, "answer": normalize_answer(answers.get(str(number), ""))} for number in ids]
    write_upload(upload_file, upload)
    return f"{len(answers)} of {len(ids)} questions have an answer in {upload_file}"


def submit() -> None:
    """Turn VQAv2 test-dev answers into what the EvalAI server takes: an entry for every question of test2015."""
    parser = CommandParser(description=submit.__doc__)
    parser.add_argument("--dir", type=Path, default=Path("playground/data/eval/vqav2"))
    parser.add_argument("--ckpt", help="the answers' path below DIR/answers/SPLIT, such as llava-v1.5-7b/n_64/r_0.5")
    parser.add_argument("--split", default=TEST_DEV)
    parser.add_argument("--test-file", type=Path, help=f"all questions (DIR/{TEST2015})")
    parser.add_argument("--result-file", type=Path, help="answers (DIR/answers/SPLIT/CKPT/merge.jsonl)")
    parser.add_argument("--result-upload-file", type=output_file, help="upload (DIR/answers_upload/SPLIT/CKPT.json)")
    args = parser.parse_args()
    if not args.ckpt and not (args.result_file and args.result_upload_file):
        raise InputError("give --ckpt, or both --result-file and --result-upload-file")
    test_file = args.test_file or args.dir / TEST2015
    result_file = args.result_file or args.dir / "answers" / args.split / args.ckpt / "merge.jsonl"
    upload_file = args.result_upload_file or args.dir / "answers_upload" / args.split / f"{args.ckpt}.json"
    require_writable(upload_file)
    print(convert(test_file, result_file, upload_file))


BENCHMARKS = (
    Benchmark(
        name="vqav2",
        folder="vqav2",
        questions=f"{TEST_DEV}.jsonl",
        headlines=(Headline("VQAv2"),),
        images="test2015",
        labels=(TEST2015,),
        convert=lambda data, answers, upload: convert(data / TEST2015, answers, upload),
        submission="merge.upload.json",
        submit=submit,
        place=1,
    ),
)


def main() -> None:
    score_command("Score VQAv2 answers.", evaluate)
