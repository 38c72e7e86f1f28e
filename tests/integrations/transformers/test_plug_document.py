"""docs/plug.md: the example runs as it stands there, and the table and the lines are of the hosts that there are."""

import re
from types import SimpleNamespace

import pytest
import torch
import transformers
from bundled import LLAVA, in_hf_layout
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava.integrations.transformers import prune
from llava.integrations.transformers.hosts import known_hosts
from tests.conftest import ROOT, load, picture

TEXT = (ROOT / "docs" / "plug.md").read_text(encoding="utf-8")
EXAMPLE, REST = TEXT.split("## The hosts")


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def fast(tokenizer) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of the same pieces that is saved without sentencepiece, with <image> as the next token."""
    pieces = [(piece, -float(i)) for piece, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    made = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<unk>")
    made.add_tokens(["<image>"], special_tokens=True)
    return made


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the example has in the end, of the bundled model in the place of a published one."""
    monkeypatch.chdir(tmp_path)
    tokenizer, model, *_ = load(LLAVA)
    hf, tokenizer = in_hf_layout(model), fast(tokenizer)
    size = model.get_vision_tower().image_size
    images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    processor = transformers.LlavaProcessor(images, tokenizer, 14, "default", num_additional_image_tokens=1)
    hf.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    picture().save("photo.png")
    found = {}
    for block in blocks(EXAMPLE)[1:]:
        exec(block.replace("llava-hf/llava-1.5-7b-hf", str(tmp_path / "model")), found)
    return found


def test_the_example_runs(names):
    inputs, model = names["inputs"], names["model"]
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 144
    assert names["answer"]
    assert len(names["answers"]) == 2
    assert names["loss"].isfinite()
    assert "forward" not in vars(model)
    greedy = {"max_new_tokens": 32, "do_sample": False}
    prune(model, 64)
    output = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
    assert names["processor"].decode(output, skip_special_tokens=True) == names["answer"]
    prune(model, 0.25, important_ratio=0.3)
    output = model.generate(**names["batch"], **greedy)[0, names["batch"]["input_ids"].shape[1] :]
    assert names["processor"].decode(output, skip_special_tokens=True) == names["answers"][0]


def test_every_host_has_a_row_and_its_two_lines():
    rows = re.findall(r"^\| `(\w+ForConditionalGeneration)` \|", REST, re.MULTILINE)
    assert sorted(rows) == sorted(known_hosts())
    made = []

    def noted(model, visual_token_num):
        made.append((model, visual_token_num))

    for block in blocks(REST):
        if "from_pretrained" in block:
            assert len(block.splitlines()) == 2
            name = block.split()[2].partition(".")[0]
            assert hasattr(transformers, name)
            exec(block, {"prune": noted, name: SimpleNamespace(from_pretrained=lambda path, name=name: name)})
    assert [name for name, _ in made] == rows
    assert all(isinstance(number, int | float) for _, number in made)


def test_the_line_for_vispruners_scripts(checkpoints):
    model = load(checkpoints(), visual_token_num=5)[1]
    arguments = {"inputs": torch.tensor([[1, 5, 6], [1, 7, 8]]), "max_new_tokens": 1}
    found = {"model": model, "arguments": arguments}
    exec(blocks(REST)[-1], found)
    assert found["output_ids"].shape[0] == 2
    assert found["visual_token_num"] == 5
