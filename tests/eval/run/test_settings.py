"""What decides answers is recorded, and nothing else: which answers a run goes on from."""

import pytest

from llava.errors import InputError
from llava.eval import model_vqa_loader
from llava.eval.benchmarks import find_benchmark
from llava.eval.benchmarks.questions import Question
from llava.eval.evaluation import answers_path
from llava.eval.run import settings
from llava.eval.run.answers import AnswerStore
from llava.pruning.settings import Settings
from tests.eval.conftest import METHOD, assert_one_line


@pytest.fixture
def ask(checkpoints, pope, tmp_path):
    return [
        *("--model-path", checkpoints(), "--device", "cpu", "--temperature", "0", "--max_new_tokens", "2"),
        *("--question-file", pope / "llava_pope_test.jsonl", "--image-folder", pope / "val2014"),
        *("--answers-file", tmp_path / "a.jsonl", "--visual_token_num", "8"),
    ]


def test_an_option_that_answers_know_nothing_of_has_its_default(tmp_path):
    questions = [Question(0, "Q", None, "Q")]
    old = {"visual_token_num": 8}
    store = AnswerStore(tmp_path / "a.jsonl", questions)
    store.resume(old)
    (store.parts / "0.jsonl").write_text('{"question_id": 0, "prompt": "Q", "text": "yes"}\n')
    store._lock.close()
    with pytest.raises(InputError, match="pruning_seed 0 is now 1"):
        AnswerStore(store.file, questions).resume(settings.DEFAULTS | old | {"pruning_seed": 1})
    assert AnswerStore(store.file, questions).resume(settings.DEFAULTS | old) == []


def test_what_decides_nothing_does_not_refuse_answers(call, ask):
    assert call(model_vqa_loader, *ask)[0] == 0
    assert call(model_vqa_loader, *ask, "--batch-size", 2, "--num-workers", 1, "--device", "cuda")[0] == 0
    # VisPruner draws nothing.
    assert call(model_vqa_loader, *ask, "--pruning_seed", 3)[0] == 0


@pytest.mark.parametrize(
    ("method", "folder"),
    [
        ("none", "llava-a-none/n_all"),
        ("none.py", "llava-a-none/n_8"),
        ("vispruner", "llava-a/n_8"),
        ("vispruner.py", "llava-a-vispruner/n_8"),
    ],
)
def test_a_file_with_a_method_s_name_is_not_filed_as_that_method(tmp_path, method, folder):
    (tmp_path / method).write_text(METHOD)
    settings = Settings(8, pruning_method=str(tmp_path / method) if method.endswith(".py") else method)
    path = answers_path(find_benchmark("pope"), tmp_path, "llava-a", settings)
    assert path.parent.match(f"{folder}/r_0.5")


def test_with_nothing_left_no_model_is_loaded_and_no_picture_opened(call, ask, tmp_path, monkeypatch):
    assert call(model_vqa_loader, *ask)[0] == 0

    def refuse(*args, **kwargs):
        raise OSError("it was")

    monkeypatch.setattr("llava.model.builder.load_pretrained_model", refuse)
    monkeypatch.setattr("PIL.Image.open", refuse)
    assert call(model_vqa_loader, *ask)[0] == 0
    (tmp_path / "a.jsonl").write_text("".join((tmp_path / "a.jsonl").read_text().splitlines(keepends=True)[:-1]))
    assert_one_line(call(model_vqa_loader, *ask), "1.png")
