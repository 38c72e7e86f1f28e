"""The intervals of the table of scores, and the differences between methods."""

import csv
import json
from pathlib import Path

import pytest

from llava.eval.benchmarks.items import accuracy_items, make_items, write_items
from llava.eval.report.score_table import Cell, Setting
from tests.eval.conftest import table_of

N = 200
MARKS = "↑ better, ↓ worse, ≈ not distinguishable"


@pytest.fixture
def save(tmp_path):
    """Lay down a run of `gqa` that answers this many of N questions right; returns its folder."""

    def write(method: str, tokens: int | str, right: int, first: int = 0, **settings) -> Path:
        name = "llava-a" if method == "vispruner" else f"llava-a-{method}"
        folder = tmp_path / "gqa" / "answers" / "dev" / name / f"n_{tokens}" / "r_0.5"
        folder.mkdir(parents=True)
        ids = range(first, first + N)
        items = accuracy_items(ids, ids, [i < right for i in range(N)])
        (folder / "merge.score.json").write_text(json.dumps({"accuracy": items.figure}))
        write_items({"accuracy": items}, folder / "merge.score.json")
        (folder / "merge.settings.json").write_text(json.dumps(settings))
        return folder

    return write


@pytest.fixture
def compare(collected):
    """What the command prints of methods."""
    return lambda *methods: collected("--checkpoint", "llava-a", "--methods", *methods)


def numbers(cell: str) -> list[float]:
    """The figure of a cell and the ends of its interval."""
    figure, between = cell.split(" [")
    return [float(figure), *map(float, between.partition("]")[0].split(", "))]


def rows_of(file: Path) -> list[dict]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_each_cell_has_its_interval_in_table_and_csv(save, tmp_path, collected):
    save("vispruner", 64, 160)
    out = collected()
    (cell,) = table_of(out)[1][3:]
    figure, low, high = numbers(cell)
    spread = 1.96 * 100 * (0.8 * 0.2 / N) ** 0.5
    assert (figure, low, high) == pytest.approx((80, 80 - spread, 80 + spread), abs=0.6)
    assert "In brackets: the 95 % interval of 10,000 bootstrap draws of the pictures." in out
    (row,) = rows_of(tmp_path / "summary" / "scores.csv")
    assert (float(row["value"]), float(row["low"]), float(row["high"])) == pytest.approx((figure, low, high), abs=0.06)
    assert MARKS not in out
    assert not (tmp_path / "summary" / "differences.md").exists()


def test_a_folder_of_an_earlier_release_has_no_interval_and_the_table_says_so(save, tmp_path, collected):
    save("vispruner", 64, 160)
    old = save("vispruner", 32, 150) / "merge.items.json"
    old.unlink()
    out = collected()
    with_interval, without = (row[3] for row in table_of(out)[1:])
    assert "[" in with_interval
    assert without == "75.0"
    assert f"No interval of 1 score(s): there is no {old}; scoring the answers again writes it." in out
    newer, older = rows_of(tmp_path / "summary" / "scores.csv")
    assert newer["low"]
    assert not older["low"]


