"""Values of the training options that cannot be meant: each is refused in one line that names the option."""

import pytest

from llava.errors import InputError
from llava.train.train import train
from tests.train.conftest import Losses

BEFORE_LOADING = [
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


@pytest.mark.parametrize(("name", "value", "cause"), BEFORE_LOADING)
def test_a_bad_value_is_refused_before_the_model_is_loaded(command, monkeypatch, name, value, cause):
    monkeypatch.setattr("llava.train.build.TrainingPlan.build", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError) as error:
        train(command("stage2", **{name: value}))
    assert cause in str(error.value)
    assert name in str(error.value) or name == "output_dir"
    assert "\n" not in str(error.value)


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


def test_a_whole_checkpoint_as_the_projector_is_refused_in_a_short_line(command, starting_point):
    with pytest.raises(InputError, match="does not fit the model") as error:
        train(command("stage2", pretrain_mm_mlp_adapter=starting_point / "vicuna" / "model.safetensors"))
    assert len(str(error.value)) < 800


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
