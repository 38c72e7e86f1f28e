"""What lmms-eval answered, as a table: figures are its own, documents are paired or refused, never shifted."""

import json

import pytest

from llava.eval import lmms_eval as command
from llava.eval.benchmarks.items import read_items
from llava.eval.benchmarks.lmms_suites import BY_TASK, SUITES
from llava.eval.report.score_table import HEADLINES
from tests.conftest import write_jsonl
from tests.eval.conftest import assert_one_line, read_jsonl, table_of
from tests.eval.lmms_logs import VALUES, write_hits, write_log

N = 200
CHAIR = [{"answer": ["dog", "car"], "pred": pred} for pred in (["dog", "dog", "cat"], ["car"], [])]
AMBER = [
    {"chair_score": wrong, "chair_num": said, "safe_cover_score": found, "safe_cover_num": 4}
    for wrong, said, found in ((1, 4, 3), (0, 1, 1))
]
SEVERAL = {
    "coco_cap_chair": (
        {"coco_cap_chair_i": (CHAIR, 25.0), "coco_cap_chair_s": (CHAIR, 100 / 3), "coco_cap_recall": (CHAIR, 100 / 3)},
        [75.0, 200 / 3, 100 / 3],  # of four words one is wrong, of three captions one; two of six are found
    ),
    "amber_g": ({"amber_chair": (AMBER, 20.0), "amber_cover": (AMBER, 50.0)}, [80.0, 50.0]),
}


def scores(folder) -> dict:
    (file,) = folder.glob("lmms_*/answers/*/*/*/*/merge.score.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("task", [*VALUES, *SEVERAL])
def test_figures_are_those_of_lmms_eval_in_percent(task, tmp_path, call):
    if task in VALUES:
        metric, values, total = VALUES[task]
        metrics, expected = {metric: (values, total)}, [100 * total * (1000 / 3 if task == "ocrbench" else 1)]
    else:
        metrics, expected = SEVERAL[task]
    write_log(tmp_path / "run", task, metrics)
    code, out, err = call(command, tmp_path)
    assert code == 0, err
    found, headlines = scores(tmp_path), BY_TASK[task].headlines
    assert [found[headline.key] for headline in headlines] == pytest.approx(expected)
    (file,) = tmp_path.glob("lmms_*/answers/*/llava-a/n_64/r_0.5/merge.score.json")
    for headline in headlines:
        assert read_items(file, headline.key, found[headline.key]).figure == found[headline.key]
    assert table_of(out)[0][3:] == [headline.heading for headline in headlines]


def test_runs_are_compared_on_the_same_pictures(tmp_path, call):
    pictures = [f"p{i // 2}" for i in range(N)]
    budget = "pretrained=x/llava-a,visual_token_num=64"
    write_hits(tmp_path / "a", "scenes_ocr", 160, N, pictures=pictures)
    write_hits(tmp_path / "b", "scenes_ocr", 120, N, pictures=pictures, arguments=f"{budget},pruning_method=uniform")
    # A model that notes no picture: that of the others is taken. This one's documents are the same.
    write_hits(tmp_path / "c", "scenes_ocr", 162, N, arguments=f"{budget},pruning_method=divprune")
    write_hits(
        tmp_path / "d", "scenes_ocr", 190, N, pictures=pictures, arguments="pretrained=x/llava-a,pruning_method=none"
    )
    methods = ("none", "vispruner", "uniform", "divprune")
    code, out, err = call(command, tmp_path, "--checkpoint", "llava-a", "--methods", *methods)
    assert code == 0, err
    cells = {row[0]: row[3] for row in table_of(out)[1:]}
    assert {name: cell.partition("] ")[2] for name, cell in cells.items()} == {
        **{"none": "", "vispruner": "", "divprune": "≈"},
        "uniform": "↓",
    }
    low, high = (float(end) for end in cells["vispruner"].partition("[")[2].rstrip("]").split(", "))
    half = 1.96 * 100 * (0.8 * 0.2 / (N / 2)) ** 0.5  # of 100 pictures, not of 200 documents
    assert (80 - low, high - 80) == pytest.approx((half, half), abs=1.5)


def test_without_pictures_each_document_is_its_own(tmp_path, call):
    write_hits(tmp_path, "docvqa_val", 3, 5, metric="anls")
    assert call(command, tmp_path)[0] == 0
    (file,) = tmp_path.glob("lmms_docvqa/answers/docvqa_val/llava-a/n_64/r_0.5/merge.items.json")
    pictures = [item[1] for item in json.loads(file.read_text())["accuracy"]["terms"][""]]
    assert len(set(pictures)) == 5


def test_settings_are_read_from_the_model_s_arguments(tmp_path, call):
    for name, arguments, model in (
        ("a", "visual_token_num=0.25,pruning_method=divprune", "pruned_hf"),
        ("b", "visual_token_num=0.0625", "pruned_hf"),
        ("c", "visual_token_num=32,budget_per=image,important_ratio=0.25", "llava_vispruner"),
        ("d", "batch=1", "llava_vispruner"),
        ("e", "downsample=64", "pruned_hf"),
    ):
        write_hits(tmp_path / name, "scenes_ocr", 3, 5, arguments=f"pretrained=x/{name},{arguments}", model=model)
    code, out, err = call(command, tmp_path)
    assert code == 0, err
    assert [row[:3] for row in table_of(out)[1:]] == [
        ["a-divprune", "25 of 100", "–"],
        ["b", "625 of 10000", "0.5"],
        ["c", "32 per image", "0.25"],
        ["d", "all", "0.5"],
        ["e-downsample", "64", "–"],
    ]


def test_the_newest_run_counts_and_what_is_gone_leaves_the_table(tmp_path, call):
    write_hits(tmp_path / "run", "scenes_ocr", 3, 5)
    write_hits(tmp_path / "run", "scenes_ocr", 4, 5, date="20260102_000000")
    write_hits(tmp_path / "other", "scenes_ocr", 5, 5, arguments="pretrained=x/llava-a,visual_token_num=32")
    assert [row[3].split()[0] for row in table_of(call(command, tmp_path)[1])[1:]] == ["80.0", "100.0"]
    for file in (tmp_path / "other").iterdir():
        file.unlink()
    assert [row[3].split()[0] for row in table_of(call(command, tmp_path)[1])[1:]] == ["80.0"]


def test_what_is_not_for_the_table_is_named(tmp_path, call):
    write_hits(tmp_path / "a", "scenes_ocr", 3, 5)
    write_hits(tmp_path / "b", "scenes_ocr", 3, 5, model="llava_hf")
    write_hits(tmp_path / "c", "mathvista", 3, 5)
    code, out, err = call(command, tmp_path)
    assert (code, len(table_of(out))) == (0, 2)
    assert "not read, of the model llava_hf" in err and "not read, no task of a known set: mathvista" in err


def _without(rows):
    return rows[:3] + rows[4:]


def _twice(rows):
    return [*rows, rows[0]]


def _beyond(rows):
    return [*rows, rows[0] | {"doc_id": 9}]


def _with(**values):
    return lambda rows: [rows[0] | values, *rows[1:]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without, "lack document 1 "),
        (_twice, "have more than once document 0 "),
        (_beyond, "have, beyond those document 9 "),
        (_with(exact_match="right"), "document 0: exact_match is 'right', no value of that metric"),
        (_with(exact_match=7), "document 0: exact_match is 7"),
        (_with(exact_match=0.0), "give 40 for exact_match, the results beside them 60"),
        (_with(input="another question"), "document 0 of scenes_ocr has another question or target in "),
        (_with(target="u"), "another question or target"),
        (_with(doc_hash="1"), "another question or target"),
        (_with(token_counts=[{"picture": "another"}]), "document 0 of scenes_ocr has another picture in "),
    ],
)
def test_documents_are_never_shifted(tmp_path, call, change, named):
    other = "pretrained=x/llava-a,visual_token_num=32"
    write_hits(tmp_path / "a", "scenes_ocr", 3, 5, pictures=list("abcde"))
    samples = write_hits(tmp_path / "b", "scenes_ocr", 3, 5, pictures=list("abcde"), arguments=other)
    write_jsonl(samples, change(read_jsonl(samples)))
    assert_one_line(call(command, tmp_path), named)
    assert not list(tmp_path.glob("lmms_*"))


