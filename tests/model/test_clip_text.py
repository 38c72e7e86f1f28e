"""CLIP's embeddings of a question and of patches, from the tower's own folder."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPModel

from llava.errors import InputError
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.pruning import Settings
from tests.conftest import ROOT, load, picture
from tests.model.conftest import edit_weights, without

BUNDLED = ROOT / "playground" / "checkpoints" / "clip-vit-tiny-patch14-168"


@pytest.fixture(scope="module")
def tower():
    return CLIPVisionTower(BUNDLED, SimpleNamespace(mm_vision_select_layer=-2))


@pytest.fixture(scope="module")
def clip():
    return CLIPModel.from_pretrained(BUNDLED, dtype=torch.float32).eval()


@torch.no_grad()
def test_a_text_has_the_embedding_that_clip_gives_it(tower, clip):
    for text in ("a red circle", "", "What color is the background?"):
        ids = torch.tensor([tower.text_side.encode(text)])
        expected = clip.get_text_features(input_ids=ids)
        expected = getattr(expected, "pooler_output", expected)
        torch.testing.assert_close(tower.text_side.embed_text(text, torch.device("cpu")), expected)


@torch.no_grad()
def test_a_long_text_is_cut_into_pieces_of_77_tokens(tower):
    text = "red circle " * 60
    ids = tower.text_side.encode(text)
    embeds = tower.text_side.embed_text(text, torch.device("cpu"))
    assert len(embeds) == -(-len(ids) // 77) == 2
    last = tower.text_side.tower(input_ids=torch.tensor([ids[77:]])).text_embeds
    torch.testing.assert_close(embeds[1:], last)


@torch.no_grad()
def test_patches_are_embedded_as_clip_embeds_cls(tower, clip):
    pixels = tower.image_processor(picture(), return_tensors="pt").pixel_values
    vision = clip.vision_model(pixels, output_hidden_states=True)
    patches = vision.hidden_states[-2][:, 1:]
    expected = clip.visual_projection(clip.vision_model.post_layernorm(patches))
    torch.testing.assert_close(tower.encode(pixels).image_embeds, expected)


def test_its_weights_are_no_part_of_the_model(tower):
    before = set(tower.state_dict())
    _ = tower.text_side
    assert set(tower.state_dict()) == before
    assert not any("text" in key for key in before)


NO_TEXT = "clip-vit-tiny-random has no text tower and projections, which the pruning method needs"
MISFIT = "text tower .*clip-vit-tiny-random does not fit CLIPTextModelWithProjection: missing"


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [("text_config", NO_TEXT), ("visual_projection.weight", NO_TEXT), ("text_model.encoder.layers.1.", MISFIT)],
)
def test_a_folder_without_a_text_side_is_refused_when_the_model_is_loaded(make_checkpoint, lacks, reason):
    folder = make_checkpoint()
    clip = folder.parent / "clip-vit-tiny-random"
    values = json.loads((clip / "config.json").read_text())
    (clip / "config.json").write_text(json.dumps(without(lacks)(values)))
    edit_weights(clip, without(lacks))
    with pytest.raises(InputError, match=reason):
        load(folder, pruning_method="cdpruner")
    model = load(folder, pruning_method="mmtok")[1]
    with pytest.raises(InputError, match=reason):
        model.encode_images(torch.zeros(1, 3, 168, 168), Settings(8, pruning_method="cdpruner"), "What?")
