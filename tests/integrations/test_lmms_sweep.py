"""lmms-eval at many settings: what is asked, what is gone on from, what is refused. lmms-eval itself is not needed."""

import importlib.metadata
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava.integrations.lmms_eval import sweep
from llava.pruning.settings import NAMES, Settings
from tests.eval.conftest import assert_one_line, table_of
from tests.eval.lmms_logs import write_hits
from tests.recipes import assert_refused, run_recipe


@pytest.fixture
def asked(monkeypatch):
    """Stand in for lmms-eval: the commands that it is called by; `fails` are the tasks that it fails at."""
    calls = SimpleNamespace(commands=[], fails=set())

    def option(command, name):
        return command[command.index(name) + 1]

    def run(command, stdout, **_):
        task, arguments = option(command, "--tasks"), option(command, "--model_args")
        calls.commands.append(command)
        if task in calls.fails:
            stdout.write("Error during evaluation: no such data set. Please set `--verbosity=DEBUG`\n")
            return
        right = 30 if "fastervlm" in arguments else 60
        metric = "anls" if task == "docvqa_val" else "exact_match"
        folder, model = Path(option(command, "--output_path")) / "x", option(command, "--model")
        write_hits(folder, task, right, 80, metric=metric, arguments=arguments, model=model)

    monkeypatch.setattr(sweep.subprocess, "run", run)
    find, version = importlib.util.find_spec, importlib.metadata.version
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "lmms_eval" or find(name))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.7.3" if name == "lmms_eval" else version(name))
    monkeypatch.setattr(sweep, "count_gpus", lambda: 1)
    return calls


def rows_of(out: str) -> list[list[str]]:
    """The rows of the table of scores, without what others published."""
    return table_of(out.split("Published by others")[0])[1:]


def arguments_of(calls) -> list[tuple[str, str]]:
    """The task and the settings of each call."""
    pairs = [(c[c.index("--tasks") + 1], c[c.index("--model_args") + 1]) for c in calls.commands]
    return [(task, ",".join(text.split(",")[1:])) for task, text in pairs]


def test_every_combination_is_asked_once_and_the_table_compares_them(asked, call, tmp_path):
    options = [
        "--visual_token_num",
        32,
        16,
        "--pruning_method",
        "none",
        "vispruner",
        "fastervlm",
        "--budget_per",
        "crop",
        "image",
    ]
    code, out, err = call(sweep, "docvqa", "realworldqa", *options, "--out-dir", tmp_path, "--limit", 80)
    assert code == 0, err
    found = [set(filter(None, text.split(","))) for task, text in arguments_of(asked) if task == "docvqa_val"]
    wanted = [
        {f"visual_token_num={number}", *method, *per}
        for number in (32, 16)
        for method in ([], ["pruning_method=fastervlm"])
        for per in ([], ["budget_per=image"])
    ]
    assert len(found) == 9 and all(each in found for each in wanted)  # and the unpruned model, once
    assert len(arguments_of(asked)) == 18
    assert {command[command.index("--limit") + 1] for command in asked.commands} == {"80"}
    rows = {tuple(row[:2]): row[3] for row in rows_of(out)}
    assert rows["vispruner", "32"].startswith("75.0 [")
    assert rows["fastervlm", "16 per image"].endswith("↓")
    assert ("none", "all") in rows
    assert "Published by others" in out


def test_what_is_done_is_not_done_again(asked, call, tmp_path):
    options = ["docvqa", "scenes_gqa", "--visual_token_num", 32, "--out-dir", tmp_path]
    asked.fails = {"scenes_gqa"}
    code, out, err = call(sweep, *options)
    assert code == 1
    assert err.startswith("error: scenes_gqa, visual_token_num=32: no such data set (see ") and err.count("\n") == 1
    assert "DocVQA" in out
    asked.fails.clear()
    asked.commands.clear()
    assert call(sweep, *options)[0] == 0
    assert [task for task, _ in arguments_of(asked)] == ["scenes_gqa"]
    asked.commands.clear()
    code, out, _ = call(sweep, *options)
    assert code == 0 and not asked.commands and len(rows_of(out)) == 1
    assert "2 of 2 are done" in out
    assert_one_line(call(sweep, *options, "--dtype", "bfloat16"), "was made with another dtype: --overwrite drops it")
    assert not asked.commands
    assert call(sweep, *options, "--dtype", "bfloat16", "--overwrite")[0] == 0
    assert len(asked.commands) == 2 and all("dtype=bfloat16" in text for _, text in arguments_of(asked))


