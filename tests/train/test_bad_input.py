"""What training refuses, in one line that names the cause."""

import shutil

import pytest
import torch
from PIL import Image

from llava.errors import InputError
from llava.train.train import train
from tests.conftest import IMAGE
from tests.model.conftest import edit_json
from tests.recipes import run_python
from tests.train.conftest import INSTRUCTIONS, Losses, conversation


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_code_2_for_bad_input(command):
    options = command("stage2", data=[INSTRUCTIONS[0] | {"image": "none.png"}])
    done = run_python("-m", "llava.train.train", *options, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: record 'one': no such image file")
    assert "Traceback" not in done.stderr


BEFORE_LOADING = [
    ("data", [], "at least one record"),
    ("data", [INSTRUCTIONS[0] | {"image": "none.png"}], "record 'one': no such image file"),
    ("model_name_or_path", "/none", "no such language model folder: /none"),
    ("vision_tower", "/none", "no such vision tower folder: /none"),
    ("pretrain_mm_mlp_adapter", "/none.bin", "cannot read weights from /none.bin"),
    ("mm_projector_type", "tree", "unknown mm_projector_type 'tree'"),
    ("version", "v7", "unknown --version 'v7'"),
    ("mm_use_im_start_end", True, "not supported"),
    ("model_max_length", 100, "no room for an image of 144 tokens"),
    ("image_aspect_ratio", "round", "unknown image_aspect_ratio 'round'"),
    ("save_dtype", "int8", "unknown --save_dtype 'int8'"),
    ("nonsense", 1, "nonsense"),
    ("learning_rate", "nan", "finite"),
    ("learning_rate", "inf", "finite"),
    ("learning_rate", -1, "greater than or equal to 0"),
    ("mm_projector_lr", "nan", "finite"),
    ("mm_projector_lr", -1, "greater than or equal to 0"),
    ("weight_decay", "nan", "finite"),
    ("adam_beta1", "nan", "finite"),
    ("adam_beta2", 1, "less than 1"),
    ("adam_epsilon", -1, "greater than or equal to 0"),
    ("max_grad_norm", "nan", "finite"),
    ("warmup_ratio", 2, "less than or equal to 1"),
    ("warmup_ratio", "nan", "finite"),
    ("warmup_steps", -1, "greater than or equal to 0"),
    ("num_train_epochs", "inf", "finite"),
    ("num_train_epochs", 1e300, "less than or equal to"),
    ("num_train_epochs", 0, "greater than 0"),
    ("max_steps", -5, "greater than or equal to -1"),
    ("per_device_train_batch_size", 0, "greater than or equal to 1"),
    ("per_device_train_batch_size", 10**20, "less than or equal to"),
    ("gradient_accumulation_steps", -1, "greater than or equal to 1"),
    ("save_steps", "inf", "finite"),
    ("save_steps", -1, "greater than 0"),
    ("save_total_limit", -1, "greater than or equal to 0"),
    ("logging_steps", "nan", "finite"),
    ("seed", -1, "greater than or equal to 0"),
    ("data_seed", 2**40, "less than"),
    ("model_max_length", -1, "greater than or equal to 1"),
    ("dataloader_num_workers", -1, "greater than or equal to 0"),
    ("dataloader_prefetch_factor", 0, "greater than or equal to 1"),
    ("lr_scheduler_kwargs", "x", "Invalid JSON"),
    ("lr_scheduler_kwargs", "[1]", "dictionary"),
    ("gradient_checkpointing_kwargs", '{"foo": 1}', "not permitted"),
    ("torch_compile_mode", "foo", "max-autotune"),
    ("train_sampling_strategy", "sequential", "--group_by_modality_length"),
    ("eval_strategy", "steps", "llava.eval"),
    ("do_eval", True, "llava.eval"),
    ("load_best_model_at_end", True, "llava.eval"),
    ("label_smoothing_factor", 0.1, "not supported"),
    ("neftune_noise_alpha", 1, "not supported"),
    ("push_to_hub", True, "not supported"),
    ("resume_from_checkpoint", "/none", "newest checkpoint"),
    ("use_liger_kernel", True, "not supported"),
    ("output_dir", "/dev/null", "cannot write to /dev/null"),
    ("output_dir", "/dev/null/below", "cannot write to /dev/null/below"),
]
UNNAMED = ("data", "model_name_or_path", "vision_tower", "pretrain_mm_mlp_adapter", "model_max_length", "output_dir")


@pytest.fixture
def never_loaded(monkeypatch):
    """A test fails that comes to loading the language model."""
    monkeypatch.setattr("llava.train.build.TrainingPlan.build", lambda *_: pytest.fail("loaded"))


@pytest.mark.parametrize(("name", "value", "cause"), BEFORE_LOADING)
def test_a_bad_value_is_one_line_before_the_language_model_is_loaded(command, never_loaded, name, value, cause):
    with pytest.raises(InputError) as error:
        train(command("stage2", **{name: value}))
    assert cause in str(error.value)
    assert name in str(error.value) or name in UNNAMED
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stage", "options", "named"),
    [
        ("stage1", {"data": INSTRUCTIONS}, "version 'plain' takes one image"),
        ("stage2", {"image_aspect_ratio": "anyres", "image_grid_pinpoints": "3"}, "image_grid_pinpoints must be"),
        ("stage2", {"freeze_backbone": True, "tune_mm_mlp_adapter": True, "freeze_mm_mlp_adapter": True}, "forbids"),
    ],
)
def test_values_that_exclude_each_other_are_one_line_too(command, never_loaded, stage, options, named):
    with pytest.raises(InputError) as error:
        train(command(stage, **options))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_projector_that_does_not_fit_is_refused_in_a_short_line(command, starting_point, tmp_path):
    path = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(3, 3)}, path)
    for adapter in (path, starting_point / "vicuna" / "model.safetensors"):
        with pytest.raises(InputError, match="does not fit the model") as error:
            train(command("stage2", pretrain_mm_mlp_adapter=adapter))
        assert len(str(error.value)) < 800


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "neither llama nor mistral nor a LLaVA"),
        ({"unfreeze_mm_vision_tower": True}, "a vision tower of its own"),
    ],
)
def test_a_model_that_cannot_be_started_from_is_named(command, starting_point, tmp_path, change, named):
    folder = tmp_path / "start"
    shutil.copytree(starting_point / "vicuna", folder)
    edit_json(folder / "config.json", **change)
    with pytest.raises(InputError, match=named):
        train(command("stage2", model_name_or_path=folder))


