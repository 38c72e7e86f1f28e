"""The scores of ScienceQA and MME, whose labels are a folder's files."""

import json

import pytest

from llava.eval.benchmarks import mme as eval_mme
from llava.eval.benchmarks import science_qa as eval_science_qa
from tests.conftest import write_jsonl
from tests.eval.conftest import assert_one_line, read_jsonl

WORD = "Answer the question using a single word or phrase."


@pytest.fixture
def science(tmp_path):
    """Four questions of the test split, two with an image; two answered right, one of them with an image."""
    problems = {
        str(i): {"question": "?", "choices": ["x", "y", "z"], "answer": i % 3, "image": "image.png" if i > 1 else None}
        for i in range(5)
    }
    problems["1"]["image"] = None
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["0", "1", "2", "3"], "val": ["4"], "none": []}))
    texts = {"3": "B", "2": "C. z", "1": "no idea", "0": "The answer is A."}
    write_jsonl(
        tmp_path / "a.jsonl", [{"question_id": i, "prompt": f"Q{i}", "text": text} for i, text in texts.items()]
    )
    return ["--base-dir", tmp_path, "--result-file", tmp_path / "a.jsonl"]


def test_science_qa_is_scored_with_and_without_images(call, science, tmp_path):
    files = ["--output-file", tmp_path / "out.json", "--output-result", tmp_path / "result.json"]
    code, out, _ = call(eval_science_qa, *science, *files, "--output", tmp_path / "score.json")
    assert code == 0
    assert "Total: 4, Correct: 2, Accuracy: 50.00 %" in out
    assert "Counted as wrong, no option in the answer: 1" in out
    assert json.loads((tmp_path / "score.json").read_text()) == {
        "samples": 4,
        "accuracy": 50,
        "image_samples": 2,
        "image_accuracy": 50,
        "no_option": 1,
        "named_accuracy": 50,
        "named_image_accuracy": 50,
    }
    read = json.loads((tmp_path / "out.json").read_text())
    assert [row["question_id"] for row in read["correct"]] == ["0", "2"]
    assert read["incorrect"][0] == {
        **{"question_id": "1", "parsed_ans": "FAILED", "ground_truth": "B"},
        **{"question": "Q1", "pred": "no idea", "is_multimodal": False},
    }
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["acc"], result["correct"], result["count"]) == (50, 2, 4)
    assert result["results"] == {"0": 0, "1": -1, "2": 2, "3": 1}
    assert result["outputs"]["2"] == "C. z"


def test_science_qa_s_figure_is_that_of_the_published_scorer_and_others_stand_beside_it(call, science, tmp_path):
    texts = {"3": "The answer is A, because", "2": "(C)", "1": "B.", "0": "D"}
    write_jsonl(tmp_path / "a.jsonl", [{"question_id": i, "prompt": "", "text": text} for i, text in texts.items()])
    code, out, _ = call(eval_science_qa, *science, "--output-result", tmp_path / "result.json")
    scores = json.loads((tmp_path / "a.score.json").read_text())
    assert code == 0
    assert (scores["accuracy"], scores["image_accuracy"], scores["no_option"]) == (25, 50, 3)
    assert (scores["named_accuracy"], scores["named_image_accuracy"]) == (75, 100)
    assert "Counted as wrong, no option in the answer: 3" in out
    assert "A., (A), A) and A: give 75.00 %, with an image 100.00 %" in out
    assert json.loads((tmp_path / "result.json").read_text())["results"] == {"0": -1, "1": -1, "2": -1, "3": 0}


