"""The training of the tiny language model: words in place of visual tokens, and the checkpoint that it writes."""

import random
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from llava.checkpoints.tokenizer import load_tokenizer
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import InputError
from playground.tiny.data import write
from playground.tiny.language_model import __main__ as command
from playground.tiny.language_model import training
from playground.tiny.language_model.model import make_llama
from playground.tiny.language_model.training import LlamaWithPatchWords
from playground.tiny.patches import draw_shown_patches, words_of_patches
from playground.tiny.scenes import make_scene


def test_a_patch_is_the_sum_of_the_embeddings_of_its_words():
    llama = make_llama(50).eval()
    embed = llama.get_input_embeddings()
    ids, labels = torch.tensor([1, IMAGE_TOKEN_INDEX, 7, 8, 9]), torch.tensor([*[IGNORE_INDEX] * 3, 8, 9])
    with_patches = {"input_ids": ids, "labels": labels, "patches": [[20, 21, 22], [30]]}
    text = {"input_ids": torch.tensor([1, 5, 6]), "labels": torch.tensor([IGNORE_INDEX, 5, 6]), "patches": []}
    patches = torch.stack([embed.weight[[20, 21, 22]].sum(dim=0), embed.weight[30]])
    prompts = [torch.cat([embed.weight[[1]], patches, embed.weight[[7, 8, 9]]]), embed(text["input_ids"])]
    first, second = (llama(inputs_embeds=prompt[None]).logits[0] for prompt in prompts)
    expected = cross_entropy(torch.cat([first[3:5], second[:2]]), torch.tensor([8, 9, 5, 6]))
    torch.testing.assert_close(LlamaWithPatchWords(llama)([with_patches, text])["loss"], expected)


def test_at_least_one_patch_of_each_description_is_shown():
    for seed in range(50):
        scene = make_scene(seed)
        shown = draw_shown_patches(scene, random.Random(seed), 0, 0)
        described = [text for text, is_shown in zip(words_of_patches(scene), shown, strict=True) if is_shown]
        assert sorted(described) == sorted(set(words_of_patches(scene)))


def test_training_writes_a_llama_and_its_tokenizer(tmp_path, monkeypatch):
    write(tmp_path, 24)
    monkeypatch.setattr(training, "STEPS", 2)
    options = ["--data", tmp_path, "--output", tmp_path / "llama", "--batch-size", 4]
    monkeypatch.setattr(sys, "argv", ["language_model", *map(str, options)])
    command.main()
    tokenizer, llama = load_tokenizer(tmp_path / "llama"), AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    text = "Is there a star in the image?"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    trained, start = llama.state_dict(), make_llama(len(tokenizer)).state_dict()
    assert trained.keys() == start.keys()
    assert [name for name in trained if torch.equal(trained[name], start[name])] == []


@pytest.mark.parametrize("missing", ["data", "output"])
def test_folders_that_cannot_be_used_are_named(tmp_path, monkeypatch, missing):
    (tmp_path / "file").write_text("")
    data = tmp_path if missing == "data" else tmp_path / "data"
    if missing == "output":
        write(data, 2)
    output = tmp_path / "file" / "llama"
    monkeypatch.setattr(sys, "argv", ["language_model", "--data", str(data), "--output", str(output)])
    with pytest.raises(InputError) as error:
        command.main()
    assert str(tmp_path / "finetune.json" if missing == "data" else output) in str(error.value)
