"""Time and memory that a question file of VQAv2's size takes: read, resumed, merged, and made into an upload.

python -m llava.bench.reading

Each step is a process of its own, whose seconds are those of the step alone and whose memory is its peak in all. On a
machine that others use too, the seconds of the CPU say more than those of the clock.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from llava.utils import CommandParser, InputError, run_command

VQAV2_TEST = 447_793
QUESTIONS_OF_AN_IMAGE = 5.5
ANSWERS = ("Yes", "No", "2", "black and white", "On the table.")


def write_files(folder: Path, count: int) -> None:
    """A question file, its answers, and these in two halves in another order."""
    lines = []
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for i in range(count):
            image = int(i / QUESTIONS_OF_AN_IMAGE)
            text = f"What is to the left of number {i}?\nAnswer the question using a single word or phrase."
            row = {"question_id": 1000 * image + i, "image": f"COCO_test2015_{image:012}.jpg", "text": text}
            file.write(json.dumps(row | {"category": "default"}) + "\n")
            answer = {"question_id": row["question_id"], "prompt": text, "text": ANSWERS[i % len(ANSWERS)]}
            rest = {"answer_id": f"{i:022}", "model_id": "llava-v1.5-7b", "metadata": {}}
            lines.append(json.dumps(answer | rest) + "\n")
    (folder / "resumed.parts").mkdir()
    (folder / "resumed.settings.json").write_text("{}", encoding="utf-8")
    halves = lines[count // 2 :], lines[: count // 2]
    for name, part in (("answers", lines), *zip(("resumed.parts/0", "resumed.parts/1"), halves)):
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")


def _read(folder: Path) -> Callable[[], object]:
    from llava.eval.benchmarks.questions import read_question_file

    return lambda: read_question_file(folder / "questions.jsonl", folder)


def _resume(folder: Path) -> Callable[[], object]:
    from llava.eval.run.answers import AnswerStore

    store = AnswerStore(folder / "resumed.jsonl", _read(folder)())
    return lambda: store.resume({})


def _merge(folder: Path) -> Callable[[], object]:
    from llava.eval.run.answers import merge_answers

    halves = [str(folder / "resumed.parts" / f"{i}.jsonl") for i in range(2)]
    return lambda: merge_answers(folder / "questions.jsonl", halves, folder / "merged.jsonl")


def _convert(folder: Path) -> Callable[[], object]:
    from llava.eval.benchmarks.submission import convert_vqav2

    return lambda: convert_vqav2(folder / "questions.jsonl", folder / "answers.jsonl", folder / "upload.json")


STEPS = {"read": _read, "resume": _resume, "merge": _merge, "convert": _convert}


def measure(step: str, folder: Path) -> None:
    """Print the seconds of a step by the clock and of the CPU, and the peak of this process in MB."""
    run = STEPS[step](folder)
    start, cpu_start = time.perf_counter(), time.process_time()
    run()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(f"{seconds:.2f} {cpu_seconds:.2f} {peak:.0f}")


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=VQAV2_TEST, help=f"how many ({VQAV2_TEST}, VQAv2's test set)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        return measure(args.step, args.folder)
    if args.questions < 2:
        raise InputError("questions must be at least 2")
    print("| step | seconds | seconds of CPU | peak memory in MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), args.questions)
        for step in STEPS:
            command = [sys.executable, "-m", "llava.bench.reading", "--step", step, "--folder", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print("| {} | {} | {} | {} |".format(step, *done.stdout.split()))


if __name__ == "__main__":
    run_command(main)
