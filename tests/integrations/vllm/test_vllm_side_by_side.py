"""vLLM's row of the programs side by side: the answers of the package."""

import sys

import pytest

from llava.eval.benchmarks.questions import read_question_file
from llava.pruning import Settings
from scripts.benchmarks import side_by_side
from tests.integrations.vllm.conftest import BENCHMARKS, CONV_MODE, MODEL, NO_VLLM, SCENES

pytest.importorskip("vllm.version", reason=NO_VLLM)
pytestmark = pytest.mark.slow


def test_vllm_answers_as_the_package_and_is_measured(own_answers):
    file, images = BENCHMARKS["pope"]
    questions = read_question_file(SCENES / "pope" / file, SCENES / "pope" / images)[:24]
    how = (CONV_MODE, Settings(16), 16, "cpu", sys.executable)
    found = side_by_side.run_way(side_by_side.VLLM, side_by_side.Job(str(MODEL), "", questions, *how))
    assert found["texts"] == own_answers("pope", 16)[:24]
    assert 0 < found["ready"] < found["whole"]
    assert found["rate"] * (found["whole"] - found["ready"]) > 24  # the answering is a part of the rest
    assert found["memory"] > 100 * 2**20
