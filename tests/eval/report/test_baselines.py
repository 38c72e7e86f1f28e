"""Seeds as one row, marks against pool and uniform, the share of the gain over blind, and VTC-Bench's split."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from llava.eval.benchmarks.items import accuracy_items, make_items, write_items
from llava.eval.report.results import Answered, read_results, write_results
from llava.pruning.settings import Settings
from tests.eval.conftest import assert_one_line, table_of

N = 200
MME = ("perception", "cognition")


@pytest.fixture
def save(tmp_path):
    """Lay down a run of `gqa`, whose questions are right by this list; returns its folder."""

    def write(method: str, tokens: int | str, hits, ids=None, kept: int | None = None, **settings) -> Path:
        name = "llava-a" if method == "vispruner" else f"llava-a-{method}"
        folder = tmp_path / "gqa" / "answers" / "dev" / name / f"n_{tokens}" / "r_0.5"
        folder.mkdir(parents=True)
        ids = ids or range(len(hits))
        items = accuracy_items(ids, ids, map(float, hits))
        write_scores(folder, {"accuracy": items})
        (folder / "merge.settings.json").write_text(json.dumps(settings | {"pruning_method": method}))
        if kept is not None:
            (folder / "merge.run.json").write_text(json.dumps({"kept": kept}))
        return folder

    return write


def write_scores(folder: Path, items: dict) -> None:
    (folder / "merge.score.json").write_text(json.dumps({name: each.figure for name, each in items.items()}))
    write_items(items, folder / "merge.score.json")


def first(number: int, of: int = N) -> list[bool]:
    """The first so many questions right."""
    return [i < number for i in range(of)]


@pytest.fixture
def compare(collected):
    return lambda *methods, more=(): collected("--checkpoint", "llava-a", "--methods", *methods, *more)


def rows_of(file: Path) -> dict[tuple, dict]:
    with file.open() as lines:
        return {tuple(row[name] for name in ("method", "tokens")): row for row in csv.DictReader(lines)}


def tables_of(markdown: str) -> list[list[list[str]]]:
    return [table_of(part) for part in markdown.split("\n\n") if part.startswith("|")]


def test_seeds_are_one_row_with_their_mean_spread_and_interval(save, compare, tmp_path):
    save("vispruner", 64, first(160))
    for seed, right in enumerate((100, 110, 126)):
        save("random", "64" if seed == 0 else f"64_seed_{seed}", first(right), important_ratio=None)
    save("random", "32_seed_4", first(90))
    save("random", "64_per_image", first(80))
    save("random", "64_per_image_seed_1", first(84))
    out = compare("vispruner", "random")
    rows = {tuple(row[:2]): row[3] for row in table_of(out)[1:]}
    assert set(rows) == {
        ("vispruner", "64"),
        ("random", "64"),
        ("random", "64 per image"),
        ("random", "32 seed 4"),
    }
    # Means of 50, 55, 63 and of 40, 42 %; standard deviations of samples.
    assert rows["random", "64"].startswith("56.0 ± 6.6 [") and rows["random", "64"].endswith("] ↓")
    assert rows["random", "64 per image"].startswith("41.0 ± 1.4 [")
    assert "±" not in rows["random", "32 seed 4"] + rows["vispruner", "64"]
    assert "±: mean and standard deviation of 2 to 3 seeds." in out
    row = rows_of(tmp_path / "summary" / "scores.csv")["random", "64"]
    assert [float(row[name]) for name in ("value", "sd", "seeds")] == [56, pytest.approx(43**0.5, abs=1e-4), 3]
    # The interval is that of the mean: question i is right in as many seeds as it is below 100, 110, 126.
    share = np.array([sum(i < n for n in (100, 110, 126)) / 3 for i in range(N)])
    spread = 1.96 * 100 * share.std() / N**0.5
    assert [float(row[end]) for end in ("low", "high")] == pytest.approx([56 - spread, 56 + spread], abs=0.6)


def test_one_seed_twice_is_no_spread(save, collect):
    for tokens in (144, 200):
        save("random", f"{tokens}_seed_1", first(100 if tokens == 144 else 90), kept=144)
    code, out, err = collect()
    assert code == 2 and "are the same row" in err and "±" not in out


def test_seeds_on_other_questions_have_a_mean_but_no_interval(save, collected):
    save("random", 64, first(100))
    save("random", "64_seed_1", first(120), ids=range(1, N + 1))
    out = collected()
    assert table_of(out)[1][3] == "55.0 ± 7.1"
    assert "No interval of GQA of llava-a-random (64 tokens, ratio 0.5): its seeds did not answer the same" in out


@pytest.mark.parametrize("by_checkpoint", [False, True])
def test_what_cannot_be_told_from_pool_or_uniform_is_marked_at_its_own_budget(
    save, compare, collected, tmp_path, by_checkpoint
):
    save("none", "all", first(160))
    save("vispruner", 64, first(150))
    save("divprune", 64, first(121))
    save("random", 64, first(101))
    save("pool", 64, first(120), important_ratio=None, kept=60)  # a grid of 6 x 10
    save("uniform", 64, first(100), important_ratio=None)
    save("vispruner", 32, first(151))  # no pool there
    save("divprune", "64_per_image", first(120))
    out = collected() if by_checkpoint else compare("none", "vispruner", "divprune", "random", "pool", "uniform")
    rows = {(row[0].removeprefix("llava-a-"), row[1]): row[3].partition("] ")[2] for row in table_of(out)[1:]}
    rows = {("vispruner" if name == "llava-a" else name, tokens): mark for (name, tokens), mark in rows.items()}
    told = {key: [word for word in mark.split() if len(word) > 1] for key, mark in rows.items()}
    assert told == {
        ("none", "all"): [],
        ("vispruner", "64"): [],
        ("vispruner", "32"): [],
        ("divprune", "64"): ["≈pool"],
        ("divprune", "64 per image"): [],
        ("random", "64"): ["≈uniform"],
        ("pool", "60"): [],
        ("uniform", "64"): [],
    }
    assert ("≈pool: not distinguishable from pool" in out, "≈uniform: not" in out) == (True, True)
    if not by_checkpoint:
        with (tmp_path / "summary" / "differences.csv").open() as file:
            said = {(row["method"], row["reference"]): row for row in csv.DictReader(file)}
        assert said["vispruner", "pool"]["distinguishable"] == "yes"
        assert float(said["divprune", "pool"]["difference"]) == 0.5
        assert float(said["none", "uniform"]["difference"]) == 30
        assert rows["pool", "60"] == "↓"  # it is compared with VisPruner at what was asked for


def test_the_share_of_the_gain_over_blind(save, compare, tmp_path):
    save("none", "all", first(160), kept=144)
    save("blind", "all", first(110), kept=0, important_ratio=None)
    save("vispruner", 64, first(120))
    save("divprune", 64, first(100))
    out = compare("none", "blind", "vispruner", "divprune")
    scores, shares = tables_of(out)
    assert ["blind", "0", "–"] in [row[:3] for row in scores]
    # 60 % where blind has 55 and the unpruned model 80: a fifth.
    assert {row[0]: row[3].partition(" ")[0] for row in shares[1:]} == {"vispruner": "20.0", "divprune": "-20.0"}
    generator, draws = np.random.default_rng(1), []
    for _ in range(4000):
        drawn = generator.integers(N, size=N)
        draws.append(100 * ((drawn < 120) & (drawn >= 110)).sum() / ((drawn < 160) & (drawn >= 110)).sum())
    row = rows_of(tmp_path / "summary" / "scores.csv")["vispruner", "64"]
    assert float(row["share"]) == 20
    ends = [float(row["share_low"]), float(row["share_high"])]
    assert ends == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=1)
    (differences,) = tables_of((tmp_path / "summary" / "differences.md").read_text())
    said = {tuple(row[:2]): row[3] for row in differences}
    assert said["blind", "64"].startswith("-5.0 [")


BLIND_ROWS = [
    (None, None, ""),
    (first(170), None, "the unpruned model is not better than blind"),
    (first(159), None, "the unpruned model is not distinguishable from blind"),
    (first(100), range(1, N + 1), "they did not answer the same questions"),
]


@pytest.mark.parametrize(("hits", "ids", "says"), BLIND_ROWS)
def test_a_blind_row_that_cannot_be_compared_gives_no_share(save, compare, tmp_path, hits, ids, says):
    save("none", "all", first(160))
    save("vispruner", 64, first(120))
    save("divprune", 64, first(100))
    if hits is not None:
        save("blind", "all", hits, ids=ids, kept=0)
    out = compare("none", "blind", "vispruner", "divprune")
    assert len(tables_of(out)) == 1 and says in out
    assert "share" not in (tmp_path / "summary" / "scores.csv").read_text()


def test_without_an_unpruned_row_there_is_no_share_and_without_items_no_interval(save, compare):
    blind = save("blind", "all", first(110), kept=0)
    save("vispruner", 64, first(120))
    save("divprune", 64, first(130))
    assert len(tables_of(compare("none", "blind", "vispruner", "divprune"))) == 1
    save("none", "all", first(160))
    (blind / "merge.items.json").unlink()
    shares = tables_of(compare("none", "blind", "vispruner", "divprune"))[1]
    assert [row[3] for row in shares[1:]] == ["20.0", "40.0"]


TWO = {"image_accuracy": accuracy_items("ab", "ab", [1, 0])}


def sqa_of(folder: Path) -> Path:
    """The folder of the same run on another benchmark."""
    other = Path(str(folder).replace("/gqa/", "/sqa/"))
    other.mkdir(parents=True)
    return other


# Right unpruned: 0 to 7. Pool is right in 0 to 3 and in 9, so that A is 4 to 7 and B 0 to 3.
WHOLE = first(8, 10)
POOL = [*first(4, 9), True]


@pytest.fixture
def split(save, collect):
    """Run the command with --split-by pool on the rows of three methods."""

    def run(*more):
        return collect("--checkpoint", "llava-a", "--methods", "none", "pool", "vispruner", *more, "--split-by", "pool")

    save("none", "all", WHOLE)
    save("vispruner", 64, [True, False, True, True, True, False, False, False, True, True], ids=range(10))
    return run


def test_the_split_by_downsampling(save, split, tmp_path):
    order = [9, *range(9)]  # by id, never by position
    save("pool", 64, [POOL[i] for i in order], ids=order, important_ratio=None, kept=60)
    code, out, err = split()
    assert code == 0, err
    table = tables_of(out)[-1]
    assert table == [
        ["method", "tokens", "ratio", "GQA A", "GQA B"],
        ["vispruner", "64", "0.5", "25.0 (4)", "75.0 (4)"],
    ]
    assert (tmp_path / "summary" / "split.md").read_text() in out
    with (tmp_path / "summary" / "split.csv").open() as file:
        rows = [(row["group"], float(row["accuracy"]), row["questions"]) for row in csv.DictReader(file)]
    assert rows == [("A", 25, "4"), ("B", 75, "4")]


def test_seeds_are_split_each_and_averaged_and_an_empty_group_has_no_accuracy(save, split):
    save("pool", 64, WHOLE)
    save("random", 64, first(4, 10))
    save("random", "64_seed_1", first(6, 10))
    code, out, err = split("random")
    assert code == 0, err
    assert [row[3:] for row in tables_of(out)[-1][1:]] == [["– (0)", "50.0 (8)"], ["– (0)", "62.5 (8)"]]


@pytest.mark.parametrize(
    ("tokens", "ids", "named"),
    [(32, None, "no row of pool for vispruner (64 tokens"), (64, range(1, 11), "did not answer the same questions")],
)
def test_a_split_without_its_rows_or_of_other_questions_is_refused(save, split, tmp_path, tokens, ids, named):
    save("pool", tokens, POOL, ids=ids)
    result = split()
    assert_one_line(result, named)
    assert not (tmp_path / "summary").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "merge.items.json").unlink(), "there is no"),
        (lambda folder: (folder / "merge.settings.json").write_text('{"question_file": "b"}'), "not answer the same"),
        (lambda folder: folder.rename(folder.parents[4] / "gone"), "no row of pool"),
        (
            lambda folder: write_scores(sqa_of(folder), {"image_accuracy": accuracy_items("ab", "ab", [1, 0])}),
            "no score",
        ),
    ],
)
def test_a_split_without_items_or_settings_that_fit_is_refused(save, split, tmp_path, change, named):
    for settings in tmp_path.glob("gqa/answers/*/*/*/*/merge.settings.json"):
        settings.write_text('{"question_file": "a"}')
    change(save("pool", 64, POOL))
    assert_one_line(split(), named)


def test_any_row_may_stand_for_downsampling(save, collect):
    """Of lmms-eval's, with the pictures made smaller: no method, and no whole number of tokens."""
    save("none", "all", WHOLE)
    save("divprune", 64, first(2, 10))
    save("downsample", 64, POOL, kept=63.4)
    methods = ["--checkpoint", "llava-a", "--methods", "none", "downsample", "divprune"]
    code, out, err = collect(*methods, "--split-by", "downsample")
    assert code == 0, err
    assert tables_of(out)[-1][1:] == [["divprune", "64", "0.5", "0.0 (4)", "50.0 (4)"]]


