"""PruneSID, HiPrune, DART, MMR, the uniform grid and its means: authors' results, and what plain loops keep."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llava.pruning import MergedTokens, PruningError, Settings, Views, select
from llava.pruning.methods.dart import METHOD as DART
from llava.pruning.methods.hiprune import HiPrune
from llava.pruning.methods.prunesid import METHOD as PRUNESID
from llava.pruning.methods.uniform import cells
from tests.data import plain


@pytest.fixture(scope="module")
def cases(reference):
    """A function: name of a method -> the rows of its cases and their tensors."""
    folder = reference / "methods"
    if not (folder / "more.json").exists():
        pytest.skip("the reference cases of these methods are not here")
    tensors = load_file(folder / "more.safetensors")
    rows = json.loads((folder / "more.json").read_text())

    def of(method: str) -> list[tuple[dict, dict]]:
        chosen = [row for row in rows if row["name"].rstrip("0123456789") == method]
        assert len(chosen) >= 3
        return [
            (row, {k.split(".")[1]: v for k, v in tensors.items() if k.startswith(f"{row['name']}.")}) for row in chosen
        ]

    return of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_authors_code_keeps_is_kept(cases, dtype):
    for row, case in cases("mmr"):
        features = case["features"].to(dtype)[None]
        views = Views(features, projected=features, importance=case["attention"][None])
        kept = select(views, Settings(row["num_tokens"], pruning_method="mmr")).patches[0]
        assert kept.tolist() == sorted(case["kept"].tolist()), row
    for row, case in cases("dart_embeds"):
        visual = slice(row["image_start"], row["image_start"] + row["num_patches"])
        embeds = case["embeds"].to(dtype)
        features, words = embeds[visual][None], torch.cat([embeds[: visual.start], embeds[visual.stop :]])
        views = Views(features, projected=features, word_embeds=words)
        kept = select(views, Settings(row["num_tokens"], pruning_method="dart_embeds")).patches[0]
        assert kept.tolist() == sorted(case["kept"].tolist()), row
    for row, case in cases("hiprune"):
        method = HiPrune(alpha=row["alpha"])
        attention = case["object_received"].to(dtype), case["deep_received"].to(dtype)
        kept = method.kept(*attention, row["width"], row["num_tokens"])
        assert kept.tolist() == sorted(case["kept"].tolist()), row
    for row, case in cases("prunesid"):
        states, attention = case["hidden"].to(dtype)[None], case["cls_attention"].to(dtype).sum(dim=0)[None]
        order = PRUNESID.order(states[:, 1:], attention, row["num_tokens"])
        assert order[0].tolist() == case["order"].tolist(), row
    for row, case in cases("uniform"):
        kept = uniform(row["height"], row["width"], row["num_tokens"])
        assert kept == sorted(case["kept"].tolist()), row
        assert list(cells(row["height"], row["width"], row["num_tokens"])) == row["grid"]
    for row, case in cases("dart"):
        number, first = row["num_tokens"], row["image_start"]
        visual = torch.arange(first, first + row["num_patches"])
        words, keys = torch.arange(int(visual[-1]) + 1, len(case["states"])), case["keys"].to(dtype)
        kept = DART.kept(case["states"].to(dtype), keys.transpose(0, 1).flatten(1), visual, words, number)
        assert (kept - first).tolist() == sorted(case["kept"].tolist()), row
        assert DART.count(row["max_num_trunction"] + 4, len(visual)) == DART.count(number + 7, len(visual)) == number
    for row, case in cases("pool"):
        pooled = pool(case["features"].to(dtype), row["height"], row["width"], row["budget"])
        torch.testing.assert_close(pooled.tokens[0], case["tokens"].to(dtype), atol=1e-6, rtol=0)


def pool(features: torch.Tensor, height: int, width: int, number: int) -> MergedTokens:
    views = Views(torch.zeros(1, height * width, 2), projected=features[None], grid=torch.tensor([[height, width]]))
    return select(views, Settings(number, pruning_method="pool"))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (5, 9), (1, 40), (17, 4)])
def test_pool_is_the_mean_of_plain_loops(height, width):
    features = torch.rand(height * width, 3, dtype=torch.float64)
    for number in range(1, height * width):
        pooled = pool(features, height, width, number)
        expected = torch.from_numpy(plain.pool(features.numpy(), height, width, number))
        torch.testing.assert_close(pooled.tokens[0], expected, atol=1e-12, rtol=0)
        assert pooled.projected
        assert set(pooled.patches[0].tolist()) <= set(plain.uniform(height, width, number))
        if height == width:
            assert Settings(number, pruning_method="pool").left(height * width) == len(expected)


@pytest.mark.parametrize("number", [1, 3, 4, 11, 12, 20, 27, 35])
def test_dart_is_plain_loops(number):
    random = np.random.default_rng(number)
    states, keys = random.normal(size=(60, 24)), random.normal(size=(60, 16))
    visual = range(5, 41)
    places, words = torch.arange(5, 41), torch.arange(41, 60)
    kept = DART.kept(*map(torch.from_numpy, (states, keys)), places, words, DART.count(number, 36))
    assert kept.tolist() == plain.dart(states, keys, visual, number)
    assert len(kept) == DART.count(number, 36)


def uniform(height: int, width: int, number: int) -> list[int]:
    views = Views(torch.rand(1, height * width, 2), grid=torch.tensor([[height, width]]))
    return select(views, Settings(number, pruning_method="uniform")).patches[0].tolist()


@pytest.mark.parametrize(("height", "width"), [(12, 12), (5, 9), (1, 40), (40, 1), (3, 2), (17, 4)])
def test_the_uniform_grid_is_that_of_plain_loops(height, width):
    for number in range(1, height * width):
        assert uniform(height, width, number) == plain.uniform(height, width, number), number


def draw(seed: int, patches: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    clusters = random.normal(size=(6, 48))[random.integers(6, size=patches)]
    return {
        "states": clusters + 0.5 * random.normal(size=(patches, 48)),
        "object_received": random.exponential(size=patches),
        "received": random.exponential(size=patches),
    }


@pytest.mark.parametrize(("patches", "number"), [(36, 2), (36, 3), (36, 4), (36, 17), (49, 30), (25, 24), (64, 63)])
def test_prunesid_is_plain_loops(patches, number):
    crops = [draw(seed, patches) for seed in range(3)]
    states = torch.from_numpy(np.stack([crop["states"] for crop in crops]))
    attention = torch.from_numpy(np.stack([crop["received"] for crop in crops]))
    expected = [plain.prunesid(crop["states"], crop["received"], number) for crop in crops]
    assert PRUNESID.order(states, attention, number).tolist() == expected
    with_cls = torch.cat([torch.full((3, 1, 48), 7.0, dtype=states.dtype), states], dim=1)
    chosen = select(
        Views(states, hidden_states=with_cls, importance=attention), Settings(number, pruning_method="prunesid")
    )
    assert isinstance(chosen, MergedTokens)
    for tokens, own, kept in zip(chosen.tokens, with_cls, expected):
        torch.testing.assert_close(tokens, own[[0, *(1 + i for i in sorted(kept))]], atol=0, rtol=0)


@pytest.mark.parametrize("alpha", [0.1, 0.5])
@pytest.mark.parametrize(("height", "width", "number"), [(6, 6, 10), (4, 9, 30), (8, 5, 25)])
def test_hiprune_is_plain_loops(height, width, number, alpha):
    for seed in range(3):
        crop = draw(seed, height * width)
        o, d = crop["object_received"], crop["received"]
        kept = HiPrune(alpha=alpha).kept(torch.from_numpy(o), torch.from_numpy(d), width, number)
        assert kept.tolist() == plain.hiprune(o, d, width, number, alpha)


def test_anchors_that_are_more_than_the_budget_are_refused():
    with pytest.raises(PruningError, match="hiprune: alpha 1 asks for 5 of 3 visual tokens"):
        HiPrune(alpha=1).kept(torch.arange(100) % 56 / 56, torch.rand(100), 10, 3)


def test_attention_received_is_that_of_the_whole_map(loaded):
    """The views that hiprune reads, against the attention weights that transformers itself returns."""
    tower = loaded()[1].get_vision_tower()
    pixels = torch.rand(2, 3, tower.image_size, tower.image_size)
    views = tower.encode(pixels)
    encoder = tower.vision_tower
    encoder.set_attn_implementation("eager")
    maps = encoder(pixels, output_attentions=True).attentions
    encoder.set_attn_implementation("sdpa")
    depth = len(maps) + 1 + tower.select_layer
    for view, layer in ((views.received, depth), (views.object_received, max(1, 3 * len(maps) // 8))):
        torch.testing.assert_close(view, maps[layer - 1].mean(dim=(1, 2))[:, 1:], atol=1e-6, rtol=1e-4)
    assert views.grid.tolist() == [[tower.num_patches_per_side] * 2] * 2
