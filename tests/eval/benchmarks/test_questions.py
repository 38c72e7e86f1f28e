"""The question formats of MM-Vet, ScienceQA and MMBench, from file to answers."""

import base64
import json

import pytest

from llava.errors import InputError
from llava.eval import model_vqa, model_vqa_mmbench, model_vqa_science
from llava.eval.benchmarks.questions import read_mmbench_questions, read_question_file, read_science_questions
from llava.eval.run import answers
from tests.conftest import picture, write_jsonl
from tests.eval.benchmarks.tables import encoded, write_table
from tests.eval.conftest import assert_one_line, read_jsonl

LETTER = "Answer with the option's letter from the given choices directly."


@pytest.fixture
def common(checkpoints):
    return ["--model-path", checkpoints(), "--device", "cpu", "--temperature", "0", "--max_new_tokens", "3"]


@pytest.fixture
def mmbench(tmp_path):
    """Three questions: with a hint of two lines and two options, without hint and with four, with an absent hint."""
    path = tmp_path / "mmbench.tsv"
    hint = 'Read the "passage".\nThen answer.'
    write_table(
        path,
        [
            {"index": 241, "question": "Which?", "hint": hint, "A": "one", "B": "two", "image": encoded(0)},
            {"index": 7, "question": "What?", **dict(zip("ABCD", ("w", "x", "y", "z"))), "image": encoded(1)},
            {"index": 9, "question": "Who?", "hint": "nan", "A": "he", "B": "she", "C": "nan", "image": encoded(1)},
        ],
    )
    return path


@pytest.fixture
def science(tmp_path):
    """A question of text alone and one with an image, in LLaVA's format."""
    (tmp_path / "images" / "5").mkdir(parents=True)
    picture().save(tmp_path / "images" / "5" / "image.png")
    rows = [
        {"id": "4", "conversations": [{"from": "human", "value": "Which?\nA. x\nB. y"}, {"from": "gpt", "value": "B"}]},
        {
            "id": "5",
            "image": "5/image.png",
            "conversations": [{"from": "human", "value": "<image>\nWhat?\nA. x\nB. y"}, {"from": "gpt", "value": "A"}],
        },
    ]
    path = tmp_path / "llava_test_CQM-A.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def test_mmvet_is_answered(call, common, tmp_path):
    picture().save(tmp_path / "v1_0.png")
    questions, out = tmp_path / "llava-mm-vet.jsonl", tmp_path / "a.jsonl"
    write_jsonl(
        questions, [{"image": "v1_0.png", "text": f"What is {x}?", "question_id": i} for i, x in enumerate("xyz")]
    )
    files = ["--question-file", questions, "--image-folder", tmp_path, "--answers-file", out]
    assert call(model_vqa, *common, *files)[0] == 0
    assert [(row["question_id"], row["prompt"]) for row in read_jsonl(out)] == [
        (0, "What is x?"),
        (1, "What is y?"),
        (2, "What is z?"),
    ]


def test_mmbench_is_asked_with_hint_question_and_the_options_there_are(mmbench):
    first, second, third = read_mmbench_questions(mmbench, single_pred_prompt=True)
    assert first.question_id == 241
    assert first.prompt == 'Read the "passage".\nThen answer.\nWhich?\nA. one\nB. two'
    assert first.asked == f"{first.prompt}\n{LETTER}"
    assert first.extra == {"round_id": 0, "options": ["one", "two"], "option_char": ["A", "B"]}
    assert second.prompt == "What?\nA. w\nB. x\nC. y\nD. z"
    assert third.prompt == "Who?\nA. he\nB. she"
    assert third.image == second.image != first.image
    assert read_mmbench_questions(mmbench, True, "cn")[1].asked.endswith("D. z\n请直接回答选项字母。")
    assert read_mmbench_questions(mmbench)[1].asked == second.prompt


def test_mmbench_in_all_rounds_moves_the_options_up(mmbench):
    rounds = [q for q in read_mmbench_questions(mmbench, all_rounds=True) if q.question_id == 7]
    assert [q.extra["round_id"] for q in rounds] == [0, 1, 2, 3]
    assert rounds[1].prompt == "What?\nA. x\nB. y\nC. z\nD. w"
    assert rounds[1].extra["option_char"] == ["B", "C", "D", "A"]


