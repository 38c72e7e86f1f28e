"""Every method gives the engine's answers at every door, or is refused by name.

HTTP, vLLM and lmms-eval, which need packages of their own, are held to the same in their folders.
"""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from llava.conversation import question_in
from llava.errors import InputError
from llava.eval import evaluate
from llava.inference import Engine, Session
from llava.integrations.transformers import prune
from llava.pruning import METHOD_NAMES, load_method
from llava.vision.pictures import load_image
from tests import doors
from tests.conftest import IMAGE, generate_alone, load
from tests.integrations.transformers.bundled import in_hf_layout, inputs_of


@pytest.fixture(scope="module")
def tiny():
    return load(doors.MODEL)


@pytest.fixture(scope="module")
def expected(tiny):
    """expected(method) -> the engine's answers, made once."""
    made = {}

    def get(method: str) -> list[str]:
        if method not in made:
            made[method] = doors.engine_answers(tiny, method)
        return made[method]

    return get


@pytest.fixture(scope="module")
def textvqa(tmp_path_factory):
    """A DATA_DIR with the questions of `doors` alone."""
    folder = tmp_path_factory.mktemp("data") / "textvqa"
    shutil.copytree(doors.DATA / "train_images", folder / "train_images")
    rows = [json.loads(line) for line in (doors.DATA / "llava_textvqa_val_v051_ocr.jsonl").read_text().splitlines()]
    wanted = {(text, picture.name) for text, picture in doors.asked()}
    rows = [row for row in rows if (row["text"], row["image"]) in wanted]
    (folder / "llava_textvqa_val_v051_ocr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = json.loads((doors.DATA / "TextVQA_0.5.1_val.json").read_text())
    said = {(row["question_id"], row["text"].split("\n")[0]) for row in rows}
    labels["data"] = [row for row in labels["data"] if (row["image_id"], row["question"]) in said]
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps(labels))
    return folder.parent


def test_methods_differ_in_their_answers(expected):
    """Else the others would show nothing."""
    assert len({tuple(expected(method)) for method in METHOD_NAMES}) >= 4


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_generate(tiny, expected, method):
    own = {"visual_token_num": doors.TOKENS, "pruning_method": method}
    prompts = [tiny.template.prompt(f"{IMAGE}\n{text}") for text, _ in doors.asked()]
    images = [load_image(picture) for _, picture in doors.asked()]
    said = [generate_alone(tiny, prompt, [image], **own, **doors.GREEDY) for prompt, image in zip(prompts, images)]
    assert said == expected(method)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_engine_and_stream(tiny, expected, method):
    engine = Engine(tiny)
    asked = [doors.request(tiny, *one, method) for one in doors.asked()]
    assert [completion.text for completion in engine.answer(asked, **doors.GREEDY)] == expected(method)
    assert ["".join(engine.stream(request, **doors.GREEDY)).strip() for request in asked] == expected(method)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_session(tiny, expected, method):
    said = []
    for text, picture in doors.asked():
        session = Session(tiny, pruning=doors.settings(method))
        said.append(session.ask(text, [load_image(picture)], **doors.GREEDY))
    assert said == expected(method)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_evaluate(tiny, expected, textvqa, method, tmp_path):
    own = {"visual_token_num": doors.TOKENS, "pruning_method": method, "max_new_tokens": 8}
    result = evaluate("textvqa", tiny, data_dir=textvqa, out_dir=tmp_path, **own)
    rows = [json.loads(line) for line in result.answers_file.read_text().splitlines()]
    assert [row["text"] for row in rows] == expected(method)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' own LLaVA with the same weights."""
    return in_hf_layout(tmp_path_factory.mktemp("theirs") / "hf")


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_prune(tiny, theirs, expected, method):
    own = load_method(method)
    if own.in_decoder or own.merges or own.blind or "text_embeds" in own.needs:
        with pytest.raises(InputError, match=method):
            prune(theirs, doors.TOKENS, pruning_method=method)
        return
    pruned = prune(theirs, doors.TOKENS, pruning_method=method)
    pruned.processor = tiny.tokenizer

    def answer(text, picture) -> str:
        inputs = inputs_of(tiny, SimpleNamespace(asked=text, image=picture), pruned)
        with torch.inference_mode():
            output = pruned.generate(**inputs, question=question_in(text), **doors.GREEDY)
        return tiny.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    assert [answer(*one) for one in doors.asked()] == expected(method)


@pytest.mark.parametrize("positions", ["original", "after"])
def test_positions_are_the_same_at_every_door(tiny, theirs, expected, textvqa, positions, tmp_path):
    """By the package and by `prune`, which share no code for them."""
    own = {"visual_token_num": doors.TOKENS, "positions": positions}
    alone = [next(Engine(tiny, 1).answer([one], **own, **doors.GREEDY)).text for one in doors.asked()]
    assert positions == "after" or alone != expected("vispruner")  # so few questions tell that of one alone
    engine, pruned, session = Engine(tiny), prune(theirs, **own), partial(Engine(tiny).session, **own)
    assert [said.text for said in engine.answer(doors.asked(), **own, **doors.GREEDY)] == alone
    assert [session().ask(text, [load_image(picture)], **doors.GREEDY) for text, picture in doors.asked()] == alone
    result = evaluate("textvqa", tiny, data_dir=textvqa, out_dir=tmp_path, max_new_tokens=8, **own)
    assert [json.loads(line)["text"] for line in result.answers_file.read_text().splitlines()] == alone
    assert f"n_{doors.TOKENS}_{positions}" in result.answers_file.parts
    said = []
    for text, picture in doors.asked():
        inputs = inputs_of(tiny, SimpleNamespace(asked=text, image=picture), pruned)
        ids = pruned.generate(**inputs, **doors.GREEDY)[0, inputs["input_ids"].shape[1] :]
        said.append(tiny.tokenizer.decode(ids, skip_special_tokens=True).strip())
    assert said == alone
