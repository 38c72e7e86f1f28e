"""A benchmark from Python and by `python -m llava.eval`."""

import json

import pytest

import llava.eval.__main__ as command
from llava.errors import InputError
from llava.eval import evaluate
from llava.eval.benchmarks import all_benchmarks
from llava.eval.evaluation import BUNDLED_MODEL
from tests.conftest import ROOT, load
from tests.eval.conftest import assert_one_line, texts
from tests.recipes import run_python


def test_a_path_what_was_loaded_and_the_model_alone_give_one_result(checkpoints, pope, tmp_path):
    options = {"visual_token_num": 16, "data_dir": pope.parent, "max_new_tokens": 4}
    by_path = evaluate("pope", checkpoints(), out_dir=tmp_path, **options)
    loaded = load(checkpoints())
    for model in (loaded, loaded[1]):
        result = evaluate("pope", model, **options)
        assert texts(result.answers_file) == texts(by_path.answers_file)
        assert (result.score, result.scores) == (by_path.score, by_path.scores)
        assert tmp_path not in result.answers_file.parents
    assert float(by_path) == by_path.scores["mean_f1"]
    assert (by_path.metric, by_path.unit) == ("mean_f1", "%")


def test_the_bundled_model_gets_the_score_of_the_table(tmp_path):
    assert evaluate("pope", BUNDLED_MODEL, visual_token_num=8, out_dir=tmp_path).score == pytest.approx(87.0, abs=1.5)


def test_the_budget_of_a_call_leaves_the_model_s_own(checkpoints, pope):
    loaded = load(checkpoints())
    loaded[1].visual_token_num = 32
    evaluate("pope", loaded, visual_token_num=8, data_dir=pope.parent, max_new_tokens=2)
    assert loaded[1].visual_token_num == 32


def test_without_public_labels_there_is_a_file_to_submit_and_no_figure(checkpoints, tmp_path):
    data = ROOT / "playground" / "data" / "scenes"
    result = evaluate("mmvet", checkpoints(), data_dir=data, out_dir=tmp_path, visual_token_num=4, max_new_tokens=2)
    assert (result.score, result.scores) == (None, None)
    assert len(json.loads(result.submission.read_text())) == 30
    with pytest.raises(TypeError, match="submit"):
        float(result)


def test_python_refuses_what_the_command_refuses(checkpoints, tmp_path):
    with pytest.raises(InputError, match="no benchmark 'coco'"):
        evaluate("coco", checkpoints())
    with pytest.raises(InputError, match=r"llava_pope_test\.jsonl is missing"):
        evaluate("pope", checkpoints(), data_dir=tmp_path)
    with pytest.raises(ValueError, match="tome"):
        evaluate("pope", checkpoints(), pruning_method="tome")
    for options in ({"temperature": -1}, {"num_beams": 0}, {"max_new_tokens": 0}):
        with pytest.raises(
            InputError, match="temperature must be a number of at least 0, num_beams and max_new_tokens"
        ):
            evaluate("pope", checkpoints(), **options)


def test_answers_of_another_decoding_are_not_gone_on_from(checkpoints, pope, tmp_path):
    options = {"data_dir": pope.parent, "out_dir": tmp_path, "visual_token_num": 8, "max_new_tokens": 2}
    greedy = evaluate("pope", checkpoints(), **options)
    assert texts(evaluate("pope", checkpoints(), **options).answers_file) == texts(greedy.answers_file)
    for decoding, named in (
        ({"temperature": 0.7}, "temperature 0 is now 0.7"),
        ({"num_beams": 2}, "num_beams 1 is now 2"),
    ):
        with pytest.raises(InputError, match=named):
            evaluate("pope", checkpoints(), **options, **decoding)


def test_python_samples_at_a_temperature(checkpoints, pope):
    loaded = load(checkpoints())
    options = {"data_dir": pope.parent, "visual_token_num": 8, "max_new_tokens": 8}
    sampled, greedy = evaluate("pope", loaded, **options, temperature=5.0), evaluate("pope", loaded, **options)
    assert texts(sampled.answers_file) != texts(greedy.answers_file)


def test_a_model_that_knows_no_path_needs_its_tokenizer(checkpoints, pope):
    loaded = load(checkpoints())
    loaded[1].config.name_or_path = ""
    options = {"data_dir": pope.parent, "visual_token_num": 8, "max_new_tokens": 2}
    assert evaluate("pope", loaded, **options).answers_file.parts[-4] == "model"
    with pytest.raises(InputError, match="name_or_path of the model is empty"):
        evaluate("pope", loaded[1], **options)


