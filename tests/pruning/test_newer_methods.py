"""SCOPE, CDPruner, HoloV, MMTok, MMR, DART on embeddings: what their authors' code keeps, and what plain loops keep."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from llava.pruning import PruningError, Settings, Views, select
from llava.pruning.methods.holov import quotas
from tests.data import plain

PUBLISHED = ("scope", "cdpruner", "holov", "mmtok")  # those with cases of their own here
METHODS = (*PUBLISHED, "mmr", "dart_embeds")
KEEPS_TWINS = ("holov", "mmr", "dart_embeds")  # of two equal patches both may be kept
OF_CROP = ("features", "cls_attention", "image_embeds", "clip_features")
WORDS = ("text_embeds", "word_embeds")
TAKES = {
    "scope": ("features", "cls_attention"),
    "cdpruner": ("features", "image_embeds", "text_embeds"),
    "holov": ("features", "cls_attention"),
    "mmtok": ("features", "clip_features", "word_embeds"),
    "mmr": ("features", "cls_attention"),
    "dart_embeds": ("features", "word_embeds"),
}


def kept(method: str, crops: list[dict], number: int, dtype: torch.dtype = torch.float64) -> list[list[int]]:
    """What a method keeps of a batch of crops, whose question is that of the first."""
    arrays = {
        name: torch.from_numpy(np.stack([crop[name] for crop in crops]) if name in OF_CROP else crops[0][name])
        for name in TAKES[method]
    }
    arrays = {name: array.to(torch.float64 if name == "cls_attention" else dtype) for name, array in arrays.items()}
    features = arrays.pop("features")
    seen, importance = arrays.pop("clip_features", features), arrays.pop("cls_attention", None)
    views = Views(seen, importance=importance, projected=features, **arrays)
    return select(views, Settings(number, pruning_method=method)).patches.tolist()


def expected(method: str, crop: dict, number: int) -> list[int]:
    return getattr(plain, method)(*(crop[name] for name in TAKES[method]), number)


def draw(seed: int, patches: int, texts: int = 2, channels: int = 96) -> dict:
    random = np.random.default_rng(seed)
    clusters = random.normal(size=(5, channels))[random.integers(5, size=patches)]
    attention = random.exponential(size=patches)
    return {
        "features": clusters + random.normal(size=(patches, channels)),
        "clip_features": clusters + random.normal(size=(patches, channels)),
        "cls_attention": attention / attention.sum(),
        "image_embeds": random.normal(size=(patches, 16)),
        "text_embeds": random.normal(size=(texts, 16)),
        "word_embeds": random.normal(size=(5 * texts, channels)),
    }


@pytest.fixture(scope="module")
def cases(reference):
    folder = reference / "methods"
    if not (folder / "newer.json").exists():
        pytest.skip("the reference cases of the newer methods are not here")
    tensors = load_file(folder / "newer.safetensors")
    rows = json.loads((folder / "newer.json").read_text())
    names = (*OF_CROP, *WORDS, "kept")
    return [
        (row["name"][:-1], row["num_tokens"], {name: tensors.get(f"{row['name']}.{name}") for name in names})
        for row in rows
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_method_keeps_what_its_authors_code_keeps(cases, dtype):
    assert {method for method, *_ in cases} == set(PUBLISHED)
    for method, number, case in cases:
        assert kept(method, [case], number, dtype) == [sorted(case["kept"].tolist())], method


def test_the_plain_loops_keep_what_the_authors_code_keeps(cases):
    for method, number, case in cases:
        if len(case["features"]) < 200:
            case = {x: None if array is None else array.astype(np.float64) for x, array in case.items()}
            assert expected(method, case, number) == sorted(case["kept"].tolist()), method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("patches", "texts"), [(49, 1), (37, 3), (64, 2), (20, 1), (11, 4), (2, 1)])
def test_a_method_keeps_what_plain_loops_keep(method, patches, texts):
    for seed, number in enumerate(sorted({1, patches // 4 or 1, patches // 2, patches - 1})):
        crop = draw(seed, patches, texts)
        assert kept(method, [crop], number) == [expected(method, crop, number)], number


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_of_other_dtypes_are_compared_as_they_are(method, dtype):
    crop = draw(7, 40)
    rounded = {
        name: array if name == "cls_attention" else torch.from_numpy(array).to(dtype).double().numpy()
        for name, array in crop.items()
    }
    assert kept(method, [crop], 12, dtype) == [expected(method, rounded, 12)]


@pytest.mark.parametrize("method", METHODS)
def test_the_crops_of_a_batch_do_not_disturb_each_other(method):
    crops = [draw(seed, 33) for seed in range(3)]
    asked = [crop | {name: crops[0][name] for name in WORDS} for crop in crops]
    assert kept(method, crops, 9) == [expected(method, crop, 9) for crop in asked]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("patches", [16, 37])
def test_all_patches_are_kept_of_as_many(method, patches):
    assert kept(method, [draw(0, patches)], patches) == [list(range(patches))]


@pytest.mark.parametrize("method", METHODS)
def test_of_patches_that_are_equal_the_first_is_kept(method):
    """Every patch is there twice, at places that a matrix product may treat otherwise."""
    half = draw(1, 19)
    crop = {name: np.concatenate([array, array]) if name in OF_CROP else array for name, array in half.items()}
    chosen = kept(method, [crop], 5)[0]
    if method in KEEPS_TWINS:
        assert chosen == expected(method, crop, 5)
    else:
        assert chosen == expected(method, half, 5)


def test_holov_cannot_keep_more_of_a_run_than_it_has():
    """All attention on one run of three: its surplus goes to the next heaviest runs."""
    crop = draw(4, 48)
    crop["cls_attention"][:] = 1e-4
    crop["cls_attention"][[30, 31, 32]] = [0.5, 0.3, 0.1]
    chosen = kept("holov", [crop], 20)[0]
    assert {30, 31, 32} < set(chosen)
    assert chosen == expected("holov", crop, 20)


def test_the_quotas_of_a_surplus():
    weights = torch.tensor([[90.0, 4, 3, 2, 1] + [0.0] * 11], dtype=torch.float64)
    lengths = torch.tensor([3] * 16)
    assert quotas(weights, lengths, 10)[0, :5].tolist() == [3, 3, 3, 1, 0]
    assert quotas(weights, lengths, 48)[0].tolist() == [3] * 16


@pytest.mark.parametrize("method", METHODS)
def test_patches_that_are_all_alike_are_kept_in_raster_order(method):
    crop = {name: np.ones_like(array) if name in OF_CROP else array for name, array in draw(0, 33).items()}
    chosen = kept(method, [crop], 6)[0]
    assert len(set(chosen)) == 6
    if method != "holov":
        assert chosen == list(range(6))


def test_a_question_without_words_leaves_the_patches_to_cover():
    crop = draw(3, 30)
    crop["word_embeds"] = crop["word_embeds"][:0]
    assert len(set(kept("mmtok", [crop], 8)[0])) == 8


@pytest.mark.parametrize(("method", "view"), [("cdpruner", "image_embeds"), ("mmtok", "word_embeds")])
def test_a_view_that_is_not_there_is_named(method, view):
    with pytest.raises(PruningError, match=f"(gives no|method needs) {view}"):
        select(Views(torch.rand(1, 9, 4), projected=torch.rand(1, 9, 4)), Settings(2, pruning_method=method))
