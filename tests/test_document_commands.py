"""Every command of README.md, EVAL.md and docs/ that needs no download and no other environment, run as written.

The folders that it names, such as `liuhaotian/llava-v1.5-7b` and CKPT, are the bundled model.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, picture

pytestmark = pytest.mark.slow
DOCUMENTS = [ROOT / "README.md", ROOT / "EVAL.md", *sorted((ROOT / "docs").glob("*.md"))]
BUNDLED = ROOT / "playground/checkpoints/llava-tiny"
MODELS = ("liuhaotian/llava-v1.5-7b", "liuhaotian/llava-v1.6-vicuna-7b", "CKPT")
METHOD = (
    "def select(views, settings):\n    return views.keep(views.importance.topk(settings.visual_token_num).indices)\n"
)
# What is not run, by how it begins, and why.
NOT_RUN = {
    "pip install": "installs",
    "bash scripts/quickstart.sh": "installs",
    "bash scripts/test.sh": "installs, and runs this test",
    "python -m pytest": "runs other tests",
    "llava page": "serves until it is stopped: tests/serve",
    "bash scripts/serve.sh": "needs vLLM: tests/integrations/vllm",
    "python -m lmms_eval": "needs lmms-eval: tests/integrations/lmms_eval",
    "CKPT=liuhaotian/llava-v1.5-7b OUT_DIR=playground/out/lmms_eval bash scripts/lmms_eval.sh": "needs lmms-eval",
    "python -m llava.eval.lmms_eval": "reads what lmms-eval leaves: tests/eval/test_lmms_table.py",
    "bash docs/examples/photographs.sh": "downloads",
    "llava bench --shape llava-v1.5-7b": "a 7B is too large for a CPU",
    "llava bench --shape qwen2.5-vl-7b": "11 GB and a quarter of an hour on a CPU",
    "bash scripts/benchmarks/gpu_report.sh": "needs a GPU: tests/bench/test_gpu_report.py",
    "python -m scripts.benchmarks.selection --tower": "takes minutes on a CPU",
    "python -m scripts.benchmarks.selection --importance": "takes minutes on a CPU",
    "python -m scripts.benchmarks.rounding_spread": "takes minutes on a CPU",
    "python -m scripts.benchmarks.cluster_size": "takes a quarter of an hour on a CPU",
    "MODEL=lmsys": "needs the training data",
    "#!/usr/bin/env bash": "needs Slurm",
    "python -m llava.eval.run.launch --multi_gpu": "needs four GPUs",
}

# What a command reads, by how it begins: made by another one first, so that each test stands alone.
AFTER = {
    "python -m llava.eval.report.summary": "python -m llava.eval pope --model-path CKPT --visual_token_num 64",
    "python -m scripts.collect_scores": "python -m llava.eval pope --model-path CKPT --visual_token_num 64 "
    "--pruning_method none pool vispruner",
    "python -m llava.eval scenes_": "python -m playground.tiny.standins",
}


def commands_of(document: Path) -> list[str]:
    """The commands of a document; a block with a loop or a first line of `#!` is one."""
    commands = []
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        if block.startswith("#!") or re.search(r"^done", block, re.MULTILINE):
            head, loop, rest = block.partition("for ")
            commands += [*_lines(head), loop + rest] if loop else [block]
        else:
            commands += _lines(block)
    return commands


def _lines(block: str) -> list[str]:
    """Lines of a shell, those that `\\` ends joined."""
    return [line for line in re.sub(r"\\\n\s*", "", block).splitlines() if line.strip()]


COMMANDS = list(dict.fromkeys(command for document in DOCUMENTS for command in commands_of(document)))
TO_RUN = [command for command in COMMANDS if not command.startswith(tuple(NOT_RUN))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository with what the commands name."""
    folder = tmp_path_factory.mktemp("checkout") / "repository"
    made = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "eval_*", "quickstart", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=made)
    shutil.rmtree(folder / "playground/data/eval", ignore_errors=True)
    for name in MODELS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder / BUNDLED.relative_to(ROOT))
    (folder / "images").mkdir()
    for number, name in enumerate(("picture.jpg", "images/a.jpg", "images/b.jpg")):
        picture(seed=number).save(folder / name)
    asked = (("a.jpg", "What?"), ("b.jpg", "Where?"))
    questions = [{"question_id": n, "image": image, "text": text} for n, (image, text) in enumerate(asked)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    for name in ("rows.py", "mine.py"):
        (folder / name).write_text(METHOD)
    return folder


def test_what_is_not_run_is_in_the_documents():
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in COMMANDS), start
    assert len(TO_RUN) >= 10


@pytest.mark.parametrize("command", TO_RUN)
def test_a_command_runs_as_written(command, checkout):
    for needed in (other for start, other in AFTER.items() if command.startswith(start)):
        run(needed, checkout)
    assert run(command, checkout).strip()


def run(command: str, checkout: Path) -> str:
    """Run a command by bash in `checkout`; it must end well. Return what it prints."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout
