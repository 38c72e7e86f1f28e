"""vLLM's `LLM` on prepared checkpoints answers as the package itself does."""

import pytest

from tests.integrations.vllm.conftest import NO_VLLM, SERVER, as_prompt, questions, request

pytest.importorskip("vllm.version", reason=NO_VLLM)

BENCHMARKS = ("pope", "textvqa")
METHODS = ("none", "divprune", "fastervlm", "random", "visionzip")


@pytest.mark.parametrize("tokens", [16, 144])
def test_every_bundled_question_has_the_packages_answer(tokens, ask_tiny, own_answers):
    asked = [[request(*question, visual_token_num=tokens) for question in questions(name)] for name in BENCHMARKS]
    answers = ask_tiny(*asked)
    for benchmark, completions in zip(BENCHMARKS, answers):
        assert texts(completions) == own_answers(benchmark, tokens)
    assert [len(completions) for completions in answers] == [480, 325]


def texts(completions: list[dict]) -> list[str]:
    return [completion["text"] for completion in completions]


def test_a_request_has_its_own_settings(ask_tiny, ask_package):
    """Budgets, ratios and methods in one batch on the same pictures: each has the answers and the prompt of its own."""
    budgets = [{}, {"visual_token_num": 1}, {"visual_token_num": 144}, {"visual_token_num": 1000}]
    ratios = [{"important_ratio": 0}, {"important_ratio": 0.8, "visual_token_num": 10}]
    methods = [{"pruning_method": method, "pruning_seed": 3} for method in METHODS]
    each = [*budgets, *ratios, *methods]
    mixed = [request(*question, **settings) for question in questions("pope")[::16] for settings in each]
    (completions,) = ask_tiny(mixed)
    assert len(completions) == 30 * len(each)
    assert texts(completions) == ask_package(mixed, **SERVER)
    kept = [24, 1, 144, 144, 24, 10, *(144 if method == "none" else 24 for method in METHODS)]
    counts = [completion["prompt_tokens"] for completion in completions[: len(each)]]
    assert [count - counts[1] + 1 for count in counts] == kept


def test_pictures_are_cached_for_each_setting(ask_tiny):
    """A prompt is in the prefix cache for the same picture and settings, and for no others."""
    image, text = questions("pope")[0]
    settings = [{}, SERVER, {**SERVER, "important_ratio": 1}]
    rounds = [[request(image, text, **each)] for each in (*settings, *settings)]
    answers = ask_tiny(*rounds)
    *first, again, other, ratio = [completions[0] for completions in answers]
    before_picture = first[1]["cached_tokens"]  # what the template says in front of it
    assert before_picture <= 32
    assert all(completion["cached_tokens"] > before_picture for completion in (again, other, ratio))
    assert first[2]["cached_tokens"] <= 32


def test_a_method_of_the_users_own_is_the_servers(prepared, ask_offline, ask_package, tmp_path):
    method = tmp_path / "first.py"
    method.write_text(
        "import torch\ndef select(views, settings):\n    first = torch.arange(settings.visual_token_num)\n"
        "    return views.keep(first.expand(len(views.features), -1))\n"
    )
    asked = [request(*question) for question in questions("pope")[:40]]
    own = {"visual_token_num": 24, "pruning_method": str(method)}
    (completions,) = ask_offline(prepared, asked, mm_processor_kwargs=own)
    assert texts(completions) == ask_package(asked, **own)


def test_several_pictures_and_none(ask_tiny, ask_package):
    (first, _), (second, _) = questions("pope")[0], questions("pope")[100]
    text = "Is there a circle in the image?\nAnswer the question using a single word or phrase."
    two = {"prompt": as_prompt(text, 2), "images": [str(first), str(second)], "settings": {"visual_token_num": 16}}
    none = {"prompt": as_prompt("Is there a circle?", 0), "images": []}
    (completions,) = ask_tiny([two, none])
    assert texts(completions) == ask_package([two, none])
