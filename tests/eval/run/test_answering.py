"""The loop that all question files share: batches, pictures, order, memory."""

from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llava.errors import InputError
from llava.eval.benchmarks.questions import Question
from llava.eval.run.answering import answer_questions
from llava.eval.run.checks import decoding_images
from llava.inference import memory
from llava.inference.images import open_image
from llava.model import encode as door
from llava.model.template import named_template
from llava.pruning import Settings
from tests.conftest import IMAGE, generate_alone, picture

METHODS = [(None, "vispruner"), *((16, name) for name in ("vispruner", "fastv", "random", "pool", "dart", "blind"))]
SIZES = [(200, 150), (90, 300), (400, 120), (168, 168)]
ONE, SIX = ({"do_sample": False, "max_new_tokens": number} for number in (1, 6))  # new tokens


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
    image = [open_image(question.image, "")] if question.image is not None else []
    prompt = named_template("llava_v1").prompt(f"{IMAGE}\n" * len(image) + question.asked)
    return generate_alone(loaded, prompt, image, **options)


@pytest.mark.parametrize(("budget", "method"), METHODS)
@pytest.mark.parametrize(
    ("version", "language_model"), [("v1.5", "llama"), ("v1.6", "llama"), ("v1.6", "qwen"), ("v1.5", "mistral")]
)
def test_questions_get_the_answers_that_each_gets_alone(loaded, questions, version, language_model, budget, method):
    llava = loaded(version, language_model)
    llava[1].visual_token_num, llava[1].pruning_method = budget, method
    alone = [asked_alone(llava, question, SIX) for question in questions]
    for batch_size in (1, 3, 16):
        answers = list(answer_questions(llava, questions, "llava_v1", SIX, batch_size))
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


@pytest.mark.parametrize("budget", [None, 16])
def test_beams_find_the_answers_that_they_find_alone(loaded, questions, budget):
    llava = loaded()
    llava[1].visual_token_num = budget
    options = {**SIX, "num_beams": 3}
    alone = [asked_alone(llava, question, options) for question in questions]
    assert [text for _, text in answer_questions(llava, questions, "llava_v1", options, 4)] == alone


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pictures_of_following_questions_are_encoded_once(loaded, questions, num_workers):
    llava = loaded()
    encoded = []
    embeddings = llava[1].get_vision_tower().vision_tower.embeddings
    hook = embeddings.register_forward_hook(lambda module, inputs, out: encoded.append(len(inputs[0])))
    for batch_size in (1, 2, 16):
        encoded.clear()
        list(answer_questions(llava, questions, "llava_v1", ONE, batch_size, num_workers))
        assert sum(encoded) == 3
    hook.remove()


def test_a_picture_that_cannot_be_read_on_the_way_is_named(loaded, questions):
    questions[-1].image.write_bytes(questions[-1].image.read_bytes()[:1000])
    answers = answer_questions(loaded(), questions, "llava_v1", ONE, 1, 1)
    assert [next(answers)[0] for _ in range(5)] == questions[:5]
    with pytest.raises(InputError, match=str(questions[-1].image)):
        next(answers)


@pytest.fixture
def batches(monkeypatch):
    """Notes how many prompts are answered at once: batches(model, limit), which runs out of memory above `limit`."""

    def watch(model, limit: int) -> list[int]:
        sizes, generate = [], model.generate_from_embeds

        def counted(embeds, *args, **options):
            if len(embeds) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            sizes.append(len(embeds))
            return generate(embeds, *args, **options)

        monkeypatch.setattr(model, "generate_from_embeds", counted)
        return sizes

    return watch


def test_an_image_token_in_a_question_is_named_before_any_is_answered(loaded, questions):
    bad = Question(7, f"What is {IMAGE}?", questions[0].image, "")
    with pytest.raises(InputError, match="question 7 has <image> in its text"):
        next(answer_questions(loaded(), [*questions, bad], "llava_v1", ONE))


def test_only_as_many_questions_as_wanted_are_asked_at_once(loaded, questions, batches):
    llava = loaded()
    sizes = batches(llava[1], 16)
    pictured = [question for question in questions if question.image is not None]
    list(answer_questions(llava, pictured, "llava_v1", ONE, 4))
    assert sizes == [4, 2]


def test_where_memory_runs_out_batches_get_smaller(loaded, questions, batches):
    llava = loaded()
    pictured = [question for question in questions if question.image is not None]
    whole = list(answer_questions(llava, pictured, "llava_v1", SIX, 6))
    sizes = batches(llava[1], 2)
    assert list(answer_questions(llava, pictured, "llava_v1", SIX, 6)) == whole
    assert sizes == [2, 2, 2]


def test_where_memory_runs_out_images_are_encoded_one_by_one(loaded, questions, monkeypatch):
    llava = loaded()
    whole = list(answer_questions(llava, questions, "llava_v1", SIX, 7))
    run_tower, sizes = door.encode, []

    def counted(model, images, *args):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        sizes.append(len(images))
        return run_tower(model, images, *args)

    monkeypatch.setattr(door, "encode", counted)
    assert list(answer_questions(llava, questions, "llava_v1", SIX, 7)) == whole
    assert sizes == [1, 1, 1]


def test_a_question_without_an_image_may_stand_between_two_on_one(loaded, questions):
    llava = loaded()
    mixed = [questions[i] for i in (0, 2, 1, 2, 3, 0)]
    alone = [asked_alone(llava, question, SIX) for question in mixed]
    for batch_size in (1, 2, 16):
        assert [text for _, text in answer_questions(llava, mixed, "llava_v1", SIX, batch_size)] == alone


def test_a_question_too_large_for_memory_is_named(loaded, questions, batches):
    llava = loaded()
    batches(llava[1], 0)
    with pytest.raises(InputError, match="question 0 alone takes too much memory"):
        list(answer_questions(llava, questions, "llava_v1", {}, 16))


def test_a_batch_is_as_large_as_memory_allows(loaded, monkeypatch):
    llava = loaded()
    free = {}
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(**free))
    sizes = []
    for available in (1e12, 2e7, 1e7, 1e3):
        free["available"] = available
        sizes.append(memory.default_batch_size(llava[1], Settings(), 1, {"max_new_tokens": 16}))
    assert sizes[0] == 32
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == 1


def test_a_picture_inside_the_question_file_is_named_by_its_question():
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    with decoding_images([Question(1, "", buffer.getvalue(), ""), Question(2, "", None, "")]) as decoded:
        decoded()
    for image, named in (
        (buffer.getvalue()[:2000], "cannot read the image of question 7"),
        (Path("no.png"), r"no\.png"),
    ):
        with pytest.raises(InputError, match=named), decoding_images([Question(7, "", image, "")]) as decoded:
            decoded()
