"""Writing checkpoints: what `save_checkpoint` writes is what `load_pretrained_model` read."""

import json

import pytest
import torch

from llava.checkpoints.weight_files import read_weights
from llava.checkpoints.weights import save_checkpoint
from llava.errors import InputError
from tests.conftest import IMAGE, inputs_of, load, picture


def logits(loaded: tuple) -> torch.Tensor:
    ids, given = inputs_of(loaded, [f"{IMAGE}\nIs there a dog?"], [picture(300, 200)])
    return loaded[1](ids, **given).logits


@pytest.mark.parametrize(
    ("version", "language_model", "config"),
    [
        ("v1.5", "llama", {}),
        ("v1.5", "llama", {"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("v1.5", "mistral", {"rope_theta": 1000000.0}),
        ("v1.6", "llama", {}),
        ("v1.6", "qwen", {"tie_word_embeddings": True}),
    ],
)
def test_a_written_checkpoint_is_the_one_that_was_read(make_checkpoint, tmp_path, version, language_model, config):
    folder = make_checkpoint(version=version, language_model=language_model, **config)
    first = load(folder)
    again = tmp_path / "again"
    save_checkpoint(first[1], first[0], again)
    written = read_weights(again)
    assert written.keys() == {key for key in read_weights(folder) if "inv_freq" not in key}
    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    second = load(again)
    assert torch.equal(logits(first), logits(second))
    assert second[1].config.rope_parameters == first[1].config.rope_parameters
    assert second[1].generation_config == first[1].generation_config
    assert second[1].sampling_defaults == first[1].sampling_defaults
    values, original = (json.loads((path / "config.json").read_text()) for path in (again, folder))
    same = original.keys() - {"rope_scaling", "max_length"}
    assert {key: values[key] for key in same} == {key: original[key] for key in same}


def test_large_weights_go_to_several_files_with_an_index(loaded, tmp_path, checkpoints):
    llava = loaded()
    (tmp_path / "clip-vit-tiny-random").symlink_to(checkpoints().parent / "clip-vit-tiny-random")
    save_checkpoint(llava[1], llava[0], tmp_path / "shards", max_shard_size="200KB")
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert torch.equal(logits(load(tmp_path / "shards")), logits(llava))


def test_weights_beyond_the_range_of_their_dtype_are_refused(make_checkpoint, tmp_path):
    tokenizer, model, _, _ = load(make_checkpoint())
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e5
    with pytest.raises(InputError, match=r"lm_head\.weight has values that are not finite in float16"):
        save_checkpoint(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    save_checkpoint(model, tokenizer, tmp_path / "out", torch.bfloat16)
    assert read_weights(tmp_path / "out")["lm_head.weight"].dtype is torch.bfloat16
