"""Videos: of different lengths in a batch, with one budget for all frames, and pictures that calls share."""

import pytest
import torch
from host_cases import CLOSE, OPEN, START, VIDEO, batch, each_host, normal, prompt
from kinds import BY_NAME, answer

from llava.integrations.transformers import prune
from llava.integrations.transformers.hosts import find_host
from llava.integrations.transformers.wrapping import share_pictures
from scripts.benchmarks.video_budget import measure

PACKED = ("qwen2_vl video", "qwen2_5_vl video", "qwen3_vl video")
STACKED = ("next_video", "onevision video", "video_llava")
PER_VIDEO = {"budget_per": "video", "pruning_method": "fastervlm"}


def video(name: str, seed: int, frames: int, height: int = 6, width: int = 8) -> dict:
    """A prompt with a video of so many frames, or time steps of `height` x `width` patches."""
    generator, case = torch.Generator().manual_seed(seed), BY_NAME[name]
    if name in PACKED:
        pixels, grid = normal(generator, frames * height * width, 3 * 2 * 14 * 14), [[frames, height, width]]
        given = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor(grid)}
        steps, tokens = (frames, 1) if name.startswith("qwen3") else (1, frames)
        visual = [OPEN, *[VIDEO] * (tokens * height * width // 4), CLOSE] * steps
    else:
        given = {"pixel_values_videos": normal(generator, 1, frames, 3, 56, 56)}
        each = {"next_video": 4, "onevision video": 4, "video_llava": 17}[name]
        visual = [VIDEO] * (frames * each + (name == "onevision video"))
    ids = torch.tensor([[START, 5 + seed, *visual, 11, 12]])
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}
    return made if case.name in STACKED else made | {"mm_token_type_ids": 2 * (ids == VIDEO).int()}


def together(name: str, prompts: list[dict]) -> dict:
    """A batch of them. Videos of different lengths are a list where a host has them in one tensor."""
    case, videos = BY_NAME[name], [one["pixel_values_videos"] for one in prompts]
    if name in PACKED:
        return batch(case, prompts)
    others = [{k: v for k, v in one.items() if k != "pixel_values_videos"} for one in prompts]
    return batch(case, others) | {"pixel_values_videos": [own[0] for own in videos]}


@pytest.mark.parametrize("budget", [3, 0.5, 1.0], ids=str)
@pytest.mark.parametrize("name", [*PACKED, *STACKED], ids=lambda name: name.replace(" ", "-"))
def test_videos_of_different_lengths_are_answered_as_they_are_alone(name, budget):
    model = prune(BY_NAME[name].model(), budget)
    prompts = [video(name, 1, 2), video(name, 2, 4, 4, 6), video(name, 3, 1, 8, 4)]
    for options in ({}, {"budget_per": "video"}):
        alone = torch.cat([answer(model, one, **options) for one in prompts])
        assert torch.equal(answer(model, together(name, prompts), **options), alone)
    half = together(name, prompts)
    for key, value in half.items():
        if isinstance(value, list):
            half[key] = [own.bfloat16() for own in value]
        elif value.is_floating_point():
            half[key] = value.bfloat16()
    assert answer(model.bfloat16(), half).shape == (3, 6)


@torch.no_grad()
@pytest.mark.parametrize("name", [*PACKED, *STACKED], ids=lambda name: name.replace(" ", "-"))
def test_all_frames_of_a_video_share_a_budget(name):
    """The most important of all its frames stay, as the host says of each frame; what is no patch's stays."""
    model, inputs, seen = BY_NAME[name].model(), video(name, 4, 3), []
    host, ids = find_host(model), inputs["input_ids"][0]
    parts = dict(host.split(model, {k: v for k, v in inputs.items() if k in host.inputs}))[VIDEO]
    (picture,) = host.encode(model, VIDEO, parts[0])
    places, importance = picture.places.flatten(), picture.views.importance.flatten()
    embeds = model.get_input_embeddings()(ids.masked_fill(ids == VIDEO, 0))
    embeds[ids == VIDEO] = picture.tokens
    model.get_submodule(BY_NAME[name].language_model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    prune(model, 5, **PER_VIDEO)
    for budget, number in ((5, 5), (0.25, len(places) // 4), (0.01, 1)):
        keep = torch.ones(len(ids), dtype=torch.bool)
        own = (ids == VIDEO).nonzero().flatten()
        keep[own[places]] = False
        keep[own[places[importance.topk(number).indices]]] = True
        model(**inputs, visual_token_num=budget)
        torch.testing.assert_close(seen[-1], embeds[keep], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["next_video image", "onevision image", "qwen3_vl"])
def test_a_budget_per_video_is_one_per_crop_of_an_image(name):
    model, inputs = prune(BY_NAME[name].model(), 3, **PER_VIDEO), prompt(BY_NAME[name], 1, pictures=2)
    assert torch.equal(model(**inputs).logits, model(**inputs, budget_per="crop").logits)
    share = {"visual_token_num": 0.25}
    assert torch.equal(model(**inputs, **share).logits, model(**inputs, **share, budget_per="crop").logits)
    with pytest.raises(ValueError, match="budget_per: uniform cannot choose among all crops"):
        model(**inputs, pruning_method="uniform")


def test_an_object_that_is_in_one_frame_only_is_kept_by_a_budget_for_all_frames():
    """Of drawn videos of six still frames, two tokens a frame: the shares of the object's patches."""
    shares = measure(scenes=6, frames=6, per_frame=2)
    for method in ("vispruner", "divprune", "scope"):
        assert shares[method]["video"] > shares[method]["frame"] + 0.2
        assert shares[method]["spent"] > 1.2 / 6
    assert shares["vispruner"]["video"] > 0.7


def runs_of(model, name: str) -> list:
    """What grows by one whenever a module runs."""
    runs = []
    model.get_submodule(name).register_forward_hook(lambda *_: runs.append(1))
    return runs


@each_host
@torch.no_grad()
def test_calls_that_share_pictures_encode_each_once(case):
    """The same logits, whatever the settings of each call, and none kept of a call before the last."""
    model, alone = prune(case.model(), 3), prune(case.model(), 3)
    share_pictures(model)
    runs = runs_of(model, case.tower)
    first, second = prompt(case, 1), prompt(case, 2)
    used = []
    for inputs in (first, first, batch(case, [first, first]), second, batch(case, [second, first]), first):
        for options in ({}, {"visual_token_num": 0.5, "pruning_method": "divprune"}, {"visual_token_num": None}):
            found, expected = model(**inputs, **options), alone(**inputs, **options)
            if options == {"visual_token_num": None} and case.name in ("pixtral", "mistral3"):
                # unpruned, their towers read all pictures of a call as one sequence, which moves the last bits
                torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(found.logits, expected.logits)
        used.append(len(runs))
    each = used[0]  # a picture's crops may be encoded one by one
    assert each > 0
    assert used == [each, each, each, 2 * each, 3 * each, 3 * each]


def test_pictures_are_the_same_however_many_empty_crops_follow():
    """LLaVA-NeXT's processor fills pictures up to the number of crops of the largest one in the batch."""
    case = BY_NAME["llava_next"]
    model = prune(case.model(), 3)
    share_pictures(model)
    runs, inputs = runs_of(model, case.tower), prompt(case, 1)
    inputs["pixel_values"][:, 3:] = 0
    expected = answer(model, inputs)
    padded = torch.nn.functional.pad(inputs["pixel_values"], (0, 0, 0, 0, 0, 0, 0, 2))
    assert torch.equal(answer(model, {**inputs, "pixel_values": padded}), expected)
    assert len(runs) == 1
    assert not torch.equal(answer(model, prompt(case, 2)), expected) and len(runs) == 2
