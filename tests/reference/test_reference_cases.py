"""The pruning methods on the reference cases of tests/data, which plain loops over NumPy arrays computed.

With ../shared, those loops are themselves held against the results of the original implementations.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from llava.pruning import MergedTokens, Settings, Views, select, select_visual_tokens
from llava.pruning.methods import divprune, fastv, visionzip
from tests.data import plain
from tests.data.make_cases import HERE

SELECTION = json.loads((HERE / "selection.json").read_text(encoding="utf-8"))
FASTV = json.loads((HERE / "fastv.json").read_text(encoding="utf-8"))
METHODS = ("vispruner", "fastervlm", "divprune", "visionzip")


def views(inputs: list[dict], dtype: torch.dtype = torch.float32) -> Views:
    """The views of some inputs of one shape, as one batch."""
    features, importance = (
        torch.tensor([made[x] for made in inputs], dtype=dtype) for x in ("features", "cls_attention")
    )
    more = {}
    if "keys" in inputs[0]:
        cls_state, keys = (torch.tensor([made[x] for made in inputs], dtype=dtype) for x in ("cls_state", "keys"))
        more = {"hidden_states": torch.cat([cls_state.unsqueeze(1), features], dim=1), "keys": keys}
    return Views(features, importance=importance, projected=features, **more)


def settings(case: dict) -> Settings:
    return Settings(case["visual_token_num"], case.get("important_ratio", 0.5), case["method"])


def check(chosen, cases: list[dict]) -> None:
    """`chosen` holds what the cases say, a case for each image of the batch."""
    if "tokens" in cases[0]:
        assert isinstance(chosen, MergedTokens)
        expected = torch.tensor([case["tokens"] for case in cases], dtype=chosen.tokens.dtype)
        torch.testing.assert_close(chosen.tokens, expected, rtol=0, atol=1e-3)
    else:
        assert chosen.patches.tolist() == [case["kept"] for case in cases], cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_keeps_what_its_formula_keeps(method, dtype):
    cases = [case for case in SELECTION["cases"] if case["method"] == method]
    for case in cases:
        check(select(views([SELECTION["inputs"][case["input"]]], dtype), settings(case)), [case])
    assert len(cases) >= 18


@pytest.mark.parametrize("method", METHODS)
def test_it_keeps_the_same_of_each_image_of_a_batch(method):
    names = ("random49", "clusters49")
    per_input = [[x for x in SELECTION["cases"] if x["input"] == name and x["method"] == method] for name in names]
    for cases in zip(*per_input, strict=True):
        check(select(views([SELECTION["inputs"][name] for name in names]), settings(cases[0])), list(cases))


def test_the_cases_tell_the_methods_and_the_ratios_apart():
    """At half the budget of any patches that differ, no two methods or ratios keep the same."""
    for name in ("random36", "random49", "random144", "odd37", "clusters49", "clusters100", "walk64"):
        half = len(SELECTION["inputs"][name]["features"]) // 2
        cases = [x for x in SELECTION["cases"] if x["input"] == name and x["visual_token_num"] == half and "kept" in x]
        kept = {tuple(x["kept"]) for x in cases if x.get("important_ratio") != 1}  # ratio 1 is FasterVLM
        assert len(kept) == len(cases) - 1


def is_visual(prompt: dict) -> list[bool]:
    return [stretch % 2 == 1 for stretch, length in enumerate(prompt["lengths"]) for _ in range(length)]


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("prompt", FASTV, ids=lambda prompt: "-".join(map(str, prompt["lengths"])))
def test_fastv_leaves_what_its_formula_leaves(prompt, padding):
    """Also after padding, which never stays."""
    attention = torch.tensor([[0.0] * padding + prompt["attention"]])
    visual = torch.tensor([[False] * padding + is_visual(prompt)])
    mask = torch.tensor([[False] * padding + [True] * len(prompt["attention"])])
    for case in prompt["cases"]:
        places, left = fastv.choose(attention, visual, mask, case["visual_token_num"] / prompt["patches"])
        assert places[left.bool()].tolist() == [padding + place for place in case["left"]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vispruner_and_the_plain_one_keep_what_the_original_keeps(reference, dtype):
    tensors = load_file(reference / "selection" / "cases.safetensors")
    for case in json.loads((reference / "selection" / "cases.json").read_text()):
        number, ratio = case["visual_token_num"], case["important_ratio"]
        arrays = [tensors[f"{case['name']}.{x}"] for x in ("features", "cls_attention", "kept")]
        ours = select_visual_tokens(*map(torch.from_numpy, arrays[:2]), number, ratio)
        assert ours.tolist() == arrays[2].tolist(), case
        for features, attention, kept in zip(*arrays):
            if number < len(features):
                assert plain.vispruner(features.astype(dtype), attention, number, ratio) == kept.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_divprune_and_visionzip_and_the_plain_ones_give_what_the_originals_give(reference, dtype):
    tensors = {name: x.astype(dtype) for name, x in load_file(reference / "methods" / "cases.safetensors").items()}
    cases = json.loads((reference / "methods" / "cases.json").read_text())
    assert all(sum(case["name"].startswith(method) for case in cases) >= 4 for method in ("divprune", "visionzip"))
    for case in cases:
        name, number = case["name"], case["num_tokens"]
        if name.startswith("divprune"):
            features, kept = tensors[f"{name}.features"], sorted(tensors[f"{name}.kept"])
            assert plain.divprune(features, number) == kept
            assert divprune.farthest(torch.from_numpy(features)[None], number)[0].tolist() == kept
            continue
        arrays = [tensors[f"{name}.{x}"] for x in ("hidden", "cls_attention", "keys", "tokens")]
        hidden, attention, keys, expected = (torch.from_numpy(array).float() for array in arrays)
        ours = visionzip.zip_tokens(hidden, attention[:, :, 1:].sum(dim=1), keys, number)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
        for hidden_states, attention, keys, tokens in zip(*arrays):
            plainly = plain.visionzip(hidden_states, attention[:, 1:].sum(axis=0), keys, number)
            np.testing.assert_allclose(plainly, tokens, rtol=0, atol=1e-5)
