"""MM-Vet: what its grader takes.

Yu et al., "MM-Vet: Evaluating Large Multimodal Models for Integrated Capabilities", ICML 2024, arXiv 2308.02490.
"""

from pathlib import Path

from llava.eval.benchmarks.base import Benchmark, Headline
from llava.eval.benchmarks.submission import submit_command, unique_answers, write_upload


def convert(result_file: Path, upload_file: Path) -> str:
    """What MM-Vet's grader takes: an answer under each question's name. Returns a line that says what was written."""
    answers = {f"v1_{number}": text for number, text in unique_answers(result_file).items()}
    write_upload(upload_file, answers)
    return f"{len(answers)} answers in {upload_file}"


def submit() -> None:
    """Turn MM-Vet answers into what its grader takes: one object with an answer under each question's name."""
    submit_command(submit.__doc__, convert, src="answers, JSON lines", dst=None)


BENCHMARKS = (
    Benchmark(
        name="mmvet",
        folder="mm-vet",
        questions="llava-mm-vet.jsonl",
        headlines=(Headline("MM-Vet"),),
        images="images",
        convert=lambda _, answers, upload: convert(answers, upload),
        submission="merge.upload.json",
        submit=submit,
        max_new_tokens=1024,
        place=10,
    ),
)
