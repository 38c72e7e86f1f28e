"""The bundled model in transformers' own class answers as it does in the `llava` package."""

import pytest
import torch
from bundled import DATA, LLAVA, in_hf_layout, inputs_of

from llava.eval.run.answering import answer_questions
from llava.integrations.transformers import prune
from playground.tiny.evaluate.scores import read_benchmarks
from tests.conftest import load

GREEDY = {"do_sample": False, "max_new_tokens": 16}
QUESTIONS = 32  # of each benchmark; docs/plug.md has the figures of all 805


@pytest.fixture(scope="module")
def loaded():
    return load(LLAVA)


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return in_hf_layout(tmp_path_factory.mktemp("bundled") / "hf")


@pytest.mark.parametrize("benchmark", ["POPE", "TextVQA"])
@pytest.mark.parametrize("number", [144, 16])
def test_answers_are_those_of_the_package(loaded, hf, benchmark, number):
    tokenizer, model = loaded[:2]
    questions = read_benchmarks(DATA)[benchmark]
    questions = questions[:: len(questions) // QUESTIONS][:QUESTIONS]
    model.visual_token_num = number
    expected = [text for _, text in answer_questions(loaded, questions, "vicuna_v1", GREEDY, 8)]
    prune(hf, number)
    answers = []
    for question in questions:
        inputs = inputs_of(loaded, question, hf)
        output = hf.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(output, skip_special_tokens=True).strip())
    assert answers == expected


def test_the_same_patches_are_kept(loaded, hf):
    """And so logits are the same but for rounding: of the last token of a prompt."""
    model = loaded[1]
    for question in read_benchmarks(DATA)["GQA"][:8]:
        inputs = inputs_of(loaded, question, hf)
        ids = inputs["input_ids"][0]
        first = int((ids == hf.config.image_token_id).nonzero()[0])
        short = torch.cat([ids[:first], torch.tensor([-200]), ids[first + 144 :]])[None]
        for number in (16, 64):
            model.visual_token_num = number
            expected = model(input_ids=short, images=inputs["pixel_values"]).logits[0, -1]
            logits = prune(hf, number)(**inputs).logits[0, -1, : len(expected)]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
