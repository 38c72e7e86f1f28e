"""The names that upstream's web server, its workers and its converters import, used as upstream uses them."""

import asyncio
import logging

import pytest

from llava.errors import InputError
from llava.upstream import server as compat
from llava.utils import build_logger, moderation_msg, pretty_print_semaphore, server_error_msg, violates_moderation


def test_a_logger_writes_to_its_file_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compat, "LOGDIR", str(tmp_path / "logs"))
    name = "test_compat_worker"
    logger = build_logger(name, "worker.log")
    assert build_logger(name, "worker.log") is logger
    logger.info("a request came")
    assert (tmp_path / "logs" / "worker.log").read_text().count("a request came") == 1
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    logging.Logger.manager.loggerDict.pop(name)


def test_a_semaphore_is_told():
    semaphore = asyncio.Semaphore(2)
    assert pretty_print_semaphore(None) == "None"
    assert pretty_print_semaphore(semaphore) == "Semaphore(value=2, locked=False)"


def test_moderation_is_refused_and_the_messages_are_texts():
    with pytest.raises(NotImplementedError, match="moderation is not offered"):
        violates_moderation("Hello")
    assert server_error_msg and moderation_msg and server_error_msg != moderation_msg


def test_upstream_s_evaluator_of_textvqa():
    from llava.eval.m4c_evaluator import EvalAIAnswerProcessor, TextVQAAccuracyEvaluator

    assert EvalAIAnswerProcessor()("The two dogs.") == "2 dogs"
    records = [
        {"pred_answer": "Stop", "gt_answers": ["stop"] * 10},
        {"pred_answer": "two", "gt_answers": ["2"] * 2 + [f"{i}:00" for i in range(8)]},
    ]
    assert TextVQAAccuracyEvaluator().eval_pred_list(records) == pytest.approx((1 + 0.6) / 2)
    with pytest.raises(InputError, match="record 1 has 9 annotators' answers"):
        TextVQAAccuracyEvaluator().eval_pred_list([{"pred_answer": "a", "gt_answers": ["a"] * 9}])
