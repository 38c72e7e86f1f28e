"""LoRA checkpoints in upstream's layout, merged at loading: weights are base + alpha / r * B A, or a refusal."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.checkpoints.weight_files import read_weights
from llava.errors import InputError
from llava.inference.options import ModelOptions
from llava.model import convert
from llava.model.builder import load_pretrained_model
from tests.conftest import ask, load, load_script, picture
from tests.model.conftest import edit_json, logits

RANK, ALPHA = 4, 8
TARGETS = ("q_proj", "v_proj", "down_proj")
PREFIX = "base_model.model."
KEY = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight"


def adapter(base: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """A and B of every matrix of `TARGETS`, under the names that peft writes."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in base.items():
        stem = name.removesuffix(".weight")
        if stem.endswith(TARGETS) and "vision_tower" not in name:
            for part, shape in (("A", (RANK, tensor.shape[1])), ("B", (tensor.shape[0], RANK))):
                weights[f"{PREFIX}{stem}.lora_{part}.weight"] = torch.randn(shape, generator=generator) * 0.05
    return weights


def make_lora(base_folder, folder, in_bin: bool = False):
    """A LoRA checkpoint as upstream's training writes it for the model in `base_folder`. Returns its folder."""
    folder.mkdir()
    base = read_weights(base_folder)
    config = json.loads((base_folder / "config.json").read_text())
    config["mm_vision_tower"] = str((base_folder / config["mm_vision_tower"]).resolve())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llava_llama"}))
    values = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.05}
    values |= {"target_modules": list(TARGETS), "bias": "none", "inference_mode": True, "fan_in_fan_out": False}
    values |= {"base_model_name_or_path": str(base_folder)}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    weights = adapter(base)
    if in_bin:
        torch.save(weights, folder / "adapter_model.bin")
    else:
        save_file(weights, folder / "adapter_model.safetensors")
    whole = {PREFIX + key: tensor * 1.5 for key, tensor in base.items() if "mm_projector" in key}
    torch.save(whole, folder / "non_lora_trainables.bin")
    return folder


@pytest.fixture
def lora(checkpoints, tmp_path):
    pytest.importorskip("peft", reason="LoRA needs peft (the extra `lora`)")
    return make_lora(checkpoints(), tmp_path / "llava-lora")


def load_lora(folder, base, **options) -> tuple:
    return load_pretrained_model(str(folder), str(base), folder.name, device="cpu", **options)


@pytest.mark.parametrize("in_bin", [False, True])
@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
def test_weights_are_base_and_change(checkpoints, tmp_path, version, in_bin):
    pytest.importorskip("peft", reason="LoRA needs peft (the extra `lora`)")
    base_folder = checkpoints(version)
    folder = make_lora(base_folder, tmp_path / "llava-lora", in_bin)
    base, changes = read_weights(base_folder), adapter(read_weights(base_folder))
    model = load_lora(folder, base_folder).model
    merged = {key: tensor for key, tensor in model.state_dict().items() if "vision_tower" not in key}
    assert not [key for key in merged if "lora" in key]
    for key, tensor in merged.items():
        expected = (base[key] * (1.5 if "mm_projector" in key else 1)).float()
        a, b = (changes.get(f"{PREFIX}{key.removesuffix('.weight')}.lora_{part}.weight") for part in "AB")
        if a is not None:
            expected = expected + ALPHA / RANK * b @ a
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    assert sum("lora_A" in key for key in changes) == 3 * len(TARGETS)
    pixels = torch.ones(1, 3, 168, 168)
    tower = load(base_folder).model.get_vision_tower()
    assert torch.equal(model.get_vision_tower()(pixels), tower(pixels))


def test_it_answers_and_prunes(lora, checkpoints):
    loaded = load_lora(lora, checkpoints(), visual_token_num=16)
    assert ask(loaded, ["<image>\nWhat?"], [picture()])
    options = ModelOptions(str(lora), str(checkpoints()), device="cpu")
    assert torch.equal(logits(options.load()), logits(load_lora(lora, checkpoints())))


