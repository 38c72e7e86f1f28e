"""The commands, as a user calls them: answers, and one line with exit code 2 for what cannot be."""

import base64
import json

import pytest
from PIL import Image

from llava.eval import eval_pope, model_vqa_loader, run_llava
from llava.eval.run import answers
from llava.serve import cli
from tests.conftest import picture, with_orientation, write_jsonl
from tests.eval.conftest import assert_one_line, read_jsonl


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    picture().save(path)
    return path


@pytest.fixture
def asked(checkpoints, image):
    """Arguments of a question that can be answered."""
    return ["--model-path", checkpoints(), "--device", "cpu", "--image-file", image, "--temperature", "0"]


def test_run_llava_answers_and_sees_only_its_budget(call, asked):
    full = call(run_llava, *asked, "--query", "What is it?", "--max_new_tokens", 8)
    assert full[0] == 0
    assert full[1].strip()
    assert call(run_llava, *asked, "--query", "<image-placeholder>\nWhat is it?", "--max_new_tokens", 8)[1] == full[1]
    pruned = call(run_llava, *asked, "--query", "What is it?", "--max_new_tokens", 8, "--visual_token_num", 1)
    assert pruned[0] == 0
    assert pruned[1] != full[1]


def test_what_a_user_shows_may_be_a_data_uri_and_is_as_displayed(call, asked, image, monkeypatch):
    uri = f"data:image/png;base64,{base64.b64encode(with_orientation(6)).decode()}"
    shown = picture(40, 20).transpose(Image.Transpose.ROTATE_270)
    shown.save(image)
    expected = call(run_llava, *asked, "--query", "What is it?", "--max_new_tokens", 8)
    assert call(run_llava, *asked, "--image-file", uri, "--query", "What is it?", "--max_new_tokens", 8) == expected
    two = [*asked, "--image-file", f"{uri},{image}", "--max_new_tokens", 2]
    assert call(run_llava, *two, "--query", "<image-placeholder> or <image-placeholder>?")[0] == 0
    messages = iter(["What is it?", "", "What is it?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(messages))
    chats = [call(cli, *asked, "--image-file", file, "--max_new_tokens", 8) for file in (uri, image)]
    assert chats[0] == chats[1]
    assert_one_line(call(run_llava, *asked, "--image-file", f"{uri[:99]}", "--query", "What?"), "of a data: URI")


def test_run_llava_takes_several_pictures(call, asked, image):
    two = [*asked, "--image-file", f"{image};{image}", "--sep", ";", "--max_new_tokens", 2]
    assert call(run_llava, *two, "--query", "<image-placeholder> or <image-placeholder>?")[0] == 0
    assert_one_line(call(run_llava, *two, "--query", "Which?"), "2 image(s) for 1 <image> placeholder(s)")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--visual_token_num", "0"], "--visual_token_num: must be at least 1, got 0"),
        (["--visual_token_num", "6.4"], "got '6.4'"),
        (["--visual_token_num", "many"], "got 'many'"),
        (["--important_ratio", "1.5"], "--important_ratio: must be a number in [0, 1], got 1.5"),
        (["--important_ratio", "nan"], "got nan"),
        (["--image-file", "missing.png"], "missing.png"),
        (["--conv-mode", "vicuna"], "unknown conversation mode 'vicuna'"),
        (["--query", "<image-placeholder> <image-placeholder>"], "1 image(s) for 2 <image> placeholder(s)"),
        (["--query", "word " * 5000], "longer than the context"),
        (["--model-path", "/nowhere"], "no such checkpoint folder: /nowhere"),
        (["--temperature", "-1"], "temperature"),
        (["--top_p", "0"], "top_p"),
        (["--tokens", "64"], "unrecognized arguments: --tokens"),
        (["--device", "gpu"], "no such device: gpu"),
    ],
)
def test_run_llava_names_what_is_wrong(call, asked, options, named):
    assert_one_line(call(run_llava, *asked, "--query", "What?", *options), named)