def test_science_qa_refuses_what_does_not_match(call, science, tmp_path):
    assert_one_line(call(eval_science_qa, *science, "--split", "dev"), "no split 'dev'")
    assert_one_line(call(eval_science_qa, *science, "--split", "none"), "no split 'none'")
    assert_one_line(call(eval_science_qa, *science, "--split", "val"), "lacks 1 of the 1 questions, such as '4'")
    assert_one_line(call(eval_science_qa, *science, "--options", "AB"), "problem 0: answer 0 of 3 choices")
    answers = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(answers + answers.splitlines()[0])
    assert_one_line(call(eval_science_qa, *science), "answers 1 question(s) more than once, such as '3'")
    (tmp_path / "problems.json").unlink()
    assert_one_line(call(eval_science_qa, *science), "problems.json")


@pytest.fixture
def mme(tmp_path):
    """Two categories, one flat and one in folders, of two images each and one image."""
    flat, deep = tmp_path / "MME" / "existence", tmp_path / "MME" / "code_reasoning" / "questions_answers_YN"
    flat.mkdir(parents=True)
    deep.mkdir(parents=True)
    (tmp_path / "MME" / "eval_tool").mkdir()
    for name in ("1", "2"):
        (flat / f"{name}.txt").write_text(
            "Is there a dog? Please answer yes or no.\tYes\nIs there a cat?  Please answer yes or no.\tNo\n"
        )
    (deep / "0001.txt").write_text("Is it 1? Please answer yes or no.\tYes\nIs it 2? Please answer yes or no.\tNo")
    said = {
        ("existence/1.jpg", "dog"): "Yes",
        ("existence/1.jpg", "cat"): "No, there",
        ("existence/2.jpg", "cat"): "no",
    }
    rows = [
        {"question_id": image, "prompt": f"Is there a {what}?\n{WORD}", "text": text}
        for (image, what), text in said.items()
    ]
    rows.append({"question_id": "existence/2.jpg", "prompt": f"Is there a dog?\n{WORD}", "text": "A cat; yes"})
    prompt = f"Is it {{}}? Please answer yes or no.\n{WORD}"
    rows += [
        {"question_id": "code_reasoning/images/0001.png", "prompt": prompt.format(i), "text": "Yes"} for i in (1, 2)
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    return ["--data-dir", tmp_path / "MME", "--result-file", tmp_path / "a.jsonl"]


def test_mme_adds_accuracy_and_accuracy_plus(call, mme, tmp_path):
    code, out, _ = call(eval_mme, *mme)
    assert code == 0
    assert "Perception: 125.00 (1 of 10 categories)\n  existence: 125.00 = 75.00 + 50.00" in out
    assert json.loads((tmp_path / "a.score.json").read_text()) == {
        "perception": 125,
        "cognition": 50,
        "categories": {
            "existence": {"samples": 4, "accuracy": 75, "accuracy_plus": 50, "score": 125},
            "code_reasoning": {"samples": 2, "accuracy": 50, "accuracy_plus": 0, "score": 50},
        },
    }


def test_mme_refuses_what_does_not_match(call, mme, tmp_path):
    result = tmp_path / "a.jsonl"
    rows = read_jsonl(result)
    write_jsonl(result, rows[1:])
    assert_one_line(call(eval_mme, *mme), "lacks 1 of the 6 questions, such as ('existence', '1', 'Is there a dog?')")
    write_jsonl(result, [*rows, rows[-1]])
    assert_one_line(call(eval_mme, *mme), "answers 1 question(s) more than once")
    write_jsonl(result, [*rows, rows[-1] | {"question_id": "count/1.jpg"}])
    assert_one_line(call(eval_mme, *mme), "answers 1 question(s) that have no label")
    write_jsonl(result, rows)
    labels = tmp_path / "MME" / "existence" / "1.txt"
    labels.write_text("Is there a dog?\tMaybe\n")
    assert_one_line(call(eval_mme, *mme), "1.txt: 'Is there a dog?\\tMaybe' is not a new question")
    labels.unlink()
    (tmp_path / "MME" / "existence" / "2.txt").unlink()
    assert_one_line(call(eval_mme, *mme), "no questions (*.txt)")
    assert_one_line(call(eval_mme, *mme, "--data-dir", tmp_path), "no folder of an MME category")
