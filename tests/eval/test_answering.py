"""The loop that all question files share: batches, pictures, order, memory."""

from io import BytesIO
from pathlib import Path

import pytest
import torch

from llava.eval import answering
from llava.eval.answering import answer, answer_questions, check_images, single_turn_prompt
from llava.eval.questions import Question
from llava.utils import InputError
from tests.conftest import IMAGE, picture

SIZES = [(200, 150), (90, 300), (400, 120), (168, 168)]


@pytest.fixture
def questions(tmp_path) -> list[Question]:
    """Seven questions: two on each of three pictures, of different lengths, and one without, third of all."""
    asked = []
    for seed in range(3):
        path = tmp_path / f"{seed}.png"
        picture(*SIZES[seed], seed=seed).save(path)
        for text in ("What?", f"What is the longer question {'about this ' * seed}?"):
            asked.append(Question(len(asked), text, path, text))
    asked.insert(2, Question("text", "How many legs has a spider?", None, "How many legs has a spider?"))
    return asked


def asked_alone(loaded, question: Question, options: dict) -> str:
    image = [answering.open_image(question)] if question.image is not None else []
    return answer(loaded, single_turn_prompt(f"{IMAGE}\n" * len(image) + question.asked, "llava_v1"), image, **options)


@pytest.mark.parametrize("budget", [None, 16])
@pytest.mark.parametrize(
    ("version", "language_model"), [("v1.5", "llama"), ("v1.6", "llama"), ("v1.6", "qwen"), ("v1.5", "mistral")]
)
def test_questions_get_the_answers_that_each_gets_alone(loaded, questions, version, language_model, budget):
    llava = loaded(version, language_model)
    llava[1].visual_token_num = budget
    options = {"do_sample": False, "max_new_tokens": 6}
    alone = [asked_alone(llava, question, options) for question in questions]
    for batch_size in (1, 3, 16):
        answers = list(answer_questions(llava, questions, "llava_v1", options, batch_size))
        assert [question for question, _ in answers] == questions
        assert [text for _, text in answers] == alone
    assert len(set(alone)) > 1


def test_an_answer_that_ends_early_has_no_padding_in_it(loaded, questions):
    llava = loaded()
    tokenizer, model, *_ = llava
    options = {"do_sample": False, "max_new_tokens": 8}
    model.visual_token_num = 16
    said = [tokenizer(asked_alone(llava, question, options)).input_ids for question in questions]
    options["eos_token_id"] = next(token for row in said for token in row[2:] if not all(token in r for r in said))
    alone = [asked_alone(llava, question, options) for question in questions]
    assert len({len(tokenizer(text).input_ids) for text in alone}) > 1
    answers = answer_questions(llava, questions, "llava_v1", options, 16)
    assert [text for _, text in answers] == alone


def test_pictures_of_following_questions_are_opened_once(loaded, questions, monkeypatch):
    opened, load_image = [], answering.load_image
    monkeypatch.setattr(answering, "load_image", lambda path: opened.append(path) or load_image(path))
    for batch_size in (1, 2, 16):
        opened.clear()
        list(answer_questions(loaded(), questions, "llava_v1", {"do_sample": False, "max_new_tokens": 1}, batch_size))
        assert len(opened) == len(set(opened)) == 3


def test_only_as_many_questions_as_fit_are_asked_at_once(loaded, questions, monkeypatch):
    llava = loaded()
    shapes, generate = [], llava[1].generate

    def counted(input_ids, **options):
        shapes.append(len(input_ids))
        return generate(input_ids, **options)

    monkeypatch.setattr(llava[1], "generate", counted)
    list(answer_questions(llava, questions, "llava_v1", {"do_sample": False, "max_new_tokens": 1}, 3))
    assert shapes == [3, 3, 1]


def test_too_large_a_batch_says_what_to_do(loaded, questions, monkeypatch):
    def fail(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    llava = loaded()
    monkeypatch.setattr(llava[1], "generate", fail)
    with pytest.raises(InputError, match="lower --batch-size"):
        list(answer_questions(llava, questions, "llava_v1", {}, 16))


def test_a_picture_inside_the_question_file_is_named_by_its_question():
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    check_images([Question(1, "", buffer.getvalue(), ""), Question(2, "", None, "")])
    with pytest.raises(InputError, match="cannot read the image of question 7"):
        check_images([Question(7, "", buffer.getvalue()[:2000], "")])
    with pytest.raises(InputError, match=r"no\.png"):
        check_images([Question(7, "", Path("no.png"), "")])
