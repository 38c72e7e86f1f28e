"""The model `llava_vispruner` of lmms-eval, on the bundled model."""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed here: see scripts/test_lmms_eval.sh")

from lmms_eval.models import get_model, list_available_models

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.errors import InputError
from llava.inference import Engine, make_request
from llava.inference.options import decoding
from llava.model import encode as door
from llava.vision.pixels import process_images
from tests.conftest import picture
from tests.integrations.lmms_eval.asking import GREEDY, QUESTION, choice, instance, question, to_visual
from tests.integrations.lmms_eval.conftest import MODEL, ROOT, TASKS


@pytest.fixture(scope="module")
def pruned():
    """The model at 32 tokens, with documents of no, one and two pictures, of which 1 and 2 show the same."""
    lm = get_model("llava_vispruner").create_from_arg_string(
        f"pretrained={MODEL},visual_token_num=32,conv_template=vicuna_v1", {"batch_size": 4, "device": "cpu"}
    )
    shown = [[], [picture()], [picture()], [picture(seed=1)], [picture(seed=1), picture(seed=2)]]
    lm.task_dict["scenes"] = {"test": [{"pictures": pictures} for pictures in shown]}
    lm.task_dict["others"] = {"test": [{"pictures": [picture(seed=3)]}]}
    return lm


@pytest.fixture
def encoded(pruned, monkeypatch):
    """The pixels that the vision tower is given, image by image."""
    pixels, run_tower = [], door.encode

    def count(model, images, *args):
        pixels.extend(images)
        return run_tower(model, images, *args)

    monkeypatch.setattr(door, "encode", count)
    return pixels


def ask_engine(pruned, asked: list[tuple[str, list]]) -> list[str]:
    """The engine's own answers to messages with pictures, each alone."""
    config = pruned.engine.model.config
    requests = [make_request(text, pictures, "vicuna_v1", config, as_displayed=False) for text, pictures in asked]
    return [answer.text for answer in Engine(pruned.engine.loaded, 1).answer(requests, **decoding(0, None, 1, 8))]


@pytest.mark.parametrize("name", ["llava_vispruner", "pruned_hf"])
def test_lmms_eval_finds_the_model(name):
    assert name in list_available_models()
    assert get_model(name).is_simple


def test_a_stand_in_has_one_score_in_both(run_tasks, own_results):
    scores, answers = run_tasks("llava_vispruner", "scenes_ocr", 16, visual_token_num=16)
    own_scores, own_answers = own_results("scenes_ocr", 16)
    assert answers == own_answers
    assert 100 * scores["scenes_ocr"]["exact_match,none"] == pytest.approx(own_scores["accuracy"], abs=1e-9)


def test_a_request_notes_its_pictures(pruned):
    asked = [question(QUESTION, document) for document in (1, 0, 2, 3, 4)]
    pruned.generate_until(asked)
    first, none, same, other, two = (request.token_counts[0].to_dict()["picture"] for request in asked)
    assert first == same and none == ""
    assert len({first, other, two}) == 3


@pytest.mark.parametrize("visual_token_num", [144, 32])
@pytest.mark.parametrize("benchmark", ["pope", "gqa", "textvqa"])
def test_scores_are_those_of_the_package(run_tasks, own_results, benchmark, visual_token_num):
    scores, answers = run_tasks("llava_vispruner", f"scenes_{benchmark}", 16, visual_token_num=visual_token_num)
    own_scores, own_answers = own_results(benchmark, visual_token_num)
    assert answers == own_answers
    metric, own = ("pope_f1_score", "mean_f1") if benchmark == "pope" else ("exact_match", "accuracy")
    assert 100 * scores[f"scenes_{benchmark}"][f"{metric},none"] == pytest.approx(own_scores[own], abs=1e-9)


