"""The benchmarks' question files, each read into the one form that `answering` takes."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import InputError
from llava.eval.benchmarks.files import collection_paused, iterate_jsonl, read_json_list
from llava.eval.benchmarks.mmbench_table import OPTIONS, is_absent, options_of, read_mmbench_table, read_pictures

LETTER_SENTENCE = {
    "en": "Answer with the option's letter from the given choices directly.",
    "cn": "请直接回答选项字母。",
}


@dataclass(frozen=True, slots=True)
class Question:
    """One question to a model.

    Attributes:
        question_id: as the question file has it; not always unique.
        asked: the user's turn without its image token.
        image: a file, or an encoded image, or None for a question of text alone.
        prompt: what the answer file records as the prompt.
        extra: further fields of its line in the answer file.
    """

    question_id: int | str
    asked: str
    image: Path | bytes | None
    prompt: str
    extra: dict = field(default_factory=dict)


def read_question_file(path: str | Path, image_folder: Path) -> list[Question]:
    """JSON lines of `question_id`, `image`, `text`. Raises InputError if the file is not of that form."""
    from llava.eval.benchmarks.rows import QuestionRow

    questions, images, ids = [], {}, []
    with collection_paused():
        for row in iterate_jsonl(path, "question file", ["question_id", "image", "text"], schema=QuestionRow):
            number, name, text = row["question_id"], row["image"], row["text"]
            if (image := images.get(name)) is None:  # VQAv2's 447,793 questions are about 81,434 images
                image = images[name] = image_folder / name
            # MME and TextVQA name questions by the image, elsewhere scores and uploads are joined by the id alone.
            key = str(number)
            if key not in name or key not in (image.stem, _inside(image, image_folder)):
                ids.append(key)
            questions.append(Question(number, text, image, text))
    _require_unique(ids, f"question file {path}")
    return questions


def _inside(image: Path, folder: Path) -> str:
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else str(image)


def _require_unique(ids: list[str], where: str) -> None:
    """Raise InputError, saying where, if one of `ids` appears twice."""
    if len(set(ids)) < len(ids):
        again = [key for key, count in Counter(ids).items() if count > 1]
        raise InputError(f"{where}: {len(again)} question_id(s) more than once, such as {again[0]}")


def read_science_questions(path: str | Path, image_folder: Path, single_pred_prompt: bool) -> list[Question]:
    """LLaVA's ScienceQA file, a JSON list of conversations, of which the first human turn is the question.

    A question without `image` is one of text alone. With `single_pred_prompt` the sentence that asks for the option's
    letter is added. Raises InputError if the file is not of that form.
    """
    from llava.eval.benchmarks.rows import ScienceQuestion

    questions = []
    for row in read_json_list(path, "question file", ScienceQuestion):
        turns = row["conversations"]
        if not turns:
            raise InputError(f"question file {path}, {row['id']}, first turn: no from, value")
        asked = turns[0]["value"].replace(DEFAULT_IMAGE_TOKEN, "").strip()
        if single_pred_prompt:
            asked += f"\n{LETTER_SENTENCE['en']}"
        image = image_folder / row["image"] if row.get("image") else None
        prompt = f"{DEFAULT_IMAGE_TOKEN}\n{asked}" if image else asked
        questions.append(Question(row["id"], asked, image, prompt))
    _require_unique([str(question.question_id) for question in questions], f"question file {path}")
    return questions


def read_mmbench_questions(
    path: str | Path, single_pred_prompt: bool = False, lang: str = "en", all_rounds: bool = False
) -> list[Question]:
    """MMBench's table, with its images inside.

    The user's turn is hint, question and lettered options, and with `single_pred_prompt` the sentence of `lang` that
    asks for the letter, which the answer file does not record. With `all_rounds` a question of n options is asked n
    times, with its options moved up by one each time; `option_char` then holds the letters that they have in the file.
    Raises InputError if the file is not of that form.
    """
    questions = []
    rows = read_mmbench_table(path, ["question", "image", *OPTIONS[:2]])
    for row, image in zip(rows, read_pictures(rows, path), strict=True):
        stem = row["question"] if is_absent(row.get("hint")) else f"{row['hint']}\n{row['question']}"
        letters, options = list(options_of(row)), list(options_of(row).values())
        for shift in range(max(1, len(options)) if all_rounds else 1):
            shown = options[shift:] + options[:shift]
            prompt = "\n".join([stem, *(f"{letter}. {option}" for letter, option in zip(letters, shown))])
            asked = f"{prompt}\n{LETTER_SENTENCE[lang]}" if single_pred_prompt else prompt
            extra = {"round_id": shift, "options": shown, "option_char": letters[shift:] + letters[:shift]}
            questions.append(Question(int(row["index"]), asked, image, prompt, extra))
    return questions


def by_image(questions: list[Question], numbers: list[int]) -> list[int]:
    """The `numbers` of questions, reordered: first those without an image, then image by image as they first occur."""
    first: dict = {}
    for number in numbers:
        first.setdefault(questions[number].image, number)
    return sorted(numbers, key=lambda number: (questions[number].image is not None, first[questions[number].image]))


def get_chunk(questions: list, num_chunks: int, chunk_idx: int) -> list:
    """Part `chunk_idx` of `num_chunks` contiguous parts whose sizes differ by one at most."""
    if not 0 <= chunk_idx < num_chunks:
        raise InputError(f"chunk-idx must be in [0, num-chunks), got {chunk_idx} of {num_chunks}")
    start, end = (len(questions) * i // num_chunks for i in (chunk_idx, chunk_idx + 1))
    return questions[start:end]