@pytest.mark.parametrize(
    ("runs", "named"),
    [
        ([{"number": 5}, {"number": 4, "arguments": "pretrained=x/llava-a"}], "have 4 and 5 documents of scenes_ocr"),
        (
            [{}, {"arguments": "pretrained=y/llava-a,visual_token_num=64"}],
            "but differ in the models' arguments or the number of documents",
        ),
        ([{}, {"model": "pruned_hf"}], "but differ in the models' arguments or the number of documents"),
        ([{"arguments": "pretrained=x,visual_token_num=0"}], "visual_token_num: must be at least 1, got 0"),
        ([{"arguments": "pretrained=x,pruning_method=mine"}], "pruning_method: "),
        ([{"number": 5}, {"number": 4, "date": "20260102_000000"}], "or the number of documents of scenes_ocr"),
        ([{"arguments": "visual_token_num=8"}], "model_args: no pretrained"),
        ([{"model": "llava"}], "no samples of lmms-eval that can be read"),
        ([], "no samples of lmms-eval that can be read"),
    ],
)
def test_runs_that_cannot_be_in_one_table_are_named(tmp_path, call, runs, named):
    for i, options in enumerate(runs):
        write_hits(tmp_path / str(i), "scenes_ocr", 3, options.pop("number", 5), **options)
    assert_one_line(call(command, tmp_path), named)


def test_what_others_published_is_shown_beside(tmp_path, call):
    write_hits(tmp_path, "docvqa_val", 3, 5, metric="anls")
    out = call(command, tmp_path)[1]
    table, others = out.split("Published by others, not measured here")
    assert "94.9" not in table
    assert {"77.4", "85.4", "94.9"} <= {row[4] for row in table_of(others)[1:]}
    assert {row[0] for row in table_of(others)[1:]} == {"docvqa"}


def test_published_results_say_where_they_are_from():
    records = json.loads(command.PUBLISHED.read_text())
    known = {suite.short for suite in SUITES}
    assert known & {record["task"] for record in records}
    for record in records:
        assert {"task", "model", "method", "kept", "score", "unit", "source"} <= record.keys()
        assert record["source"] and isinstance(record["score"], int | float)


def test_every_suite_has_columns_and_no_task_is_in_two():
    assert len(BY_TASK) == sum(len(suite.tasks) for suite in SUITES)
    assert all(HEADLINES[suite.name] == suite.headlines for suite in SUITES)
    assert len({headline.heading for headlines in HEADLINES.values() for headline in headlines}) == sum(
        map(len, HEADLINES.values())
    )