def test_requests_of_different_tasks_and_numbers_of_pictures_are_answered_in_order(pruned):
    asked = [question(QUESTION, document) for document in (1, 0, 4, 3)]
    asked += [question(QUESTION, 0, "others"), question("Is there a star in the image?", 1)]
    documents = [*(pruned.task_dict["scenes"]["test"][i]["pictures"] for i in (1, 0, 4, 3))]
    documents += [pruned.task_dict["others"]["test"][0]["pictures"], documents[0]]
    texts = [QUESTION, QUESTION, f"<image> <image>\n{QUESTION}", QUESTION, QUESTION, "Is there a star in the image?"]
    answers = pruned.generate_until(asked)
    assert answers == ask_engine(pruned, list(zip(texts, documents)))
    assert len(set(answers)) > 1


def test_a_picture_is_encoded_once_while_requests_are_about_it(pruned, encoded):
    pruned.generate_until([question(QUESTION, 3)] * 3)
    assert len(encoded) == 1
    pruned.generate_until([question(QUESTION, 1), question("Is there a star in the image?", 2)])
    assert len(encoded) == 2, "documents 1 and 2 have the same picture"
    pruned.loglikelihood([choice(QUESTION, answer, 3) for answer in (" star", " circle", " cat", " moon", " heart")])
    assert len(encoded) == 3
    assert {pixels.dtype for pixels in encoded} == {torch.float32}


def test_an_answer_ends_where_its_task_wants_it(pruned):
    (whole,) = pruned.generate_until([question(QUESTION, 3)])
    cut, kept = pruned.generate_until(
        [question(QUESTION, 3, until=until) for until in (["nowhere", whole[2:]], "\n\n")]
    )
    assert len(whole) > 2 and cut == whole[:2]
    assert kept == whole


def test_a_temperature_samples_unless_the_task_forbids_it(pruned):
    greedy, forbidden = pruned.generate_until(
        [question("Describe the image.", 3, temperature=t, top_p=0 if t == 0 else 0.9) for t in (0, 50.0)]
    )
    assert greedy == forbidden
    torch.manual_seed(0)
    asked = [question("Describe the image.", 3, temperature=50.0, do_sample=True)] * 4
    assert len(set(pruned.generate_until(asked))) > 1


def test_options_without_effect_are_named(pruned, caplog):
    pruned.generate_until([question(QUESTION, 3, image_aspect_ratio="original")] * 2)
    assert [record.getMessage() for record in caplog.records] == [
        "generation options without effect: image_aspect_ratio"
    ]


def test_what_is_no_picture_is_refused_by_the_name_of_its_document(pruned):
    pruned.task_dict["heard"] = {"test": [{"pictures": [{"array": [0.0], "sampling_rate": 16000}]}]}
    with pytest.raises(InputError, match="document 0 of heard: this model takes pictures, not dict"):
        pruned.generate_until([question(QUESTION, 0, "heard")])
    with pytest.raises(InputError, match=r"document 3 of scenes: 1 image\(s\) for 2 <image> placeholder"):
        pruned.generate_until([question("<image> or <image>?", 3)])


def test_losses_are_those_of_the_model_with_labels(pruned):
    tokenizer, model, image_processor, _ = pruned.engine.loaded
    answers = [" star", "a red circle", "yes"]
    losses = pruned.loglikelihood([choice(QUESTION, answer, 3) for answer in answers])
    images = pruned.task_dict["scenes"]["test"][3]["pictures"]
    pixels = process_images(images, image_processor, model.config)
    prompt = make_request(QUESTION, images, "vicuna_v1", model.config).prompt
    start = len(tokenizer_image_token(prompt, tokenizer))
    for answer, (loss, _) in zip(answers, losses):
        ids = tokenizer_image_token(f"{prompt} {answer.strip()}</s>", tokenizer, return_tensors="pt").unsqueeze(0)
        labels = ids.clone()
        labels[:, :start] = -100
        with torch.inference_mode():
            expected = model(ids, labels=labels, images=pixels).loss
        assert loss == pytest.approx(float(expected), rel=1e-4)


