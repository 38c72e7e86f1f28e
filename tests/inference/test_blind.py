"""The method blind: every door answers as to the same conversation without `<image>` and its line break."""

import pytest
import torch

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.conversation import conv_templates
from llava.errors import InputError
from llava.inference import Engine, Request, Session, make_request
from llava.inference.likelihood import answer_losses
from llava.model.question import ids_without_pictures
from llava.model.template import named_template
from llava.pruning import Settings
from llava.vision.pixels import process_images
from tests.conftest import IMAGE, generate_alone, picture

BLIND, GREEDY = Settings(16, pruning_method="blind"), {"do_sample": False, "max_new_tokens": 6}
MESSAGES = [  # and the same without pictures
    ("<image>\nWhat is it?", "What is it?"),
    ("<image>\n<image>\nWhat?", "What?"),
    ("<im_start><image><im_end>\nWhat?", "What?"),
    ("Is <image> like\n<image>\n<image>?", "Is  like\n?"),
    ("What is <image>? <image>!", "What is ? !"),
    ("Look:\n<image>\n\nWhat\n<image>\nis it", "Look:\n\nWhat\nis it"),
]
FAMILIES = [("v1.5", "llama"), ("v1.5", "mistral"), ("v1.6", "qwen")]


@pytest.fixture
def without_tower(loaded, monkeypatch):
    """A function: the model of a family, whose tower fails if it runs."""

    def fail(pixels):
        raise AssertionError("the tower runs")

    def get(version="v1.5", family="llama"):
        llava = loaded(version, family)
        monkeypatch.setattr(llava[1].get_vision_tower(), "encode", fail)
        return llava

    return get


@pytest.mark.parametrize(("version", "family"), FAMILIES)
def test_ids_are_those_of_the_text_without_pictures(loaded, version, family):
    tokenizer = loaded(version, family)[0]
    for name in conv_templates:
        for message, without in MESSAGES:
            ids = tokenizer_image_token(named_template(name).prompt(message), tokenizer, return_tensors="pt")
            said = tokenizer_image_token(named_template(name).prompt(without), tokenizer)
            assert ids_without_pictures(ids, tokenizer).tolist() == said, (name, message)


def test_ids_that_no_text_has_lose_the_image_and_its_line_break(loaded):
    tokenizer = loaded()[0]
    line_break = next(token for token in range(len(tokenizer)) if tokenizer.decode([token]) == "\n")
    ids = torch.tensor([1, 1, 77, -200, line_break, line_break, 99, -200, 5])
    assert ids_without_pictures(ids, tokenizer).tolist() == [1, 1, 77, line_break, 99, 5]


@pytest.mark.parametrize(("version", "family"), FAMILIES)
def test_generate_answers_as_without_pictures(without_tower, version, family):
    tokenizer, model, processor, _ = llava = without_tower(version, family)
    template = named_template("llava_v1")
    prompts = [template.prompt(message) for message, _ in MESSAGES]
    expected = [generate_alone(llava, template.prompt(without), [], **GREEDY) for _, without in MESSAGES]
    numbers = [prompt.count(IMAGE) for prompt in prompts]
    for prompt, number, answer in zip(prompts, numbers, expected):
        shown = [picture(seed=seed) for seed in range(number)]
        assert generate_alone(llava, prompt, shown, pruning=BLIND, **GREEDY) == answer
    rows = [tokenizer_image_token(prompt, tokenizer, return_tensors="pt") for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    mask = torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows])
    pixels = process_images([picture(seed=seed) for seed in range(sum(numbers))], processor, model.config)
    sizes = [(200, 150)] * sum(numbers)
    said = model.generate(ids, images=pixels, image_sizes=sizes, attention_mask=mask, pruning=BLIND, **GREEDY)
    assert [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)] == expected
    assert model.embed_prompts(ids, mask, None, pixels, sizes, "left", BLIND).num_visual_tokens == [0] * sum(numbers)


@pytest.mark.parametrize("wrapped", [False, True])
def test_engine_and_stream_answer_as_without_pictures(without_tower, monkeypatch, wrapped):
    llava = without_tower()
    monkeypatch.setattr(llava[1].config, "mm_use_im_start_end", wrapped)
    requests = [
        make_request(message, [picture()] * message.count(IMAGE), "llava_v1", llava[1].config, BLIND)
        for message, _ in MESSAGES
        if "im_start" not in message
    ]
    without = [without for message, without in MESSAGES if "im_start" not in message]
    expected = [generate_alone(llava, named_template("llava_v1").prompt(text), [], **GREEDY) for text in without]
    completions = list(Engine(llava, 3).answer(requests, **GREEDY))
    assert [completion.text for completion in completions] == expected
    assert [completion.num_visual_tokens for completion in completions] == [(0,) * len(r.images) for r in requests]
    assert ["".join(Engine(llava).stream(request, **GREEDY)).strip() for request in requests] == expected


def test_a_session_shows_a_picture_when_its_settings_do(loaded, monkeypatch):
    llava, crops = loaded(), []
    tower = llava[1].get_vision_tower()
    monkeypatch.setattr(tower, "encode", lambda pixels, real=tower.encode: crops.append(len(pixels)) or real(pixels))
    session, text = Session(llava, pruning=BLIND), Session(llava, pruning=Settings())
    for message, images in (("What?", [picture()]), (f"And {IMAGE}\nthis?", [picture(seed=1)]), ("Why?", [])):
        said = session.ask(message, images, **GREEDY)
        assert said == text.ask(message.replace(f"{IMAGE}\n", ""), **GREEDY)
        assert session.last.prompt == text.last.prompt
        assert session.last.computed_tokens == text.last.computed_tokens
    assert session.last.num_visual_tokens == (0, 0)
    assert not crops
    seen, again = session.fork(Settings(16)), Session(llava, pruning=Settings(16))
    again.conversation = session.conversation.copy()
    again._images = again._choose([picture(), picture(seed=1)], ["", ""], again.pruning)
    assert seen.ask("Sure?", **GREEDY) == again.ask("Sure?", **GREEDY)
    assert seen.last.num_visual_tokens == (16, 16)
    assert session.fork(Settings(16)).fork(BLIND).ask("Sure?", **GREEDY) == session.ask("Sure?", **GREEDY)


def test_losses_are_those_without_pictures(without_tower):
    llava = without_tower()
    answers = [" a dog</s>", " yes</s>"]
    found, expected = (
        list(answer_losses(Engine(llava), [request] * 2, [request.prompt + answer for answer in answers]))
        for request in (
            Request("USER: <image>\nWhat is this? ASSISTANT:", (picture(),), BLIND),
            Request("USER: What is this? ASSISTANT:"),
        )
    )
    assert found == expected


def test_what_counts_the_ids_with_pictures_is_refused(without_tower):
    _, model, processor, _ = without_tower()
    ids = torch.tensor([[1, 20, -200, 30]])
    given = {"images": process_images([picture()], processor, model.config), "pruning": BLIND}
    for more in ({"labels": ids}, {"position_ids": torch.arange(4)[None]}):
        with pytest.raises(InputError, match="shows no"):
            model(ids, **given, **more)
    model.train()
    try:
        with pytest.raises(InputError, match="blind shows no image: there is no loss"):
            model(ids, labels=ids, **given)
    finally:
        model.eval()
