"""Checkpoints from LLaVA's layout to transformers' own and back: the same weights, ids, pixels and answers."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from llava.checkpoints.folders import new_checkpoint
from llava.checkpoints.hf.tokenizer import write_hf_tokenizer
from llava.checkpoints.tokenizer import LlamaSentencePieceTokenizer, load_tokenizer, tokenizer_image_token
from llava.checkpoints.weight_files import read_weights
from llava.checkpoints.weights import TOWER_PREFIX
from llava.errors import InputError
from llava.model import converting
from llava.model.converting import convert_checkpoint
from llava.vision.pictures import read_picture
from llava.vision.pixels import process_images
from tests.conftest import ROOT, ask, load, picture
from tests.hf_checkpoints import make_hf_checkpoint
from tests.model.conftest import edit_json, edit_weights, logits, without

SHARD = 10**5
LLAVA = ROOT / "playground" / "checkpoints" / "llava-tiny"
SCENES = ROOT / "playground" / "data" / "scenes"
KINDS = [("v1.5", "llama"), ("v1.6", "llama"), ("v1.6", "mistral"), ("v1.6", "qwen")]
PROMPT = "A chat. USER: <image>\nIs there a dog in the image?\nAnswer. ASSISTANT:"


@pytest.fixture(scope="module")
def converted(tmp_path_factory, checkpoints):
    """A checkpoint's folder, the same in transformers' layout, and back again; the bundled one, or a random one."""

    @functools.cache
    def get(version: str, language_model: str = "llama"):
        source = LLAVA if version == "bundled" else checkpoints(version, language_model)
        parent = tmp_path_factory.mktemp("converted")
        hf, back = parent / f"{source.name}-hf", parent / f"{source.name}-back"
        convert_checkpoint(str(source), hf, "hf", SHARD)
        convert_checkpoint(str(hf), back, "llava", 10**9)
        return source, hf, back

    return get


def answer_with_transformers(model, processor, prompt: str, image, new: int) -> list[int]:
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=new)
    return output[0, inputs.input_ids.shape[1] :].tolist()


def with_transformers(folder) -> tuple:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder, backend="pil")  # torchvision's pixels are other ones


@pytest.mark.parametrize(("version", "language_model"), [("bundled", "llama"), *KINDS])
def test_there_and_back_again_every_bit_is_the_same(converted, version, language_model):
    source, hf, back = converted(version, language_model)
    before, after = read_weights(source), read_weights(back)
    before = {key: tensor for key, tensor in before.items() if "inv_freq" not in key}
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key
    assert len(list(hf.glob("model-*-of-*.safetensors"))) > 1
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, back)]
    assert {key for key in configs[0] | configs[1] if configs[0].get(key) != configs[1].get(key)} == {"mm_vision_tower"}
    a, b = (load_tokenizer(folder) for folder in (source, back))
    assert (len(a), a.pad_token, a(PROMPT).input_ids) == (len(b), b.pad_token, b(PROMPT).input_ids)


@pytest.mark.parametrize(("version", "language_model"), KINDS)
@pytest.mark.parametrize("size", [(200, 150), (90, 300), (56, 56)])
def test_all_three_and_transformers_answer_alike(converted, version, language_model, size):
    folders = converted(version, language_model)
    image = picture(*size)
    expected = answer_with_transformers(*with_transformers(folders[1]), PROMPT, image, 6)
    assert len(expected) > 2
    for folder in folders:
        assert ask(load(folder), [PROMPT], [image], 6)[0] == expected[:6]


def test_bundled_questions_are_answered_alike(converted):
    folders = converted("bundled")
    theirs, processor = with_transformers(folders[1])
    ours = [load(folder) for folder in folders]
    lines = (SCENES / "pope" / "llava_pope_test.jsonl").read_text().splitlines()[::30]
    answers = set()
    for row in map(json.loads, lines):
        image = read_picture(SCENES / "pope" / "val2014" / row["image"])
        prompt = f"USER: <image>\n{row['text']} ASSISTANT:"
        pixels = process_images([image], ours[0].image_processor, ours[0].model.config)
        assert torch.equal(pixels, processor(images=image, text=prompt, return_tensors="pt")["pixel_values"])
        expected = answer_with_transformers(theirs, processor, prompt, image, 4)
        assert all(ask(loaded, [prompt], [image], 4)[0] == expected for loaded in ours)
        answers.add(ours[0].tokenizer.decode(expected, skip_special_tokens=True))
    assert answers == {"Yes", "No"}


def test_rows_of_new_tokens_fill_up_to_64_and_are_never_chosen(converted):
    _, hf, back = converted("v1.5")
    config = json.loads((hf / "config.json").read_text())
    assert (config["image_token_index"], config["pad_token_id"], config["text_config"]["vocab_size"]) == (800, 801, 832)
    head = read_weights(hf)["language_model.lm_head.weight"]
    assert head.shape[0] == 832 and torch.equal(head[800:], head[:1].expand(32, -1))
    assert read_weights(back)["lm_head.weight"].shape[0] == 800


def test_the_tower_that_comes_back_needs_no_other_folder(converted, tmp_path):
    _, _, back = converted("v1.6")
    moved = shutil.copytree(back, tmp_path / "elsewhere" / "llava")
    assert load(moved).model.get_vision_tower().vision_tower_name == str(moved / "vision_tower")
    tower, key = load_file(moved / "vision_tower" / "model.safetensors"), "vision_model.pre_layrnorm.weight"
    assert torch.equal(tower[key], read_weights(moved)[TOWER_PREFIX + key])


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_what_transformers_wrote_becomes_llavas_and_that_again(tmp_path, kind):
    """As llava-hf's: no config of LLaVA's is kept in it, so that the keys are made."""
    source = make_hf_checkpoint(tmp_path, kind)
    convert_checkpoint(str(source), tmp_path / "llava", "llava", 10**9)
    convert_checkpoint(str(tmp_path / "llava"), tmp_path / "hf", "hf", 10**9)
    values = json.loads((tmp_path / "llava" / "config.json").read_text())
    expected = {"model_type": "llava", "vocab_size": 800, "architectures": ["LlavaLlamaForCausalLM"]}
    assert {key: values[key] for key in expected} == expected
    assert values["unfreeze_mm_vision_tower"] is (kind == "llava_next")
    first, last = (read_weights(folder) for folder in (source, tmp_path / "hf"))
    first = {key.replace("vision_tower.", "vision_tower.vision_model."): tensor for key, tensor in first.items()}
    assert last.keys() == first.keys()
    for key, tensor in first.items():
        rows = 800 if "embed_tokens" in key or "lm_head" in key else None
        assert torch.equal(last[key][:rows], tensor[:rows]), key
    made, original = load(tmp_path / "llava"), load(source)
    assert torch.equal(logits(made), logits(original)[:800])


def test_ids_are_the_same_around_images_and_special_tokens(reference, tmp_path):
    folder = reference / "llava-v1.5" / "llava-v1.5-tiny"
    prompts = [row["prompt"] for row in json.loads((reference / "prompts.json").read_text())]
    prompts += ["<image>\nhi", "a <image> b <image>\nHello</s>USER: x", "日本語 🙂 <image>x </s> y</s> z"]
    prompts += ["", " a  b \n\n c"]
    settings = {"vocab_file": str(folder / "tokenizer.model"), "pad_token": "<unk>"}
    for i, tokenizer in enumerate((load_tokenizer(folder), LlamaSentencePieceTokenizer(**settings, legacy=True))):
        target = tmp_path / str(i)
        target.mkdir()
        write_hf_tokenizer(tokenizer, folder, target, "LlavaProcessor", 4096)
        theirs = AutoTokenizer.from_pretrained(target)
        for prompt in prompts:
            assert theirs(prompt).input_ids == tokenizer_image_token(prompt, tokenizer, 32000), prompt
        text = "Yes, a dog.\n  No  "
        ids = tokenizer(text).input_ids
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)


REFUSED = [
    ({"image_aspect_ratio": "anyres_max_9", "image_grid_pinpoints": [[336, 336]]}, "cannot do image_aspect_ratio"),
    ({"mm_projector_type": "linear"}, "cannot do mm_projector_type 'linear', only 'mlp2x_gelu'"),
    ({"mm_use_im_start_end": True}, "cannot do mm_use_im_start_end True"),
    ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 336]]}, "cannot do mm_patch_merge_type 'flat'"),
]


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_the_other_layout_has_no_place_for_is_refused(make_checkpoint, tmp_path, values, named):
    source = make_checkpoint(vocab_size=802)
    edit_json(source / "config.json", **values)
    with pytest.raises(InputError, match=named):
        convert_checkpoint(str(source), tmp_path / "out", "hf", 10**9)
    assert not list(tmp_path.glob("out*"))


def spoil(tensors: dict) -> dict:
    name = next((key for key in tensors if key.endswith("up_proj.weight")), None)
    return tensors if name is None else tensors | {name: torch.full_like(tensors[name], float("nan"))}


BROKEN = [
    (lambda t: t | {"model.more": torch.zeros(1)}, r"unexpected model\.more"),
    (without("model.norm.weight"), r"missing model\.norm\.weight"),
    (without("pre_layrnorm.bias"), r"vision tower .* missing pre_layrnorm"),
    (spoil, r"up_proj\.weight has values that are not finite"),
]


@pytest.mark.parametrize(("change", "named"), BROKEN, ids=[named for _, named in BROKEN])
def test_broken_weights_leave_nothing_behind(make_checkpoint, tmp_path, change, named):
    source = make_checkpoint(version="v1.6", shards=1)
    edit_weights(source / "model.safetensors", change)
    with pytest.raises(InputError, match=named):
        convert_checkpoint(str(source), tmp_path / "out", "hf", 10**5)
    assert not list(tmp_path.glob("out*"))


def test_no_folder_is_overwritten_and_none_is_converted_to_what_it_is(converted, tmp_path):
    source, hf, _ = converted("v1.5")
    before = {path: path.read_bytes() for path in hf.iterdir()}
    with pytest.raises(InputError, match="exists already"):
        convert_checkpoint(str(source), hf, "hf", 10**9)
    assert {path: path.read_bytes() for path in hf.iterdir()} == before
    for folder, layout in ((source, "llava"), (hf, "hf")):
        with pytest.raises(InputError, match="is in this layout already"):
            convert_checkpoint(str(folder), tmp_path / "out", layout, 10**9)
    with pytest.raises(InputError, match="cannot write"):
        convert_checkpoint(str(source), hf / "config.json" / "out", "hf", 10**9)


def test_a_full_disk_leaves_nothing_behind(checkpoints, tmp_path, monkeypatch):
    source = str(checkpoints("v1.5"))

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converting, "write_json", fail)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        convert_checkpoint(source, tmp_path / "out", "hf", 10**9)
    assert not list(tmp_path.glob("out*"))


def test_two_processes_do_not_write_one_target(checkpoints, tmp_path):
    """The lock is the folder's, so that it ends with its process; what a killed one left is removed."""
    source, target = str(checkpoints("v1.5")), tmp_path / "out"
    (tmp_path / "out.part").mkdir()
    for left in ("7.safetensors", "config.json.part"):
        (tmp_path / "out.part" / left).write_bytes(b"left")
    with new_checkpoint(target) as part:
        (part / "mine").write_text("")
        with pytest.raises(InputError, match=r"another process is writing .*out"):
            convert_checkpoint(source, target, "hf", 10**9)
    assert [path.name for path in target.iterdir()] == ["mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_in_the_way_is_left_alone(checkpoints, tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out\.part is in the way: it has thesis\.txt"):
        convert_checkpoint(str(checkpoints("v1.5")), tmp_path / "out", "hf", 10**9)
    assert (tmp_path / "out.part" / "thesis.txt").read_text() == "mine"


def run_command(*arguments, flags=()) -> subprocess.Popen:
    command = [sys.executable, *flags, str(ROOT / "scripts" / "convert_checkpoint.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_converts_and_after_a_kill_nothing_looks_finished(checkpoints, tmp_path):
    source, target = checkpoints("v1.6"), tmp_path / "out"
    killed = run_command(source, target, "--to", "hf", "--max-shard-size", "1KB")
    while not list(tmp_path.glob("out.part/*")) and killed.poll() is None:
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    done = run_command(source, target, "--to", "hf")
    said, error = done.communicate(timeout=60)
    assert (said.strip(), error, done.returncode) == (str(target), "", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    again = run_command(source, target, "--to", "hf")
    error = again.communicate(timeout=60)[1]
    assert again.returncode == 2 and error.startswith("error: ") and len(error.splitlines()) == 1
    mistyped = [source, tmp_path / "other", "--to", "hf", "--max-shard-size", "much"]
    wrong = run_command(*mistyped, flags=["-X", "importtime"])
    error = wrong.communicate(timeout=60)[1]
    assert "must be a number of bytes" in error and wrong.returncode == 2
    assert "argparse" in error and "| torch\n" not in error and "transformers" not in error  # told before these load
