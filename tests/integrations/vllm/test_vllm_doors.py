"""Every method in vLLM: the engine's answers. Those that cannot work there are refused: see the server's tests."""

import pytest

from llava.pruning import METHOD_NAMES
from tests import doors
from tests.conftest import load
from tests.integrations.vllm.conftest import NO_VLLM, request

pytest.importorskip("vllm.version", reason=NO_VLLM)

METHODS = [method for method in METHOD_NAMES if not doors.must_be_refused(method)]


def test_every_method_gives_the_engines_answers(ask_tiny):
    tiny = load(doors.MODEL)
    settings = [{"visual_token_num": doors.TOKENS, "pruning_method": method} for method in METHODS]
    rounds = [[request(picture, text, **each) for text, picture in doors.asked()] for each in settings]
    answers = ask_tiny(*rounds, max_tokens=doors.GREEDY["max_new_tokens"])
    said = {method: [each["text"] for each in own] for method, own in zip(METHODS, answers, strict=True)}
    assert said == {method: doors.engine_answers(tiny, method) for method in METHODS}
