"""The conversation and its figures as text for the page."""

import re

import pytest

from llava.serve.page.transcript import (
    Answer,
    Exchange,
    Figures,
    figures_html,
    notice_html,
    quantity,
    seconds,
    transcript_html,
)


@pytest.mark.parametrize(
    ("number", "unit", "step", "text"),
    [
        (None, "B", 1024, "–"),
        (0, "B", 1024, "0 B"),
        (1023, "B", 1024, "1023 B"),
        (1024, "B", 1024, "1 KiB"),
        (3 << 20, "B", 1024, "3 MiB"),
        (302_514_176, "B", 1024, "288 MiB"),
        (999, "FLOPs", 1000, "999 FLOPs"),
        (1_234_000, "FLOPs", 1000, "1.23 MFLOPs"),
        (8.5e12, "FLOPs", 1000, "8.5 TFLOPs"),
    ],
)
def test_a_quantity_has_a_prefix(number, unit, step, text):
    assert quantity(number, unit, step) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.0421, "42 ms"), (0.9999, "1.00 s"), (12.346, "12.35 s")])
def test_a_time_is_in_milliseconds_or_seconds(value, text):
    assert seconds(value) == text


def cells(html: str) -> dict[str, list[str]]:
    """The rows of a table: what the first column says, and the other cells."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', html)
    return {title: re.findall(r"<td.*?>(.*?)</td>", row) for title, row in rows}


def test_the_figures_of_both_answers_stand_beside_each_other():
    pruned = Answer("16 of 144", "yes", Figures(16, 64, 13, 802_816, 514_000_000, 2, 0.032, 160.0, 1.2))
    unpruned = Answer("all 144", "no", Figures(144, 192, 192, 2_408_448, 1_700_000_000, 3, 0.064, 150.0, 1.5))
    table = cells(figures_html(Exchange("What?", pruned, unpruned)))
    assert table["Visual tokens"] == ["16", "144", "11 %"]
    assert table["Prompt tokens"] == ["64 (13 new)", "192", "33 %"]
    assert list(table)[:4] == ["Visual tokens", "Prompt tokens", "KV cache of the prompt", "Prefill FLOPs"]
    assert table["Time to first token"] == ["32 ms", "64 ms", "50 %"]
    assert table["Tokens per second"] == ["≈ 160.0", "≈ 150.0", ""]
    assert table["KV cache of the prompt"] == ["784 KiB", "2.3 MiB", "33 %"]
    assert table["Prefill FLOPs"] == ["514 MFLOPs", "1.7 GFLOPs", "30 %"]


@pytest.mark.parametrize("spreads", [(None, 1.2), (1.2, None), (None, None), (1.2, 1.6), (3.0, 1.0)])
def test_a_time_that_is_noisy_is_marked_and_has_no_share(spreads):
    answers = [Answer("", "", Figures(first_token=0.05, spread=spread)) for spread in spreads]
    shown = cells(figures_html(Exchange("What?", *answers)))["Time to first token"]
    assert shown == [*("50 ms" if spread in (1.0, 1.2) else "≈ 50 ms" for spread in spreads), ""]


def test_what_is_not_known_is_a_dash():
    exchange = Exchange("What?", Answer("16 of 576"), Answer("all", is_asked=False))
    table = cells(figures_html(exchange))
    assert all(row == ["–", "–", ""] for row in table.values())
    assert "asked for too" in figures_html(exchange)
    assert figures_html(None) == ""


def test_the_newest_exchange_comes_first_for_the_style_to_turn_round():
    talk = [Exchange(text, Answer("a", text[::-1]), Answer("b", is_asked=False)) for text in ("one", "two")]
    html = transcript_html(talk)
    order = [html.index(text) for text in (">two<", "owt", ">one<", "eno")]
    assert order == sorted(order)


def test_what_waits_says_so_where_its_answer_will_be():
    exchange = Exchange("What?", Answer("pruned", waiting="You are next."), Answer("whole", is_asked=False))
    html = transcript_html([exchange])
    assert html.index("What?") < html.index('<div class="answer running">') < html.index("You are next.")
    exchange.pruned.waiting, exchange.pruned.text = "", "ye"
    assert "You are next" not in transcript_html([exchange])


def test_only_answers_that_were_asked_are_shown():
    exchange = Exchange("What?", Answer("pruned", "yes", is_done=True), Answer("whole", is_asked=False))
    assert "whole" not in transcript_html([exchange])
    exchange.unpruned.is_asked = True
    assert "whole" in transcript_html([exchange])
    assert "running" in transcript_html([exchange])
    exchange.unpruned.is_done = True
    assert "(nothing)" in transcript_html([exchange])


def test_what_was_said_is_never_markup():
    said = '<img src="http://elsewhere/x.png">\n<script>'
    exchange = Exchange(said, Answer(said, said), Answer(""))
    for html in (transcript_html([exchange]), figures_html(exchange), notice_html(said)):
        assert "<img" not in html
        assert "<script" not in html
    assert "&gt;<br>&lt;script" in transcript_html([exchange])
    assert notice_html("") == ""