def test_the_greedy_answer_is_told_from_others(pruned):
    (answer,) = pruned.generate_until([question(QUESTION, 3)])
    results = pruned.loglikelihood(
        [choice(QUESTION, f" {answer}", 3), choice(QUESTION, lambda document: f"not {answer}", 3)]
    )
    assert [is_greedy for _, is_greedy in results] == [True, False]
    assert results[0][0] < results[1][0]


def test_losses_are_refused_where_what_is_kept_would_depend_on_the_answer(pruned, monkeypatch):
    monkeypatch.setattr(pruned.engine.model, "pruning_method", "fastv")
    with pytest.raises(InputError, match="fastv drops tokens on the way"):
        pruned.loglikelihood([choice(QUESTION, "star", 3)])


def test_the_task_leads_a_dialogue_of_several_rounds(pruned):
    def to_text(document, previous_output, round_idx, previous_round_info):
        assert len(previous_output) == round_idx and previous_round_info == (None if round_idx == 1 else round_idx - 1)
        if round_idx == document["rounds"]:
            return None, None, True, previous_output, None
        return document["pictures"], f"You said {previous_output[-1]}. Are you sure?", False, previous_output, round_idx

    pictures = [picture()]
    pruned.task_dict["talks"] = {"test": [{"pictures": pictures, "rounds": rounds} for rounds in (3, 2)]}
    kind = "generate_until_multi_round"
    asked = [instance(kind, QUESTION, GREEDY, to_visual, to_text, document, "talks", "test") for document in (0, 1)]
    three, two = pruned.generate_until_multi_round(asked)
    texts = [QUESTION, *(f"You said {answer}. Are you sure?" for answer in three[:2])]
    assert three == ask_engine(pruned, [(text, pictures) for text in texts])
    assert two == three[:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "llava_vispruner needs the model argument pretrained"),
        ("pretrained=nowhere,tokens=3", "llava_vispruner has no model argument 'tokens': it takes pretrained, "),
        ("pretrained=nowhere,visual_token_num=0", "visual_token_num must be at least 1, got 0"),
        ("pretrained=nowhere,visual_token_num=all", "visual_token_num must be an integer, got 'all'"),
        ("pretrained=nowhere,important_ratio=2", "important_ratio must be a number in"),
        ("pretrained=nowhere,pruning_method=mine", "pruning_method must be one of vispruner, "),
        ("pretrained=nowhere,conv_template=mine", "conv_template: unknown conversation mode 'mine'"),
        ("pretrained=nowhere,batch_size=0", "batch_size must be an integer of at least 1"),
        ("pretrained=nowhere,dtype=int8", "dtype must be one of float16, bfloat16, float32, got 'int8'"),
        ("pretrained=./nowhere", "nowhere"),
    ],
)
def test_a_bad_model_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_model("llava_vispruner").create_from_arg_string(arguments, {"device": "cpu"})


def test_weights_are_of_the_dtype_that_is_wanted():
    arguments = f"pretrained={MODEL},dtype=bfloat16,batch_size=auto"
    lm = get_model("llava_vispruner").create_from_arg_string(arguments, {"device": "cpu"})
    assert lm.engine.model.dtype is torch.bfloat16
    assert lm.template.name == "vicuna_v1"
    lm.task_dict["scenes"] = {"test": [{"pictures": [picture()]}]}
    assert lm.generate_until([question(QUESTION, 0)])[0]


def test_processes_share_the_documents(own_results, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lmms_eval"]
    command += ["--model", "llava_vispruner", "--model_args", f"pretrained={MODEL},visual_token_num=32"]
    command += ["--include_path", str(TASKS), "--tasks", "scenes_gqa", "--limit", "9"]
    command += ["--log_samples", "--output_path", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (file,) = tmp_path.rglob("*_samples_scenes_gqa.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    _, own_answers = own_results("gqa", 32)
    answers = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
    assert answers == dict(enumerate(list(own_answers.values())[:9]))
