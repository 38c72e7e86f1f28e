"""lmms-eval's own adapter for LLaVA, as it is, on this package."""

import pytest

pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed here: see scripts/test_lmms_eval.sh")


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("benchmark", ["pope", "gqa", "textvqa"])
def test_the_adapter_of_lmms_eval_gives_the_answers_of_the_package(run_tasks, own_results, benchmark, batch_size):
    _, answers = run_tasks("llava", f"scenes_{benchmark}", batch_size, device_map="auto")
    _, expected = own_results(benchmark)
    assert answers == expected
    assert len(answers) > 300
