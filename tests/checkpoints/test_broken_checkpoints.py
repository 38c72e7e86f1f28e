"""Checkpoints and options that are refused: what does not fit is named, and nothing loads wrongly in silence."""

import pytest
import torch

from llava.checkpoints.weights import TOWER_PREFIX
from llava.errors import InputError
from tests.conftest import load
from tests.model.conftest import TOWER_KEY, edit_json, edit_weights, without

KEY = "model.layers.1.mlp.up_proj.weight"
PRE_NORM = f"{TOWER_PREFIX}vision_model.pre_layrnorm.weight"


def _with_two_more_tokens(tensors: dict) -> dict:
    by_token = ("lm_head.weight", "model.embed_tokens.weight")
    return {key: torch.cat([value, value[:2]]) if key in by_token else value for key, value in tensors.items()}


def test_image_start_and_end_tokens_need_embeddings(make_checkpoint):
    folder = make_checkpoint()
    edit_json(folder / "config.json", mm_use_im_start_end=True, vocab_size=802)
    with pytest.raises(InputError, match="another shape"):
        load(folder)
    edit_weights(folder, _with_two_more_tokens)
    tokenizer, *_ = load(folder)
    assert tokenizer("<im_start><im_end>").input_ids == [1, 800, 801]
    edit_json(folder / "config.json", mm_use_im_patch_token=True)
    with pytest.raises(InputError, match="803 tokens, the model embeddings for 802"):
        load(folder)


WEIGHTS = [  # of v1.5 two shards, with the tower in a folder of its own; of v1.6 a single file
    ("v1.5", without(KEY), rf"{KEY} in .*index\.json but in no shard"),
    ("v1.5", lambda t: t | {"model.layers.7.extra": torch.zeros(1)}, r"unexpected model\.layers\.7\.extra"),
    (
        "v1.5",
        lambda t: {k: v[:5] if k == "lm_head.weight" else v for k, v in t.items()},
        r"another shape lm_head\.weight",
    ),
    ("v1.6", without("model.norm.weight"), r"missing .*model\.norm\.weight"),
    ("v1.6", without("mm_projector.2.bias"), r"missing .*mm_projector\.2\.bias"),
    ("v1.6", without("model.image_newline"), r"missing .*model\.image_newline"),
    ("v1.6", without(TOWER_KEY), r"missing .*encoder\.layers\.0\.mlp\.fc1\.weight"),
    ("v1.6", without(TOWER_PREFIX), "trained with its vision tower"),
    ("v1.6", lambda t: t | {PRE_NORM: t[PRE_NORM] * torch.nan}, r"vision tower .* not finite in pre_layrnorm\.weight"),
    *(
        ("v1.6", lambda t, dtype=dtype: t | {KEY: t[KEY].to(dtype)}, f"{KEY} is {str(dtype)[6:]}, not a floating dtype")
        for dtype in (torch.int64, torch.bool, torch.complex64, torch.uint8)
    ),
]


@pytest.mark.parametrize(("version", "change", "named"), WEIGHTS, ids=[named for *_, named in WEIGHTS])
def test_weights_that_do_not_fit_are_named(make_checkpoint, version, change, named):
    folder = make_checkpoint(version=version, shards=2 if version == "v1.5" else 1)
    edit_weights(folder, change)
    with pytest.raises(InputError, match=named):
        load(folder)


def test_a_missing_key_of_the_tower_s_own_folder_is_named(make_checkpoint):
    folder = make_checkpoint()
    edit_weights(folder.parent / "clip-vit-tiny-random" / "pytorch_model.bin", without(TOWER_KEY))
    with pytest.raises(InputError, match=r"missing .*encoder\.layers\.0\.mlp\.fc1\.weight"):
        load(folder)
    with pytest.raises(InputError, match="clip-vit-tiny-random is not a LLaVA checkpoint"):
        load(folder.parent / "clip-vit-tiny-random")


def test_files_that_are_missing_or_broken_are_named(make_checkpoint):
    folder = make_checkpoint()
    shard = folder / "pytorch_model-00002-of-00002.bin"
    whole = shard.read_bytes()
    for content, named in (
        (whole[:1000], "damaged"),
        (b"", "damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ):
        shard.write_bytes(content)
        with pytest.raises(InputError, match=f"{shard.name}: it is .*{named}"):
            load(folder)
    shard.unlink()
    with pytest.raises(InputError, match=f"lacks {shard.name}"):
        load(folder)
    for path in folder.glob("*.bin*"):
        path.unlink()
    with pytest.raises(InputError, match="no weights in"):
        load(folder)
