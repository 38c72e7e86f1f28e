"""How many tokens are enough: answers at every budget, what they show of an agreement, and the command."""

import csv
import json

import pytest
import torch
from PIL import Image

from llava.errors import InputError
from llava.eval import budget
from llava.eval.benchmarks import find_benchmark
from llava.eval.benchmarks.questions import Question
from llava.eval.budget import default_budgets, draw_sample, find_budget
from llava.eval.evaluation import evaluate, sample_scorer
from llava.eval.report.budget_report import findings, markdown
from llava.eval.report.budget_table import Budgets, Row
from llava.eval.run.answering import answer_questions
from llava.pruning import Settings
from tests.conftest import picture, write_jsonl
from tests.eval.conftest import assert_one_line

GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 4}


@pytest.fixture
def questions(tmp_path):
    """Twelve questions about four pictures, in turns, and one about none."""
    for seed in range(4):
        picture(seed=seed).save(tmp_path / f"{seed}.png")
    asked = [Question(i, f"What is number {i}?", tmp_path / f"{i % 4}.png", "") for i in range(12)]
    return [Question("text", "How many legs has a spider?", None, ""), *asked]


@pytest.fixture
def options(checkpoints, questions, tmp_path):
    """Options of the command that ask these questions."""
    rows = [{"question_id": q.question_id, "image": q.image.name, "text": q.asked} for q in questions[1:]]
    write_jsonl(tmp_path / "q.jsonl", rows)
    model = ["--model-path", checkpoints(), "--device", "cpu", "--max_new_tokens", "4"]
    return [*model, "--question-file", tmp_path / "q.jsonl", "--image-folder", tmp_path]


def test_the_answers_are_those_at_each_budget_alone(loaded, questions):
    llava = loaded()
    found = find_budget(llava, questions, visual_token_num=[64, 4], important_ratio=[0.2, 0.8], max_new_tokens=4)
    assert [(row.tokens, row.ratio) for row in found.rows] == [(4, 0.2), (4, 0.8), (64, 0.2), (64, 0.8)]
    assert (found.unpruned.tokens, found.unpruned.ratio, found.unpruned.same) == (144, None, 12)

    def ask(pruning: Settings) -> list[str]:
        mode = found.about["template"]
        return [text for _, text in answer_questions(llava, found.questions, mode, GREEDY, 1, pruning=pruning)]

    unpruned = ask(Settings())
    assert found.unpruned.answers == unpruned
    for row in found.rows:
        assert row.answers == ask(Settings(row.tokens, row.ratio))
        assert row.same == [a == b for a, b in zip(row.answers, unpruned)].count(True)
        assert row.agreement == row.same / 12
    assert len({tuple(row.answers) for row in found.rows}) == 4


def test_every_picture_of_the_sample_is_encoded_once(loaded, questions, monkeypatch):
    llava, crops = loaded(), []
    tower = llava[1].get_vision_tower()
    monkeypatch.setattr(tower, "encode", lambda pixels, real=tower.encode: crops.append(len(pixels)) or real(pixels))
    find_budget(llava, questions, visual_token_num=[4, 8], batch_size=2, max_new_tokens=1)
    assert crops == [1] * 4


def test_a_method_that_writes_into_its_views_does_not_change_what_is_compared(loaded, questions, tmp_path):
    """The unpruned answers, and those at each budget, are those of the same method that writes into nothing."""
    llava, found = loaded(), {}
    for name, negated in (("writes", "views.importance.neg_()"), ("reads", "-views.importance")):
        file = tmp_path / f"{name}.py"
        file.write_text(
            f"def select(views, settings):\n    order = ({negated}).argsort(dim=1, descending=True, stable=True)\n"
            f"    {'views.features.zero_()' if name == 'writes' else 'pass'}\n"
            "    return views.keep(order[:, : settings.visual_token_num])\n"
        )
        options = {"visual_token_num": [4, 8, 64], "important_ratio": [0.5], "pruning_method": str(file)}
        found[name] = find_budget(llava, questions, **options, max_new_tokens=4)
    assert found["writes"].unpruned.answers == found["reads"].unpruned.answers
    assert [row.answers for row in found["writes"].rows] == [row.answers for row in found["reads"].rows]
    pruning = Settings(8, pruning_method=str(tmp_path / "reads.py"))
    alone = answer_questions(llava, found["reads"].questions, found["reads"].about["template"], GREEDY, 1, 0, pruning)
    assert found["writes"].rows[1].answers == [text for _, text in alone]
    assert len({tuple(row.answers) for row in found["writes"].rows}) == 3