def test_a_truncated_picture_is_named(call, asked, image):
    image.write_bytes(image.read_bytes()[:2000])
    assert_one_line(call(run_llava, *asked, "--query", "What?"), str(image))


def test_the_chat_remembers_what_was_said(call, asked):
    options = ["--max-new-tokens", 3, "--debug", "--visual_token_num", 16]
    code, out, _ = call(cli, *asked, *options, stdin=["Is it red?", "Why?", ""])
    assert code == 0
    debug = [line for line in out.splitlines() if line.startswith("{'prompt'")]
    assert len(debug) == 2
    assert debug[1].count("<image>") == 1
    assert "Is it red? ASSISTANT:" in debug[1]
    assert "USER: Why? ASSISTANT:" in debug[1]
    assert "'visual_tokens': [16]" in debug[1]
    first, second = (int(line.rpartition("'computed_tokens': ")[2].rstrip("}")) for line in debug)
    assert second < first / 2  # neither the picture nor what was said is computed again
    shown = out.splitlines()[0].removeprefix("ASSISTANT: ")
    assert shown.strip()
    assert f"'answer': {shown.strip()!r}" in debug[0]


def test_the_chat_goes_on_after_a_message_that_cannot_be_answered(call, asked):
    messages = ["What is an <image>?", "word " * 5000, "Is it red?", "What is <image>?", "Why?", ""]
    code, out, err = call(cli, *asked, "--max-new-tokens", 3, "--debug", stdin=messages)
    assert code == 0
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["error"] * 3
    assert "1 image(s) for 2 <image> placeholder(s)" in err
    assert "longer than the context" in err
    assert "0 image(s) for 1 <image> placeholder(s)" in err
    debug = [line for line in out.splitlines() if line.startswith("{'prompt'")]
    assert len(debug) == 2
    assert "USER: <image>\\nIs it red? ASSISTANT:" in debug[1]
    assert "What is" not in debug[1]
    good = call(cli, *asked, "--max-new-tokens", 3, "--debug", stdin=["Is it red?", "Why?", ""])
    assert good[1] == out


def test_the_chat_answers_with_beams(call, asked):
    code, out, err = call(cli, *asked, "--max-new-tokens", 3, "--num_beams", 2, stdin=["Is it red?", "Why?", ""])
    assert (code, "Traceback" in err) == (0, False)
    assert [line.partition(": ")[0] for line in out.splitlines()] == ["ASSISTANT", "ASSISTANT"]


@pytest.fixture
def loader_options(checkpoints, pope):
    return [
        *("--model-path", checkpoints(), "--device", "cpu", "--temperature", "0", "--max_new_tokens", "4"),
        *("--question-file", pope / "llava_pope_test.jsonl", "--image-folder", pope / "val2014"),
    ]


