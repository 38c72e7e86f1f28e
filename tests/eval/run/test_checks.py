"""What is found before the first answer, and what is kept when something fails on the way."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.errors import InputError
from llava.eval import model_vqa_loader
from llava.eval.benchmarks.questions import Question
from llava.eval.run import jobs
from llava.eval.run.answering import answer_each, answer_questions, make_requests
from llava.eval.run.checks import check_headers, check_lengths, check_questions, decoding_images
from llava.inference import images as pictures
from llava.inference.budgets import pairs_in_order
from llava.inference.request import Request
from llava.model.builder import LoadedModel
from llava.pruning import Settings
from tests.conftest import IMAGE, ROOT, picture
from tests.eval.conftest import texts

PRUNED = [(), (16,), *((23, 0.5, name) for name in ("visionzip", "fastv", "random", "pool", "dart", "blind"))]
ONE = {"do_sample": False, "max_new_tokens": 1}


def asked(tmp_path: Path, count: int = 6) -> list[Question]:
    """A question on each of several pictures."""
    for seed in range(count):
        picture(seed=seed).save(tmp_path / f"{seed}.png")
    return [Question(i, f"What is {i}?", tmp_path / f"{i}.png", f"What is {i}?") for i in range(count)]


def test_every_question_with_an_image_token_is_named():
    questions = [Question(i, IMAGE if i in (2, 5, 7) else "What?", None, "") for i in range(9)]
    with pytest.raises(
        InputError, match=r"^question 2 has <image> in its text; 2 more cannot be asked: question 5, 7$"
    ):
        check_questions(questions)


def test_a_header_shows_what_is_missing_or_no_image_but_not_what_is_cut(tmp_path):
    questions = asked(tmp_path)
    questions[1].image.write_bytes(questions[1].image.read_bytes()[:3000])
    check_headers(questions)
    with pytest.raises(InputError, match=r"1\.png"), decoding_images(questions) as decoded:
        decoded()
    questions[2].image.unlink()
    questions[4].image.write_text("no image")
    questions[5].image.unlink()
    os.mkfifo(questions[5].image)
    with pytest.raises(InputError, match=r"2\.png.*; 2 more cannot be asked: question 4, 5$"):
        check_headers(questions)


def test_pictures_inside_a_question_file_have_headers_too():
    buffer = BytesIO()
    picture().save(buffer, "PNG")
    check_headers([Question(1, "", buffer.getvalue(), "")])
    with pytest.raises(InputError, match="cannot read the image of question 7"):
        check_headers([Question(7, "", buffer.getvalue()[:10], "")])


@pytest.mark.parametrize("pruning", PRUNED)
@pytest.mark.parametrize(("version", "language_model"), [("v1.5", "llama"), ("v1.6", "llama"), ("v1.6", "qwen")])
def test_a_prompt_is_as_long_as_it_is_said_to_be(loaded, tmp_path, version, language_model, pruning, monkeypatch):
    llava, pruning = LoadedModel(*loaded(version, language_model)), Settings(*pruning)
    question = Question(3, "What? " * 50, tmp_path / "image.png", "")
    picture(300, 90).save(question.image)
    requests = make_requests([question], "llava_v1", llava.model.config, pruning)
    (true,) = [c.prompt_tokens for c in _complete(llava, requests)]
    monkeypatch.setattr(llava.model.config, "max_position_embeddings", true)
    check_lengths(llava, [question], requests)
    is_exact = version == "v1.5" or not pruning.prunes_before_decoder
    monkeypatch.setattr(llava.model.config, "max_position_embeddings", true - 1 if is_exact else 60)
    with pytest.raises(InputError, match=r"question 3 is longer than the context: \d+ tokens, the model takes"):
        check_lengths(llava, [question], requests)


def _complete(llava: LoadedModel, requests: list[Request]):
    from llava.inference import Engine

    return Engine(llava).answer(requests, **ONE)


def test_no_prompt_has_more_tokens_than_half_of_what_is_counted_without_a_tokenizer(loaded):
    tokenizer = loaded()[0]
    for text in ("a", "é" * 9, "漢字" * 9, "\u200b" * 9, "?!" * 9, "\0\x01" * 9, "😀" * 9, "ﷺ"):
        assert len(tokenizer_image_token(text, tokenizer)) <= 2 * len(text.encode()) + 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_failing_question_leaves_the_answers_of_its_batch(loaded, tmp_path, batch_size):
    llava, questions = loaded(), asked(tmp_path)
    whole = [text for _, text in answer_questions(llava, questions, "llava_v1", ONE, 4)]
    questions[2].image.unlink()
    settings = [Settings(), Settings(16)]
    pairs = pairs_in_order([0, 1, 2, 3, 4, 5], settings, batch_size)
    both = list(answer_each(llava, questions, pairs, "llava_v1", ONE, batch_size))
    assert [pair for pair, _ in both] == pairs
    assert [isinstance(text, InputError) for _, text in both] == [number == 2 for number, _ in pairs]
    answers = [answer for answer in both if answer[0][1] == settings[0]]
    assert isinstance(answers[2][1], InputError)
    assert [text for _, text in answers[:2] + answers[3:]] == whole[:2] + whole[3:]


def test_what_fails_on_the_way_is_named_when_all_others_are_answered(call, ask, tmp_path, monkeypatch):
    """A picture that becomes unreadable while others are asked about."""
    file, open_image = tmp_path / "a.jsonl", pictures.open_image
    options = [*ask, "--answers-file", file, "--num-workers", 0]
    with monkeypatch.context() as patched:

        def fail(image, name, as_displayed):
            if (file.with_suffix(".parts") / "0.jsonl").exists() and image.name == "3.png":
                raise InputError("cannot read the image 3.png: stale file handle")
            return open_image(image, name, as_displayed)

        patched.setattr(pictures, "open_image", fail)
        code, _, err = call(model_vqa_loader, *options)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: cannot read the image 3.png: stale file handle; 2 more cannot")
    assert len(texts(file.with_suffix(".parts") / "0.jsonl")) == 21
    assert call(model_vqa_loader, *options)[0] == 0
    assert len(texts(file)) == 24


def test_where_everything_fails_the_run_gives_up(call, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_FAILED", 5)
    nothing = InputError("no")
    monkeypatch.setattr(jobs, "answer_each", lambda _, questions, pairs, *a: ((pair, nothing) for pair in pairs))
    code, _, err = call(model_vqa_loader, *ask, "--answers-file", tmp_path / "a.jsonl")
    assert (code, err.splitlines()[-1].count(",")) == (2, 3)


@pytest.mark.parametrize("bad", ["checkpoint", "picture"])
def test_overwriting_drops_nothing_before_the_run_can_start(call, ask, tmp_path, bad):
    options = [*ask, "--answers-file", tmp_path / "a.jsonl"]
    assert call(model_vqa_loader, *options)[0] == 0
    answers = (tmp_path / "a.jsonl").read_bytes()
    assert call(model_vqa_loader, *options, "--overwrite")[0] == 0  # the same settings: there is nothing to do
    assert (tmp_path / "a.jsonl").read_bytes() == answers
    image, checkpoint = tmp_path / "images" / "3.png", Path(ask[1])
    weights = next(file for file in checkpoint.iterdir() if file.suffix in (".bin", ".safetensors"))
    broken = image if bad == "picture" else weights
    content = broken.read_bytes()
    try:
        broken.write_bytes(content[: len(content) // 2])
        code, _, err = call(model_vqa_loader, *options, "--overwrite")
    finally:
        broken.write_bytes(content)
    assert (code, "Traceback" in err) == (2, False)
    assert (tmp_path / "a.jsonl").read_bytes() == answers
    assert call(model_vqa_loader, *options)[0] == 0
    assert call(model_vqa_loader, *options, "--visual_token_num", 8, "--overwrite")[0] == 0
    assert (tmp_path / "a.jsonl").read_bytes() != answers


@pytest.mark.slow
@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "| true"])
def test_a_closed_stream_is_no_traceback(checkpoints, pope, tmp_path, closing):
    options = f"--model-path {checkpoints()} --device cpu --data-dir {tmp_path} --out-dir {tmp_path / 'out'}"
    shell = f"{sys.executable} -m llava.eval pope {options} --max_new_tokens 2 {closing}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], **pipes, env=environment, cwd=ROOT)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == {">/dev/full": 2, "| true": 141}.get(closing, 0)
    assert next((tmp_path / "out").rglob("merge.score.json"))


def test_most_answers_being_empty_is_said_in_the_score_file(call, caplog, checkpoints, pope, tmp_path, monkeypatch):
    from llava.eval import __main__ as command

    options = ["pope", "--model-path", checkpoints(), "--device", "cpu", "--data-dir", tmp_path, "--max_new_tokens", 2]
    answer_each = jobs.answer_each
    for empty, folder in ((3, "half"), (4, "most")):

        def answer(loaded, questions, pairs, *args, most=empty):
            return ((pair, "" if i < most else "Yes") for i, pair in enumerate(pairs))

        monkeypatch.setattr(jobs, "answer_each", answer)
        code, out, _ = call(command, *options, "--out-dir", tmp_path / folder)
        scores = json.loads(next((tmp_path / folder).rglob("merge.score.json")).read_text())
        says = "4 of 6 answers are empty"
        assert code == 0
        assert (says in out, says in scores.get("warning", ""), says in caplog.text) == (empty == 4,) * 3
    assert answer_each is not jobs.answer_each


def test_decoding_ahead_keeps_the_order_and_ends_with_its_reader():
    started = []

    def work(number: int) -> int:
        started.append(number)
        return number

    for workers in (0, 1, 3):
        assert list(pictures.map_ahead(work, range(50), workers, ahead=2)) == list(range(50))
    started.clear()
    results = pictures.map_ahead(work, range(50), 1, ahead=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert len(started) <= 6
