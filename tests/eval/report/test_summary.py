"""The table of a folder of answers."""

import csv
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava.eval.report import summary
from tests.eval.conftest import assert_one_line, table_of

SPLIT = "dev"


@pytest.fixture
def save(tmp_path):
    """Lay down a run's folder with the files named, each with its content as JSON; returns the folder."""

    def write(benchmark: str, tokens: int, files: dict, checkpoint="llava-a", ratio="0.5", split=SPLIT) -> Path:
        folder = tmp_path / benchmark / "answers" / split / checkpoint / f"n_{tokens}" / f"r_{ratio}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        return folder

    return write


def score(**values) -> dict:
    return {"merge.jsonl": {}, "merge.score.json": values}


def test_each_benchmark_gives_its_headline_in_the_order_of_the_suite(save, collect):
    save("seed", 64, score(accuracy=60.55, samples=9))
    save("mmbench_cn", 64, score(accuracy=50))
    save("mmbench", 64, score(accuracy=61.0))
    save("mme", 64, score(perception=1500.25, cognition=300.0, categories={}))
    save("pope", 64, score(mean_f1=85.949, categories={}))
    save("textvqa", 64, score(accuracy=58.0))
    save("sqa", 64, score(accuracy=10.0, image_accuracy=70.0))
    save("gqa", 64, score(accuracy=62.0))
    save("vqav2", 64, score(accuracy=78.0))
    code, out, err = collect()
    assert (code, err) == (0, "")
    header, row = table_of(out)
    assert header[3:] == ["VQAv2", "GQA", "SQA-I", "TextVQA", "POPE F1", "MME-P", "MME-C", "MMB", "MMB-CN", "SEED"]
    assert row[3:] == ["78.0", "62.0", "70.0", "58.0", "85.9", "1500.2", "300.0", "61.0", "50.0", "60.5"]


def test_a_budget_per_image_is_a_row_of_its_own_and_says_so(save, tmp_path, collected):
    save("pope", 64, score(mean_f1=80.0))
    save("pope", "64_per_image", score(mean_f1=70.0) | {"merge.run.json": {"kept": 64, "budget_per": "image"}})
    save("pope", "64_per_image", score(mean_f1=60.0), ratio="0.25")
    out = collected("--tokens", 64)
    assert table_of(out)[1:] == [
        ["llava-a", "64 per image", "0.25", "60.0"],
        ["llava-a", "64", "0.5", "80.0"],
        ["llava-a", "64 per image", "0.5", "70.0"],
    ]
    assert "of each crop. Per image: of all crops of a picture together." in out
    with (tmp_path / "summary" / "scores.csv").open(newline="") as file:
        assert [row["tokens"] for row in csv.DictReader(file)] == ["64 per image", "64", "64 per image"]


def test_a_row_is_a_checkpoint_a_number_of_tokens_and_a_ratio_and_what_is_missing_is_a_dash(save, collected):
    save("pope", 128, score(mean_f1=80.0))
    save("pope", 64, score(mean_f1=0.0))
    save("pope", 64, score(mean_f1=79.0), ratio="0.25")
    save("gqa", 64, score(accuracy=60.0))
    save("mme", 64, score(perception=900.0, cognition=None))
    save("gqa", 576, score(accuracy=61.0), checkpoint="llava-b")
    out = collected()
    assert table_of(out) == [
        ["checkpoint", "tokens", "ratio", "GQA", "POPE F1", "MME-P"],
        ["llava-a", "128", "0.5", "–", "80.0", "–"],
        ["llava-a", "64", "0.25", "–", "79.0", "–"],
        ["llava-a", "64", "0.5", "60.0", "0.0", "900.0"],
        ["llava-b", "576", "0.5", "61.0", "–", "–"],
    ]


def test_the_files_say_what_is_printed(save, tmp_path, collected):
    save("pope", 64, score(mean_f1=85.94999))
    save("mme", 64, score(perception=1500.0, cognition=300.0))
    save("pope", 32, score(mean_f1=70))
    out = collected()
    summary = tmp_path / "summary"
    assert (summary / "scores.md").read_text() == out
    with (summary / "scores.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["checkpoint", "tokens", "ratio", "benchmark", "metric", "value"],
        ["llava-a", "64", "0.5", "pope", "mean_f1", "85.95"],
        ["llava-a", "64", "0.5", "mme", "perception", "1500.0"],
        ["llava-a", "64", "0.5", "mme", "cognition", "300.0"],
        ["llava-a", "32", "0.5", "pope", "mean_f1", "70"],
    ]
    assert sorted(path.name for path in summary.iterdir()) in (
        ["scores.csv", "scores.md"],  # without matplotlib
        ["scores.csv", "scores.md", "scores.png"],
    )


def test_what_has_no_local_score_is_listed_by_its_file(save, collected):
    save("pope", 64, score(mean_f1=80.0))
    workbook = save("mmbench", 64, score(accuracy=60.0) | {"merge.xlsx": {}})
    folders = [save(name, 64, {"merge.jsonl": {}, "merge.upload.json": {}}) for name in ("vqav2", "vizwiz", "mmvet")]
    out = collected()
    assert table_of(out)[0][3:] == ["POPE F1", "MMB"]
    assert [str(folder / "merge.upload.json") in out for folder in folders] == [True] * 3
    assert str(workbook) not in out