def test_questions_are_answered_in_chunks_and_merged_in_order(call, loader_options, pope, tmp_path):
    files = [tmp_path / f"{i}.jsonl" for i in range(7)]  # more than questions: one gets none
    for i, file in enumerate(files):
        chunk = ["--num-chunks", 7, "--chunk-idx", i]
        code, _, err = call(model_vqa_loader, *loader_options, "--answers-file", file, *chunk)
        assert (code, "Traceback" in err) == (0, False)
    whole = tmp_path / "whole.jsonl"
    call(model_vqa_loader, *loader_options, "--answers-file", whole)
    merged = tmp_path / "merged.jsonl"
    options = ["--question-file", pope / "llava_pope_test.jsonl", "--output", merged]
    assert call(answers, *options, "--answers-files", *reversed(files))[0] == 0
    rows, expected = map(read_jsonl, (merged, whole))
    assert [row["question_id"] for row in rows] == list(range(6))
    assert [row["text"] for row in rows] == [row["text"] for row in expected]
    assert set(rows[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert_one_line(call(answers, *options, "--answers-files", *files[2:]), "1 question(s) unanswered: 0")
    assert_one_line(call(answers, *options, "--answers-files", whole, files[1]), "answered more than once: 0")


@pytest.mark.parametrize("bad", ["missing", "truncated", "question"])
def test_bad_input_leaves_no_answers_behind(call, loader_options, pope, tmp_path, bad):
    if bad == "missing":
        (pope / "val2014" / "1.png").unlink()
    elif bad == "truncated":
        (pope / "val2014" / "1.png").write_bytes((pope / "val2014" / "0.png").read_bytes()[:3000])
    else:
        with (pope / "llava_pope_test.jsonl").open("a") as file:
            file.write('{"question_id": 7, "text"\n')
    out = tmp_path / "out"
    named = "line 7: not JSON" if bad == "question" else "1.png"
    assert_one_line(call(model_vqa_loader, *loader_options, "--answers-file", out / "a.jsonl"), named)
    assert not out.exists()


def test_a_question_with_an_image_token_in_its_text_is_named_before_a_model_is_loaded(
    call, loader_options, pope, tmp_path
):
    with (pope / "llava_pope_test.jsonl").open("a") as file:
        file.write('{"question_id": 77, "image": "0.png", "text": "What does <image> mean?"}\n')
    out = tmp_path / "out"
    options = [*loader_options, "--answers-file", out / "a.jsonl", "--model-path", "/nowhere"]
    assert_one_line(call(model_vqa_loader, *options), "question 77 has <image> in its text")
    assert not out.exists()


@pytest.mark.parametrize("budget", [[], ["--visual_token_num", 16]])
def test_questions_too_long_for_the_context_are_named_before_the_first_answer(
    call, loader_options, pope, tmp_path, budget
):
    questions = pope / "llava_pope_test.jsonl"
    rows = read_jsonl(questions)
    for row in rows[-2:]:
        row["text"] = "word " * 5000
    write_jsonl(questions, rows)
    out = tmp_path / "out"
    result = call(model_vqa_loader, *loader_options, *budget, "--answers-file", out / "a.jsonl", "--batch-size", 1)
    assert_one_line(result, "question 4 is longer than the context: ")
    assert result[2].endswith("; 1 more cannot be asked: question 5\n")
    assert not out.exists()


def test_pope_is_scored_by_image_and_question(call, pope, tmp_path):
    """Of popular, yes no no is answered Yes Yes No: TP 1, FP 1, TN 1; of random, no yes yes is answered right."""
    said = ["Yes.", "Yes, there is", "No, there is not.", "There is not a dog.", "Yes", "yes"]
    result = tmp_path / "answers.jsonl"
    write_jsonl(result, [{"question_id": i, "text": text} for i, text in reversed(list(enumerate(said)))])
    files = ["--question-file", pope / "llava_pope_test.jsonl", "--result-file", result]
    code, out, _ = call(eval_pope, "--annotation-dir", pope / "coco", *files)
    assert code == 0
    assert "Category: popular, # samples: 3" in out
    scores = json.loads((tmp_path / "answers.score.json").read_text())
    assert scores["categories"]["popular"] == {
        **{"samples": 3, "tp": 1, "fp": 1, "tn": 1, "fn": 0, "missing_labels": 0, "precision": 50, "recall": 100},
        **dict.fromkeys(("accuracy", "f1", "yes_ratio"), pytest.approx(200 / 3)),
    }
    assert scores["categories"]["random"]["f1"] == 100
    assert scores["mean_f1"] == pytest.approx(500 / 6)

    labels = pope / "coco" / "coco_pope_random.json"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[1:]))
    options = ["--annotation-dir", pope / "coco", *files]
    assert_one_line(call(eval_pope, *options), "1 of the 3 random questions have no label")
    assert "NOT SCORED, no label: 1" in call(eval_pope, *options, "--allow-missing")[1]
    result.write_text("".join(result.read_text().splitlines(keepends=True)[1:]))
    assert_one_line(call(eval_pope, *options), "lacks 1 of the 6 questions, such as '5'")
    write_jsonl(result, [{"question_id": i, "text": "Yes"} for i in (*range(6), 77)])
    assert_one_line(call(eval_pope, *options), "answers 1 question(s) that have no label, such as '77'")
