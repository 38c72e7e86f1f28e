"""The comparison: each column is asked by itself, in its turn, and what one cannot do is told beside it."""

import pytest

from llava.errors import InputError
from llava.inference import Session
from llava.pruning import Settings
from llava.serve.page.service import Service
from llava.serve.page.transcript import Figures, column_html
from tests.serve.conftest import GREEDY, SIXTEEN, ask

COLUMNS = {
    0: SIXTEEN,
    1: Settings(16, pruning_method="none"),
    3: Settings(40, 0.2),
    2: Settings(8, pruning_method="fastv"),
}

COSTS = ("visual_tokens", "prompt_tokens", "kv_cache_bytes", "prefill_flops")


def compare(service: Service, question: str, columns: dict[int, Settings] = COLUMNS, **options) -> dict:
    """The columns of a comparison."""
    for _ in service.compare("me", question, columns, **options):
        pass
    return service.visitors.get("me").comparison.columns


@pytest.fixture
def service(service_of, picture_file):
    """One whose visitor "me" has a picture."""
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    return service


def test_each_column_answers_as_if_it_were_asked_alone(service, picture_file, encoded):
    crops, before = encoded(service.model.model), ask(service, "me", "What is this?")
    columns = compare(service, "What is it?")
    assert not crops  # no column encodes the picture again
    for i, pruning in COLUMNS.items():
        session = Session(service.model.loaded, service.model.template, pruning)
        assert columns[i].answer.text == session.ask("What is it?", [picture_file], **GREEDY)
    assert len({column.answer.text for column in columns.values()}) > 1
    assert service.visitors.get("me").exchanges == [before]
    assert "What is it" not in service.transcript("me")[0]
    assert len(service.queue) == 0


def test_the_costs_are_those_of_the_conversation_and_shares_of_what_unpruned_takes(service):
    columns = compare(service, "What is it?")
    for i, pruning in COLUMNS.items():
        service.visitors.get("me").start_over()
        exchange = ask(service, "me", "What is it?", pruning)
        for own, other in (
            (columns[i].answer.figures, exchange.pruned.figures),
            (columns[i].unpruned, exchange.unpruned.figures),
        ):
            assert [getattr(own, name) for name in COSTS] == [getattr(other, name) for name in COSTS]
            assert None not in [getattr(own, name) for name in COSTS]
    assert "100 %" in column_html(columns[1])
    assert "11 %" in column_html(columns[0])  # 16 of 144 visual tokens


def test_answers_come_one_after_another_each_in_its_turn(service):
    first, second = service.queue.enter(), service.queue.enter()
    shown = service.compare("me", "What is it?", {0: SIXTEEN, 1: Settings(40)})
    html = [column_html(next(shown)) for _ in range(3)]
    assert "After the answer" in html[1]
    assert "Waiting: 2 before you" in html[2]
    first.leave()
    assert "You are next" in column_html(next(shown))
    second.leave()
    while not (column := next(shown)).answer.is_done:
        assert column.pruning == SIXTEEN
    with service.queue.enter():  # somebody else comes between the two answers
        html = [column_html(column) for column in (next(shown), next(shown))]
        assert "You are next" in html[1]
    assert all(column.answer.is_done for column in list(shown)[-1:])
    assert len(service.queue) == 0


def test_what_is_stopped_is_said_and_nothing_is_left_in_the_queue(service):
    shown = service.compare("me", "What is it?", COLUMNS)
    for column in shown:
        if column.pruning == COLUMNS[1] and column.answer.text:
            break
    service.visitors.get("me").comparison.stop()
    list(shown)
    columns = service.visitors.get("me").comparison.columns
    assert [columns[i].answer.is_done for i in COLUMNS] == [True, False, False, False]
    assert "stopped" in column_html(columns[1]) and "stopped" in column_html(columns[2])
    assert len(service.queue) == 0
    assert all(column.answer.is_done for column in compare(service, "What is it?").values())


def test_another_picture_ends_a_comparison(service, picture_file):
    shown = service.compare("me", "What is it?", COLUMNS)
    next(shown)
    service.take_picture("me", picture_file, "picture.png")
    assert not [column for column in shown if column.answer.is_done]
    assert service.visitors.get("me").comparison is None


