"""The report of a GPU: part by part into one file, and all of it on tiny shapes."""

import json
import time

import pytest
import torch

from scripts.benchmarks import gpu_report
from scripts.benchmarks.gpu_report import PARTS, Part, card_file, choose, read_tables, report, write_tables
from scripts.tables.book import Book
from scripts.tables.composed import render
from tests.eval.conftest import assert_one_line, table_of
from tests.recipes import run_recipe

ABOUT = {"kind": "measured", "command": "bash report.sh", "machine": "one card", "versions": "torch 9", "date": "today"}
THREE = [Part("kernels", 1, ""), Part("equal/float32", 1, ""), Part("equal/float16", 1, "")]


@pytest.fixture
def measured(tmp_path, capsys):
    """measured(parts, **how) -> whether all are there, what was measured, and the lines on stdout and on stderr.

    `failing` maps parts to what they raise or do.
    """

    def run(parts, failing=(), overwrite=False, seconds=60.0):
        asked = []
        capsys.readouterr()

        def measure(part: Part) -> dict:
            asked.append(part.name)
            if part.name in failing:
                failing[part.name]()
            return {"columns": [{"heading": "n"}], "rows": [[len(asked)], ["@0@"]], "note": "of it"}

        is_whole = report(parts, tmp_path / "card.json", measure, ABOUT, overwrite, time.monotonic() + seconds)
        said = capsys.readouterr()
        return is_whole, asked, said.out.splitlines(), said.err.splitlines()

    return run


def raising(error: BaseException):
    def fail():
        raise error

    return fail


def test_what_is_ended_goes_on_where_it_was(measured, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measured(THREE, {"equal/float16": raising(KeyboardInterrupt())})
    assert list(read_tables(tmp_path / "card.json")) == ["kernels", "equal/float32"]
    is_whole, asked, out, err = measured(THREE)
    assert (is_whole, asked, err) == (True, ["equal/float16"], [])
    assert out == ["there: kernels", "there: equal/float32", "measured: equal/float16 in 0 s"]
    assert measured(THREE)[1] == []
    assert measured(THREE[:2], overwrite=True)[1] == ["kernels", "equal/float32"]
    found = json.loads((tmp_path / "card.json").read_text())
    assert found["tables"]["equal/float16"] == {
        "about": {**ABOUT, "command": "bash report.sh --parts equal", "note": "of it"},
        "columns": [{"heading": "n"}],
        "rows": [[1], ["@0@"]],
    }


def test_what_another_command_measured_is_measured_again_and_other_tables_stay(measured, tmp_path):
    old = {"about": {"command": "by hand"}, "columns": [{"heading": "old"}], "rows": [["ä", None, [1, 2.5]]]}
    write_tables(tmp_path / "card.json", {"kernels": old, "mine": old})
    assert measured(THREE[:1])[1] == ["kernels"]
    found = read_tables(tmp_path / "card.json")
    assert found["mine"] == old
    assert found["kernels"]["columns"] == [{"heading": "n"}]


def test_a_part_that_fails_is_one_line_and_the_others_go_on(measured, tmp_path):
    failing = {"kernels": raising(RuntimeError("no kernel\nfor this card")), "equal/float32": lambda: time.sleep(30)}
    is_whole, asked, out, err = measured(THREE, failing, seconds=1.3)  # of which the last part keeps its second
    assert (is_whole, asked) == (False, [part.name for part in THREE])
    assert err == ["failed: kernels: RuntimeError: no kernel", "failed: equal/float32: it took more than 0 s"]
    assert out == ["measured: equal/float16 in 0 s"]
    assert list(read_tables(tmp_path / "card.json")) == ["equal/float16"]
    assert measured(THREE)[1] == ["kernels", "equal/float32"]


def test_a_part_whose_package_is_not_installed_is_left_out(measured):
    lacking = Part("answer/flash", 1, "", (), ("torch", "no_such_attention"))
    assert measured([lacking, THREE[0]])[:3] == (
        True,
        ["kernels"],
        ["left out: answer/flash needs no_such_attention", "measured: kernels in 0 s"],
    )


def test_all_parts_have_less_than_nine_minutes():
    assert sum(part.seconds for part in PARTS) + 20 <= gpu_report.WHOLE < 9 * 60  # 20 s: torch is imported
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_parts_are_chosen_by_what_they_begin_with():
    assert [part.name for part in choose(["throughput", "kernels"])] == ["kernels", "throughput/all", "throughput/64"]
    assert {part.table for part in choose(["answer/llava-v1.6-7b"])} == {"answer"}
    assert choose(None) == list(PARTS)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090"),
        ("AMD Instinct MI300X", "amd-instinct-mi300x"),
    ],
)
def test_a_card_has_a_file(name, file):
    assert card_file(name) == file


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "there is no GPU here"),
        (("--tiny", "--output", "{out}"), "there is no GPU here"),
        (("--device", "cpu"), "--device cpu goes with --tiny"),
        (("--device", "cpu", "--tiny"), "--tiny needs --output"),
        (("--parts", "kernel"), "there is no part 'kernel'"),
        (("--parts", "kernels", "answer/llava-v1.5-7b/sd"), "there is no part 'answer/llava-v1.5-7b/sd'"),
        (("--output", "/dev/null/out.json"), "/dev/null/out.json"),
        (("--device", "cpu", "--tiny", "--output", "{other}"), "form is 'tables 2'"),
    ],
)
def test_bad_input_is_one_line(call, monkeypatch, tmp_path, options, named):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    other = tmp_path / "other.json"
    other.write_text('{"form": "tables 2", "tables": {}}')
    filled = [option.format(out=tmp_path / "out.json", other=other) for option in options]
    assert_one_line(call(gpu_report, *filled), named)


