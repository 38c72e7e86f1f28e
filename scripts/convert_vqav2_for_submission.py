"""Turn VQAv2 test-dev answers into what the EvalAI server takes: an entry for every question of test2015."""

from pathlib import Path

from llava.cli import CommandParser, run_command
from llava.errors import InputError
from llava.eval.submission import convert_vqav2


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
    print(convert_vqav2(test_file, result_file, upload_file))


if __name__ == "__main__":
    run_command(main)