def test_what_one_column_cannot_do_is_its_error_and_the_others_answer(service):
    room = service.model.model.config.max_position_embeddings
    tokens = [compare(service, text)[0].answer.figures.prompt_tokens for text in ("word", "word word")]
    question = "word " * ((room - tokens[0] - 40) // (tokens[1] - tokens[0]))  # what only pruning makes fit
    columns = compare(service, question)
    assert "longer than the context" in str(columns[1].error)
    assert [columns[i].answer.is_done for i in COLUMNS] == [True, False, True, False]
    assert columns[1].answer.figures == Figures()
    assert len(service.queue) == 0


@pytest.mark.parametrize(
    ("question", "named"), [(" ", "question is empty"), ("word " * 50_000, "longer than the context")]
)
def test_a_question_that_no_column_can_answer_is_refused_once(service, question, named):
    columns = compare(service, "What is it?")
    with pytest.raises(InputError, match=named):
        compare(service, question)
    assert service.visitors.get("me").comparison.columns is columns


def test_a_server_answers_with_each_budget(service_of, picture_file, model_server):
    from llava.serve.page.vllm_server import VllmServer

    model_server.pruning["patches"] = 144
    service = service_of(server=VllmServer(model_server.url, GREEDY))
    service.take_picture("me", picture_file, "picture.png")
    columns = compare(service, "What is it?", {0: SIXTEEN, 1: Settings(144)}, options=service.decoding(0.5, 3))
    assert [columns[i].answer.text for i in (0, 1)] == [f"1 texts, (200, 150), {number} tokens" for number in (16, 144)]
    assert [body["temperature"] for body in model_server.bodies] == [0.5, 0.5]
    assert {body["max_tokens"] for body in model_server.bodies} == {3}
    assert columns[0].answer.figures.visual_tokens == 16
    refused = compare(service, "refuse this", {0: SIXTEEN, 1: Settings(144)})
    assert "visual_token_num must be at least 1" in str(refused[0].error)


def test_a_question_that_is_asked_again_takes_the_place_of_the_last_one(service, picture_file):
    ask(service, "me", "What is this?")
    first = ask(service, "me", "And why?")
    list(service.ask("me", service.last_question("me"), Settings(48), False, None, True))
    before, again = service.visitors.get("me").exchanges
    assert (before.question, again.question) == ("What is this?", "And why?")
    session = Session(service.model.loaded, service.model.template, SIXTEEN)
    session.ask("What is this?", [picture_file], **GREEDY)
    session = session.fork(Settings(48))
    assert again.pruned.text == session.ask("And why?", **GREEDY)
    assert ask(service, "me", "Really?", Settings(48)).pruned.text == session.ask("Really?", **GREEDY)
    assert first.pruned.label != again.pruned.label


@pytest.mark.parametrize("ends", ["stop", "close", "error"])
def test_an_answer_that_is_not_made_again_stays(service, picture_file, ends):
    session = Session(service.model.loaded, service.model.template, SIXTEEN)
    session.ask("What is it?", [picture_file], **GREEDY)
    before = ask(service, "me", "What is it?")
    if ends == "error":
        with pytest.raises(InputError, match="placeholder"):
            list(service.ask("me", "<image> or <image>?", SIXTEEN, False, None, True))
    else:
        shown = service.ask("me", "What is it?", SIXTEEN, False, None, True)
        next(shown)
        next(shown)
        assert service.visitors.get("me").exchanges != [before]
        shown.close() if ends == "close" else service.stop("me")
        list(shown)
    assert service.visitors.get("me").exchanges == [before]
    assert ask(service, "me", "Why?").pruned.text == session.ask("Why?", **GREEDY)


def test_nothing_is_made_again_before_there_is_an_answer(service):
    with pytest.raises(InputError, match="no answer yet"):
        service.last_question("me")


def test_temperature_and_length_are_those_that_were_chosen(service):
    for _ in service.ask("me", "What is it?", SIXTEEN, False, service.decoding(0, 3)):
        pass
    assert service.visitors.get("me").exchanges[0].pruned.figures.answer_tokens == 3
    assert service.decoding(0.7, 9)["temperature"] == 0.7


@pytest.mark.parametrize(
    ("temperature", "length", "named"),
    [
        *((value, 7, "temperature") for value in (-1, float("nan"), "hot", True)),
        *((0, value, "max_new_tokens") for value in (0, 10**9, 2.5, None)),
    ],
)
def test_an_invalid_temperature_or_length_is_named(service_of, temperature, length, named):
    with pytest.raises(InputError, match=named):
        service_of().decoding(temperature, length)
