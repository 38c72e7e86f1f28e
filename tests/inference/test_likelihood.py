"""Losses of given answers are those of the model's own forward, whatever they are batched with."""

import pytest
import torch

from llava.errors import InputError
from llava.inference import Engine, Request
from llava.inference.likelihood import answer_losses
from llava.pruning import Settings
from tests.conftest import ROOT, inputs_of, load, picture

PROMPT = "USER: <image>\nWhat is this? ASSISTANT:"
ANSWERS = (" a dog</s>", " yes</s>", " a red cat on a mat</s>")


def losses_by_forward(loaded, prompt: str, image, answers, **settings) -> list[float]:
    """Mean losses of answers, from the labels that `forward` takes, each alone."""
    start, losses = inputs_of(loaded, [prompt], [])[0].shape[1], []
    for answer in answers:
        ids, given = inputs_of(loaded, [prompt + answer], [image])
        labels = ids.clone()
        labels[:, :start] = -100
        with torch.inference_mode():
            losses.append(float(loaded[1](ids, labels=labels, **given, **settings).loss))
    return losses


@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_losses_are_those_of_forward_with_labels(loaded, version, batch_size):
    model, image = loaded(version), picture()
    requests = [Request(PROMPT, (image,), Settings(4), as_displayed=False)] * len(ANSWERS)
    found = list(answer_losses(Engine(model, batch_size), requests, [PROMPT + answer for answer in ANSWERS]))
    expected = losses_by_forward(model, PROMPT, image, ANSWERS, visual_token_num=4)
    assert [loss for loss, _ in found] == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == 3


def test_settings_and_numbers_of_images_may_differ(loaded):
    model, image = loaded(), picture()
    requests = [
        Request(PROMPT, (image,), Settings(4)),
        Request(PROMPT, (image,)),
        Request("USER: hello ASSISTANT:"),
        Request(PROMPT, (image,), Settings(4)),
    ]
    answered = [request.prompt + ANSWERS[0] for request in requests]
    together = [loss for loss, _ in answer_losses(Engine(model, 4), requests, answered)]
    alone = [next(answer_losses(Engine(model, 1), [r], [a]))[0] for r, a in zip(requests, answered)]
    assert together == pytest.approx(alone, rel=1e-4)
    assert together[0] == pytest.approx(together[3], rel=1e-4) != together[1]


def test_the_greedy_answer_is_told():
    """By the bundled model, whose answers are words; a random one's may be tokens that no text gives."""
    bundled = load(ROOT / "playground" / "checkpoints" / "llava-tiny")
    image = ROOT / "playground" / "data" / "scenes" / "gqa" / "data" / "images" / "n100000.jpg"
    request = Request(PROMPT, (image,), Settings(32))
    (given,) = Engine(bundled).answer([request], do_sample=False, max_new_tokens=8)
    answered = [f"{PROMPT} {text}</s>" for text in (given.text, f"not {given.text}", "yes and no")]
    found = list(answer_losses(Engine(bundled), [request] * 3, answered))
    assert [is_greedy for _, is_greedy in found] == [True, False, False]
    assert found[0][0] == min(found)[0]


@pytest.mark.parametrize(
    ("answered", "pruning", "message"),
    [
        (PROMPT, Settings(4), "the prompt has an answer without a token"),
        (PROMPT + ANSWERS[0], Settings(4, pruning_method="fastv"), "fastv drops tokens on the way"),
        (PROMPT + " word" * 5000, Settings(4), "the prompt is longer than the context"),
    ],
)
def test_what_has_no_loss_is_refused(loaded, answered, pruning, message):
    with pytest.raises(InputError, match=message):
        list(answer_losses(Engine(loaded()), [Request(PROMPT, (picture(),), pruning)], [answered]))