def test_one_checkpoint_and_some_numbers_of_tokens_can_be_asked_for(save, tmp_path, collect, collected):
    for tokens in (128, 64, 32):
        for checkpoint in ("llava-a", "llava-b"):
            save("gqa", tokens, score(accuracy=tokens / 2), checkpoint=checkpoint)
    output = tmp_path / "elsewhere"
    out = collected("--checkpoint", "someone/llava-b", "--tokens", 32, 128, "--output", output)
    assert table_of(out)[1:] == [["llava-b", "128", "0.5", "64.0"], ["llava-b", "32", "0.5", "16.0"]]
    assert (output / "scores.md").read_text() == out
    assert not (tmp_path / "summary").exists()
    assert_one_line(collect("--checkpoint", "llava-c"), "of that checkpoint")


def test_two_splits_of_a_benchmark_are_two_columns(save, collected):
    save("vqav2", 64, score(accuracy=70.0), split="val")
    save("vqav2", 64, score(accuracy=60.0), split="minival")
    out = collected()
    assert table_of(out) == [
        ["checkpoint", "tokens", "ratio", "VQAv2 (minival)", "VQAv2 (val)"],
        ["llava-a", "64", "0.5", "60.0", "70.0"],
    ]


def test_a_bad_score_file_is_named_and_the_others_are_still_collected(save, collect):
    save("pope", 64, score(mean_f1=80.0))
    folder = save("gqa", 64, {"merge.jsonl": {}})
    file = folder / "merge.score.json"
    for content, says in (
        (None, f"no {file}: its answers are not scored"),
        ("{", f"{file} is not JSON"),
        ("{}", f"{file}: no accuracy"),
        ('{"accuracy": "high"}', f"{file}: accuracy is 'high'"),
        ('{"accuracy": NaN}', f"{file}: accuracy is nan"),
    ):
        if content:
            file.write_text(content)
        code, out, err = collect()
        assert code == 2
        assert says in err
        assert err.count("\n") == 1
        assert table_of(out) == [["checkpoint", "tokens", "ratio", "POPE F1"], ["llava-a", "64", "0.5", "80.0"]]


def test_nothing_to_collect_is_one_line(save, call, tmp_path, collect):
    folder = save("pope", 64, {})
    (folder / "merge.parts").mkdir()  # answering has begun
    assert_one_line(collect(), f"no scores or files for submission below {tmp_path}")
    assert_one_line(call(summary, "--out-dir", tmp_path / "nowhere"), str(tmp_path / "nowhere"))
    assert_one_line(call(summary), "--out-dir")
    assert_one_line(call(summary, "--out-dir", "x" * 5000), "File name too long")
    assert_one_line(call(summary, "--out-dir", tmp_path, "--methods", "my\nown.py"), "own.py")
    assert not (tmp_path / "summary").exists()


