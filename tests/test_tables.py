"""Tables of figures in the documents are what docs/results gives, and `scripts.tables` says where they are not."""

import json
import re
import shutil

import pytest

from llava.errors import InputError
from scripts.tables import __main__ as command
from scripts.tables.book import Book, table_markdown
from scripts.tables.composed import render
from tests.conftest import ROOT
from tests.eval.conftest import assert_one_line, table_of
from tests.results import GOOD, changed

RESULTS = ROOT / "docs" / "results"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / command.CARD])


def test_every_table_is_what_its_results_give(call):
    assert call(command, "--check") == (0, "", "")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name + "/" + path.name)
def test_no_table_of_figures_is_typed(document):
    """A table that has four cells or more with nothing but a figure stands between markers."""
    typed = command._BLOCK.sub("", document.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^\|.*\n)+", typed, re.MULTILINE):
        figures = re.findall(r"(?<=\| )[+-]?[\d,]+(?:\.\d+)?(?: %| ms| s| MiB)?(?= \|)", table)
        assert len(figures) < 4, table


def test_the_published_scores_of_each_benchmark_are_those_of_the_results():
    """EVAL.md has them in words, in a row of each benchmark's section."""
    book, text = Book(RESULTS), (ROOT / "EVAL.md").read_text(encoding="utf-8")
    said = re.findall(r"LLaVA-1\.5-7B ([\d.]+) at 576 tokens(?:; with VisPruner ([\d.]+) at 32)?", text)
    assert len(said) == 10
    published = {(each["method"], each.get("tokens")): [] for each in book.published}
    for each in book.published:
        published[each["method"], each.get("tokens")].append(each["score"])
    for whole, pruned in said:
        assert float(whole) in published["none", 576]
        assert not pruned or float(pruned) in published["vispruner", 32]


@pytest.fixture
def copy(tmp_path):
    """A copy of the documents and their results."""
    for file in [*DOCUMENTS, *RESULTS.rglob("*.json")]:
        target = tmp_path / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return tmp_path


