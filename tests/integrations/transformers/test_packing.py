"""Hosts that put crops together: where each patch goes, with the padding cut off and large pictures scaled down."""

import math

import pytest
import torch
from host_cases import CASES, CLOSE, IMAGE, OPEN, PAD, START, batch, kinds_of, normal
from host_parts import tokenizer_with_spaces

from llava.errors import InputError
from llava.integrations.transformers import prune
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.hosts import find_host
from llava.integrations.transformers.prompts import kept_places
from llava.model.anyres import merge_crops
from llava.pruning import keep_patches, select_visual_tokens
from llava.vision.grids import get_anyres_image_grid_shape

BY_NAME = {case.name: case for case in CASES}
SIDE, PATCHES = 56, 4  # of a crop, in pixels and in patches
GREEDY = {"max_new_tokens": 6, "do_sample": False}


def encode(model, size: tuple[int, int], crops: int):
    """The host's picture of (height, width) pixels."""
    pixels = normal(torch.Generator().manual_seed(sum(size)), 1, crops, 3, SIDE, SIDE)
    given = {"pixel_values": pixels, "image_sizes": torch.tensor([size])}
    ((token, (part,)), *_) = find_host(model).split(model, given)
    (picture,) = find_host(model).encode(model, token, part)
    return picture


@torch.no_grad()
@pytest.mark.parametrize("size", [(112, 112), (100, 60), (61, 100), (50, 200), (333, 90), (57, 56), (40, 31)])
def test_what_is_left_of_a_picture_is_what_the_package_makes_of_it(size):
    """`llava.model.anyres.merge_crops` knows nothing of placeholders: it sorts kept tokens by row and column."""
    model = BY_NAME["llava_next"].model()
    pinpoints = model.config.image_grid_pinpoints
    across, down = get_anyres_image_grid_shape(size[::-1], [grid[::-1] for grid in pinpoints], SIDE)
    picture = encode(model, size, 1 + across * down)
    kept = select_visual_tokens(picture.views.features, picture.views.importance, 5)
    tokens = model.model.multi_modal_projector(keep_patches(picture.views.features, kept))
    expected = merge_crops(tokens, kept, (across, down), PATCHES, size[::-1], model.model.image_newline)
    left = picture.tokens[kept_places(picture, Budget.from_options(5))]
    torch.testing.assert_close(left, expected)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(6, 6), (4, 5), (6, 2), (2, 6)])
def test_a_token_that_is_scaled_down_is_that_of_the_nearest_patch(grid):
    model = BY_NAME["onevision image"].model()
    down, across = grid
    picture = encode(model, (down * SIDE, across * SIDE), 1 + down * across)
    rows, columns = down * PATCHES, across * PATCHES
    ratio = math.sqrt(rows * columns / (9 * PATCHES**2))
    height, width = (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)
    assert len(picture.tokens) == PATCHES**2 + height * (width + 1)
    assert torch.equal(picture.places[0], torch.arange(PATCHES**2))
    found = {}
    for crop, patch in (picture.places[1:] >= 0).nonzero().tolist():
        place = int(picture.places[1 + crop, patch]) - PATCHES**2
        y, x = crop // across * PATCHES + patch // PATCHES, crop % across * PATCHES + patch % PATCHES
        row, column = divmod(place, width + 1)
        assert abs((row + 0.5) * rows / height - 0.5 - y) <= 0.5 + 1e-4
        assert abs((column + 0.5) * columns / width - 0.5 - x) <= 0.5 + 1e-4
        found[row, column] = True
    assert set(found) == {(row, column) for row in range(height) for column in range(width)}


@torch.no_grad()
def test_newlines_stay_and_fewer_tokens_do_where_a_picture_is_scaled_down():
    model = BY_NAME["onevision image"].model()
    picture = encode(model, (6 * SIDE, 6 * SIDE), 37)
    keep = kept_places(picture, Budget.from_options(4))
    patches = picture.places[picture.places >= 0]
    others = torch.ones(len(picture.tokens), dtype=torch.bool)
    others[patches] = False
    assert int(others.sum()) == 12
    assert keep[others].all()
    assert keep[: PATCHES**2].sum() == 4
    assert 0 < keep[PATCHES**2 :][~others[PATCHES**2 :]].sum() < 36 * 4


