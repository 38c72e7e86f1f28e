"""Users' methods as files: what is there is what decides, and what goes wrong names the method and the line."""

import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch

from llava.eval import run_llava
from llava.inference.memory import is_out_of_memory
from llava.pruning import MethodError, PruningError, Settings, Views, load_method, select
from llava.pruning.method import method_digest
from llava.serve import cli
from tests.conftest import picture
from tests.pruning.guests import views_of


def keeps(patch: int) -> str:
    return f"return views.keep(torch.tensor([[{patch:2}]] * 2))"  # of one length


def kept_by(name: str) -> int:
    return select(views_of(), Settings(1, pruning_method=name)).patches[0, 0].item()


def set_times(*paths: str) -> None:
    for path in paths:
        os.utime(path, (1_700_000_000, 1_700_000_000))


def test_methods_of_one_name_and_time_in_two_folders_are_two(write):
    first, second = write(keeps(3), "a/mine.py"), write(keeps(7), "b/mine.py")
    set_times(first, second)
    assert [kept_by(name) for name in (first, second, first)] == [3, 7, 3]
    assert method_digest(first) != method_digest(second)


def test_an_edit_that_changes_neither_time_nor_size_is_read(write):
    for patch in (3, 7, 3):
        path = write(keeps(patch))
        set_times(path)
        assert kept_by(path) == patch
    assert [file.name for file in Path(path).parent.iterdir()] == ["mine.py"]  # no compiled copy


def test_a_module_is_read_again_too(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "guests_of_test").mkdir()
    (tmp_path / "guests_of_test" / "__init__.py").touch()
    (tmp_path / "guests_of_test" / "helper.py").write_text("NUMBER = 5\n")
    name, digests = "guests_of_test.mine", []
    for patch in (3, 7):
        set_times(write(keeps(patch), "guests_of_test/mine.py"))
        assert kept_by(name) == patch
        digests.append(method_digest(name))
    assert len(set(digests)) == 2
    assert name not in sys.modules  # the user's own import of it is another matter
    body = "return views.keep(torch.tensor([[NUMBER]] * 2))"
    write(body, "guests_of_test/mine.py", "from .helper import NUMBER")
    assert kept_by(name) == 5


def test_names_follow_folders_and_links(write, tmp_path, monkeypatch):
    first, second = write(keeps(3), "a/mine.py"), write(keeps(7), "b/mine.py")
    for folder, patch in (("a", 3), ("b", 7)):
        monkeypatch.chdir(tmp_path / folder)
        assert kept_by("mine.py") == patch
    link = tmp_path / "link.py"
    for target, patch in ((first, 3), (second, 7)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert kept_by(str(link)) == patch
        assert method_digest(str(link)) == method_digest(target)


def test_what_two_files_define_under_one_name_stays_apart(write):
    head = "from dataclasses import dataclass\n\n@dataclass\nclass Box:\n    patch: 'int' = {}\n"
    methods = [load_method(write(keeps(3), f"{i}/mine.py", head.format(i))) for i in range(2)]
    boxes = [sys.modules[method.method.select.__module__].Box() for method in methods]
    assert [pickle.loads(pickle.dumps(box)).patch for box in boxes] == [0, 1]


def test_settings_that_know_a_former_kind_of_the_file_say_so(write):
    path = write(keeps(3))
    settings = Settings(1, pruning_method=path)
    assert not settings.prunes_in_decoder
    Path(path).write_text("FULL_LAYERS = 2\n\n\ndef prune_decoder(*args, **kwargs):\n    pass\n")
    with pytest.raises(MethodError, match=r"mine.py has become another kind"):
        select(views_of(), settings)
    Path(path).unlink()
    with pytest.raises(PruningError, match=r"there is no file .*mine.py"):
        select(views_of(), settings)


RAISED = {
    "an error": ("raise ValueError('bad\\nluck')", "ValueError: bad luck"),
    "a division": ("1 / 0", "ZeroDivisionError: division by zero"),
    "the end": ("import sys; sys.exit()", "SystemExit"),
    "the end with a code": ("raise SystemExit(3)", "SystemExit: 3"),
    "the end with words": ("import sys; sys.exit('no luck')", "SystemExit: no luck"),
    "no error's error": ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    "an assertion": ("assert False", "AssertionError"),
    "a message that fails": (
        "class Bad(Exception):\n    def __str__(self): raise RuntimeError\nraise Bad",
        "Bad",
    ),
    "a long message": ("raise KeyError('x' * 10_000)", "KeyError: 'xxx.*xxx\\.\\.\\."),
    "one in a library": ("import json; json.loads('{')", "JSONDecodeError: Expecting property name"),
    "too deep": ("def down(): down()\ndown()", "RecursionError: maximum recursion depth"),
}


@pytest.mark.parametrize(("code", "said"), RAISED.values(), ids=RAISED)
@pytest.mark.parametrize("where", ["import", "select", "METHOD"])
def test_what_a_method_raises_names_it_and_the_line(write, code, said, where):
    if where == "import":
        path = write("return views.keep_all()", head=code)
    elif where == "select":
        path = write(f"{code}\nreturn views.keep_all()")
    else:
        lines = "".join(f"        {line}\n" for line in code.splitlines())
        path = write(
            "pass", head=f"class Mine(Method):\n    def select(self, views, settings):\n{lines}\nMETHOD = Mine()"
        )
    text = Path(path).read_text().splitlines()
    last = next(line for line in reversed(code.splitlines()) if line.strip()).strip()
    number = next(i for i, line in enumerate(text, 1) if line.strip() == last)
    number -= said.startswith("RecursionError")  # of the function that calls itself
    how = "cannot be imported" if where == "import" else "failed"
    expected = rf"^the pruning method .*mine\.py {how}: {said}.* \(line {number} of mine\.py\)$"
    with pytest.raises(MethodError, match=expected) as failed:
        select(views_of(), Settings(4, pruning_method=path))
    assert "\n" not in str(failed.value)
    assert failed.value.__cause__ is not None
    assert len(str(failed.value)) < len(path) + 450


def test_a_method_that_cannot_be_called_so_names_its_first_line(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("import torch\n\n\ndef select(views):\n    return views.keep_all()\n")
    with pytest.raises(MethodError, match=r"failed: TypeError: select\(\) takes 1 positional .* \(line 4 of mine.py\)"):
        select(views_of(), Settings(4, pruning_method=str(mine)))


def test_a_key_that_is_pressed_is_no_error_of_a_method(write):
    with pytest.raises(KeyboardInterrupt):
        select(views_of(), Settings(4, pruning_method=write("raise KeyboardInterrupt")))
    with pytest.raises(KeyboardInterrupt):
        load_method(write("pass", head="raise KeyboardInterrupt"))


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("def broken(:", r"SyntaxError: invalid syntax \(mine.py, line 3\)"),
        ("  x = 1\n y = 2", r"IndentationError: .*line 3\)"),
        ("x = '\\0'.join(['a'])\nimport nothing_like_this", r"ModuleNotFoundError: .*'nothing_like_this' \(line 4 of"),
    ],
)
def test_a_file_that_cannot_be_read_as_python_names_the_line(write, head, named):
    with pytest.raises(MethodError, match=rf"mine\.py cannot be imported: {named}"):
        load_method(write("pass", head=head))


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("import sys; sys.exit(3)", r"SystemExit: 3 \(line 3 of __init__.py\)"),
        ("raise ValueError('bad')", r"ValueError: bad \(line 3 of __init__.py\)"),
        ("import nothing_like_this", r"ModuleNotFoundError: .* \(line 3 of __init__.py\)"),
    ],
)
def test_a_package_that_fails_is_named(write, tmp_path, monkeypatch, head, named):
    monkeypatch.syspath_prepend(tmp_path)
    write("pass", "failing_package/__init__.py", head)
    write("return views.keep_all()", "failing_package/mine.py")
    with pytest.raises(MethodError, match=f"failing_package.mine cannot be imported: {named}"):
        Settings(4, pruning_method="failing_package.mine")


