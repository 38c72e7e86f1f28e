"""Turn VQAv2 test-dev answers into what the EvalAI server takes: an entry for every question of test2015."""

from pathlib import Path

from llava.eval.files import read_jsonl
from llava.eval.submission import answers_to, write_upload
from llava.eval.vqa_accuracy import normalize_answer
from llava.utils import CommandParser, InputError, run_command


def read_test_ids(test_file: Path) -> list[int]:
    """The ids of all questions. Raises InputError if one is no number, which the server asks for."""
    ids = []
    for row in read_jsonl(test_file, "test file", ["question_id"]):
        try:
            ids.append(int(str(row["question_id"])))
        except ValueError as error:
            raise InputError(f"test file {test_file}: the id {row['question_id']!r} is not a whole number") from error
    return ids


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("playground/data/eval/vqav2"))
    parser.add_argument("--ckpt", help="the answers' path below DIR/answers/SPLIT, such as llava-v1.5-7b/n_64/r_0.5")
    parser.add_argument("--split", default="llava_vqav2_mscoco_test-dev2015")
    parser.add_argument("--test-file", type=Path, help="all questions (DIR/llava_vqav2_mscoco_test2015.jsonl)")
    parser.add_argument("--result-file", type=Path, help="answers (DIR/answers/SPLIT/CKPT/merge.jsonl)")
    parser.add_argument("--result-upload-file", type=Path, help="upload (DIR/answers_upload/SPLIT/CKPT.json)")
    args = parser.parse_args()
    if not args.ckpt and not (args.result_file and args.result_upload_file):
        raise InputError("give --ckpt, or both --result-file and --result-upload-file")
    test_file = args.test_file or args.dir / "llava_vqav2_mscoco_test2015.jsonl"
    result_file = args.result_file or args.dir / "answers" / args.split / args.ckpt / "merge.jsonl"
    upload_file = args.result_upload_file or args.dir / "answers_upload" / args.split / f"{args.ckpt}.json"

    ids = read_test_ids(test_file)
    answers = answers_to(ids, test_file, result_file, partial=True)
    upload = [{"question_id": number, "answer": normalize_answer(answers.get(str(number), ""))} for number in ids]
    write_upload(upload_file, upload)
    print(f"{len(answers)} of {len(ids)} questions have an answer in {upload_file}")


if __name__ == "__main__":
    run_command(main)
