"""Every method in lmms-eval: the engine's answers, or refused by name."""

import pytest

pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed here: see scripts/test_lmms_eval.sh")

from lmms_eval.models import get_model
from PIL import Image

from llava.errors import InputError
from llava.pruning import METHOD_NAMES, load_method
from tests import doors
from tests.conftest import load
from tests.integrations.lmms_eval.asking import question


@pytest.fixture(scope="module")
def tiny():
    return load(doors.MODEL)


def make(model: str, method: str, pretrained=doors.MODEL, **more):
    arguments = {"pretrained": pretrained, "visual_token_num": doors.TOKENS, "pruning_method": method, **more}
    text = ",".join(f"{name}={value}" for name, value in arguments.items())
    return get_model(model).create_from_arg_string(text, {"batch_size": 4, "device": "cpu"})


def answers(lm) -> list[str]:
    asked = doors.asked()
    documents = [{"pictures": [Image.open(picture).convert("RGB")]} for _, picture in asked]
    lm.task_dict["doors"] = {"test": documents}
    return lm.generate_until([question(text, i, "doors") for i, (text, _) in enumerate(asked)])


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_llava_vispruner(method, tiny):
    assert answers(make("llava_vispruner", method)) == doors.engine_answers(tiny, method)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_pruned_hf(method, tiny, checkpoint):
    own = {"pretrained": checkpoint[0], "chat_template": checkpoint[1]}
    declared = load_method(method)
    if declared.in_decoder or declared.merges or "text_embeds" in declared.needs:
        with pytest.raises(InputError, match=f"the pruning method {method} "):
            make("pruned_hf", method, **own)
        return
    assert answers(make("pruned_hf", method, **own)) == doors.engine_answers(tiny, method)
