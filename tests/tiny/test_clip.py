"""The training of the tiny CLIP: regions, captions that are wrong in one detail, and resuming."""

import random
import sys

import pytest
import torch
from safetensors.torch import load_file

from playground.tiny.clip import __main__ as command
from playground.tiny.clip import training
from playground.tiny.clip.data import CaptionedScenes, change_one_detail, draw_patches, draw_region
from playground.tiny.clip.losses import contrastive_loss, patch_loss
from playground.tiny.clip.model import embed_regions, embed_scenes, make_model, make_tokenizer, position_code
from playground.tiny.drawing import draw_scene
from playground.tiny.patches import words_of_patches
from playground.tiny.scenes import make_scene, training_scenes


def test_a_wrong_caption_is_wrong_in_one_thing():
    for seed in range(200):
        scene = make_scene(seed)
        wrong = change_one_detail(scene, random.Random(seed))
        assert wrong.caption != scene.caption
        parts = list(zip((*scene.things, scene.sign), (*wrong.things, wrong.sign)))
        assert sum(right != other for right, other in parts) == 1
        assert wrong.background == scene.background


def test_a_region_is_the_patches_around_what_it_is_called():
    for seed in range(100):
        scene, rng = make_scene(seed), random.Random(seed)
        patches, name = draw_region(scene, rng)
        assert len(patches) == len(set(patches.tolist())) == 21
        called = [it for it in (*scene.things, scene.sign) if it and name in (it.phrase, getattr(it, "shape", None))]
        called += [scene.sign] if scene.sign and name == scene.sign.word else []
        centers = [it.y // 14 * 12 + it.x // 14 for it in called]
        assert any(center in patches for center in centers)


def test_places_begin_different_and_near_ones_alike():
    code = position_code()
    assert code.std().item() == pytest.approx(0.5)
    distance = torch.cdist(code, code)
    assert distance[0, 1] < distance[0, 2] < distance[0, 5]
    assert distance[0, 12] < distance[0, 24] < distance[0, 60]
    assert (distance + torch.eye(144) * 9).min() > 0.5


def test_single_patches_and_their_places_come_with_whole_scenes(tmp_path):
    scenes = list(training_scenes(40))
    for scene in scenes:
        draw_scene(scene).save(tmp_path / f"{scene.seed:08d}.jpg")
    data = CaptionedScenes(scenes, tmp_path, whole_from=40, patches_from=60)
    assert [len(data[0, draw][5]) for draw in (0, 59, 60)] == [0, 0, 8]
    assert not any(data[i, i][4].startswith("row") for i in range(40))
    single = [row for row in (data[i, 40 + i] for i in range(40)) if row[4].startswith("row")]
    assert 5 <= len(single) <= 25
    for _, _, _, patches, name, *_ in single:
        _, row, _, column = name.split()
        assert set(patches.tolist()) == {12 * int(row) + int(column)}


def test_patches_come_with_the_words_for_what_they_show():
    for seed in range(50):
        scene = make_scene(seed)
        patches, words = draw_patches(scene, random.Random(seed))
        assert len(patches) == len(words) == 8
        assert [words_of_patches(scene)[patch] for patch in patches] == list(words)
        assert [text == scene.background for text in words] == [False] * 6 + [True] * 2


def test_a_patch_is_to_find_its_own_text():
    texts = torch.eye(3)
    right, found = patch_loss(torch.tensor(2.0), texts[[2, 0]], texts, torch.tensor([2, 0]))
    assert found == 1
    wrong, found = patch_loss(torch.tensor(2.0), texts[[2, 0]], texts, torch.tensor([2, 1]))
    assert found == 0.5
    assert right < wrong


@torch.no_grad()
def test_a_region_of_all_patches_is_the_whole_picture():
    model = make_model(make_tokenizer(["a star"])).eval()
    pixels, everything = torch.randn(2, 3, 168, 168), torch.arange(144).expand(2, -1)
    whole = torch.nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    scenes, *_ = embed_scenes(model, pixels, everything, everything)
    torch.testing.assert_close(scenes, whole)
    torch.testing.assert_close(embed_regions(model, pixels, everything), whole)


@torch.no_grad()
def test_an_object_in_a_scene_is_the_mean_of_its_patches():
    model = make_model(make_tokenizer(["a star"])).eval()
    pixels = torch.randn(1, 3, 168, 168)
    seen = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    states = seen.last_hidden_state
    mean = model.vision_model.post_layernorm(states[:, [1 + 5, 1 + 17]].mean(dim=1))
    expected = torch.nn.functional.normalize(model.visual_projection(mean), dim=-1)
    _, objects, patches = embed_scenes(model, pixels, torch.tensor([[17, 5]]), torch.tensor([[9]]))
    torch.testing.assert_close(objects, expected)
    early = model.visual_projection(model.vision_model.post_layernorm(seen.hidden_states[-2][:, [1 + 9]]))
    torch.testing.assert_close(patches, torch.nn.functional.normalize(early, dim=-1))


def test_a_picture_may_find_another_caption_with_the_same_words():
    x, y = torch.eye(3)[:2]
    image, text = torch.stack([x, y]), torch.stack([y, x])  # each is nearest to the other's caption
    same, found = contrastive_loss(torch.tensor(2.0), image, text, ["star", "star"])
    assert found == 1
    different, found = contrastive_loss(torch.tensor(2.0), image, text, ["star", "moon"])
    assert found == 0
    assert same < different


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for scene in training_scenes(24):
        draw_scene(scene).save(tmp_path / "images" / f"{scene.seed:08d}.jpg", quality=90)

    def run(output: str) -> dict[str, torch.Tensor]:
        settings = {"images": tmp_path / "images", "output": tmp_path / output, "scenes": 24, "region-steps": 3}
        settings |= {"scene-steps": 2, "patch-steps": 3, "batch-size": 8, "workers": 0, "save-steps": 2}
        options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["clip", *options])
        command.main()
        return load_file(tmp_path / output / "model.safetensors")

    whole = run("whole")
    learning_rate = training.learning_rate

    def cut_off(step: int, *args) -> float:
        if step == 7:
            raise KeyboardInterrupt
        return learning_rate(step, *args)

    monkeypatch.setattr(training, "learning_rate", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    monkeypatch.setattr(training, "learning_rate", learning_rate)
    resumed = run("cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
