"""The examples of docs/methods.md, run as they stand there."""

import re

import torch

from llava.pruning import Settings
from tests.conftest import ROOT, load, picture

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "methods.md").read_text(), re.DOTALL)


def block_with(text: str) -> str:
    return next(block for block in BLOCKS if text in block)


def test_the_method_of_the_document_works_in_a_model(checkpoints, tmp_path, monkeypatch):
    method = block_with("def select(views, settings):")
    assert len(method.splitlines()) <= 20
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.py").write_text(method)
    _, model, image_processor, _ = load(checkpoints(), pruning_method="rows.py", visual_token_num=30)
    pixels = image_processor([picture(), picture(seed=1)], return_tensors="pt").pixel_values
    kept = model.encode_images(pixels).patches
    assert kept.shape == (2, 30)
    for crop in kept.tolist():
        assert [sum(patch // 12 == row for patch in crop) for row in range(12)] == [3] * 6 + [2] * 6
    importance = model.get_vision_tower().encode(pixels).importance
    assert importance[0, :12].topk(3).indices.sort().values.tolist() == kept[0, :3].tolist()


def test_the_trial_on_tensors_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.py").write_text(block_with("def select(views, settings):"))
    names = {"torch": torch}
    *lines, last = block_with("views = Views(").strip().splitlines()
    exec("\n".join(lines), names)
    assert eval(last.partition("#")[0], names).shape == (1, 16)


def test_the_call_of_the_document_is_a_call(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.py").write_text(block_with("def select(views, settings):"))
    _, model, image_processor, _ = loaded()
    pixels = image_processor([picture()], return_tensors="pt").pixel_values
    input_ids = torch.tensor([[1, -200, 5]])
    call = "\n".join(block_with("model.generate(").splitlines()[1:])
    names = {"model": model, "input_ids": input_ids, "pixels": pixels}
    exec(call, names)
    pruning = Settings(64, pruning_method="rows.py")
    expected = model.generate(input_ids, images=pixels, max_new_tokens=64, pruning=pruning)
    assert names["output_ids"].tolist() == expected.tolist()