def test_several_images_of_a_prompt_are_one_crop_each():
    case = BY_NAME["onevision image"]
    model, generator = case.model(), torch.Generator().manual_seed(3)
    one = [IMAGE] * (PATCHES**2 + 1)
    ids = [[START, 9, *one, 8, *one, 7, 6], [START, 5, *[IMAGE] * (16 + 8 * 5), 7]]
    longest = max(map(len, ids))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in ids])
    pixels, sizes = normal(generator, 3, 3, 3, SIDE, SIDE), torch.tensor([[112, 56]] * 3)
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": pixels, "image_sizes": sizes}
    inputs["batch_num_images"] = torch.tensor([2, 1])
    first = {"input_ids": ids[:1, longest - 39 :], "pixel_values": pixels[:2], "image_sizes": sizes[:2]}
    first["batch_num_images"] = torch.tensor([2])
    last = {"input_ids": ids[1:], "pixel_values": pixels[2:], "image_sizes": sizes[2:]}
    prune(model, 4)
    answers = model.generate(**inputs, **GREEDY)[:, longest:]
    assert torch.equal(answers[:1], model.generate(**first, **GREEDY)[:, 39:])
    assert torch.equal(answers[1:], model.generate(**last, **GREEDY)[:, longest:])
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    logits = model.bfloat16()(**half).logits  # all pictures in one batch
    assert logits.shape[1] == max(6 + 2 * 5, 3 + 4 + 8 + 8)


TAG, WHOLE = 104, 105  # <row_1_col_1> and <global-img>
TILES = 16  # placeholders of a tile
FIRST, CROPS = "Here is the original image ", " and here are some crops to help you see better "  # as Gemma 3 says it
SPACED = tokenizer_with_spaces("<image>", "<open>", "<close>", f"{FIRST} {CROPS} w5 w9 w11")
TILE = "\n\n<open>" + "<image>" * TILES + "<close>\n\n"


def gemma3(seed: int, text: str) -> dict:
    """A prompt of Gemma 3 with all that its processor writes."""
    ids = torch.tensor([[START, *SPACED(text, add_special_tokens=False).input_ids]])
    pixels = normal(torch.Generator().manual_seed(seed), text.count(TILE), 3, 112, 112)
    kinds = {"token_type_ids": kinds_of(BY_NAME["gemma3"], ids)}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, **kinds}


def cut(crops: int) -> str:
    """A picture of Gemma 3 and so many crops of it."""
    return FIRST + TILE + CROPS + " ".join([TILE] * crops) if crops else TILE


