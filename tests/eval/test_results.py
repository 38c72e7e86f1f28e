"""The results file of a run, and the schema that a contributed one must fit."""

import json
import shlex
import statistics
from pathlib import Path

import pytest

from llava.errors import InputError
from llava.eval import __main__ as command
from llava.eval import evaluate
from llava.eval.report.results import read_results
from llava.pruning.settings import NAMES
from tests.conftest import load
from tests.eval.conftest import assert_one_line, texts
from tests.results import GOOD, changed


@pytest.fixture
def options(checkpoints, pope, tmp_path) -> list:
    return [
        *("--model-path", checkpoints(), "--device", "cpu", "--data-dir", pope.parent, "--out-dir", tmp_path / "out"),
        *("--max_new_tokens", 3),
    ]


def test_a_run_of_methods_says_all_that_a_reader_needs(call, options, checkpoints, tmp_path, monkeypatch):
    file = tmp_path / "results" / "mine.json"
    grid = ["--visual_token_num", 16, 8, "--pruning_method", "none", "blind", "pool", "vispruner", "fastv", "random"]
    arguments = ["pope", *options, *grid, "--pruning_seed", 0, 3, "--results", file]
    code, _, err = call(command, *arguments)
    assert code == 0, err
    results = read_results(file)
    assert shlex.split(results["command"]) == ["python", "-m", "llava.eval", *map(str, arguments)]
    assert results["checkpoint"]["name"] == checkpoints().name
    (machine,) = results["machines"]
    assert machine["dtype"] == "float32" and machine["cores"] >= 1 and machine["device"]
    assert machine["versions"].keys() >= {"llava", "torch", "transformers"}
    rows = {(row["method"], row["settings"]["visual_token_num"]): row for row in results["rows"]}
    methods = [(name, tokens) for tokens in (16, 8) for name in ("pool", "vispruner", "fastv", "random")]
    assert set(rows) == {("none", None), ("blind", None), *methods}
    assert all(row["settings"].keys() == set(NAMES) for row in rows.values())
    assert rows["random", 16]["settings"]["pruning_seed"] == [0, 3]
    assert rows["vispruner", 8]["settings"]["pruning_seed"] == 0
    kept = {key: row["figures"][0]["kept"] for key, row in rows.items()}
    assert kept == {("none", None): 144, ("blind", None): 0} | {key: key[1] for key in methods}
    for (method, tokens), row in rows.items():
        (figure,) = row["figures"]
        assert (figure["benchmark"], figure["metric"], figure["questions"]) == ("pope", "mean_f1", 6)
        said = [
            json.loads(path.read_text())["mean_f1"]
            for path in (tmp_path / "out").glob(f"pope/answers/*/{checkpoints().name}*/n_*/r_*/merge.score.json")
            if _is_of(path, method, tokens)
        ]
        assert figure["value"] == pytest.approx(statistics.fmean(said), abs=1e-4)
        assert len(figure["seeds"]) == (2 if method == "random" else 0)
        assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
        if method not in ("none", "blind"):
            whole = rows["none", None]["figures"][0]["value"]
            assert figure["from_unpruned"]["value"] == pytest.approx(figure["value"] - whole, abs=1e-3)
            bases = {"pool", "vispruner"} - {method}
            assert figure["compared"].keys() == bases


def _is_of(path: Path, method: str, tokens: int | None) -> bool:
    settings = json.loads(path.with_name("merge.settings.json").read_text())
    return (settings["pruning_method"], settings["visual_token_num"]) == (method, tokens)


def test_crops_count_together_in_what_was_kept(call, checkpoints, pope, tmp_path):
    """Five crops of 16 tokens, whether they are dropped before the language model or inside it."""
    options = ["--model-path", checkpoints("v1.6"), "--device", "cpu", "--data-dir", pope.parent, "--out-dir", tmp_path]
    crops = ["--mm_patch_merge_type", "spatial", "--image_grid_pinpoints", "[[336, 336]]"]
    file = tmp_path / "r.json"
    grid = ["--visual_token_num", 16, "--pruning_method", "vispruner", "fastv", "--results", file]
    code, _, err = call(command, "pope", *options, *crops, *grid, "--max_new_tokens", 1)
    assert code == 0, err
    kept = {row["method"]: row["figures"][0]["kept"] for row in read_results(file)["rows"]}
    assert kept == {"vispruner": 80, "fastv": 80}


def test_python_writes_it_too(checkpoints, pope, tmp_path):
    file = tmp_path / "r.json"
    options = {"data_dir": pope.parent, "out_dir": tmp_path / "out", "max_new_tokens": 2, "results": file}
    result = evaluate("pope", load(checkpoints()), visual_token_num=16, **options)
    (row,) = read_results(file)["rows"]
    assert row["figures"][0]["value"] == pytest.approx(float(result), abs=1e-4)
    assert len(texts(result.answers_file)) == row["figures"][0]["questions"]


def test_a_place_that_cannot_be_written_is_named_before_the_work(call, options, tmp_path):
    assert_one_line(call(command, "pope", *options, "--results", tmp_path), str(tmp_path))
    assert not (tmp_path / "out").exists()


FIGURE = "rows.0.figures.0"
BAD = [
    (changed("form", "llava.eval 9"), "form is 'llava.eval 9'"),
    (changed("date", "yesterday"), "date is 'yesterday'"),
    (changed("machines", []), "machines is []"),
    (changed("rows", []), "rows is []"),
    (changed("checkpoint"), "no checkpoint"),
    (changed(f"{FIGURE}.value", "80.4"), "value is '80.4'"),
    (changed(f"{FIGURE}.value", float("nan")), "value is nan"),
    (changed(f"{FIGURE}.value", True), "value is True"),
    (changed(f"{FIGURE}.interval", [82.0, 79.0]), "the lower end is the greater one"),
    (changed(f"{FIGURE}.interval", [79.0]), "interval is [79.0]"),
    (changed(f"{FIGURE}.unit", "percent"), "unit is 'percent'"),
    (changed(f"{FIGURE}.questions", -1), "questions is -1"),
    (changed(f"{FIGURE}.compared", {"pool": "better"}), "'better'"),
    (changed(f"{FIGURE}.scores", 1), "scores is 1"),
    (changed("rows.0.settings.visual_token_num"), "no rows[0].settings.visual_token_num"),
    (changed("rows.0.settings.budget_per", {}), "budget_per"),
    (changed("rows.0.settings.visual_token_num", "64"), "rows[0].settings.visual_token_num is '64'"),
    (changed("rows.0.settings.visual_token_num", [64, "32"]), "visual_token_num is [64, '32']"),
    (changed("rows.0.settings.visual_token_num", []), "visual_token_num is []"),
    (changed(f"{FIGURE}.from_default", {"value": 1.0}), "from_default"),
    ([GOOD], "results"),
]


@pytest.mark.parametrize(("results", "named"), BAD)
def test_a_file_that_is_not_of_the_schema_is_refused_in_one_line(tmp_path, results, named):
    file = tmp_path / "r.json"
    file.write_text(json.dumps(GOOD))
    assert read_results(file) == GOOD
    file.write_text(json.dumps(results))
    with pytest.raises(InputError) as error:
        read_results(file)
    assert named in str(error.value) and str(file) in str(error.value) and "\n" not in str(error.value)
