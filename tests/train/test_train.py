"""Both stages from the command line's options: what is trained, what is frozen, and what is written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.checkpoints.weight_files import read_weights
from llava.checkpoints.weights import TOWER_PREFIX
from llava.model.builder import load_pretrained_model
from llava.train.train import train
from tests.conftest import IMAGE, inputs_of, load, picture
from tests.train.conftest import (
    CAPTIONS,
    PROJECTOR,
    Losses,
    assert_equal,
    conversation,
    output_dir,
    run_module,
    trained,
)


@pytest.mark.parametrize(
    ("stage", "bf16"),
    [
        ("stage1", True),
        ("stage2", False),
        pytest.param("stage1", False, marks=pytest.mark.slow),
        pytest.param("stage2", True, marks=pytest.mark.slow),
    ],
)
def test_the_loss_falls(command, stage, bf16):
    losses = Losses()
    train(command(stage, max_steps=30, save_strategy="no", bf16=bf16), [losses])
    assert losses.values[0] > 6
    assert losses.values[-1] < {"stage1": 0.95, "stage2": 0.7}[stage] * losses.values[0]


def test_stage_1_writes_the_projector_alone_and_it_loads_onto_its_language_model(command, starting_point):
    folder = trained(command("stage1", max_steps=2))
    projector = torch.load(folder / "mm_projector.bin")
    assert projector.keys() == PROJECTOR
    assert not list(folder.glob("*.safetensors"))
    held = load_file(folder / "checkpoint-2" / "model.safetensors")
    assert_equal(held, projector)
    _, model, _, _ = load_pretrained_model(str(folder), str(starting_point / "vicuna"), "stage1", device="cpu")
    assert_equal({f"model.mm_projector.{k}": v for k, v in model.model.mm_projector.state_dict().items()}, projector)


def test_stage_2_starts_from_the_projector_and_leaves_the_tower_alone(command, starting_point):
    adapter = trained(command("stage1", "first", max_steps=2)) / "mm_projector.bin"
    start = {"pretrain_mm_mlp_adapter": adapter}
    weights = read_weights(trained(command("stage2", max_steps=1, learning_rate=0, **start)))
    untrained = read_weights(starting_point / "vicuna") | torch.load(adapter)
    clip = read_weights(starting_point / "clip")
    tower = {TOWER_PREFIX + key: tensor for key, tensor in clip.items() if key.startswith("vision_model.")}
    assert_equal(weights, {key: tensor.float() for key, tensor in (untrained | tower).items()})

    further = read_weights(trained(command("stage2", "trained", max_steps=2, **start)))
    assert {key for key in weights if torch.equal(weights[key], further[key])} == set(tower)


def test_the_projector_may_have_its_own_learning_rate(command, starting_point):
    weights = read_weights(trained(command("stage2", max_steps=2, learning_rate=0, mm_projector_lr=0.01)))
    before = read_weights(starting_point / "vicuna")
    assert all(torch.equal(weights[key], before[key]) for key in before)
    again = read_weights(trained(command("stage2", "zero", max_steps=1, learning_rate=0)))
    assert not torch.equal(*(each["model.mm_projector.0.weight"] for each in (weights, again)))


def test_the_written_checkpoint_is_laid_out_as_the_published_and_answers_as_the_trained_model(
    command, reference, starting_point
):
    folder = trained(command("stage2", max_steps=2, save_dtype="float16", save_steps=2))
    published = reference / "llava-v1.5" / "llava-v1.5-tiny"
    files = {"config.json", "generation_config.json", "model.safetensors", "special_tokens_map.json"}
    files |= {"tokenizer.model", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir() if path.is_file()} - {"trainer_state.json"} == files
    weights = read_weights(folder)
    assert weights.keys() == {key for key in read_weights(published) if "inv_freq" not in key}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    config, expected = (json.loads((path / "config.json").read_text()) for path in (folder, published))
    assert config.keys() == expected.keys() - {"tokenizer_class"}
    same = ("model_type", "architectures", "torch_dtype", "rope_scaling", "pad_token_id", "tokenizer_padding_side")
    assert {key: config[key] for key in same} == {key: expected[key] for key in same}
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer_config["tokenizer_class"] == "LlamaTokenizer"

    loaded = load(folder)
    model, (ids, given) = loaded.model, inputs_of(loaded, [f"USER: {IMAGE}\nA dog? ASSISTANT:"], [picture()])
    assert loaded.context_len == 4096
    logits = model(ids, **given).logits
    last = load_file(folder / "checkpoint-2" / "model.safetensors")
    others = model.load_state_dict({key: tensor.half().float() for key, tensor in last.items()}, strict=False)
    assert others.unexpected_keys == []
    assert {key.split(".")[1] for key in others.missing_keys} == {"vision_tower"}
    assert torch.equal(model(ids, **given).logits, logits)


@pytest.mark.parametrize(
    "options",
    [{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}],
)
def test_accumulation_and_checkpointing_change_nothing_but_the_rounding(command, options):
    plain, other = command("stage2", "plain", max_steps=3), command("stage2", "other", max_steps=3, **options)
    assert farthest(trained(plain), trained(other)) < 3e-4  # 10 % of a step


def farthest(one: Path, other: Path) -> float:
    """The greatest difference of a weight between two checkpoints."""
    a, b = read_weights(one), read_weights(other)
    return max((a[key] - b[key]).abs().max() for key in a)


@pytest.mark.parametrize(
    ("options", "moved"),
    [
        ({"freeze_backbone": True}, {"lm_head.weight", *PROJECTOR}),
        ({"freeze_backbone": True, "freeze_mm_mlp_adapter": True}, {"lm_head.weight"}),
    ],
)
def test_what_is_frozen_stays_as_it_is(command, options, moved):
    after = trained(command("stage2", max_steps=1, save_steps=1, learning_rate=0.01, warmup_ratio=0, **options))
    assert load_file(after / "checkpoint-1" / "model.safetensors").keys() == moved
    before = trained(command("stage2", "before", max_steps=1, learning_rate=0))
    a, b = read_weights(before), read_weights(after)
    assert {key for key in a if not torch.equal(a[key], b[key])} == moved


def test_pictures_in_crops_are_trained_with_their_newline(command):
    crops = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}
    crops |= {"image_grid_pinpoints": "[[168, 336], [336, 168]]"}
    adapter = trained(command("stage1", "first", max_steps=2, **crops)) / "mm_projector.bin"
    assert torch.load(adapter).keys() == {*PROJECTOR, "model.image_newline"}
    options = command("stage2", max_steps=2, model_max_length=1024, pretrain_mm_mlp_adapter=adapter, **crops)
    model = load(trained(options)).model
    assert model.config.image_grid_pinpoints == [[168, 336], [336, 168]]
    assert not torch.equal(model.model.image_newline, torch.load(adapter)["model.image_newline"])


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_batch_of_both(command):
    one = trained(command("stage2", "one", max_steps=3))
    two = command("stage2", "two", max_steps=3, per_device_train_batch_size=2)
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"]
    done = run_module(*launch, "llava.train.train", *two, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert farthest(one, output_dir(two)) < 3e-4
    assert (output_dir(two) / "checkpoint-2" / "rng_state_1.pth").exists()


def test_a_llava_checkpoint_is_trained_on_with_its_own_projector(command):
    first = trained(command("stage2", "first", max_steps=2))
    again = trained(command("stage2", "again", max_steps=1, learning_rate=0, model_name_or_path=first))
    assert_equal(read_weights(again), read_weights(first))


def test_conversations_that_are_too_long_are_cut_and_counted(command, caplog):
    long = [CAPTIONS[0] | {"conversations": conversation(f"{IMAGE}\nA?", "word " * 300)}]
    rows = [row | {"conversations": conversation(f"{IMAGE}\nA?", "Yes")} for row in CAPTIONS[:3]] + long
    cut = Losses("samples_cut")
    train(command("stage2", data=rows, max_steps=2, model_max_length=256), [cut])
    assert cut.values == [1, 2]
    assert "model_max_length 256" in caplog.text