def test_mmbench_is_answered_in_chunks_and_merged(call, common, mmbench, tmp_path):
    files = [tmp_path / f"{i}.jsonl" for i in range(2)]
    options = [*common, "--question-file", mmbench, "--single-pred-prompt", "--all-rounds"]
    for i, file in enumerate(files):
        chunk = ["--num-chunks", 2, "--chunk-idx", i, "--answers-file", file]
        assert call(model_vqa_mmbench, *options, *chunk)[0] == 0
    merged = tmp_path / "merged.jsonl"
    merge = ["--question-file", mmbench, "--output", merged]
    assert call(answers, *merge, "--answers-files", *reversed(files))[0] == 0
    rows = read_jsonl(merged)
    assert [(row["question_id"], row["round_id"]) for row in rows] == [
        *((241, 0), (241, 1), (7, 0), (7, 1), (7, 2), (7, 3), (9, 0), (9, 1)),
    ]
    assert LETTER not in rows[0]["prompt"]
    assert rows[1]["options"] == ["two", "one"]
    assert_one_line(call(answers, *merge, "--answers-files", files[1]), "4 question(s) unanswered: 241, 241, 7, 7")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("question\t", "query\t", "header: no question"),
        ("\n7\t", "\nseven\t", "'seven' is no index"),
        ("\n7\t", "\n241\t", "1 index(es) more than once, such as 241"),
        ("/9j/", "###", "the image of 241 is not base64"),
        ("/9j/", "AAAA", "cannot read the image of question 241"),
        ("\t\t\t\t\n9", "\n9", "question '7' has not as many cells as the header"),
    ],
)
def test_a_broken_mmbench_table_is_named(call, common, mmbench, tmp_path, old, new, named):
    text = mmbench.read_text().replace("\r\n", "\n").replace("\r", "")
    assert old in text
    mmbench.write_text(text.replace(old, new, 1))
    out = tmp_path / "out.jsonl"
    assert_one_line(call(model_vqa_mmbench, *common, "--question-file", mmbench, "--answers-file", out), named)
    assert not out.exists()


def test_science_questions_have_an_image_or_none(science):
    text, pictured = read_science_questions(science, science.parent / "images", single_pred_prompt=True)
    assert text.image is None
    assert text.prompt == text.asked == f"Which?\nA. x\nB. y\n{LETTER}"
    assert pictured.image == science.parent / "images" / "5" / "image.png"
    assert pictured.asked == f"What?\nA. x\nB. y\n{LETTER}"
    assert pictured.prompt == f"<image>\n{pictured.asked}"
    assert read_science_questions(science, science.parent, False)[0].asked == "Which?\nA. x\nB. y"


def test_science_questions_are_answered_and_merged(call, common, science, tmp_path):
    files = [tmp_path / f"{i}.jsonl" for i in range(2)]
    options = [*common, "--question-file", science, "--image-folder", tmp_path / "images", "--single-pred-prompt"]
    for i, file in enumerate(files):
        chunk = ["--num-chunks", 2, "--chunk-idx", i, "--answers-file", file]
        assert call(model_vqa_science, *options, *chunk)[0] == 0
    whole, merged = tmp_path / "whole.jsonl", tmp_path / "merged.jsonl"
    assert call(model_vqa_science, *options, "--answers-file", whole)[0] == 0
    merge = ["--question-file", science, "--output", merged]
    assert call(answers, *merge, "--answers-files", *reversed(files))[0] == 0
    assert [(row["question_id"], row["text"]) for row in read_jsonl(merged)] == [
        (row["question_id"], row["text"]) for row in read_jsonl(whole)
    ]
    assert_one_line(call(answers, *merge, "--answers-files", files[0]), "1 question(s) unanswered: 5")
    (tmp_path / "images" / "5" / "image.png").unlink()
    assert_one_line(call(model_vqa_science, *options, "--answers-file", whole), "image.png")


