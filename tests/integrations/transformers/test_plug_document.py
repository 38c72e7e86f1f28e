"""docs/plug.md: the example runs as it stands there, and the table and the lines are of the hosts that there are."""

import re
from types import SimpleNamespace

import pytest
import torch
import transformers
from bundled import in_hf_layout
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from llava.integrations.transformers import prune
from llava.integrations.transformers.hosts import known_hosts
from tests.conftest import ROOT, load, picture

TEXT = (ROOT / "docs" / "plug.md").read_text(encoding="utf-8")
EXAMPLE, REST = TEXT.split("## The hosts")


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the example has in the end, of the bundled model in the place of a published one."""
    monkeypatch.chdir(tmp_path)
    in_hf_layout(tmp_path / "model")
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


def test_the_lines_that_make_pictures_smaller():
    class Processor:
        image_processor = Qwen2VLImageProcessorPil()

        def __call__(self, images, text, padding, return_tensors):
            return self.image_processor(images=images, return_tensors=return_tensors)

    (block,) = [block for block in blocks(REST) if "downsample" in block]
    found = {"processor": Processor(), "images": [picture(640, 480), picture(64, 64)], "prompts": ["", ""]}
    exec(block, found)
    assert found["counts"] == [54, 4]
    assert found["mean"] == 29


def test_the_line_for_vispruners_scripts(checkpoints):
    model = load(checkpoints(), visual_token_num=5)[1]
    arguments = {"inputs": torch.tensor([[1, 5, 6], [1, 7, 8]]), "max_new_tokens": 1}
    found = {"model": model, "arguments": arguments}
    exec(blocks(REST)[-1], found)
    assert found["output_ids"].shape[0] == 2
    assert found["visual_token_num"] == 5
