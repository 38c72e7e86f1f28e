"""Many benchmarks and settings in one run: the answers of single runs, one model, and how it ends."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest

from llava.errors import InputError
from llava.eval import __main__ as command
from llava.eval import evaluate
from llava.model import builder
from llava.pruning import Settings
from playground.tiny import benchmarks
from tests.conftest import load
from tests.eval.conftest import METHOD, assert_one_line, table_of, texts

SEEDED = ("n_4_seed_1", "n_4_seed_2")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A few questions of every benchmark, in its own files."""
    folder = tmp_path_factory.mktemp("scenes")
    benchmarks.write(folder, 0.03)
    return folder


@pytest.fixture
def options(checkpoints, pope, tmp_path) -> list:
    return [
        *("--model-path", checkpoints(), "--device", "cpu", "--data-dir", pope.parent, "--out-dir", tmp_path / "out"),
        *("--max_new_tokens", 3),
    ]


def answer_file(out: Path, name: str, folder: str) -> Path:
    (file,) = out.glob(f"{name}/answers/*/{folder}/merge.jsonl")
    return file


def errors(err: str) -> list[str]:
    """What is named as failed, beside the bars of progress."""
    return re.findall(r"^error: (.*?)(?:: .*)?$", err.replace("\r", "\n"), re.MULTILINE)


