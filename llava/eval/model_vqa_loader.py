"""Answer a question file about pictures: POPE, GQA, VQAv2, VizWiz, TextVQA, MME and others of that format."""

from pathlib import Path

from llava.conversation import get_conversation
from llava.eval.answering import (
    add_generation_arguments,
    add_model_arguments,
    answer_questions,
    check_images,
    generation_options,
    load_model,
)
from llava.eval.answers import answer_line, atomic_writer, read_jsonl
from llava.mm_utils import get_model_name_from_path
from llava.utils import CommandParser, InputError, run_command


def get_chunk(questions: list, num_chunks: int, chunk_idx: int) -> list:
    """Part `chunk_idx` of `num_chunks` contiguous parts whose sizes differ by one at most."""
    if not 0 <= chunk_idx < num_chunks:
        raise InputError(f"chunk-idx must be in [0, num-chunks), got {chunk_idx} of {num_chunks}")
    start, end = (len(questions) * i // num_chunks for i in (chunk_idx, chunk_idx + 1))
    return questions[start:end]


def main() -> None:
    parser = CommandParser(description=__doc__)
    add_model_arguments(parser)
    parser.add_argument("--image-folder", required=True, type=Path)
    parser.add_argument("--question-file", required=True, help="JSON lines of question_id, image, text")
    parser.add_argument("--answers-file", required=True, help="JSON lines, written whole or not at all")
    parser.add_argument("--conv-mode", default="llava_v1", help="prompt template (llava_v1)")
    parser.add_argument("--num-chunks", type=int, default=1, help="processes that share the questions (1)")
    parser.add_argument("--chunk-idx", type=int, default=0, help="which of them this one is (0)")
    add_generation_arguments(parser, temperature=0.2, max_new_tokens=128)
    args = parser.parse_args()

    get_conversation(args.conv_mode)
    options = generation_options(args)
    questions = read_jsonl(args.question_file, "question file", ["question_id", "image", "text"])
    questions = get_chunk(questions, args.num_chunks, args.chunk_idx)
    check_images(args.image_folder / question["image"] for question in questions)
    loaded = load_model(args) if questions else None
    answers = answer_questions(loaded, questions, args.image_folder, args.conv_mode, options)
    model_id = get_model_name_from_path(args.model_path)
    with atomic_writer(args.answers_file) as file:
        for question, text in answers:
            file.write(answer_line(question, text, model_id))
            file.flush()


if __name__ == "__main__":
    run_command(main)