@pytest.mark.parametrize(
    ("size", "workers", "named"),
    [
        ((1, 70_000), 0, "cannot read the image"),
        ((2, 40_000), 0, "2 x 40000 pixels"),
        (None, 0, "cannot read the image"),
        (None, 1, "cannot read the image"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named_with_its_record(command, tmp_path, size, workers, named):
    file = tmp_path / "bad.png"
    Image.new("RGB", size).save(file) if size else file.write_bytes(b"no picture")
    row = {"id": "bad", "image": file.name, "conversations": conversation(f"{IMAGE}\nWhat?", "Yes")}
    options = {"image_folder": tmp_path, "image_aspect_ratio": "square", "dataloader_num_workers": workers}
    with pytest.raises(InputError) as error:
        train(command("stage2", data=[row], **options))
    assert str(error.value).startswith(f"record 'bad': {named}")


@pytest.mark.parametrize(
    "option", ["learning_rate=x", "max_steps=1.5", "bf16=maybe", "optim=foo", "lr_scheduler_type=foo", "debug=foo"]
)
def test_a_value_of_another_type_or_choice_is_one_line_and_code_2(command, capfd, option):
    name, value = option.split("=")
    with pytest.raises(SystemExit) as end:
        train(command("stage2", **{name: value}))
    assert end.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: argument ")
    assert name in line


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"bf16": True, "fp16": True}, "fp16"),
        ({"accelerator_config": "/none.json"}, "/none.json"),
        ({"accelerator_config": '{"foo": 1}'}, "foo"),
        ({"optim": "lomo"}, "lomo"),
        ({"optim_args": "x"}, "unpack"),
        ({"report_to": "foo"}, "foo"),
        ({"fsdp": "full_shard"}, "fsdp"),
        ({"save_strategy": "best"}, "best"),
        ({"dataloader_persistent_workers": True}, "persistent_workers"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 1000}, "--dataloader_drop_last"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"lr_scheduler_kwargs": '{"foo": 1}'}, "foo"),
        ({"lr_scheduler_type": "polynomial", "max_steps": 1, "warmup_steps": 1}, "division by zero"),
        ({"torch_compile_backend": "foo"}, "FOO"),
    ],
)
def test_what_transformers_refuses_is_one_line_before_the_first_step(command, options, cause):
    losses = Losses()
    with pytest.raises(InputError) as error:
        train(command("stage1", **options), [losses])
    assert cause in str(error.value)
    assert "\n" not in str(error.value)
    assert losses.values == []


def test_help_says_what_an_option_takes_and_what_it_is_by_default(capsys):
    with pytest.raises(SystemExit) as end:
        train(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for said in ("learning rate of the projector", "float16, bfloat16 or float32 (default: float16)"):
        assert said in text
    assert "{linear,cosine," in text  # an option of transformers' Trainer


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--output_dirr", "x"], "unrecognized arguments: --output_dirr"),
        (["--learning-rat=1"], "--output_dir is needed"),
        ([], "--output_dir is needed"),
        (["--output_dir", "x", "--data_path", "y"], "--model_name_or_path is needed"),
    ],
)
def test_a_mistyped_or_missing_option_is_named(args, named):
    with pytest.raises(InputError, match=named):
        train(args)
