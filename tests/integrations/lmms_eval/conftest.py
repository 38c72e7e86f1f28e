"""lmms-eval on the bundled scenes. Its test files skip themselves where it is not installed."""

import json
from pathlib import Path

import pytest

from llava.eval import evaluate
from llava.eval.evaluation import BUNDLED_DATA
from llava.model.converting import convert_checkpoint
from playground.tiny import standins

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "playground" / "checkpoints" / "llava-tiny"
TASKS = ROOT / "scripts" / "lmms_eval"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
TEMPLATE = (
    SYSTEM + "{% for turn in messages %}{{ turn['role'].upper() }}: "
    "{% for part in turn['content'] %}{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ ' ' if turn['role'] == 'user' else '</s>' }}{% endfor %}{{ 'ASSISTANT:' if add_generation_prompt else '' }}"
)


@pytest.fixture(scope="session", autouse=True)
def drawn():
    """The stand-ins, drawn where tasks read them."""
    standins.write(BUNDLED_DATA)


@pytest.fixture(scope="session")
def run_tasks():
    """Run a local task by a model of lmms-eval on the bundled one: (scores by task and metric, answers by question)."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS))

    def run(model: str, task: str, batch_size: int, **arguments) -> tuple[dict, dict]:
        arguments = {"pretrained": MODEL, **arguments}
        results = simple_evaluate(
            model=model,
            model_args=",".join(f"{name}={value}" for name, value in arguments.items()),
            tasks=[task],
            task_manager=manager,
            batch_size=batch_size,
            device="cpu",
            bootstrap_iters=0,
        )
        samples = [sample for rows in results["samples"].values() for sample in rows]
        answers = {(sample["doc"]["question_id"], sample["doc"]["text"]): sample["resps"][0][0] for sample in samples}
        return results["results"], {question: answer.strip() for question, answer in answers.items()}

    return run


@pytest.fixture(scope="session")
def own_results(tmp_path_factory):
    """The package's own (scores, answers by question) of a benchmark at a budget, once for each."""
    known = {}

    def get(benchmark: str, visual_token_num: int | None = None) -> tuple[dict, dict]:
        key = benchmark, visual_token_num
        if key not in known:
            out = tmp_path_factory.mktemp("own")
            result = evaluate(benchmark, MODEL, visual_token_num=visual_token_num, out_dir=out, num_workers=0)
            rows = map(json.loads, result.answers_file.read_text().splitlines())
            known[key] = result.scores, {(row["question_id"], row["prompt"]): row["text"] for row in rows}
        return known[key]

    return get


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """(folder of the bundled model in transformers' layout, without its chat template, and a file of another)."""
    parent = tmp_path_factory.mktemp("hf")
    convert_checkpoint(str(MODEL), parent / "llava-tiny-hf", "hf", 10**9)
    (parent / "llava-tiny-hf" / "chat_template.jinja").rename(parent / "own.jinja")
    (parent / "template.jinja").write_text(TEMPLATE)
    return parent / "llava-tiny-hf", parent / "template.jinja"