def tiles(name: str, seed: int, pictures: list[int]) -> dict:
    """A prompt with pictures of so many tiles, as the host's processor writes it."""
    if name == "gemma3":
        return gemma3(seed, " ".join(["w5", *(f"{cut(n - 1)} w9" for n in pictures), "w11"]))
    generator, number = torch.Generator().manual_seed(seed), sum(pictures)
    pixels = normal(generator, number, 3, 112, 112)
    if name == "internvl":
        ids = [word for n in pictures for word in (OPEN, *[IMAGE] * n * TILES, CLOSE, 9)]
        given = {"pixel_values": pixels}
    else:
        tags = [tag for n in pictures for tag in (*[TAG] * (n - 1), WHOLE)]
        ids = [word for tag in tags for word in (OPEN, tag, *[IMAGE] * TILES, *([OPEN, 8] if tag == WHOLE else [7]))]
        given = {"pixel_values": pixels[None], "pixel_attention_mask": torch.ones(1, number, 112, 112).long()}
    ids = torch.tensor([[START, 5, *ids, 11]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}


@torch.no_grad()
@pytest.mark.parametrize("name", ["internvl", "idefics3", "smolvlm", "gemma3"])
def test_all_tiles_of_a_picture_share_a_budget_per_image(name):
    """The most important of all its tiles stay, as the host says of each tile alone, and what is between tiles."""
    case, settings = BY_NAME[name], {"budget_per": "image", "pruning_method": "fastervlm"}
    model = prune(case.model(), 6, **settings)
    model.processor = SPACED
    pictures = [3, 1, 2]
    inputs, seen = tiles(name, 1, pictures), []
    model.get_submodule(case.language_model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    model(**inputs)
    parts = find_host(model).split(model, {k: v for k, v in inputs.items() if k.startswith("pixel")})[0][1]
    crops = [find_host(model).encode(model, IMAGE, part)[0] for part in parts]
    embeds = model.get_input_embeddings()(inputs["input_ids"][0])
    is_own = inputs["input_ids"][0] == IMAGE
    embeds[is_own] = torch.cat([crop.tokens for crop in crops])
    importance = torch.cat([crop.views.importance.flatten() for crop in crops])
    keep = ~is_own
    for own in is_own.nonzero().flatten().split([n * TILES for n in pictures]):
        keep[own[importance[: len(own)].topk(6).indices]] = True
        importance = importance[len(own) :]
    assert seen[0].shape == (int((~is_own).sum()) + 3 * 6, 32)
    torch.testing.assert_close(seen[0], embeds[keep], rtol=1e-4, atol=1e-4)
    number = model(**inputs, visual_token_num=0.5).logits.shape[1]
    assert number == int((~is_own).sum()) + sum(n * TILES // 2 for n in pictures)
    alone = [model.generate(**tiles(name, seed, own), **GREEDY) for seed, own in ((2, [3]), (3, [1, 2]))]
    both = model.generate(**batch(case, [tiles(name, 2, [3]), tiles(name, 3, [1, 2])]), **GREEDY)
    assert torch.equal(both[:, -6:], torch.cat([row[:, -6:] for row in alone]))


def test_tiles_that_are_written_otherwise_have_no_budget_per_image():
    model = prune(BY_NAME["idefics3"].model(), 6, budget_per="image")
    inputs = tiles("idefics3", 1, [2])
    inputs["input_ids"][0, 2] = 9
    with pytest.raises(InputError, match="budget_per: the prompt does not tell"):
        model(**inputs)
    model = prune(BY_NAME["internvl"].model(), 6, budget_per="image")
    inputs = tiles("internvl", 1, [2])
    inputs["input_ids"] = torch.cat(
        [inputs["input_ids"][:, :9], torch.tensor([[5]]), inputs["input_ids"][:, 9:]], dim=1
    )
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with pytest.raises(InputError, match="budget_per: the crops of a picture are spread"):
        model(**inputs)


@torch.no_grad()
@pytest.mark.parametrize(
    ("text", "pictures"),
    [
        (TILE + TILE, [1, 1]),  # as the chat template writes two pictures
        (f"{TILE} {TILE}", [1, 1]),  # as the processor does without a text
        (f"{cut(2)}{TILE}", [3, 1]),
        (f"{cut(2)} {cut(3)}", [3, 4]),
        (f"{cut(2)} {TILE}", [4]),  # written as three crops are
        (f"{TILE} and here {TILE}", [1, 1]),
        (f"{TILE} w5 {cut(2)} w9 {TILE}", [1, 3, 1]),
    ],
)
def test_the_words_of_gemma_3_s_processor_tell_which_crops_are_of_one_picture(text, pictures):
    model = prune(BY_NAME["gemma3"].model(), 5, budget_per="image")
    model.processor = SPACED
    inputs = gemma3(1, f"w5 {text} w11")
    others = inputs["input_ids"].shape[1] - sum(pictures) * TILES
    assert model(**inputs).logits.shape[1] == others + 5 * len(pictures)
    assert model(**inputs, visual_token_num=0.25).logits.shape[1] == others + 4 * sum(pictures)
    model.processor = None
    with pytest.raises(InputError, match=r"budget_per: words tell .*, and the model has no processor: assign"):
        model(**inputs)
    one = gemma3(1, f"w5 {TILE} w11")  # whose crops need no telling
    assert model(**one).logits.shape[1] == one["input_ids"].shape[1] - TILES + 5
