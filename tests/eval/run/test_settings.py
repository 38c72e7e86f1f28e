"""What decides answers is recorded, and nothing else: which answers a run goes on from."""

import pytest

from llava.errors import InputError
from llava.eval import model_vqa_loader
from llava.eval.benchmarks import find_benchmark
from llava.eval.benchmarks.questions import Question
from llava.eval.evaluation import answers_path
from llava.eval.run import settings, stamps
from llava.eval.run.answers import AnswerStore
from llava.pruning.method import method_digest
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


def test_files_of_one_name_and_time_in_two_folders_are_two_methods(call, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "_state", lambda file: (1, 2, 3))  # as where a clock is coarse
    for folder, more in (("a", "# one\n"), ("b", "# two\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(METHOD + more)
    assert call(model_vqa_loader, *ask, "--pruning_method", tmp_path / "a" / "mine.py")[0] == 0
    assert_one_line(call(model_vqa_loader, *ask, "--pruning_method", tmp_path / "b" / "mine.py"), "pruning_file")
    (tmp_path / "b" / "mine.py").write_text(METHOD + "# one\n")
    assert call(model_vqa_loader, *ask, "--pruning_method", tmp_path / "b" / "mine.py")[0] == 0


def test_a_link_is_known_by_its_own_name_and_by_what_it_leads_to(tmp_path):
    for name, more in (("v1.py", ""), ("v2.py", ""), ("v3.py", "# other\n")):
        (tmp_path / name).write_text(METHOD + more)
    link, known = tmp_path / "mine.py", []
    for target in ("v1.py", "v2.py", "v3.py"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        known.append(
            (settings.heeded(Settings(8, pruning_method=str(link)))["pruning_method"], method_digest(str(link)))
        )
    assert known[0] == known[1] == ("mine.py", known[0][1])
    assert known[0][1] != known[2][1]


def test_a_method_that_is_edited_while_questions_are_answered_ends_the_run(call, ask, tmp_path):
    """Here by itself. What was answered before is there, and by the former contents."""
    file = tmp_path / "mine.py"
    edits = 'SEEN.append(1)\n    len(SEEN) == 2 and open(__file__, "a").write("# edited\\n")\n    return'
    file.write_text("SEEN = []\n" + METHOD.replace("return", edits))
    options = [*ask, "--pruning_method", file, "--batch-size", 1]
    code, _, said = call(model_vqa_loader, *options)
    assert (code, said.count("error: ")) == (2, 1)
    assert said.endswith("mine.py was changed while questions were answered by it\n")
    answered = [line for part in (tmp_path / "a.parts").glob("*.jsonl") for line in part.read_text().splitlines()]
    assert len(answered) == 3  # those about the first picture
    assert_one_line(call(model_vqa_loader, *options), "pruning_file")


def test_with_nothing_left_no_model_is_loaded_and_no_picture_opened(call, ask, tmp_path, monkeypatch):
    assert call(model_vqa_loader, *ask)[0] == 0

    def refuse(*args, **kwargs):
        raise OSError("it was")

    monkeypatch.setattr("llava.model.builder.load_pretrained_model", refuse)
    monkeypatch.setattr("PIL.Image.open", refuse)
    assert call(model_vqa_loader, *ask)[0] == 0
    (tmp_path / "a.jsonl").write_text("".join((tmp_path / "a.jsonl").read_text().splitlines(keepends=True)[:-1]))
    assert_one_line(call(model_vqa_loader, *ask), "1.png")
