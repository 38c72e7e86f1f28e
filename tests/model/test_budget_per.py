"""One budget for all crops of an image: what is chosen over their union, and where its tokens come to stand."""

import pytest
import torch

from llava.errors import InputError
from llava.inference import Engine, make_request, memory
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.hosts.base import Picture
from llava.integrations.transformers.prompts import kept_places
from llava.pruning import METHOD_NAMES, PruningError, Settings, Views, select
from llava.pruning.method import NONE, load_method
from llava.vision.pixels import process_images
from tests.conftest import count_visual_tokens, generate_alone, picture

REFUSED = [name for name in METHOD_NAMES if load_method(name).in_decoder or load_method(name).each_crop_alone]
METHODS = [name for name in METHOD_NAMES if name not in (*REFUSED, NONE) and not load_method(name).blind]
CROPS, PATCHES = 5, 20
GREEDY = {"do_sample": False, "max_new_tokens": 6}


def of_image(number: int | None, method: str = "vispruner") -> Settings:
    return Settings(number, pruning_method=method, budget_per="image")


def draw(crops: int, patches: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    of_patches = {name: torch.randn(crops, patches, 24, generator=generator) for name in ("features", "projected")}
    return {
        **of_patches,
        "importance": torch.rand(crops, patches, generator=generator),
        "image_embeds": torch.randn(crops, patches, 8, generator=generator),
        "pixels": torch.rand(crops, 3, 4, 4, generator=generator),
    }


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_the_crops_are_one_list_of_patches_to_a_method(method):
    views = draw(CROPS, PATCHES)
    question = {"text_embeds": torch.rand(2, 8), "word_embeds": torch.rand(3, 24)}
    chosen = select(Views(**views, **question), of_image(13, method))
    one_crop = {
        name: view.reshape(1, CROPS * PATCHES, *view.shape[2:]) for name, view in views.items() if name != "pixels"
    }
    expected = select(Views(**one_crop, **question), Settings(13, pruning_method=method))
    assert chosen.patches.tolist() == expected.patches.tolist()
    assert torch.equal(chosen.tokens, expected.tokens)


@pytest.mark.parametrize("method", METHODS)
def test_one_crop_has_the_same_budget_either_way(method):
    views = Views(**draw(1, PATCHES), text_embeds=torch.ones(1, 8), word_embeds=torch.ones(2, 24))
    both = [select(views, Settings(7, 0.5, method, 0, per)).patches.tolist() for per in ("crop", "image")]
    assert both[0] == both[1]


def test_random_patches_are_of_all_crops():
    views = Views(**draw(CROPS, PATCHES))
    first = select(views, of_image(13, "random")).patches
    assert len(set(first[0].tolist())) == 13
    assert first.max() >= PATCHES
    assert first.equal(select(views, of_image(13, "random")).patches)


def test_a_budget_of_all_patches_prunes_nothing():
    chosen = select(Views(**draw(CROPS, PATCHES)), of_image(CROPS * PATCHES))
    assert chosen.patches.tolist() == [list(range(PATCHES))] * CROPS
    assert select(Views(**draw(CROPS, PATCHES)), of_image(PATCHES)).patches.shape == (1, PATCHES)


@pytest.mark.parametrize("method", REFUSED)
def test_a_method_that_needs_each_crop_alone_is_refused_by_name(method):
    with pytest.raises(PruningError, match=f"budget_per: {method} cannot choose among all crops of an image"):
        of_image(8, method)
    with pytest.raises(ValueError, match="budget_per must be crop or image, got 'picture'"):
        Settings(8, budget_per="picture")


def test_hidden_states_are_of_one_crop():
    views = Views(**draw(CROPS, PATCHES), hidden_states=torch.rand(CROPS, 1 + PATCHES, 24))
    with pytest.raises(PruningError, match="gives no hidden_states"):
        _ = views.together().hidden_states


@pytest.mark.parametrize("method", ["vispruner", "random", "scope", "mmtok"])
@pytest.mark.parametrize("merge_type", ["flat", "spatial", "spatial_unpad"])
def test_tokens_stand_where_their_patches_are(loaded, method, merge_type):
    """A patch's token is the one that it has unpruned; the large picture is read row by row."""
    _, model, image_processor, _ = loaded("v1.6", mm_patch_merge_type=merge_type, image_grid_pinpoints=[[336, 336]])
    image = picture(300, 200)
    pixels = process_images([image], image_processor, model.config)[0]
    pruning = of_image(40, method)
    kept = model.encode_images(pixels, pruning).patches[0].tolist()
    tokens = model.encode_images(pixels, Settings(pruning_method=NONE)).tokens
    newline, rows = model.model.image_newline if merge_type == "spatial_unpad" else None, {}
    expected = [tokens[0, patch] for patch in kept if patch < 144]
    for crop, patch in ((index // 144 - 1, index % 144) for index in kept if index >= 144):
        y, x = crop // 2 * 12 + patch // 12, crop % 2 * 12 + patch % 12
        rows.setdefault(y, {})[x] = tokens[1 + crop, patch]
    if merge_type == "flat":
        expected = [tokens[index // 144, index % 144] for index in kept]
    elif newline is None:
        expected += [token for y in sorted(rows) for _, token in sorted(rows[y].items())]
    else:
        for y in range(4, 20):  # 300 x 200 leaves a band of 16 of 24 rows
            expected += [*(token for _, token in sorted(rows.get(y, {}).items())), newline]
    (ours,) = model.embed_images([pixels], [image.size], pruning)
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_keeps_its_budget_of_an_image(loaded, method):
    llava = loaded("v1.6", mm_patch_merge_type="spatial", image_grid_pinpoints=[[336, 336]])
    llava[1].pruning = of_image(40, method)
    assert count_visual_tokens(llava, ["<image>", "<image><image>"], [picture(seed=i) for i in range(3)]) == [40] * 3
    assert memory.most_visual_tokens(llava[1], llava[1].pruning) == 40
    llava[1].pruning = of_image(1000, method)
    assert count_visual_tokens(llava, ["<image>"], [picture()]) == [5 * 144]


@pytest.mark.parametrize("method", ["vispruner", "cdpruner"])
def test_answers_are_those_of_each_request_alone(loaded, method):
    llava = loaded("v1.6", mm_patch_merge_type="spatial")
    images = [picture(300, 300, 1), picture(400, 100, 2)]
    requests = [
        make_request(text, [image], "llava_v1", llava[1].config, of_image(24, method))
        for image in images
        for text in ("What is it?", "Why?")
    ]
    expected = [generate_alone(llava, r.prompt, list(r.images), pruning=r.pruning, **GREEDY) for r in requests]
    assert [said.text for said in Engine(llava, 3).answer(requests, **GREEDY)] == expected


def test_a_call_may_say_so_itself(loaded):
    model = loaded("v1.6", mm_patch_merge_type="spatial", image_grid_pinpoints=[[336, 336]])[1]
    model.visual_token_num, model.budget_per = 30, "image"
    assert model.pruning == of_image(30)
    with pytest.raises((InputError, PruningError), match="budget_per: visionzip"):
        model.pruning_method = "visionzip"


def test_a_crop_s_patches_do_not_tell_that_a_picture_of_transformers_loses_none():
    assert Budget.from_options(9).keeps_all_of(9)
    assert not Budget.from_options(9, budget_per="image").keeps_all_of(9)
    assert Budget.from_options(1.0, budget_per="image").keeps_all_of(9)


@pytest.mark.parametrize(("budget", "number"), [(5, 5), (0.5, 14), (27, 27)])
def test_a_picture_of_transformers_keeps_its_budget(budget, number):
    views = Views(**draw(3, 9))
    places = torch.arange(27).view(3, 9) + 1  # after a placeholder that is no patch's
    image = Picture(torch.rand(28, 24), views, places)
    keep = kept_places(image, Budget.from_options(budget, budget_per="image"))
    assert keep[0]
    assert int(keep[1:].sum()) == number
    assert keep[1:].nonzero()[:, 0].tolist() == (
        select(views, of_image(number)).patches.flatten().tolist() if number < 27 else list(range(27))
    )