def test_methods_are_compared_with_vispruner_at_the_same_budget(save, compare, tmp_path):
    save("none", "all", 182)
    for tokens, right in ((64, 160), (32, 120)):
        save("vispruner", tokens, right)
        save("random", tokens, right - 20)
        save("divprune", tokens, right + (1 if tokens == 64 else 30))
    save("fastervlm", 16, 80)
    out = compare("none", "divprune", "vispruner", "random", "fastervlm")
    marks = {tuple(row[:2]): row[3].partition("] ")[2] for row in table_of(out)[1:]}
    assert marks == {
        ("none", "all"): "",
        ("divprune", "64"): "≈",
        ("divprune", "32"): "↑",
        ("vispruner", "64"): "",
        ("vispruner", "32"): "",
        ("random", "64"): "↓",
        ("random", "32"): "↓",
        ("fastervlm", "16"): "",
    }
    assert f"compared with vispruner at the same tokens and ratio: {MARKS}" in out
    table = table_of((tmp_path / "summary" / "differences.md").read_text())
    assert table[0] == ["method", "tokens", "ratio", "GQA"]
    said = {tuple(row[:2]): row[3] for row in table[1:]}
    assert said.keys() == {(name, tokens) for name in ("none", "divprune", "random") for tokens in ("64", "32")}
    figure, low, high = numbers(said["random", "64"])
    spread = 1.96 * 100 * (0.1 * 0.9 / N) ** 0.5
    assert (figure, low, high) == pytest.approx((-10, -10 - spread, -10 + spread), abs=0.6)
    assert said["divprune", "64"].startswith("+0.5 [+0.0, +1.5] ≈")
    assert said["none", "64"].endswith("↑")
    rows = rows_of(tmp_path / "summary" / "differences.csv")
    assert len(rows) == len(said)
    row = next(row for row in rows if (row["method"], row["tokens"]) == ("random", "64"))
    assert (row["reference"], row["benchmark"], row["metric"], row["distinguishable"]) == (
        *("vispruner", "gqa", "accuracy"),
        "yes",
    )
    assert [float(row[name]) for name in ("difference", "low", "high")] == pytest.approx([figure, low, high], abs=0.06)
    assert {row["distinguishable"] for row in rows if row["method"] == "divprune"} == {"yes", "no"}


def test_without_vispruner_the_first_method_is_what_others_are_compared_with(save, compare, tmp_path):
    for method in ("none", "divprune", "random"):
        save(method, "all" if method == "none" else 64, 100)
    compare("none", "random", "divprune")
    rows = rows_of(tmp_path / "summary" / "differences.csv")
    assert [(row["method"], row["reference"]) for row in rows] == [("none", "random"), ("divprune", "random")]
    assert {(float(row["difference"]), float(row["low"]), float(row["high"])) for row in rows} == {(0, 0, 0)}
    assert {row["distinguishable"] for row in rows} == {"no"}


def test_runs_on_different_questions_are_not_compared_and_a_line_says_why(save, compare, tmp_path):
    save("vispruner", 64, 100, question_file="a", images="i")
    save("divprune", 64, 100, first=1)
    save("random", 64, 100, question_file="b", images="i")
    save("visionzip", 64, 100, question_file="a", images="i")
    out = compare("vispruner", "divprune", "random", "visionzip")
    assert [row[3].partition("] ")[2] for row in table_of(out)[1:]] == ["", "", "", "≈"]
    one, other = (line for line in out.splitlines() if line.startswith("Not compared, GQA of "))
    assert "divprune (64 tokens, ratio 0.5) and of vispruner" in one
    assert one.endswith("they did not answer the same questions.")
    assert "of random (64 tokens" in other
    assert other.endswith("questions or pictures were not the same.")
    assert [row["method"] for row in rows_of(tmp_path / "summary" / "differences.csv")] == ["visionzip"]


@pytest.mark.parametrize(
    ("rival", "named"),
    [
        (None, "of these methods vispruner alone has scores"),
        ({"tokens": 64, "right": 90, "first": 1}, "they did not answer the same questions"),
        ({"tokens": 32, "right": 90}, "no two of these have the same budget"),
        ({"tokens": 64, "right": 90, "pictures": 1}, "one picture leaves nothing to draw"),
    ],
)
def test_what_compares_nothing_is_no_success(save, collect, tmp_path, rival, named):
    pictures = (rival or {}).pop("pictures", N)
    folders = [save("vispruner", 64, 100)] + ([save("random", **rival)] if rival else [])
    for folder in folders if pictures == 1 else ():
        items = accuracy_items(range(N), [0] * N, [1] * N)
        write_items({"accuracy": items}, folder / "merge.score.json")
        (folder / "merge.score.json").write_text(json.dumps({"accuracy": items.figure}))
    code, out, err = collect("--checkpoint", "llava-a", "--methods", "vispruner", "random")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert named in err
    assert not (tmp_path / "summary").exists()


