"""The table of the bundled model: every setting answers and is scored, and each stands in its row."""

import pytest

from llava.eval.run.answering import answer_questions
from llava.pruning import Settings
from playground.tiny import benchmarks
from playground.tiny.evaluate import run
from playground.tiny.evaluate.kinds import truths
from playground.tiny.evaluate.run import answer_all
from playground.tiny.evaluate.scores import read_benchmarks, score_all
from playground.tiny.evaluate.settings import BUDGETS, RIVALS, SEEDS, name_of, rows_of_table, table
from scripts.tables.book import table_markdown
from tests.conftest import load


@pytest.mark.parametrize(
    "setting",
    [Settings(), Settings(16, pruning_method="random", pruning_seed=2), Settings(8, pruning_method="fastv")],
)
def test_a_setting_answers_every_question(checkpoints, tmp_path, monkeypatch, setting):
    benchmarks.write(tmp_path, 0.02)
    monkeypatch.setattr(run, "LONGEST", 3)
    questions = read_benchmarks(tmp_path)
    answers = answer_all(str(checkpoints()), questions, setting, 8, 1)
    assert {name: len(texts) for name, texts in answers.items()} == {name: len(q) for name, q in questions.items()}
    scores = score_all(tmp_path, questions, answers)
    assert scores.keys() == questions.keys()

    loaded = load(checkpoints())
    loaded.model.pruning = setting
    greedy = {"do_sample": False, "max_new_tokens": 3}
    for name in ("POPE", "SQA", "MMBench-CN"):
        alone = [next(iter(answer_questions(loaded, [one], "vicuna_v1", greedy, 1)))[1] for one in questions[name]]
        assert answers[name] == alone


def test_a_score_is_the_share_of_right_answers(tmp_path):
    benchmarks.write(tmp_path, 0.1)
    questions = read_benchmarks(tmp_path)
    right = truths(tmp_path)
    answers = {name: ["nothing"] * len(rows) for name, rows in questions.items()}
    shares = dict.fromkeys(("VQAv2", "VizWiz", "TextVQA", "MM-Vet"), 0)
    for name in ("GQA", "SQA", "SEED", "MMBench", "MMBench-CN"):
        answers[name][::3] = [answer for _, answer in right[name][::3]]
        shares[name] = pytest.approx(100 * len(answers[name][::3]) / len(answers[name]))
    scores = score_all(tmp_path, questions, answers)
    assert {name: scores[name] for name in shares} == shares


def test_each_setting_stands_in_its_row():
    rows = rows_of_table()
    assert len(rows) == 1 + len(BUDGETS) * (2 + len(RIVALS)) + 3
    settings = dict.fromkeys(setting for *_, row in rows for setting in row)
    assert len({name_of(setting) for setting in settings}) == len(settings)
    scores = {name_of(setting): {"POPE": float(i), "GQA": 50.0} for i, setting in enumerate(settings)}
    lines = table_markdown(table(scores)).splitlines()
    assert len(lines) == 2 + len(rows)
    for line, (tokens, name, row) in zip(lines[2:], rows):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [tokens, name]
        if len(row) == 1:
            assert cells[2:] == [
                f"{scores[name_of(row[0])]['POPE']:.1f}",
                "50.0",
                f"{scores[name_of(row[0])]['POPE'] / 2 + 25:.1f}",
            ]
        else:
            assert len(row) == SEEDS
            # Five consecutive numbers, of standard deviation 1.58.
            middle = scores[name_of(row[2])]["POPE"]
            assert cells[2:] == [f"{middle:.1f} ± 1.6", "50.0 ± 0.0", f"{middle / 2 + 25:.1f} ± 0.8"]
