"""Checkpoints and options that are refused: what does not fit is named, and nothing loads wrongly in silence."""

import pytest
import torch

from llava.checkpoints.folders import find_folder
from llava.checkpoints.weights import TOWER_PREFIX
from llava.errors import InputError
from llava.model.builder import load_pretrained_model
from tests.conftest import load
from tests.model.conftest import TOWER_KEY, edit_json, edit_weights


def _with_two_more_tokens(tensors: dict) -> dict:
    by_token = ("lm_head.weight", "model.embed_tokens.weight")
    return {key: torch.cat([value, value[:2]]) if key in by_token else value for key, value in tensors.items()}


def test_image_start_and_end_tokens_need_embeddings(make_checkpoint):
    folder = make_checkpoint()
    edit_json(folder / "config.json", mm_use_im_start_end=True, vocab_size=802)
    with pytest.raises(InputError, match="another shape"):
        load(folder)
    for shard in folder.glob("*.bin"):
        edit_weights(shard, _with_two_more_tokens)
    tokenizer, *_ = load(folder)
    assert tokenizer("<im_start><im_end>").input_ids == [1, 800, 801]
    edit_json(folder / "config.json", mm_use_im_patch_token=True)
    with pytest.raises(InputError, match="803 tokens, the model embeddings for 802"):
        load(folder)


def _without(key):
    return lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(key)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without("layers.1.mlp.up_proj.weight"), r"layers\.1\.mlp\.up_proj\.weight in .*index\.json but in no shard"),
        (lambda t: t | {"model.layers.7.extra": torch.zeros(1)}, r"unexpected model\.layers\.7\.extra"),
        (lambda t: {k: v[:5] if k == "lm_head.weight" else v for k, v in t.items()}, r"another shape lm_head\.weight"),
    ],
)
def test_a_key_that_does_not_fit_is_named(make_checkpoint, change, named):
    folder = make_checkpoint()
    for shard in folder.glob("*.bin"):
        edit_weights(shard, change)
    with pytest.raises(InputError, match=named):
        load(folder)


@pytest.mark.parametrize("key", ["model.norm.weight", "mm_projector.2.bias", "model.image_newline"])
def test_a_missing_key_of_a_single_file_is_named(make_checkpoint, key):
    folder = make_checkpoint(version="v1.6", shards=1)
    edit_weights(folder / "model.safetensors", _without(key))
    with pytest.raises(InputError, match=f"missing .*{key}"):
        load(folder)


@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
def test_a_missing_key_of_the_tower_is_named(make_checkpoint, version):
    folder = make_checkpoint(version=version, shards=1)
    clip = folder.parent / "clip-vit-tiny-random" / "pytorch_model.bin"
    edit_weights(clip if version == "v1.5" else folder / "model.safetensors", _without(TOWER_KEY))
    with pytest.raises(InputError, match=r"missing .*encoder\.layers\.0\.mlp\.fc1\.weight"):
        load(folder)


def test_a_fine_tuned_tower_that_is_absent_is_not_replaced(make_checkpoint):
    folder = make_checkpoint(version="v1.6", shards=1)
    edit_weights(folder / "model.safetensors", lambda t: {k: v for k, v in t.items() if not k.startswith(TOWER_PREFIX)})
    with pytest.raises(InputError, match="trained with its vision tower"):
        load(folder)


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


def test_folders_that_are_no_checkpoint_are_named(make_checkpoint, tmp_path):
    folder = make_checkpoint()
    with pytest.raises(InputError, match="clip-vit-tiny-random is not a LLaVA checkpoint"):
        load(folder.parent / "clip-vit-tiny-random")
    with pytest.raises(InputError, match="transformers' own LLaVA format"):
        edit_json(folder / "config.json", text_config={})
        load(folder)
    with pytest.raises(InputError, match="no such checkpoint folder: /nowhere"):
        find_folder("/nowhere", "checkpoint")


def test_a_tower_that_does_not_belong_is_refused(make_checkpoint):
    folder = make_checkpoint()
    config = folder / "config.json"
    edit_json(config, mm_hidden_size=32)
    with pytest.raises(InputError, match="64 channels, the checkpoint's mm_hidden_size is 32"):
        load(folder)
    edit_json(config, mm_hidden_size=64, mm_vision_tower="../nowhere-else")
    with pytest.raises(InputError, match="no such vision tower folder"):
        load(folder)
    clip = folder.parent / "clip-vit-tiny-random"
    edit_json(config, mm_vision_tower="../clip-vit-tiny-random")
    edit_json(clip / "config.json", num_hidden_layers=5)
    with pytest.raises(InputError, match=r"vision tower .* missing encoder\.layers\.4"):
        load(folder)
    edit_json(clip / "config.json", model_type="dinov2")
    with pytest.raises(InputError, match="not CLIP or SigLIP but 'dinov2'"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"torch_dtype": "float99"}, "torch_dtype"),
        ({"device": "nonsense"}, "no such device: nonsense"),
        ({"load_8bit": True, "load_4bit": True}, "one of"),
    ],
)
def test_impossible_options_are_named(checkpoints, options, named):
    with pytest.raises(InputError, match=named):
        load_pretrained_model(str(checkpoints()), None, "llava", **{"device": "cpu"} | options)
