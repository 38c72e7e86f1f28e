"""The table of the bundled model: every setting answers and is scored, and each stands in its row."""

import pytest

from scripts.tiny import benchmarks
from scripts.tiny.evaluate import run
from scripts.tiny.evaluate.run import answer_all
from scripts.tiny.evaluate.scores import read_benchmarks, score_all
from scripts.tiny.evaluate.settings import BUDGETS, RIVALS, SEEDS, Setting, rows_of_table, table


@pytest.mark.parametrize("setting", [Setting(None), Setting(16, "random", seed=2), Setting(8, "fastv")])
def test_a_setting_answers_every_question(checkpoints, tmp_path, monkeypatch, setting):
    benchmarks.write(tmp_path, 0.02)
    monkeypatch.setattr(run, "LONGEST", 3)
    questions = read_benchmarks(tmp_path)
    answers = answer_all(str(checkpoints()), questions, setting, 8, 1)
    assert {name: len(texts) for name, texts in answers.items()} == {name: len(q) for name, q in questions.items()}
    scores = score_all(tmp_path, questions, answers)
    assert scores.keys() == questions.keys()
    assert all(0 <= score <= 100 for score in scores.values())


def test_each_setting_stands_in_its_row():
    rows = rows_of_table()
    assert len(rows) == 1 + len(BUDGETS) * (2 + len(RIVALS)) + 3
    settings = {setting for *_, row in rows for setting in row}
    assert len({setting.name for setting in settings}) == len(settings)
    scores = {setting.name: {"POPE": float(i), "GQA": 50.0} for i, setting in enumerate(settings)}
    lines = table(scores).splitlines()
    assert len(lines) == 2 + len(rows)
    for line, (tokens, name, row) in zip(lines[2:], rows):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:2] == [tokens, name]
        if len(row) == 1:
            assert cells[2:] == [
                f"{scores[row[0].name]['POPE']:.1f}",
                "50.0",
                f"{scores[row[0].name]['POPE'] / 2 + 25:.1f}",
            ]
        else:
            assert len(row) == SEEDS
            assert "±" in cells[2]