def edit(file, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("docs/performance.md", "| 22.9 |", "| 21.9 |", "docs/performance.md (gpus)"),
        ("docs/results/gpu/h200.json", "[35.1, 104]", "[25.1, 74]", "README.md (readme)"),
        ("docs/results/published.json", '"score": 55.4', '"score": 56.4', "docs/measured.md (published_v1.5)"),
        (command.CARD, "| 78.3 |", "| 79.3 |", f"{command.CARD} (llava-tiny.scores)"),
        ("docs/budget.md", "<!-- end -->", "", "docs/budget.md: a marker"),
        ("docs/budget.md", "table: budget.pope", "table: budget.gqa", "docs/results has no 'budget.gqa'"),
        ("docs/results/budget.json", '"kind": "measured"', '"kind": "guessed"', "tables.pope.about.kind is 'guessed'"),
        ("docs/results/budget.json", "[83.3, 92.2]", "[83.3, 92.2, 1]", "has no format for [83.3, 92.2, 1]"),
        ("docs/results/published.json", '"source": "LLaVA-1.5\'s paper"', '"source": ""', "source is ''"),
        (
            "docs/results/published.json",
            '"tokens": 576, "score": 62.0',
            '"score": 62.0',
            "no figure of LLaVA-1.5-7B, none, gqa",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(call, copy, file, old, new, named):
    edit(copy / file, old, new)
    before = {path: path.read_bytes() for path in copy.rglob("*.*") if path.is_file()}
    assert_one_line(call(command, "--check", "--root", copy), named)
    assert {path: path.read_bytes() for path in before} == before


def test_tables_are_made_anew_from_results(call, copy):
    edit(copy / "docs/results/gpu/h200.json", "[35.1, 104]", "[25.4, 75]")
    code, out, err = call(command, "--root", copy)
    assert (code, err) == (0, "")
    assert set(out.splitlines()) == {"written: README.md", "written: docs/performance.md"}
    assert "| 64 | 55.4 | 55.8 | 80.4 | 61.3 | 96.6 % | 20 % | 25 ms |" in (copy / "README.md").read_text()
    performance = (copy / "docs/performance.md").read_text()
    assert "| LLaVA-1.5, one prompt | 576 to 64 | 20 % | 75 % |" in performance
    assert "| | | | 64 | 20 % | 19.4 (85 %) | 25.4 (75 %) |" in performance
    assert call(command, "--check", "--root", copy)[0] == 0


def test_cells_of_a_table():
    columns = [{"heading": "a|b", "once": True}, {"heading": "n", "format": ["{:.1f}", "{:.1f} ± {:,}"], "right": True}]
    rows = [["x", 1], ["x", [2, 3000]], [None, "–"]]
    made = table_markdown({"about": {}, "columns": columns, "rows": rows})
    assert made == "| a\\|b | n |\n|---|---:|\n| x | 1.0 |\n| | 2.0 ± 3,000 |\n| | – |\n"
    with pytest.raises(InputError, match="1 cells for 2 columns"):
        table_markdown({"about": {}, "columns": columns, "rows": [["x"]]})


def test_parts_are_one_table_and_a_card_has_a_section_of_its_tables(tmp_path):
    def part(rows, date, columns=("n", "k")):
        about = {"command": "measure", "machine": "one Card 9", "note": "Figures", "date": date}
        return {"about": about, "columns": [{"heading": each} for each in columns], "rows": rows}

    file = tmp_path / "gpu" / "card-9.json"
    file.parent.mkdir()
    tables = {"a/1": part([[1, 2]], "May"), "b": part([[3, 4]], "May"), "a/2/x": part([[5, 6]], "June")}
    file.write_text(json.dumps({"form": "tables 1", "tables": tables}))
    assert render(Book(tmp_path), "gpus") == (
        "### Card 9\n\nFigures. May; June; `measure`:\n\n| n | k |\n|---|---|\n| 1 | 2 |\n| 5 | 6 |\n"
        "\nFigures. May; `measure`:\n\n| n | k |\n|---|---|\n| 3 | 4 |\n"
    )
    tables["a/3"] = part([[7]], "May", ("n",))
    file.write_text(json.dumps({"form": "tables 1", "tables": tables}))
    with pytest.raises(InputError, match=r"card-9\.json: table a/3 has other columns"):
        Book(tmp_path)


def leaderboard_of(tmp_path, results) -> str:
    (tmp_path / "mine.json").write_text(json.dumps(results))
    return render(Book(tmp_path), "leaderboard")


def test_a_contributed_run_is_a_section_of_the_leaderboard(tmp_path):
    results = changed("rows.0.settings.positions", "original")
    (pruned,) = results["rows"]
    figure = pruned["figures"][0]
    share = {"value": 92.5, "interval": [87.4, 97.7]}
    drawn = figure | {"value": 60.0, "seeds": [58.0, 62.0], "kept": 63.8, "share": share}
    drawn["compared"] = {"vispruner": "↓", "pool": "↑", "uniform": "≈"}
    own = {"pruning_method": "random", "pruning_seed": [0, 1], "important_ratio": None, "positions": "renumbered"}
    results["rows"].append({"method": "random", "settings": pruned["settings"] | own, "figures": [drawn]})
    whole = {"visual_token_num": None, "pruning_method": "none", "positions": "renumbered"}
    results["rows"].append({"method": "none", "settings": whole, "figures": [figure | {"kept": 576, "compared": {}}]})
    made = leaderboard_of(tmp_path, results)
    assert made.startswith(
        "## mine\n\n`llava-a`, on a GPU, 8 cores, float16, torch 2.13.0; 2026-11-30:\n\n```\npython -m"
    )
    scores, shares = (table_of(part) for part in made.split("\n\n") if part.startswith("|"))
    assert scores == [
        ["method", "tokens", "kept", "positions", "POPE F1"],
        ["none", "all", "576", "renumbered", "80.4 [79.0, 82.0]"],
        ["vispruner", "64", "64", "original", "80.4 [79.0, 82.0]"],
        ["random", "64", "63.8", "renumbered", "60.0 ± 2.8 [79.0, 82.0] ↓ ≈uniform"],
    ]
    assert shares[1:] == [["random", "64", "63.8", "renumbered", "92.5 [87.4, 97.7]"]]
    assert "±: mean and standard deviation of 2 seeds." in made and "Questions: POPE F1 8,910." in made
    assert "≈uniform: not distinguishable" in made and "≈pool" not in made


def test_a_contributed_run_that_is_not_of_the_schema_fails_the_check(call, copy):
    (copy / "docs/results/mine.json").write_text(json.dumps(changed("rows.0.figures.0.value", "80.4")))
    assert_one_line(
        call(command, "--check", "--root", copy), "docs/results/mine.json: rows[0].figures[0].value is '80.4'"
    )
    (copy / "docs/results/mine.json").write_text(json.dumps(GOOD))
    assert_one_line(call(command, "--check", "--root", copy), "docs/leaderboard.md (leaderboard)")
