"""Training by LoRA and QLoRA: what is trained and written, and that it loads, resumes and is refused."""

import json
from collections import Counter
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations import peft

from llava.checkpoints.weight_files import read_weights
from llava.errors import InputError
from llava.model.builder import load_pretrained_model
from llava.train.train import train
from tests.recipes import run_recipe
from tests.train.conftest import ONE_STEP, PROJECTOR, Losses, Stop, assert_equal, output_dir

LORA = {"lora_enable": True, "lora_r": 16, "lora_alpha": 32, "mm_projector_lr": 0.01, "learning_rate": 0.004}


@pytest.fixture
def needs_peft():
    pytest.importorskip("peft", reason="LoRA needs peft (the extra `lora`)")
    if Version(version("peft")) < Version(peft.MIN_PEFT_VERSION):
        pytest.skip(f"transformers {version('transformers')} needs peft {peft.MIN_PEFT_VERSION}")


def written(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors") | torch.load(folder / "non_lora_trainables.bin")


def load_with_base(folder, base):
    return load_pretrained_model(str(folder), str(base), "llava-lora", device="cpu").model


@pytest.mark.parametrize("bf16", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_loss_falls_and_the_result_loads_onto_its_base(needs_peft, command, starting_point, bf16):
    losses, base = Losses(), starting_point / "vicuna"
    options = command("stage2", max_steps=25, save_strategy="no", bf16=bf16, **LORA)
    train(options, [losses])
    assert losses.values[-1] < 0.95 * losses.values[0]
    folder = output_dir(options)
    weights, before = written(folder), read_weights(base)
    matrices = [key for key in before if "_proj" in key]
    assert len(weights) == 2 * len(matrices) + len(PROJECTOR)
    assert {f"base_model.model.{key}" for key in PROJECTOR} < weights.keys()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (16, 32, str(base))
    merged = load_with_base(folder, base).state_dict()
    for key in matrices:
        a, b = (weights[f"base_model.model.{key.removesuffix('.weight')}.lora_{part}.weight"] for part in "AB")
        torch.testing.assert_close(merged[key], before[key] + 2 * b @ a, rtol=1e-5, atol=1e-6)
        assert b.abs().max() > 0
    rest = [key for key in before if "_proj" not in key]
    assert rest and all(torch.equal(merged[key], before[key]) for key in rest)


def test_a_stopped_training_goes_on(needs_peft, command):
    whole, stopped = (command("stage2", name, max_steps=4, **LORA) for name in ("whole", "stopped"))
    train(whole)
    train(stopped, [Stop(3)])
    assert not (output_dir(stopped) / "config.json").exists()
    train(stopped)
    assert_equal(written(output_dir(stopped)), written(output_dir(whole)))


class Layers(TrainerCallback):
    """Records the classes of the model's layers."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.classes = Counter(type(module).__name__ for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "layer"), [(4, "Linear4bit"), (8, "Linear8bitLt")])
def test_on_quantized_weights(needs_peft, command, starting_point, bits, layer):
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes (the extra `quant`)")
    losses, layers = Losses(), Layers()
    options = command("stage2", max_steps=25, save_strategy="no", bits=bits, **LORA)
    train(options, [losses, layers])
    assert layers.classes[layer] >= 7 * 3  # of three layers; peft's own wrappers may be called the same
    assert losses.values[-1] < 0.95 * losses.values[0]
    folder = output_dir(options)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert load_with_base(folder, starting_point / "vicuna")


REFUSED = [
    ({"bits": 4}, "needs --lora_enable True"),
    ({"lora_enable": True, "freeze_backbone": True}, "--freeze_backbone and --lora_enable exclude each other"),
    ({"lora_enable": True, "lora_bias": "all"}, "lora_bias is 'all'"),
    ({"lora_enable": True, "lora_r": 0}, "lora_r is 0"),
    ({"lora_enable": True, "lora_dropout": 1}, "lora_dropout is 1"),
    ({"lora_enable": True, "bits": 5}, "bits is 5"),
]


@pytest.mark.parametrize(("values", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_options_that_cannot_be_meant_are_refused(command, values, named):
    with pytest.raises(InputError, match=named):
        train(command("stage2", **values))


@pytest.mark.parametrize(
    ("package", "extra", "options"), [("peft", "lora", {}), ("bitsandbytes", "quant", {"bits": 4})]
)
def test_a_package_that_is_not_there_is_named_with_its_extra(command, monkeypatch, package, extra, options):
    monkeypatch.setattr("llava.train.lora.find_spec", lambda name: None if name == package else True)
    with pytest.raises(InputError, match=rf"needs {package}: pip install -e '\.\[{extra}\]'"):
        train(command("stage2", lora_enable=True, **options))


def test_a_peft_that_transformers_does_not_take_is_named(command, monkeypatch):
    pytest.importorskip("peft", reason="LoRA needs peft (the extra `lora`)")
    monkeypatch.setattr(peft, "MIN_PEFT_VERSION", "99.0")
    with pytest.raises(InputError, match=r"^LoRA needs peft 99\.0 with transformers 5\.[0-9.]+, not peft 0\.[0-9.]+$"):
        train(command("stage2", lora_enable=True))


@pytest.mark.slow
def test_the_recipe_writes_upstream_s_layout(needs_peft, recipe_settings, tmp_path):
    settings = recipe_settings | {"PROJECTOR": "", "OUTPUT": tmp_path / "llava-lora"}
    done = run_recipe("v1_5/finetune_lora.sh", *ONE_STEP, **settings)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "llava-lora" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (128, 256, 0.05)
    assert load_with_base(tmp_path / "llava-lora", settings["MODEL"])