def test_without_matplotlib_the_table_is_written_and_one_line_names_the_extra(
    save, tmp_path, monkeypatch, caplog, collected
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    save("pope", 64, score(mean_f1=80.0))
    out = collected()
    assert "80.0" in out
    assert [record.message.count("[eval]") for record in caplog.records] == [1]
    assert sorted(path.name for path in (tmp_path / "summary").iterdir()) == ["scores.csv", "scores.md"]


def test_the_picture_grows_with_the_number_of_benchmarks(save, tmp_path, collected):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "summary" / "scores.png"
    for tokens in (128, 64, 32):
        save("pope", tokens, score(mean_f1=80.0))
    collected()
    one = Image.open(picture).size
    for benchmark in ("gqa", "textvqa", "mmbench", "mmbench_cn", "seed"):
        save(benchmark, 64, score(accuracy=50.0))
    collected()
    six = Image.open(picture).size
    assert six[0] == 3 * one[0]
    assert six[1] > 1.5 * one[1]


def test_an_unpruned_model_is_not_tabulated_under_a_budget(save, collect, collected):
    """Not at the budget it was called with, whether its folder is n_all or, of an earlier release, n_8."""
    save("pope", 8, score(mean_f1=96.0) | {"merge.settings.json": {"pruning_method": "none"}}, checkpoint="old-none")
    save("pope", "all", score(mean_f1=95.0) | {"merge.run.json": {"kept": 144}}, checkpoint="new-none")
    out = collected()
    assert table_of(out)[1:] == [["new-none", "144", "0.5", "95.0"], ["old-none", "all", "0.5", "96.0"]]
    assert_one_line(collect("--tokens", 8), "no scores")


def test_a_budget_beyond_the_picture_is_tabulated_as_what_was_kept(save, collected):
    save("pope", 2000, score(mean_f1=96.0) | {"merge.run.json": {"kept": 144}})
    out = collected()
    assert table_of(out)[1] == ["llava-a", "144", "0.5", "96.0"]


def test_methods_of_one_checkpoint_are_rows_in_the_order_asked_for(save, tmp_path, collect, collected):
    save("pope", "all", score(mean_f1=96.0) | {"merge.run.json": {"kept": 144}}, checkpoint="llava-a-none")
    for tokens in (32, 8, 4):
        save("pope", tokens, score(mean_f1=50 + tokens))
        save("pope", tokens, score(mean_f1=40 + tokens), checkpoint="llava-a-mine")
        save("gqa", tokens, score(accuracy=tokens), checkpoint="llava-a-mine")
        save("pope", tokens, score(mean_f1=0), checkpoint="llava-a-random")
        save("pope", tokens, score(mean_f1=0), checkpoint="llava-b")
    (tmp_path / "mine.py").write_text("def select(views, settings): ...\n")
    methods = ["--checkpoint", "x/llava-a", "--methods", "none", tmp_path / "mine.py", "vispruner"]
    out = collected(*methods, "--tokens", 32, 8, "--benchmarks", "pope")
    assert table_of(out) == [
        ["method", "tokens", "ratio", "POPE F1"],
        ["none", "144", "0.5", "96.0"],
        ["mine", "32", "0.5", "72.0"],
        ["mine", "8", "0.5", "48.0"],
        ["vispruner", "32", "0.5", "82.0"],
        ["vispruner", "8", "0.5", "58.0"],
    ]
    assert_one_line(collect("--methods", "none"), "give --checkpoint too")
    assert_one_line(collect("--checkpoint", "a", "--methods", "tome"), "'tome'")


def test_a_bar_in_a_name_does_not_break_the_table(save, collected):
    save("gqa", 64, score(accuracy=62.0), checkpoint="llava|a")
    out = collected()
    assert "| llava\\|a   |" in out


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("a\udcff", "a\\udcff"),
        ("a\u202eb", "a\\u202eb"),
        ("$x_$", "$x_$"),
    ],
)
def test_whatever_a_folder_is_called_its_row_is_one_line(save, call, tmp_path, name, shown):
    for split in (name, "dev"):
        save("gqa", 64, score(accuracy=62.0), checkpoint=name, split=split)
    code, out, _ = call(summary, "--out-dir", tmp_path, "--checkpoint", name)
    assert code == 0
    header, row = table_of(out)
    assert row == [shown, "64", "0.5", "62.0", "62.0"] and set(header[3:]) == {"GQA (dev)", f"GQA ({shown})"}
    assert (tmp_path / "summary" / "scores.md").read_text() == out


ODD = [
    ({"merge.settings.json": None}, "merge.settings.json is not a JSON object"),
    ({"merge.run.json": {"kept": 10**400}}, "merge.run.json: kept is 1000"),
    ({"merge.run.json": {"kept": "64"}}, "merge.run.json: kept is '64'"),
    (score(accuracy=10**400), "merge.score.json: accuracy is 1000"),
    (score(accuracy=1e300), "merge.score.json: accuracy is 1e+300"),
]


@pytest.mark.parametrize(("files", "says"), ODD)
def test_what_is_odd_is_named_and_the_others_are_still_collected(save, call, tmp_path, files, says):
    save("pope", 64, score(mean_f1=80.0))
    save("gqa", 64, score(accuracy=60.0) | files)
    code, out, err = call(summary, "--out-dir", tmp_path)
    assert code == 2 and says in err and err.count("\n") == 1
    assert table_of(out) == [["checkpoint", "tokens", "ratio", "POPE F1"], ["llava-a", "64", "0.5", "80.0"]]


def test_two_folders_of_one_row_are_named_where_they_differ(save, call, tmp_path):
    kept = {"merge.run.json": {"kept": 144}}
    for tokens, accuracy in ((144, 60.0), (200, 60.0), (300, 70.0)):
        save("gqa", tokens, score(accuracy=accuracy) | kept)
    code, out, err = call(summary, "--out-dir", tmp_path)
    assert code == 2 and "n_300" in err and "n_200" not in err
    assert table_of(out)[1:] == [["llava-a", "144", "0.5", "60.0"]]


def test_folders_that_no_recipe_makes_are_none_of_its_runs(save, call, tmp_path):
    save("gqa", 64, score(accuracy=60.0))
    for tokens in ("0", "064", "-1", "٣", "9" * 200):
        save("gqa", tokens, score(accuracy=50.0))
    code, out, _ = call(summary, "--out-dir", tmp_path)
    assert code == 0
    assert table_of(out)[1:] == [["llava-a", "64", "0.5", "60.0"]]


@pytest.mark.parametrize("name", ["scores.md", "scores.csv", "scores.png", "differences.md"])
def test_a_folder_in_the_place_of_a_file_is_named(save, call, tmp_path, name):
    save("gqa", 64, score(accuracy=60.0))
    (tmp_path / "summary" / name).mkdir(parents=True)
    code, _, err = call(summary, "--out-dir", tmp_path)
    assert code == 2 and name in err and err.count("\n") == 1
