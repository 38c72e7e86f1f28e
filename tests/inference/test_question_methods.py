"""Methods that choose by the question: what is shared, and that answers are those of each request alone."""

import pytest
import torch

from llava.errors import InputError
from llava.inference import Engine, Request, Session, make_request
from llava.inference.images import ImageStream
from llava.pruning import Settings
from tests.conftest import IMAGE, generate_alone, inputs_of, load, picture

GREEDY = {"do_sample": False, "max_new_tokens": 6}
METHODS = ("cdpruner", "mmtok")
FIRST, SECOND = picture(200, 150, 1), picture(90, 300, 2)
ASKED = [
    ("Is there a dog in the image?", [FIRST]),
    ("What color is the largest of them?", [FIRST]),
    ("Is there a dog in the image?", [FIRST]),
    ("Is there a dog in the image?", [SECOND]),
    (f"Is {IMAGE} like {IMAGE}?", [FIRST, SECOND]),
    ("What?", [SECOND]),
]


def requests_of(llava: tuple, method: str, number: int = 12) -> list[Request]:
    pruning = Settings(number, pruning_method=method)
    return [make_request(text, images, "llava_v1", llava[1].config, pruning) for text, images in ASKED]


def visual_tokens(llava: tuple, requests: list[Request]) -> list[list[torch.Tensor]]:
    stream = ImageStream(llava, requests, 0)
    return [tokens for request in requests for tokens in stream.next_batch([request])]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("version", "family"), [("v1.5", "llama"), ("v1.6", "mistral"), ("v1.6", "qwen")])
def test_answers_are_those_of_each_request_alone(loaded, version, family, method):
    llava = loaded(version, family)
    requests = requests_of(llava, method)
    requests += [Request(request.prompt, request.images, request.pruning) for request in requests]  # read from the ids
    in_order = sorted(requests, key=lambda request: len(request.prompt))
    for asked in (requests, in_order):
        expected = [generate_alone(llava, r.prompt, list(r.images), pruning=r.pruning, **GREEDY) for r in asked]
        for batch_size in (1, 4, None):
            assert [said.text for said in Engine(llava, batch_size).answer(asked, **GREEDY)] == expected


@pytest.mark.parametrize("method", METHODS)
def test_what_is_kept_depends_on_the_question(loaded, method):
    llava = loaded()
    first, other, again, *_ = visual_tokens(llava, requests_of(llava, method))
    assert first[0].shape == other[0].shape == (12, llava[1].config.hidden_size)
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[0], again[0])


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_encoded_once_for_all_questions_about_it(loaded, encoded, method):
    llava = loaded()
    requests = requests_of(llava, method)[:3]
    crops = encoded(llava[1])
    list(Engine(llava, 8).answer(requests, **GREEDY))
    list(Engine(llava, 1).answer(requests, **GREEDY))
    assert crops == [1, 1]


def test_the_beginning_of_prompts_is_shared_by_the_same_question_alone(loaded, decoded):
    """Two questions of three are the same: what is kept for them passes through the model once, after the text."""
    llava = loaded()
    requests = requests_of(llava, "mmtok")
    same, different = [requests[0], requests[2]], requests[:2]
    tokens = decoded(llava[1])
    passes = []
    for batch in (same, different):
        tokens.clear()
        (first, _) = Engine(llava, 2).answer(batch, do_sample=False, max_new_tokens=1)
        passes.append(list(tokens))
    (text, *_), kept = passes[1], first.num_visual_tokens[0]
    assert len(passes[1]) == 2
    assert passes[0][0] == text + kept


@pytest.mark.parametrize("method", METHODS)
def test_a_caller_may_say_what_is_asked(loaded, method):
    _, model, *_ = llava = loaded()
    pruning, text = Settings(12, pruning_method=method), ASKED[1][0]
    prompt, other = (make_request(t, [FIRST], "llava_v1", model.config).prompt for t in (text, "What?"))
    read, said = (generate_embeds(llava, p, pruning, q) for p, q in ((prompt, None), (other, text)))
    assert torch.equal(read, said)
    assert torch.equal(read, generate_embeds(llava, other, pruning, [text]))
    assert not torch.equal(read, generate_embeds(llava, other, pruning, None))
    with pytest.raises(InputError, match=r"2 question\(s\) for 1 image\(s\)"):
        generate_embeds(llava, other, pruning, ["What?", "Why?"])


def generate_embeds(llava: tuple, prompt: str, pruning: Settings, question) -> torch.Tensor:
    """The visual tokens that a prompt about the first picture is given."""
    ids, given = inputs_of(llava, [prompt], [FIRST])
    shown = given["images"], given["image_sizes"]
    prompts = llava[1].embed_prompts(ids, None, None, *shown, "left", pruning, question)
    return prompts.inputs_embeds[prompts.is_visual]


@pytest.mark.parametrize("method", METHODS)
def test_a_conversation_goes_by_the_question_that_came_with_the_image(loaded, encoded, method):
    llava = loaded()
    pruning = Settings(12, pruning_method=method)
    session, images, crops = Session(llava, pruning=pruning), [], encoded(llava[1])
    for text, new in [("What is it?", [FIRST]), ("Why?", []), (f"And {IMAGE} here?", [SECOND]), ("Are you sure?", [])]:
        images += new
        crops.clear()
        said = session.ask(text, new, **GREEDY)
        assert len(crops) == len(new)
        assert said == generate_alone(llava, session.last.prompt, images, pruning=pruning, **GREEDY)
    assert session.last.num_visual_tokens == (12, 12)
    assert session.last.computed_tokens < session.last.prompt_tokens / 2


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_shares_the_encoding_of_a_batch(checkpoints, method):
    llava = load(checkpoints(), dtype=torch.bfloat16)
    requests = requests_of(llava, method)[:4]
    visual = ImageStream(llava, requests, 0).next_batch(requests)
    assert [len(tokens) for images in visual for tokens in images] == [12] * 4
    assert visual[0][0] is visual[2][0]
    assert not torch.equal(visual[0][0], visual[1][0])


def test_a_stream_goes_by_the_question(loaded):
    llava = loaded()
    for request in requests_of(llava, "mmtok")[:2]:
        expected = generate_alone(llava, request.prompt, [FIRST], pruning=request.pruning, **GREEDY)
        assert "".join(Engine(llava).stream(request, **GREEDY)).strip() == expected


def test_a_model_of_its_class_reads_the_tokenizer_of_its_checkpoint(checkpoints, loaded):
    llava = loaded()
    request = requests_of(llava, "mmtok")[0]
    expected = generate_alone(llava, request.prompt, [FIRST], pruning=request.pruning, **GREEDY)
    model = type(llava[1]).from_pretrained(checkpoints())
    again = generate_alone((llava[0], model, *llava[2:]), request.prompt, [FIRST], pruning=request.pruning, **GREEDY)
    assert again == expected