def test_a_base_is_needed_and_peft(lora, checkpoints, monkeypatch):
    with pytest.raises(InputError, match="is a LoRA checkpoint: --model-base must name the model that it changes"):
        load(lora)
    with pytest.raises(InputError, match=r"merged before a model is quantized: see scripts/merge_lora_weights\.py"):
        load_lora(lora, checkpoints(), load_4bit=True)
    monkeypatch.setattr("llava.model.lora.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"LoRA needs peft: pip install -e '\.\[lora\]'"):
        load_lora(lora, checkpoints())


CHANGES = [
    (lambda w: {key: t for key, t in w.items() if key != KEY}, r"missing .*layers\.0\.self_attn\.q_proj\.lora_B"),
    (
        lambda w: w | {f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)},
        "unexpected .*layers.9",
    ),
    (lambda w: w | {KEY: w[KEY][:-1].clone()}, "of another shape .*lora_B"),
    (lambda w: w | {KEY: torch.full_like(w[KEY], float("nan"))}, "not finite in .*lora_B"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=[named for _, named in CHANGES])
def test_an_adapter_that_does_not_fit_is_refused(lora, checkpoints, change, named):
    path = lora / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(InputError, match=named):
        load_lora(lora, checkpoints())


def test_damaged_and_missing_files_are_named(lora, checkpoints):
    edit_json(lora / "adapter_config.json", r="many")
    with pytest.raises(InputError):
        load_lora(lora, checkpoints())
    edit_json(lora / "adapter_config.json", r=RANK, peft_type="IA3")
    with pytest.raises(InputError, match="is not of LoRA: peft_type is 'IA3'"):
        load_lora(lora, checkpoints())
    edit_json(lora / "adapter_config.json", peft_type="LORA")
    weights = torch.load(lora / "non_lora_trainables.bin")
    torch.save(weights | {"base_model.model.model.extra": torch.zeros(1)}, lora / "non_lora_trainables.bin")
    with pytest.raises(InputError, match=r"unexpected model\.extra"):
        load_lora(lora, checkpoints())
    (lora / "non_lora_trainables.bin").unlink()
    with pytest.raises(InputError, match=r"has no non_lora_trainables\.bin"):
        load_lora(lora, checkpoints())
    torch.save(weights, lora / "non_lora_trainables.bin")
    torch.save(weights, lora / "more.bin")
    with pytest.raises(InputError, match=r"weights that are not read here: more\.bin"):
        load_lora(lora, checkpoints())
    (lora / "more.bin").unlink()
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="has none of adapter_model"):
        load_lora(lora, checkpoints())


@pytest.mark.parametrize("has_config", [False, True])
def test_a_peft_adapter_of_transformers_llava_is_named_for_what_it_is(checkpoints, tmp_path, has_config, call):
    folder = tmp_path / "adapter"
    folder.mkdir()
    values = {"peft_type": "LORA", "base_model_name_or_path": "llava-hf/llava-1.5-7b-hf"}
    values |= {"auto_mapping": {"base_model_class": "LlavaForConditionalGeneration"}}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file(
        {f"{PREFIX}model.language_model.layers.0.q_proj.lora_A.weight": torch.ones(4, 4)},
        folder / "adapter_model.safetensors",
    )
    if has_config:
        (folder / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": {}}))
    named = r"is a peft adapter of LlavaForConditionalGeneration llava-hf/llava-1\.5-7b-hf.*merge_and_unload"
    for path, base in ((folder, checkpoints()), (folder, None), (checkpoints(), folder)):
        with pytest.raises(InputError, match=named):
            load_pretrained_model(str(path), base and str(base), path.name, device="cpu")
    code, _, said = call(convert, folder, tmp_path / "out", "--to", "llava")
    assert code == 2 and "is a peft adapter of LlavaForConditionalGeneration" in said and said.count("\n") == 1


def test_a_lora_checkpoint_is_no_base(lora, checkpoints):
    with pytest.raises(InputError, match=r"the base model .*llava-lora is a LoRA checkpoint"):
        load_pretrained_model(str(checkpoints()), str(lora), "llava", device="cpu")


def test_the_script_merges_with_upstream_s_flags(lora, checkpoints, tmp_path, monkeypatch):
    script = load_script("merge_lora_weights")
    target = tmp_path / "merged"
    flags = ["--model-path", str(lora), "--model-base", str(checkpoints()), "--save-model-path", str(target)]
    monkeypatch.setattr("sys.argv", ["merge_lora_weights.py", *flags, "--dtype", "float32"])
    script.main()
    assert torch.equal(logits(load(target)), logits(load_lora(lora, checkpoints())))
    with pytest.raises(SystemExit):
        script.main()
    flags = ["--model-path", str(target), *flags[2:4], "--save-model-path", str(tmp_path / "again")]
    monkeypatch.setattr("sys.argv", ["merge_lora_weights.py", *flags])
    with pytest.raises(InputError, match="is no LoRA checkpoint: there is nothing to merge"):
        script.main()
    monkeypatch.setattr("sys.argv", ["merge_lora_weights.py", *flags[:-1], str(target / "config.json" / "below")])
    with pytest.raises(SystemExit):  # its parent is a file
        script.main()
    assert [path.name for path in tmp_path.iterdir() if "merged" in path.name] == ["merged"]
