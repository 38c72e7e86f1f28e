"""Requests a second through the HTTP API: with the extra `demo`, see scripts/test_web.sh."""

import json
import urllib.request

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra demo is not installed: see scripts/test_web.sh")
pytest.importorskip("uvicorn", reason="the extra demo is not installed: see scripts/test_web.sh")

from llava.pruning import Settings
from scripts.benchmarks import gpu_throughput
from scripts.benchmarks.gpu_parts import Lab, throughput

SHAPE = "llava-v1.5-7b"


@pytest.fixture(scope="module")
def lab():
    return Lab(torch.device("cpu"), is_tiny=True)


def test_a_row_for_each_number_of_clients(lab):
    whole, pruned = throughput(lab, SHAPE, None), throughput(lab, SHAPE, 64)
    assert [row[:3] for row in whole["rows"]] == [[SHAPE, 144, 1], [SHAPE, 144, 2]]
    assert [row[:3] for row in pruned["rows"]] == [[SHAPE, 64, 1], [SHAPE, 64, 2]]
    assert all(rate > 0 and wait > 0 for *_, rate, wait in whole["rows"] + pruned["rows"])
    assert lab.model(SHAPE).pruning == Settings()  # as it was


def test_the_server_prunes_and_an_answer_of_another_length_is_an_error(lab):
    (body,), lengths = gpu_throughput.bodies(1, 168, 3), []
    for pruning in (Settings(64), Settings(32)):
        with gpu_throughput.served(lab.model(SHAPE), pruning) as address:
            request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as response:
                lengths.append(json.load(response)["usage"]["prompt_tokens"])
            with pytest.raises(RuntimeError, match="3 tokens in place of 4"):
                gpu_throughput.ask(address, body, 4)
    assert lengths[0] - lengths[1] == 32