def test_differences_of_an_earlier_run_do_not_stay(save, compare, tmp_path, collected):
    save("vispruner", 64, 100)
    save("random", 64, 100)
    compare("vispruner", "random")
    assert (tmp_path / "summary" / "differences.md").exists()
    collected()
    assert not list((tmp_path / "summary").glob("differences.*"))


def test_items_that_are_not_the_score_s_are_named_and_the_score_is_still_collected(save, collect):
    save("vispruner", 64, 160)
    file = save("vispruner", 32, 150) / "merge.items.json"
    for text, says in (
        (file.with_name("merge.items.json").read_text().replace("1.0,1.0]", "0.0,1.0]", 1), "score the answers again"),
        ("{", "not JSON"),
    ):
        file.write_text(text)
        code, out, err = collect()
        assert code == 2
        assert err.count("\n") == 1
        assert str(file) in err
        assert says in err
        assert "[" in table_of(out)[1][3]
        assert table_of(out)[2][3] == "75.0"


def test_a_score_on_one_picture_has_no_interval(save, collected):
    folder = save("vispruner", 64, 160)
    write_items({"accuracy": accuracy_items(range(2), [0, 0], [1, 0])}, folder / "merge.score.json")
    (folder / "merge.score.json").write_text('{"accuracy": 50.0}')
    out = collected()
    assert table_of(out)[1][3] == "50.0"
    assert "No interval of GQA of llava-a (64 tokens, ratio 0.5): one picture leaves nothing to draw." in out


def test_two_figures_of_a_benchmark_have_their_own_intervals(tmp_path, collected):
    folder = tmp_path / "mme" / "answers" / "dev" / "llava-a" / "n_64" / "r_0.5"
    folder.mkdir(parents=True)
    even = make_items({"count": [(str(i), str(i), i % 2, 1) for i in range(100)]}, "sum")
    sure = make_items({"code": [(str(i), str(i), 1, 1) for i in range(100)]}, "sum")
    (folder / "merge.score.json").write_text('{"perception": 50, "cognition": 100}')
    write_items({"perception": even, "cognition": sure}, folder / "merge.score.json")
    out = collected()
    perception, cognition = table_of(out)[1][3:]
    assert numbers(perception)[1] < 45 < 55 < numbers(perception)[2]
    assert cognition == "100.0 [100.0, 100.0]"


def test_the_picture_s_bars_are_as_long_as_the_intervals():
    figure = pytest.importorskip("matplotlib.figure")
    from llava.eval.report.plots import draw_line

    ax = figure.Figure().subplots()
    rows = [Setting("vispruner", tokens, "0.5") for tokens in (64, 32)] + [Setting("none", 576, "0.5")]
    cells = [Cell(80, Path(), (78, 83)), Cell(70, Path()), Cell(90, Path(), (88, 91))]
    assert len(list(draw_line(ax, rows, cells, 0))) == 2
    bars, *_ = ax.collections
    ends = {tuple(point) for bar in bars.get_segments() for point in bar if point[1] == point[1]}  # but NaN
    assert ends == {(64, 78), (64, 83)}
    assert [ax.lines[0].get_xdata().tolist(), ax.lines[0].get_ydata().tolist()] == [[32, 64], [70, 80]]
    assert ax.lines[1].get_linestyle() == "--"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("vispruner", "0.5", ""), "vispruner, ratio 0.5"),
        (("llava-tiny", "0.5", "_per_image"), "llava-tiny vispruner, ratio 0.5, per image"),
        (("llava-tiny-divprune", "", ""), "llava-tiny divprune"),
        (("llava-tiny-none", "", ""), "llava-tiny unpruned"),
        (("none", "", ""), "unpruned"),
    ],
)
def test_the_legend_says_method_and_ratio(line, said):
    from llava.eval.report.plots import _legend

    assert _legend(*line) == said


def test_a_budget_of_an_image_is_not_compared_with_one_of_a_crop(save, compare, tmp_path):
    for method, tokens in (("vispruner", 64), ("divprune", "64_per_image"), ("random", 64)):
        save(method, tokens, 100)
    compare("vispruner", "divprune", "random")
    assert [row["method"] for row in rows_of(tmp_path / "summary" / "differences.csv")] == ["random"]