def test_a_method_that_is_edited_meanwhile_is_not_reported(loaded, questions, tmp_path):
    file = tmp_path / "mine.py"
    edits = 'open(__file__, "a").write("# edited\\n")'
    file.write_text(f"def select(views, settings):\n    {edits}\n    return views.keep_all()\n")
    options = {"visual_token_num": [8], "important_ratio": [0.5], "pruning_method": str(file)}
    with pytest.raises(InputError, match=r"mine\.py was changed while questions were answered by it"):
        find_budget(loaded(), questions, **options, sample=2, max_new_tokens=1)


def test_a_sample_is_the_seed_s_and_has_pictures(questions):
    first, again, other = (draw_sample(questions, 8, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(set(question.question_id for question in first)) == 8
    pictures = [question.image for question in first]
    assert None not in pictures
    assert sorted(pictures, key=pictures.index) == pictures  # those about one picture together
    assert len(draw_sample(questions, 200, 0)) == 12
    with pytest.raises(InputError, match="no question has an image"):
        draw_sample(questions[:1], 8, 0)


def test_the_default_budgets_are_shares_of_the_patches(loaded, questions):
    assert default_budgets(576) == [32, 64, 96, 128, 192, 288, 432]
    assert default_budgets(144) == [8, 16, 24, 32, 48, 72, 108]
    assert default_budgets(1) == [1]
    found = find_budget(loaded(), questions, important_ratio=[0.5], sample=1, max_new_tokens=1)
    assert [row.tokens for row in found.rows] == default_budgets(144)


def test_methods_without_a_ratio_run_once_and_others_own_at_each(loaded, questions, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from llava.pruning.tokens import highest\n\n\ndef select(views, settings):\n"
        "    number = max(1, int(settings.visual_token_num * settings.important_ratio))\n"
        "    return views.keep(highest(views.importance, number))\n"
    )
    for method, ratios in (("fastervlm", [None]), ("fastv", [None]), (str(own), [0.25, 0.75])):
        options = {"visual_token_num": [8], "important_ratio": [0.25, 0.75], "pruning_method": method}
        found = find_budget(loaded(), questions, **options, sample=2, max_new_tokens=1)
        assert [row.ratio for row in found.rows] == ratios
        kept = [2, 6] if method == str(own) else [8]
        assert [row.visual_tokens for row in found.rows] == kept
        head = next(line for line in markdown(found).splitlines() if line.startswith("|"))
        assert ("ratio" in head) == (ratios != [None])


def test_fewer_tokens_cost_less_and_fastv_less_of_that(loaded, questions):
    found = find_budget(loaded(), questions, visual_token_num=[8, 72], important_ratio=[0.5], max_new_tokens=1)
    few, many = found.rows
    assert 0 < few.prefill_share < many.prefill_share < found.unpruned.prefill_share == 1
    assert 0 < few.cache_bytes < many.cache_bytes < found.unpruned.cache_bytes
    fastv = find_budget(loaded(), questions, visual_token_num=[8], pruning_method="fastv", max_new_tokens=1).rows[0]
    assert few.prefill_share < fastv.prefill_share < 1
    assert few.cache_bytes < fastv.cache_bytes < found.unpruned.cache_bytes


def test_with_labels_the_scores_are_those_of_the_benchmark(checkpoints, loaded, pope):
    llava, benchmark = loaded(), find_benchmark("pope")
    options = {"important_ratio": 0.3, "max_new_tokens": 4, "conv_mode": "vicuna_v1"}
    expected = [evaluate("pope", llava, visual_token_num=n, data_dir=pope.parent, **options).score for n in (None, 4)]
    found = find_budget(
        llava,
        benchmark.read_questions(pope.parent),
        visual_token_num=[4],
        **options | {"important_ratio": [0.3]},
        score=sample_scorer(benchmark, pope.parent),
    )
    assert [row.scores for row in (found.unpruned, *found.rows)] == [{"POPE F1": score} for score in expected]


def test_what_cannot_be_is_refused(loaded, questions):
    for options, named in (
        ({"visual_token_num": [0]}, "visual_token_num must be at least 1"),
        ({"important_ratio": [2]}, "important_ratio must be a number"),
        ({"pruning_method": "tome"}, "pruning_method must be one of"),
        ({"visual_token_num": []}, "nothing to compare"),
        ({"important_ratio": []}, "nothing to compare"),
        ({"sample": 0}, "sample must be at least 1"),
        ({"agreement": 0.0}, r"agreement must be in \(0, 1\]"),
        ({"agreement": float("nan")}, r"agreement must be in \(0, 1\]"),
    ):
        with pytest.raises(InputError, match=named):
            find_budget(loaded(), questions, **options)


def table(same: dict[tuple, int], wanted: float, number: int = 200) -> Budgets:
    """A table in which at each (tokens, ratio) so many of the first answers are the same."""
    answers = ["yes"] * (number - 50) + ["no"] * 50
    rows = [
        Row(tokens, ratio, answers[:hits] + ["maybe"] * (number - hits), hits, tokens, 0.5, 2**20)
        for (tokens, ratio), hits in same.items()
    ]
    about = {
        "model": "llava-tiny",
        "method": "vispruner",
        "patches": 144,
        "questions": number,
        "of": 480,
        "pictures": 90,
        "seed": 0,
    }
    about |= {"template": "vicuna_v1", "max_new_tokens": 8}
    unpruned = Row(144, None, answers, number, 144, 1.0, 2**22)
    return Budgets(about, wanted, [Question(i, "", None, "") for i in range(number)], unpruned, rows)


def test_the_estimate_and_the_interval_are_told_apart():
    found = table({(8, 0.3): 150, (8, 0.7): 180, (16, 0.3): 190, (16, 0.7): 192, (32, 0.3): 170, (32, 0.7): 198}, 0.9)
    assert (found.by_estimate.tokens, found.by_estimate.ratio) == (8, 0.7)
    assert (found.by_interval.tokens, found.by_interval.ratio) == (16, 0.7)
    said = findings(found)
    assert "reaches 90.0 % by the point estimate: 8 tokens, ratio 0.7, 180 of 200" in said[0]
    assert "interval's lower end reaches 90.0 %: 16 tokens, ratio 0.7, 192 of 200" in said[1]


def test_200_questions_do_not_show_99_percent():
    said = "\n".join(findings(table({(8, 0.5): 150, (16, 0.5): 199, (32, 0.5): 197, (48, 0.5): 200}, 0.99)))
    assert "by the point estimate: 16 tokens, ratio 0.5, 199 of 200 answers the same, 99.5 % (97.2 to 99.9)" in said
    assert "Larger budgets that do not reach it, with the same method and ratio: 32 tokens (98.5 %)." in said
    assert "No interval's lower end reaches 99.0 %. 200 questions cannot show it" in said
    assert "with every answer the same, the lower end is 98.1 %. It takes 381 questions" in said
    assert "If the agreement of 16 tokens stays at 99.5 %, about 1,522 questions show it." in said
    enough = "\n".join(findings(table({(16, 0.5): 381}, 0.99, 381)))
    assert "interval's lower end reaches 99.0 %: 16 tokens" in enough
    assert "cannot" not in enough
    assert "--seed" in enough
    whole = table({(16, 0.5): 480}, 0.99, 480)
    assert "--seed" not in "".join(findings(whole))


def test_ratios_are_told_apart_where_chance_does_not_explain_it():
    said = findings(table({(8, 0.3): 180, (8, 0.5): 185, (8, 0.7): 179}, 0.9))
    assert "Of the other ratios at 8 tokens (0.3, 0.7), this sample distinguishes 0.7 from 0.5" in said[2]
    said = findings(table({(8, 0.3): 182, (8, 0.5): 185}, 0.9))
    assert "Of the other ratios at 8 tokens (0.3), this sample distinguishes none from 0.5" in said[2]
    assert "McNemar" not in "".join(findings(table({(8, None): 182, (16, None): 185}, 0.9)))


def test_where_no_budget_is_enough_the_best_is_named():
    said = "\n".join(findings(table({(8, None): 10, (16, None): 120, (32, None): 120}, 1.0)))
    assert "No budget of these reaches 100.0 %. The highest agreement: 16 tokens, 120 of 200" in said
    assert "No number of questions shows that all answers stay the same" in said


def test_empty_answers_are_no_agreement():
    found = table({(8, 0.5): 200}, 0.99)
    assert "empty" not in markdown(found)
    found.unpruned.answers[:] = [""] * 150 + ["no"] * 50
    assert "150 of the unpruned answers are empty" in markdown(found)


def test_the_command_writes_what_it_prints(call, options, tmp_path):
    out = tmp_path / "out"
    more = ["--visual_token_num", "8", "4", "--important_ratio", "0.3", "0.7", "--sample", "5", "--seed", "3"]
    code, said, err = call(budget, *options, *more, "--output", out)
    assert code == 0, err
    assert ", 5 of 12 questions (seed 3) about " in said
    assert said == (out / "budget.md").read_text()
    rows = [line for line in said.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 1 + 4
    data = json.loads((out / "budget.json").read_text())
    assert [(row["visual_token_num"], row["important_ratio"]) for row in data["rows"]] == [
        (4, 0.3),
        (4, 0.7),
        (8, 0.3),
        (8, 0.7),
    ]
    assert len(data["question_ids"]) == len(data["unpruned"]["answers"]) == 5
    lines = list(csv.DictReader((out / "budget.csv").open()))
    assert [int(line["same"]) for line in lines] == [5, *(row["same"] for row in data["rows"])]
    with Image.open(out / "budget.png") as drawn:
        assert drawn.size > (400, 400)
    assert "100%" in err
    assert call(budget, *options, *more)[1] == said


@pytest.mark.parametrize(
    ("sample", "is_answered", "named"),
    [("1", True, "about one picture"), ("5", False, "every unpruned answer is empty")],
)
def test_what_shows_nothing_is_no_success(call, options, tmp_path, monkeypatch, sample, is_answered, named):
    if not is_answered:
        monkeypatch.setattr(
            "llava.inference.engine.generate_batch", lambda _, prompts, *a, **b: torch.full((len(prompts), 1), 2)
        )
    more = ["--visual_token_num", "8", "--sample", sample, "--output", tmp_path / "out"]
    code, said, err = call(budget, *options, *more)
    assert (code, said) == (2, "") and named in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_the_command_scores_a_sample_of_a_benchmark(call, checkpoints, pope, tmp_path):
    options = ["--model-path", checkpoints(), "--device", "cpu", "--benchmark", "pope", "--data-dir", pope.parent]
    more = ["--visual_token_num", "4", "--sample", "4", "--max_new_tokens", "2", "--output", tmp_path / "out"]
    code, said, err = call(budget, *options, *more)
    assert code == 0, err
    assert "4 of 6 questions" in said
    assert "template vicuna_v1" in said
    assert "POPE F1" in said


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--question-file", "missing.jsonl"], "missing.jsonl"),
        (["--image-folder", "nowhere"], "cannot read the image"),
        (["--agreement", "1.01"], "agreement must be in (0, 1], got 1.01"),
        (["--agreement", "many"], "--agreement: invalid float value: 'many'"),
        (["--sample", "0"], "sample must be at least 1, got 0"),
        (["--visual_token_num", "8", "0"], "--visual_token_num: must be at least 1, got 0"),
        (["--visual_token_num", "8", "145"], "visual_token_num 145 is more than the 144 patches of a crop"),
        (["--important_ratio", "0.5", "-1"], "--important_ratio"),
        (["--pruning_method", "tome"], "--pruning_method: must be one of vispruner"),
        (["--pruning_method", "none"], "nothing to compare"),
        (["--benchmark", "pope"], "give either --question-file and --image-folder, or --benchmark"),
        (["--data-dir", "."], "--data-dir goes with --benchmark"),
        (["--conv-mode", "vicuna"], "unknown conversation mode 'vicuna'"),
        (["--max_new_tokens", "0"], "max_new_tokens at least 1"),
        (["--batch-size", "0"], "batch-size must be at least 1"),
        (["--model-path", "/nowhere"], "no such checkpoint folder: /nowhere"),
    ],
)
def test_bad_input_is_one_line(call, options, more, named):
    assert_one_line(call(budget, *options, *more), named)


def test_a_benchmark_that_is_not_there_is_one_line(call, checkpoints, tmp_path):
    options = ["--model-path", checkpoints(), "--device", "cpu", "--data-dir", tmp_path, "--benchmark"]
    assert_one_line(call(budget, *options, "pope"), "llava_pope_test.jsonl is missing")
    assert_one_line(call(budget, *options, "coco"), "there is no benchmark 'coco'")