def test_the_split_counts_pope_s_true_no_as_right_and_mme_s_pictures_not(tmp_path, collected):
    true_yes, false, true_no = (2, 2), (0, 1), (0, 0)
    said = {"none": [true_yes, true_no, true_no, false], "pool": [false, true_no, false, true_yes]}
    said["vispruner"] = [true_yes, false, true_no, true_yes]
    for method, answers in said.items():
        name = "llava-a" if method == "vispruner" else f"llava-a-{method}"
        tokens = "all" if method == "none" else 64
        rows = [(str(i), f"p{i % 2}", *each) for i, each in enumerate(answers)]
        hits = [float(answer != false) for answer in answers]
        plain = [(f"p{i % 2}/{i}", f"p{i % 2}", hit, 1) for i, hit in enumerate(hits)]
        plus = [(f"p{i}", f"p{i}", min(hits[i::2]), 1) for i in range(2)]
        points = make_items({"count accuracy": plain, "count accuracy_plus": plus}, "sum")
        figures = {"pope": {"mean_f1": make_items({"random": rows})}, "mme": dict.fromkeys(MME, points)}
        for benchmark, items in figures.items():
            folder = tmp_path / benchmark / "answers" / "dev" / name / f"n_{tokens}" / "r_0.5"
            folder.mkdir(parents=True)
            write_scores(folder, items)
    out = collected("--checkpoint", "llava-a", "--methods", "none", "pool", "vispruner", "--split-by", "pool")
    # Right unpruned are 0, 1, 2; pool is wrong in 0 and 2.
    assert tables_of(out)[-1][1][3:] == ["100.0 (2)", "0.0 (1)"] * 3