def test_the_real_files_are_asked_as_the_published_answers_say(reference):
    """First questions of ScienceQA, MM-Vet, TextVQA and MME, with the prompts that LLaVA-1.5-13B's answers record."""
    formats = reference.parent / "eval-formats"
    science = read_science_questions(formats / "scienceqa" / "llava_test_CQM-I.head.json", formats, True)
    recorded = {row["question_id"]: row["prompt"] for row in read_jsonl(formats / "scienceqa" / "answers.head.jsonl")}
    published = json.loads((formats / "scienceqa" / "output.head.json").read_text())
    recorded |= {row["question_id"]: row["question"] for rows in published.values() for row in rows}
    pairs = [(q.prompt, recorded[q.question_id]) for q in science if q.question_id in recorded]
    assert pairs
    assert [asked for asked, _ in pairs] == [published for _, published in pairs]
    for folder, name in (("mm-vet", "llava-mm-vet"), ("textvqa", "llava_textvqa_val_v051_ocr"), ("mme", "llava_mme")):
        asked = read_question_file(formats / folder / f"{name}.head.jsonl", formats)
        answered = read_jsonl(formats / folder / "answers.head.jsonl")
        for question, row in zip(asked, answered):
            assert (question.question_id, question.prompt) == (row["question_id"], row["prompt"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{}", "is not a JSON list"),
        ("[]", "is not a JSON list"),
        ("[{", "is not JSON"),
        ('[{"id": "4"}]', "entry 1: no conversations"),
        ('[{"id": "4", "conversations": []}]', "4, first turn: no from, value"),
    ],
)
def test_a_broken_science_file_is_named(call, common, science, tmp_path, text, named):
    science.write_text(text)
    options = [*common, "--question-file", science, "--image-folder", tmp_path]
    assert_one_line(call(model_vqa_science, *options, "--answers-file", tmp_path / "a.jsonl"), named)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([(1, "a.png", "x"), (2, "a.png", "x"), (3, "b.png", "x")], None),
        ([("c/a.png", "c/a.png", "x"), ("c/a.png", "c/a.png", "y")], None),  # MME's
        ([("a", "a.jpg", "x"), ("a", "a.jpg", "y")], None),  # TextVQA's
        ([(1, "a.png", "x"), (1, "a.png", "y"), (2, "b.png", "x")], "1 question_id(s) more than once, such as 1"),
        ([(1, "a.png", "x"), ("1", "b.png", "x")], "more than once, such as 1"),
        ([("a", "a.jpg", "x"), ("b", "a.jpg", "y"), ("b", "a.jpg", "z")], "such as b"),
    ],
)
def test_an_id_stands_once_unless_it_is_the_image_s(call, common, tmp_path, rows, named):
    file = tmp_path / "q.jsonl"
    write_jsonl(file, [{"question_id": i, "image": image, "text": text} for i, image, text in rows])
    if named is None:
        assert len(read_question_file(file, tmp_path)) == len(rows)
    else:
        options = ["--question-file", file, "--image-folder", tmp_path, "--answers-file", tmp_path / "a.jsonl"]
        assert_one_line(call(model_vqa, *common, *options), named)


def test_a_science_question_stands_once(science):
    rows = json.loads(science.read_text())
    science.write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(InputError, match=r"1 question_id\(s\) more than once, such as 4"):
        read_science_questions(science, science.parent, single_pred_prompt=True)


@pytest.mark.parametrize(
    ("cells", "prompt"),
    [
        ({"A": "x", "B": "None", "C": "z"}, "A. x\nB. None\nC. z"),
        ({"A": "x", "B": "y", "C": "None"}, "A. x\nB. y\nC. None"),
        ({"A": "x", "B": "", "C": "z"}, "A. x\nC. z"),
        ({"A": "x", "B": "nan", "C": "z", "D": "NaN"}, "A. x\nC. z"),
        ({"A": "x", "B": "y", "C": "None", "D": "None"}, "A. x\nB. y"),  # this file writes absence so
    ],
)
def test_an_option_is_absent_where_its_cell_says_so(tmp_path, cells, prompt):
    write_table(tmp_path / "t.tsv", [{"index": 0, "question": "?", "image": "AAAA", **cells}])
    question, *others = read_mmbench_questions(tmp_path / "t.tsv", all_rounds=True)
    letters = question.extra["option_char"]
    assert question.prompt == f"?\n{prompt}"
    assert letters == [line[0] for line in prompt.splitlines()]
    assert [other.extra["option_char"] for other in others] == [
        letters[i:] + letters[:i] for i in range(1, len(letters))
    ]


def test_an_mmbench_picture_may_be_that_of_another_row(tmp_path):
    rows = [{"index": i, "question": "?", "A": "x", "B": "y"} for i in (7, 12, 1234)]
    images = [encoded(0), "7", "12"]
    write_table(tmp_path / "t.tsv", [row | {"image": image} for row, image in zip(rows, images)])
    first, *others = read_mmbench_questions(tmp_path / "t.tsv")
    assert first.image == base64.b64decode(images[0])
    assert all(other.image is first.image for other in others)


@pytest.mark.parametrize(("image", "named"), [("99", "that of 99"), ("12", "that of 12"), ("7", "that of 7")])
def test_an_mmbench_picture_of_no_row_is_named(tmp_path, image, named):
    rows = [{"index": i, "question": "?", "A": "x", "B": "y"} for i in (7, 12)]
    write_table(tmp_path / "t.tsv", [rows[0] | {"image": "12"}, rows[1] | {"image": image}])
    with pytest.raises(InputError, match=f"is said to be {named}, which has none"):
        read_mmbench_questions(tmp_path / "t.tsv")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, mmbench, science):
    write_jsonl(tmp_path / "q.jsonl", [{"question_id": 1, "image": "a.png", "text": "?"}])
    readers = (
        (mmbench, read_mmbench_questions),
        (science, lambda file: read_science_questions(file, tmp_path, False)),
        (tmp_path / "q.jsonl", lambda file: read_question_file(file, tmp_path)),
    )
    for file, reader in readers:
        plain = reader(file)
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        assert reader(file) == plain
