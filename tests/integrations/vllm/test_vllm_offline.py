"""vLLM's `LLM` on prepared checkpoints answers as the package itself does."""

import pytest

from tests.integrations.vllm.conftest import NO_VLLM, as_prompt, questions, request

pytest.importorskip("vllm", reason=NO_VLLM)

BENCHMARKS = ("pope", "textvqa")


@pytest.mark.parametrize("tokens", [16, 144])
def test_every_bundled_question_has_the_packages_answer(tokens, prepared, ask_offline, own_answers):
    rounds = [[request(*question) for question in questions(benchmark)] for benchmark in BENCHMARKS]
    answers = ask_offline(prepared, *rounds, mm_processor_kwargs={"visual_token_num": tokens})
    for benchmark, completions in zip(BENCHMARKS, answers):
        assert [completion["text"] for completion in completions] == own_answers(benchmark, tokens)
    assert [len(completions) for completions in answers] == [480, 325]


def test_a_request_has_its_own_budget_and_ratio(prepared, ask_offline, own_answers):
    """Budgets in one batch on the same picture: each has the answers and the prompt of its own."""
    asked = questions("pope")[:40]
    budgets = [16, 48, 144, None, 1000]
    mixed = [request(*question, **({"visual_token_num": t} if t else {})) for question in asked for t in budgets]
    (completions,) = ask_offline(prepared, mixed, mm_processor_kwargs={"visual_token_num": 8})
    for i, budget in enumerate(budgets):
        own = own_answers("pope", budget or 8)[:40]
        assert [completion["text"] for completion in completions[i :: len(budgets)]] == own
    text_alone = {completion["prompt_tokens"] - min(t or 8, 144) for completion, t in zip(completions, budgets)}
    assert len(text_alone) == 1


def test_pictures_are_cached_for_each_setting(prepared, ask_offline):
    """A prompt is in the prefix cache for the same picture and settings, and for no others."""
    image, text = questions("pope")[0]
    settings = [{}, {"visual_token_num": 32}, {"visual_token_num": 32, "important_ratio": 1}]
    rounds = [[request(image, text, **each)] for each in (*settings, *settings)]
    answers = ask_offline(prepared, *rounds, mm_processor_kwargs={"visual_token_num": 32})
    *first, again, other, ratio = [completions[0] for completions in answers]
    before_picture = first[1]["cached_tokens"]  # what the template says in front of it
    assert before_picture <= 32
    assert all(completion["cached_tokens"] > before_picture for completion in (again, other, ratio))
    assert first[2]["cached_tokens"] <= 32


@pytest.mark.parametrize("method", ["none", "divprune", "fastervlm", "random", "visionzip"])
def test_every_method_has_the_packages_answers(method, prepared, ask_offline, own_answers):
    asked = questions("pope")[:80]
    (completions,) = ask_offline(prepared, [request(*q, pruning_method=method, visual_token_num=24) for q in asked])
    assert [completion["text"] for completion in completions] == own_answers("pope", 24, method)[:80]


def test_a_method_of_the_users_own_is_the_servers(prepared, ask_offline, own_answers, tmp_path):
    method = tmp_path / "first.py"
    method.write_text(
        "import torch\ndef select(views, settings):\n    first = torch.arange(settings.visual_token_num)\n"
        "    return views.keep(first.expand(len(views.features), -1))\n"
    )
    asked = questions("pope")[:40]
    own = {"visual_token_num": 24, "pruning_method": str(method)}
    (completions,) = ask_offline(prepared, [request(*question) for question in asked], mm_processor_kwargs=own)
    assert [completion["text"] for completion in completions] == own_answers("pope", 24, str(method))[:40]


def test_several_pictures_and_none(prepared, ask_offline, loaded_bundled):
    """Prompts with two pictures and with none are the package's too."""
    (first, _), (second, _) = questions("pope")[0], questions("pope")[100]
    text = "Is there a circle in the image?\nAnswer the question using a single word or phrase."
    two = {"prompt": as_prompt(text, 2), "images": [str(first), str(second)], "settings": {"visual_token_num": 16}}
    none = {"prompt": as_prompt("Is there a circle?", 0), "images": []}
    (completions,) = ask_offline(prepared, [two, none])
    assert [completion["text"] for completion in completions] == loaded_bundled([two, none])