def test_what_the_tower_lacks_is_said_with_the_method_s_name(write):
    path = write("return views.keep(views.keys)")
    with pytest.raises(
        PruningError, match=r"mine.py: this vision tower gives no keys, .* \(line 5 of mine.py\)"
    ) as said:
        select(Views(torch.rand(1, 9, 4)), Settings(2, pruning_method=path))
    assert not isinstance(said.value, MethodError)


def test_memory_that_runs_out_is_known_as_that(write):
    for code, is_memory in (("raise MemoryError", True), ("torch.empty(2**60)", True), ("raise ValueError", False)):
        with pytest.raises(MethodError, match=r"mine.py failed: .*\(line 5 of") as failed:
            select(views_of(), Settings(4, pruning_method=write(code)))
        assert is_out_of_memory(failed.value) == is_memory


@pytest.fixture
def asked(checkpoints, tmp_path):
    """Options of a command that asks about a picture."""
    picture().save(tmp_path / "picture.png")
    model = ["--model-path", checkpoints(), "--device", "cpu", "--visual_token_num", "4", "--temperature", "0"]
    return [*model, "--image-file", tmp_path / "picture.png", "--max_new_tokens", "2"]


@pytest.mark.parametrize(("head", "code"), [("import sys; sys.exit(0)", "pass"), ("", "raise ValueError('bad')")])
def test_a_command_ends_with_one_line_and_has_the_traceback_with_debug(write, call, asked, caplog, head, code):
    options = [*asked, "--query", "What?", "--pruning_method", write(code, head=head)]
    ended, _, said = call(run_llava, *options)
    assert (ended, said.count("\n")) == (2, 1)
    assert re.match(
        r"error: the pruning method .*mine.py .*(SystemExit: 0|ValueError: bad) \(line \d of mine.py\)", said
    )
    assert "Traceback" not in caplog.text
    assert call(run_llava, *options, "--debug")[::2] == (ended, said)
    assert f"    {head or code}\n" in caplog.text


def test_a_chat_goes_on_after_a_method_failed(write, call, asked, caplog):
    body = "if len(SEEN) < 1:\n    SEEN.append(1 / len(SEEN))\nreturn views.keep_all()"
    options = [*asked, "--pruning_method", write(body, head="SEEN = []")]
    ended, _, said = call(cli, *options, "--debug", stdin=["What?", "What?", ""])
    assert (ended, said.count("\n")) == (0, 2)
    assert said.count("mine.py failed: ZeroDivisionError: division by zero (line 6 of mine.py)") == 2
    assert caplog.text.count("    SEEN.append(1 / len(SEEN))\n") == 2