@pytest.mark.slow
def test_all_of_it_on_tiny_shapes(call, tmp_path):
    file = tmp_path / "gpu" / "card.json"
    options = ("--device", "cpu", "--tiny", "--output", file)
    code, out, err = call(gpu_report, *options)
    assert (code, err) == (0, "")
    lacking = [line.split()[2] for line in out.splitlines() if line.startswith("left out: ")]
    assert list(read_tables(file)) == [part.name for part in PARTS if part.name not in lacking]
    assert all(name.startswith(("throughput/", "answer/")) and "/sdpa/" not in name for name in lacking)
    book = Book(tmp_path)
    kernels, equal, answers, hosts = (
        book.tables[f"gpu/card.{name}"] for name in ("kernels", "equal", "answer", "host")
    )
    assert {row[3] for row in kernels["rows"][:-1]} == {"8 of 8", "10 of 10"}
    assert [row[3] for row in equal["rows"] if row[2].startswith("float32")] == 6 * ["6 of 6"]
    kept = {}
    for row in answers["rows"]:
        kept.setdefault(tuple(row[:3]), []).append(row[3])
    v15, v16 = "llava-v1.5-7b", "llava-v1.6-7b"
    assert kept[v15, "SDPA", 1] == kept[v15, "SDPA", 16] == [144, 128, 64, 32]
    assert kept[v15, "SDPA, compiled", 1] == kept[v15, "eager", 16] == kept[v15, "SDPA", 32] == [144, 64]
    assert kept[v16, "SDPA", 1] == [5 * 144, 640, 320, 160]
    assert [row[:3] for row in hosts["rows"][:5]] == [
        *(["Qwen2.5-VL-7B", 1024, kept] for kept in (16, 8, 4, 2)),
        ["Qwen2.5-VL-7B", 4096, 64],
    ]
    made = render(book, "gpus")
    assert "threads on" in made.partition("\n")[0] and made.count("\n|---") == len({name for name in book.tables})
    assert len(table_of(render(book, "gpu/card.answer"))) == 1 + len(answers["rows"])
    again = run_recipe("benchmarks/gpu_report.sh", *options)
    assert (again.returncode, again.stdout.count("there: ")) == (0, len(PARTS) - len(lacking)), again.stderr