def test_what_a_killed_run_left_is_not_taken_for_a_log(asked, call, tmp_path, monkeypatch):
    options = ["docvqa", "--visual_token_num", 32, "--out-dir", tmp_path]
    answer = sweep.subprocess.run

    def killed(command, **more):
        answer(command, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep.subprocess, "run", killed)
    assert call(sweep, *options)[0] == 130
    monkeypatch.setattr(sweep.subprocess, "run", answer)
    assert call(sweep, *options)[0] == 0
    assert len(asked.commands) == 2
    assert not list(tmp_path.rglob("*.part"))


def test_settings_that_one_folder_would_have_are_refused(asked, call, tmp_path, monkeypatch):
    monkeypatch.setattr(Settings, "suffix", "")
    options = ["docvqa", "--visual_token_num", 16, "--budget_per", "crop", "image", "--out-dir", tmp_path]
    assert_one_line(call(sweep, *options), "two of the settings would be filed in ")
    assert not asked.commands


def test_each_gpu_has_a_process(asked, call, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "count_gpus", lambda: 4)
    assert call(sweep, "docvqa", "--out-dir", tmp_path)[0] == 0
    assert call(sweep, "docvqa", "--visual_token_num", 16, "--out-dir", tmp_path, "--num-processes", 1)[0] == 0
    many, one = asked.commands
    assert many[1:3] == ["-m", "llava.eval.run.launch"] and many[many.index("--num_processes") + 1] == "4"
    assert many[many.index("lmms_eval") - 1] == "-m" and one[1:3] == ["-m", "lmms_eval"]


def test_models_of_transformers_take_shares(asked, call, tmp_path, checkpoints):
    options = ["docvqa", "--model", "pruned_hf", "--out-dir", tmp_path, "--visual_token_num", "0.25", "16"]
    code, out, err = call(sweep, *options, "--pruning_method", "divprune", "none")
    assert code == 0, err
    assert [row[:2] for row in rows_of(out)] == [["none", "all"], ["divprune", "25 of 100"], ["divprune", "16"]]
    assert len(asked.commands) == 3


def test_every_setting_is_an_option(call):
    code, out, _ = call(sweep, "--help")
    assert code == 0
    assert all(f"--{name}" in out for name in NAMES)


def test_without_a_task_they_are_listed(call):
    code, out, _ = call(sweep)
    assert code == 0
    tasks = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert tasks["refcoco"] == "refcoco_bbox_rec_val, refcoco_bbox_rec_testA, refcoco_bbox_rec_testB"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["docvqb"], "there is no task set 'docvqb', only refcoco, "),
        (["docvqa", "--pruning_method", "mine"], "mine"),
        (["docvqa", "--visual_token_num", "0"], "visual_token_num: must be at least 1"),
        (["docvqa", "--visual_token_num", "many"], "visual_token_num: must be an integer"),
        (["docvqa", "--visual_token_num", "0.25"], "a share such as 0.25 needs --model pruned_hf"),
        (["docvqa", "--model", "pruned_hf", "--visual_token_num", "1.5"], "visual_token_num: must be an integer"),
        (
            ["docvqa", "--model", "pruned_hf", "--pruning_method", "fastv", "--visual_token_num", "8"],
            "fastv drops tokens",
        ),
        (["docvqa", "--model", "llava"], "llava"),
        (["docvqa", "--important_ratio", "2"], "2"),
        (["docvqa", "--model-path", "./nowhere"], "nowhere"),
        (["docvqa", "--template", "mine"], "mine"),
        (["docvqa", "--batch-size", "0"], "batch-size must be an integer of at least 1"),
        (["docvqa", "--num-processes", "0"], "num-processes must be at least 1"),
        (["docvqa", "--limit", "-1"], "limit must be at least 1"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_asked(asked, call, tmp_path, options, named):
    assert_one_line(call(sweep, *options, "--out-dir", tmp_path), named)
    assert not asked.commands and not list(tmp_path.iterdir())


def test_without_lmms_eval_it_says_how_to_get_it(call, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_one_line(call(sweep, "docvqa", "--out-dir", tmp_path), "pip install lmms-eval==0.7.3")


@pytest.mark.slow
def test_the_script_refuses_a_bad_name_by_itself():
    assert_refused(
        run_recipe("lmms_eval.sh", "docvqa docvqb", "--visual_token_num", 64), "there is no task set 'docvqb'"
    )