def test_what_positions_change_is_paired_by_question(save, tmp_path):
    """Difference and interval, against a bootstrap that is written out; seeds count by their mean."""
    generator, answered, hits = np.random.default_rng(7), [], {}
    for method, tokens, positions, seed in [
        ("vispruner", 8, "renumbered", 0),
        ("vispruner", 8, "original", 0),
        ("vispruner", 16, "original", 0),  # there is nothing to compare it with
        *(("random", 8, positions, seed) for positions in ("renumbered", "after") for seed in (0, 1)),
    ]:
        settings = Settings(tokens, pruning_method=method, positions=positions, pruning_seed=seed)
        right = hits[method, tokens, positions, seed] = generator.random(N) < 0.6
        folder = save(method, f"{tokens}{settings.suffix}", right)
        (folder / "merge.jsonl").write_text("{}\n" * N)
        answered.append(Answered("gqa", folder, settings))
    file = tmp_path / "r.json"
    write_results(file, answered, "a command", "llava-a")
    rows = read_results(file)["rows"]
    found = {
        (row["method"], row["settings"]["visual_token_num"], row["settings"]["positions"]): figure["from_default"]
        for row in rows
        for figure in row["figures"]
    }
    drawn = np.random.default_rng(0).integers(N, size=(10_000, N))
    in_order = sorted(range(N), key=str)  # pictures are numbered in the order of their ids, which are text
    for key, seeds in {("vispruner", 8, "original"): [0], ("random", 8, "after"): [0, 1]}.items():
        gains = [hits[*key, seed] * 100.0 - hits[*key[:2], "renumbered", seed] * 100.0 for seed in seeds]
        gain, difference = np.mean(gains, axis=0)[in_order], found.pop(key)
        assert difference["value"] == pytest.approx(gain.mean(), abs=1e-4)
        assert difference["interval"] == pytest.approx(np.percentile(gain[drawn].mean(axis=1), [2.5, 97.5]), abs=1e-4)
    assert set(found.values()) == {None} and len(found) == 3
    lines = file.read_text().splitlines()
    assert [json.loads(line.strip().rstrip(",")) for line in lines if line.startswith('      {"')] == [
        figure for row in rows for figure in row["figures"]
    ]