def test_the_command_lists_the_benchmarks(call):
    code, out, _ = call(command)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [benchmark.name for benchmark in all_benchmarks()]


def test_an_unpruned_model_has_one_folder_whatever_the_budget(call, checkpoints, pope, tmp_path):
    options = ["--model-path", checkpoints(), "--device", "cpu", "--data-dir", pope.parent, "--out-dir", tmp_path]
    for budget in (8, 16):
        code, out, _ = call(command, "pope", *options, "--pruning_method", "none", "--visual_token_num", budget)
        assert code == 0
        assert f"{checkpoints().name}-none/n_all/r_0.5/merge.jsonl" in out
    (run,) = tmp_path.glob("pope/answers/*/*/*/*/merge.run.json")
    assert json.loads(run.read_text())["kept"] == 144


def test_a_budget_per_image_has_answers_of_its_own(call, checkpoints, pope, tmp_path):
    options = ["--model-path", checkpoints("v1.6"), "--device", "cpu", "--data-dir", pope.parent]
    options += ["--out-dir", tmp_path, "--visual_token_num", 24, "--max_new_tokens", 2]
    for per, folder in (("crop", "n_24"), ("image", "n_24_per_image")):
        assert call(command, "pope", *options, "--budget_per", per)[0] == 0
        (run,) = tmp_path.glob(f"pope/answers/*/*/{folder}/r_0.5/merge.run.json")
        assert {"kept": 24, "budget_per": per}.items() <= json.loads(run.read_text()).items()
        settings = json.loads(run.with_name("merge.settings.json").read_text())
        assert settings["budget_per"] == per
    # In the place of the others they would be refused.
    (per_crop,) = tmp_path.glob("pope/answers/*/*/n_24/r_0.5")
    (per_image,) = tmp_path.glob("pope/answers/*/*/n_24_per_image/r_0.5")
    for name in ("merge.jsonl", "merge.settings.json"):
        (per_image / name).write_bytes((per_crop / name).read_bytes())
    assert_one_line(call(command, "pope", *options, "--budget_per", "image"), "budget_per 'crop' is now 'image'")
    assert_one_line(
        call(command, "pope", *options, "--budget_per", "image", "--pruning_method", "fastv"),
        "budget_per: fastv cannot choose among all crops of an image",
    )


def test_another_template_than_the_checkpoint_s_is_named(call, checkpoints, pope, tmp_path, caplog):
    options = ["--model-path", checkpoints("v1.5", "mistral"), "--device", "cpu", "--data-dir", pope.parent]
    options += ["--out-dir", tmp_path, "--visual_token_num", 8, "--max_new_tokens", 2]
    assert call(command, "pope", *options)[0] == 0
    (recorded,) = tmp_path.glob("pope/answers/*/*/*/*/merge.settings.json")
    assert json.loads(recorded.read_text())["conv_mode"] == "mistral_instruct"
    assert "conv-mode" not in caplog.text
    assert call(command, "pope", *options, "--conv-mode", "llava_v1", "--overwrite")[0] == 0
    assert "conv-mode llava_v1 is not the template of" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["-m", "llava.eval", "--help"],
        ["-m", "llava.eval", "pope", "--tokens", "8"],
        ["-m", "llava.eval", "pope", "--temperature", "-1"],
        ["-m", "llava.eval", "pope", "--batch-size", "0"],
        ["-m", "llava.eval", "pope", "--max_new_tokens", "0"],
        ["-m", "llava.eval", "pope", "--conv-mode", "unknown"],
        ["-m", "llava.eval.model_vqa", "--help"],
        ["-m", "llava.eval.model_vqa_loader", "--tokens", "8"],
        ["-m", "llava.eval.model_vqa_mmbench", "--help"],
        ["-m", "llava.eval.model_vqa_science", "--help"],
        ["-m", "llava.eval.eval_mmbench", "--help"],
        ["-m", "llava.eval.run.answers", "--help"],
        ["-m", "llava.eval.budget", "--help"],
        ["scripts/collect_scores.py", "--help"],
        ["scripts/convert_vqav2_for_submission.py", "--help"],
        ["scripts/convert_mmbench_for_submission.py", "--help"],
    ],
)
def test_options_are_read_without_torch(words):
    """Imports, not seconds: a busy machine is slow whatever is imported."""
    done = run_python("-X", "importtime", *words)
    assert done.returncode == (0 if "--help" in words else 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "llava.errors" in imported
    assert not imported & {"torch", "transformers", "pandas", "matplotlib"}