@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
def test_answers_settings_and_scores_are_those_of_single_runs(call, checkpoints, scenes, tmp_path, version):
    options = ["--model-path", checkpoints(version), "--device", "cpu", "--data-dir", scenes, "--max_new_tokens", 3]
    methods, budgets, positions = ["vispruner", "none", "fastv", "mmtok"], [16, 4], ["renumbered", "original"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    grid = ["--visual_token_num", *budgets, "--pruning_method", *methods, "--positions", *positions]
    assert call(command, "pope", "sqa", *options, "--out-dir", together, *grid)[0] == 0
    for name in ("pope", "sqa"):
        for method in methods:
            for budget, own in itertools.product(budgets, positions):
                single = ["--visual_token_num", budget, "--pruning_method", method, "--out-dir", alone]
                assert call(command, name, *options, *single, "--positions", own, "--batch-size", 3)[0] == 0
    files = sorted(file.relative_to(alone) for file in alone.rglob("merge.jsonl"))
    assert len(files) == 2 * (7 + 4)  # not of none and fastv, whose answers the positions do not change
    assert sum("_original/" in str(file) for file in files) == 2 * 4
    for file in files:
        assert texts(together / file) == texts(alone / file)
        for kind in ("settings", "score", "items"):
            both = [(out / file).with_suffix(f".{kind}.json").read_text() for out in (together, alone)]
            assert both[0] == both[1]
    assert len({tuple(texts(alone / file)) for file in files if file.parts[0] == "pope"}) > 3


def test_the_model_is_loaded_once_and_each_picture_encoded_once(checkpoints, pope, tmp_path, monkeypatch):
    crops, loads = [], []

    def load_and_watch(*args, load_model=builder.load_pretrained_model, **options):
        loaded = load_model(*args, **options)
        tower = loaded[1].get_vision_tower()
        monkeypatch.setattr(
            tower, "encode", lambda pixels, real=tower.encode: crops.append(len(pixels)) or real(pixels)
        )
        loads.append(loaded)
        return loaded

    monkeypatch.setattr(builder, "load_pretrained_model", load_and_watch)
    shutil.copytree(pope, tmp_path / "more" / "pope")
    options = {"visual_token_num": [16, 8, None], "pruning_method": ["vispruner", "divprune"], "max_new_tokens": 1}
    results = evaluate(["pope"], checkpoints(), data_dir=pope.parent, out_dir=tmp_path / "out", **options)
    assert [(len(loads), sum(crops))] == [(1, 2)]
    settings = [(result.pruning.pruning_method, result.pruning.visual_token_num) for result in results]
    assert settings == [(method, n) for method in ("vispruner", "divprune") for n in (16, 8, None)]
    assert {result.answers_file.parts[-3] for result in results} == {"n_16", "n_8", "n_all"}


def test_python_gives_one_result_for_one_and_a_list_for_lists(checkpoints, pope):
    loaded, options = load(checkpoints()), {"data_dir": pope.parent, "max_new_tokens": 2}
    one = evaluate("pope", loaded, visual_token_num=16, **options)
    assert one.pruning == Settings(16)
    (listed,) = evaluate("pope", loaded, visual_token_num=[16], **options)
    (named,) = evaluate(["pope"], loaded, visual_token_num=16, **options)
    assert one.scores == listed.scores == named.scores
    both = evaluate("pope", loaded, visual_token_num=16, important_ratio=(0.0, 1.0), **options)
    assert [result.pruning.important_ratio for result in both] == [0.0, 1.0]


def test_what_a_method_does_not_read_is_asked_once(call, options, tmp_path):
    grid = ["--visual_token_num", 16, 8, "--important_ratio", 0.2, 0.8, "--pruning_method", "none", "visionzip"]
    assert call(command, "pope", *options, *grid)[0] == 0
    answered = sorted("/".join(file.parts[-4:-1]) for file in (tmp_path / "out").rglob("merge.jsonl"))
    folder = options[1].name
    assert answered == [f"{folder}-none/n_all/r_0.2", f"{folder}-visionzip/n_16/r_0.2", f"{folder}-visionzip/n_8/r_0.2"]


def test_seeds_have_folders_of_their_own_where_they_are_read(call, options, tmp_path):
    grid = ["--visual_token_num", 4, "--pruning_method", "random", "fastervlm", "--pruning_seed", 0, 1, 2]
    code, said, _ = call(command, "pope", *options, *grid)
    assert code == 0
    folder = options[1].name
    of_random = [answer_file(tmp_path / "out", "pope", f"{folder}-random/{n}/r_0.5") for n in ("n_4", *SEEDED)]
    assert len({tuple(texts(file)) for file in of_random}) == 3
    assert len(list((tmp_path / "out").rglob("merge.jsonl"))) == 4
    rows = table_of(said)[1:]
    assert [row[:2] for row in rows] == [["random", "4"], ["fastervlm", "4"]]
    assert [" ± " in row[3] for row in rows] == [True, False]
    single = ["--visual_token_num", 4, "--pruning_method", "random", "--out-dir", tmp_path / "alone"]
    assert call(command, "pope", *options, *single, "--pruning_seed", 2)[0] == 0
    assert texts(answer_file(tmp_path / "alone", "pope", f"{folder}-random/n_4_seed_2/r_0.5")) == texts(of_random[2])
    assert Settings(4, pruning_method="fastervlm", pruning_seed=2).suffix == ""


def test_baselines_stand_in_the_table_with_the_tokens_that_they_keep(call, options, tmp_path):
    grid = ["--visual_token_num", 23, 16, "--pruning_method", "blind", "none", "pool", "dart", "vispruner"]
    code, said, _ = call(command, "pope", *options, *grid)
    assert code == 0
    rows = [tuple(row[:2]) for row in table_of(said)[1:]]
    kept = {"blind": "0", "none": "144", "pool": "20 16", "dart": "20 12", "vispruner": "23 16"}
    assert set(rows) == {(name, number) for name, numbers in kept.items() for number in numbers.split()}
    blind = answer_file(tmp_path / "out", "pope", f"{options[1].name}-blind/n_all/r_0.5")
    assert json.loads(blind.with_suffix(".run.json").read_text())["kept"] == 0
    read = json.loads(blind.with_suffix(".settings.json").read_text())
    assert read["visual_token_num"] is read["important_ratio"] is None
    before = blind.stat().st_mtime_ns
    assert call(command, "pope", *options, "--pruning_method", "blind", "--visual_token_num", 3)[0] == 0
    assert blind.stat().st_mtime_ns == before  # whatever the budget, they are the same answers


def test_a_suite_goes_on_from_single_runs_and_names_what_it_cannot(call, caplog, options, tmp_path):
    out = tmp_path / "out"
    for budget in (16, 8, 4):
        assert call(command, "pope", *options, "--visual_token_num", budget)[0] == 0
    whole = {folder: answer_file(out, "pope", f"*/{folder}/r_0.5") for folder in ("n_16", "n_8", "n_4")}
    expected = {folder: texts(file) for folder, file in whole.items()}
    lines = whole["n_8"].read_text().splitlines(keepends=True)
    whole["n_8"].write_text("".join(lines[:2]) + lines[2][:20])
    settings = whole["n_4"].with_suffix(".settings.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"llava": "0.0.1"}))
    before = whole["n_16"].read_bytes()
    code, said, err = call(command, "pope", *options, "--visual_token_num", 16, 8, 4, 2)
    assert code == 2
    assert errors(err) == ["pope, vispruner at 4 visual tokens"]
    assert "llava '0.0.1' is now" in err
    assert said.count("Mean F1") == 3
    assert {folder: texts(file) for folder, file in whole.items()} == expected
    assert whole["n_16"].read_bytes() == before
    assert "2 of 6 questions are answered already" in caplog.text
    assert len(texts(answer_file(out, "pope", "*/n_2/r_0.5"))) == 6


def test_a_benchmark_that_fails_does_not_stop_the_next(call, options, pope, scenes):
    shutil.copytree(scenes / "gqa", pope.parent / "gqa")
    shutil.copytree(scenes / "mme" if (scenes / "mme").exists() else scenes / "MME", pope.parent / "MME")
    (pope / "val2014" / "1.png").write_bytes(b"")
    names = ["pope", "vizwiz", "gqa", "mme"]
    code, said, err = call(command, *names, *options, "--skip-missing", "--visual_token_num", 16, 8)
    assert code == 2
    assert errors(err) == ["pope"]
    assert "1.png" in err
    assert "skipped, its data is not there: vizwiz" in said
    header, *rows = table_of(said)
    assert header == ["checkpoint", "tokens", "ratio", "GQA", "MME-P", "MME-C"][: len(header)]
    assert [row[1] for row in rows] == ["16", "8"]


def test_a_suite_of_nothing_is_no_success(call, options, tmp_path):
    for names in (["vizwiz", "gqa"], ["vizwiz"]):
        code, said, err = call(command, *names, *options, "--skip-missing", "--visual_token_num", 16, 8)
        assert code == 3
        assert [f"skipped, its data is not there: {name}" for name in names] == said.splitlines()
        assert errors(err) == ["no benchmark was answered"]
    assert not (tmp_path / "out").exists()
    for nothing in ({"name": []}, {"name": "pope", "visual_token_num": []}):
        with pytest.raises(InputError, match="nothing to evaluate"):
            evaluate(model=options[1], **nothing)


def test_an_error_that_is_nobody_s_input_is_told_and_the_exit_code_is_1(
    call, caplog, options, monkeypatch, scenes, pope
):
    shutil.copytree(scenes / "gqa", pope.parent / "gqa")
    monkeypatch.setattr("llava.model.encode.select", lambda *_: 1 / 0)
    code, _, err = call(command, "pope", "gqa", *options, "--visual_token_num", 8)
    assert code == 1
    assert "ZeroDivisionError" in caplog.text
    assert "error: pope: " in err
    assert "error: gqa: " in err


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["coco"], "there is no benchmark 'coco'"),
        (["pope", "coco"], "there is no benchmark 'coco'"),
        (["pope", "gqa"], "gqa"),
        (["pope", "--visual_token_num", "64", "many"], "--visual_token_num"),
        (["pope", "--visual_token_num", "128", "0"], "--visual_token_num"),
        (["pope", "--visual_token_num", "-64"], "--visual_token_num"),
        (["pope", "--visual_token_num", "128,64"], "--visual_token_num"),
        (["pope", "--important_ratio", "0.5", "1.5"], "--important_ratio"),
        (["pope", "--important_ratio", "half"], "--important_ratio"),
        (["pope", "--pruning_method", "random", "tome"], "--pruning_method"),
        (["pope", "--pruning_method", "none.py"], "argument --pruning_method: there is no file none.py"),
        (["pope", "--pruning_method", "random", "/nowhere/mine.py"], "/nowhere/mine.py"),
        (["pope", "--model-path", "/nowhere", "--visual_token_num", "8", "4"], "/nowhere"),
    ],
)
def test_wrong_arguments_are_named(call, options, tmp_path, args, named):
    code, _, err = call(command, *args, *options) if "/nowhere" not in args else call(command, *options, *args)
    assert code == 2
    assert len(errors(err)) == 1
    assert named in err
    if args != ["pope", "gqa"]:
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("one", "other"), [("a/mine.py", "b/mine.py"), ("a/random.py", "vispruner")])
def test_methods_that_would_share_a_folder_are_refused(call, options, tmp_path, one, other):
    for name in {one, other} - {"vispruner"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(METHOD)
    methods = [name if name == "vispruner" else tmp_path / name for name in (one, other)]
    assert_one_line(call(command, "pope", *options, "--pruning_method", *methods), "another method is called")


def test_each_method_is_a_row_at_each_budget_below_the_unpruned_model(call, options, tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    methods = ["--pruning_method", "vispruner", "none", tmp_path / "mine.py"]
    code, said, err = call(command, "all", "--skip-missing", *options, "--visual_token_num", 16, 8, *methods)
    assert code == 0, err
    header, *rows = table_of(said)
    assert header == ["method", "tokens", "ratio", "POPE F1"]
    budgets = [(name, n) for name in ("vispruner", "mine") for n in ("16", "8")]
    assert [tuple(row[:2]) for row in rows] == [("none", "144"), *budgets]
    assert "skipped, its data is not there: gqa" in said
    written = {path.name for path in (tmp_path / "out" / "summary" / "methods").iterdir()}
    assert written >= {"scores.md", "scores.csv", "differences.md", "differences.csv"}
    assert all(row[3].partition("]")[2].strip() in "↑↓≈" for row in rows if row[0] == "mine")
    assert all(re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]( .)?", row[3]) for row in rows)
    answered = {path.name for path in (tmp_path / "out" / "pope" / "answers" / "llava_pope_test").iterdir()}
    name = options[1].name
    assert answered == {name, f"{name}-none", f"{name}-mine"}


SCORED = {
    "gqa": {"accuracy", "structural", "semantic"},
    "sqa": {"accuracy", "image_accuracy"},
    "textvqa": {"accuracy"},
    "pope": {"mean_f1", "categories"},
    "mme": {"perception", "cognition", "categories"},
    "mmbench": {"accuracy"},
    "mmbench_cn": {"accuracy"},
    "seed": {"accuracy"},
}
TO_SUBMIT = {
    "vqav2": "merge.upload.json",
    "gqa": "testdev_balanced_predictions.json",
    "vizwiz": "merge.upload.json",
    "mmbench": "merge.xlsx",
    "mmbench_cn": "merge.xlsx",
    "mmvet": "merge.upload.json",
    "seed": "merge.upload.jsonl",
}


@pytest.mark.parametrize(
    ("version", "crops"), [("v1.5", None), pytest.param("v1.6", "[[672, 672]]", marks=pytest.mark.slow)]
)
def test_every_benchmark_runs_end_to_end(call, checkpoints, scenes, tmp_path, version, crops):
    folder = checkpoints(version)
    options = ["--model-path", folder, "--device", "cpu", "--data-dir", scenes, "--out-dir", tmp_path]
    if crops:
        options += ["--mm_patch_merge_type", "spatial", "--image_grid_pinpoints", crops]
    code, said, err = call(command, "all", *options, "--visual_token_num", 8, "--batch-size", 4)
    assert code == 0, err

    def result(name: str, file: str) -> Path:
        (path,) = (tmp_path / name / "answers").glob(f"*/{folder.name}/n_8/r_0.5/{file}")
        return path

    for name, keys in SCORED.items():
        assert json.loads(result(name, "merge.score.json").read_text()).keys() >= keys
    for name, file in TO_SUBMIT.items():
        assert result(name, file).stat().st_size
    settings = json.loads(result("pope", "merge.settings.json").read_text())
    assert (settings["conv_mode"], settings["image_grid_pinpoints"]) == ("vicuna_v1", crops)
    assert folder.name in (tmp_path / "summary" / "scores.md").read_text()
    assert (tmp_path / "summary" / "scores.png").stat().st_size
    upload = json.loads(result("vizwiz", "merge.upload.json").read_text())
    questions = (scenes / "vizwiz" / "llava_test.jsonl").read_text().splitlines()
    assert [row["image"] for row in upload] == [json.loads(line)["image"] for line in questions]
    assert f"to submit: {result('vizwiz', 'merge.upload.json')}" in said


def test_without_openpyxl_mmbench_is_refused_before_anything_is_answered(
    call, checkpoints, scenes, tmp_path, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    options = ["--model-path", checkpoints(), "--device", "cpu", "--data-dir", scenes, "--out-dir", tmp_path / "out"]
    assert_one_line(call(command, "mmbench", *options), "pip install -e '.[eval]'")
    assert not (tmp_path / "out").exists()


def test_answers_of_other_settings_are_kept_unless_they_are_to_be_overwritten(call, make_checkpoint, options):
    assert call(command, "pope", *options, "--visual_token_num", 16)[0] == 0
    other = make_checkpoint()
    config = json.loads((other / "config.json").read_text()) | {"image_aspect_ratio": "square"}
    (other / "config.json").write_text(json.dumps(config))
    changed = [*options, "--model-path", other, "--visual_token_num", 16]
    assert_one_line(call(command, "pope", *changed), f"made with other settings: checkpoint '{other.name} ")
    assert call(command, "pope", *changed, "--overwrite")[0] == 0
