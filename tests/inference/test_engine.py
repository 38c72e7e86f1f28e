"""Requests in, completions or a stream out: settings of each request, images of every kind, sharing, memory."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from llava.errors import InputError
from llava.inference import Engine, Request, make_request, memory
from llava.inference.streaming import Draw, PromptTooLong
from llava.pruning import Settings
from tests.conftest import IMAGE, generate_alone, picture

GREEDY = {"do_sample": False, "max_new_tokens": 6}
FIRST, SECOND = picture(200, 150, 1), picture(90, 300, 2)
SETTINGS = [None, Settings(), Settings(16), Settings(16, pruning_method="fastv"), Settings(8)]


def requests_of(llava: tuple, pruning=None) -> list[Request]:
    """Requests with one image, two, none, and the same again, in the template llava_v1."""
    messages = [
        ("What?", [FIRST]),
        ("And what is the rest of it?", [FIRST]),
        (f"Is {IMAGE} like {IMAGE}?", [FIRST, SECOND]),
        (f"Is {IMAGE} not like {IMAGE}?", [FIRST, SECOND]),
        (f"Is {IMAGE} like {IMAGE}?", [SECOND, SECOND]),
        ("How many legs has a spider?", []),
        ("Why?", [SECOND]),
    ]
    return [make_request(text, images, "llava_v1", llava[1].config, pruning) for text, images in messages]


def alone(llava: tuple, request: Request, **options) -> str:
    pruning = request.pruning or llava[1].pruning
    return generate_alone(llava, request.prompt, list(request.images), pruning=pruning, **GREEDY | options)


@pytest.mark.parametrize(("version", "family"), [("v1.5", "llama"), ("v1.6", "mistral"), ("v1.6", "qwen")])
def test_every_request_has_settings_and_images_of_its_own(loaded, version, family):
    llava = loaded(version, family)
    requests = [request for settings in SETTINGS for request in requests_of(llava, settings)]
    mixed = requests[::2] + requests[1::2]
    expected = [alone(llava, request) for request in mixed]
    assert len(set(expected)) > len(SETTINGS)
    for batch_size in (1, 3, None):
        assert [said.text for said in Engine(llava, batch_size).answer(mixed, **GREEDY)] == expected


def test_a_completion_tells_how_long_its_prompt_was(loaded):
    llava = loaded()
    llava[1].visual_token_num = 16
    first, *_, text, _ = Engine(llava, 4).answer(requests_of(llava), **GREEDY)
    with_all = next(Engine(llava).answer(requests_of(llava, Settings()), **GREEDY))
    assert (first.num_visual_tokens, with_all.num_visual_tokens, text.num_visual_tokens) == ((16,), (144,), ())
    assert with_all.prompt_tokens - first.prompt_tokens == 144 - 16
    assert text.prompt_tokens == len(llava[0](requests_of(llava)[5].prompt).input_ids)


def test_an_image_may_be_a_picture_a_file_or_bytes(loaded, tmp_path):
    llava, file = loaded(), tmp_path / "a.png"
    FIRST.save(file)
    images = [FIRST, FIRST.convert("RGBA"), file, str(file), file.read_bytes()]
    requests = [make_request("What?", [image], "llava_v1", llava[1].config) for image in images]
    assert len({said.text for said in Engine(llava).answer(requests, **GREEDY)}) == 1


def test_what_requests_begin_with_is_computed_once_for_a_batch(loaded, encoded, decoded):
    llava = loaded()
    requests = [make_request(text, [FIRST], "llava_v1", llava[1].config, Settings(16)) for text in ("A?", "B?", "C?")]
    crops, tokens = encoded(llava[1]), decoded(llava[1])
    texts = [said.text for said in Engine(llava, 3).answer(requests, do_sample=False, max_new_tokens=1)]
    length = len(llava[0](requests[0].prompt.partition(IMAGE)[0]).input_ids) + 16
    assert crops == [1]
    assert tokens[0] == length
    assert tokens[1] < length
    assert len(tokens) == 2
    crops.clear()
    tokens.clear()
    others = [replace(request, images=(FIRST.copy(),)) for request in requests]
    assert [said.text for said in Engine(llava, 3).answer(others, do_sample=False, max_new_tokens=1)] == texts
    assert crops == [1, 1, 1]  # as far as the engine knows these are three images
    assert tokens[0] == length - 16  # the text before them
    assert len(tokens) == 2


def test_as_many_images_as_placeholders_are_needed():
    with pytest.raises(InputError, match=r"question 7: 1 image\(s\) for 2 <image> placeholder\(s\)"):
        Request(f"{IMAGE} {IMAGE}", (FIRST,), name="question 7")
    config = SimpleNamespace(mm_use_im_start_end=True)
    with pytest.raises(InputError, match=r"0 image\(s\) for 1"):
        make_request(f"What is {IMAGE}?", [], "llava_v1", config)
    assert "<im_start><image><im_end>\nWhat?" in make_request("What?", [FIRST], "llava_v1", config).prompt


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
@pytest.mark.parametrize("settings", SETTINGS[2:4])
def test_a_stream_is_the_answer_in_pieces(loaded, settings, options):
    llava = loaded()
    for request in requests_of(llava, settings):
        pieces = list(Engine(llava).stream(request, **GREEDY, **options))
        assert "".join(pieces).strip() == alone(llava, request, **options)
        assert len(pieces) == 1 or "num_beams" not in options


def test_a_stream_that_is_left_ends_generation(loaded, decoded):
    llava = loaded()
    request = requests_of(llava)[0]
    passes = decoded(llava[1])
    options = {"do_sample": False, "max_new_tokens": 400, "eos_token_id": None}
    stream = Engine(llava).stream(request, **options)
    next(stream)
    stream.close()
    assert len(passes) < 400
    with pytest.raises(PromptTooLong, match="longer than the context"):
        Engine(llava).stream(replace(request, prompt=request.prompt + " word" * 5000), **options)


def test_an_error_while_streaming_is_raised(loaded, monkeypatch):
    llava = loaded()
    stream = Engine(llava).stream(requests_of(llava)[0], **GREEDY)

    def fail(*args, **options):
        raise cpu_is_full()

    monkeypatch.setattr(llava[1], "generate_from_embeds", fail)
    with pytest.raises(InputError, match="the prompt alone takes too much memory"):
        next(stream)


def cpu_is_full() -> RuntimeError:
    """What torch raises where the CPU has no memory left."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


def test_where_the_cpu_has_no_memory_left_batches_get_smaller(loaded, monkeypatch):
    llava = loaded()
    requests = [make_request(text, [FIRST], "llava_v1", llava[1].config) for text in ("A?", "B?", "C?", "D?", "E?")]
    expected = [said.text for said in Engine(llava, 5).answer(requests, **GREEDY)]
    sizes, generate = [], llava[1].generate_from_embeds

    def limited(embeds, *args, **options):
        if len(embeds) > 2:
            raise cpu_is_full()
        sizes.append(len(embeds))
        return generate(embeds, *args, **options)

    monkeypatch.setattr(llava[1], "generate_from_embeds", limited)
    assert [said.text for said in Engine(llava, 5).answer(requests, **GREEDY)] == expected
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        (Settings(), 8),
        (Settings(16, pruning_method="none"), 8),
        (Settings(16, pruning_method="fastv"), 8),
        (Settings(16, pruning_method="vispruner"), 9),
        (Settings(16, pruning_method="divprune"), 9),
    ],
)
def test_batches_are_as_large_as_what_enters_the_prefill_allows(loaded, monkeypatch, settings, number):
    """A token takes 2 (keys, values) * 3 layers * 2 heads * 16 channels * 4 bytes = 768 bytes, and as much again.

    A prompt of 512 tokens and an answer of 16 have 672 tokens with all 144 patches, 544 with 16 of them.
    """
    free = 2 * (8 * 672 * 2 * 768)  # of which half is used
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    model = loaded()[1]
    assert memory.default_batch_size(model, settings, 1, {"max_new_tokens": 16}) == number
    assert memory.default_batch_size(model, settings, 1, {"max_new_tokens": 16, "num_beams": 8}) == 1
    assert memory.default_batch_size(model, settings, 0, {"max_new_tokens": 16}) == 10


def test_an_image_in_crops_counts_as_many_tokens_as_it_may_have(loaded):
    model = loaded("v1.6")[1]
    assert memory.most_visual_tokens(model, Settings()) == 5 * 144
    assert memory.most_visual_tokens(model, Settings(16)) == 5 * 16


def test_the_template_is_the_models_and_another_is_named(loaded, caplog):
    mistral = loaded("v1.6", "mistral")
    assert mistral.template.name == "mistral_instruct"
    assert loaded().find_template("llava_v1").name == "llava_v1"  # which differs in the system message alone
    assert not caplog.records
    assert mistral.find_template("llava_v1").name == "llava_v1"
    assert "llava_v1 is not the template of llava-v1.6-mistral-tiny-random, which is mistral_instruct" in caplog.text


def test_a_stream_knows_its_counts_and_why_it_ended(loaded):
    llava = loaded()
    request, engine = requests_of(llava, Settings(16))[0], Engine(llava)
    (completion,) = engine.answer([request], **GREEDY)
    stream = engine.stream(request, **GREEDY)
    assert (stream.prompt_tokens, stream.text, stream.finish_reason) == (completion.prompt_tokens, "", None)
    assert "".join(stream) == stream.text == completion.text
    assert (stream.completion_tokens, stream.finish_reason) == (6, "length")
    ids = [*llava[0]("a cat", add_special_tokens=False).input_ids, llava[1].generation_config.eos_token_id]
    ended = engine.stream(request, do_sample=False, prefix_allowed_tokens_fn=lambda _, said: [ids[len(said)]])
    assert "".join(ended) == ended.text == "a cat"
    assert (ended.completion_tokens, ended.finish_reason) == (len(ids), "stop")


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_a_stream_ends_at_a_stop_text(loaded, options):
    llava = loaded()
    request, engine = requests_of(llava)[0], Engine(llava)
    options = GREEDY | options | {"max_new_tokens": 30}
    whole = "".join(engine.stream(request, **options))
    stop = whole[len(whole) // 2 :][:5]
    for stops in ([stop], ["no such words", stop]):
        stream = engine.stream(request, stop=stops, **options)
        assert "".join(stream) == stream.text == whole[: whole.index(stop)].rstrip()
        assert stream.finish_reason == "stop"
        assert stream.completion_tokens < 30 or "num_beams" in options
    assert "".join(engine.stream(request, stop=["no such words"], **options)) == whole


def test_a_stream_that_is_cancelled_ends_with_its_next_token(loaded, decoded):
    llava = loaded()
    passes, cancelled = decoded(llava[1]), threading.Event()
    options = {"do_sample": False, "max_new_tokens": 400, "eos_token_id": None}
    stream = Engine(llava).stream(requests_of(llava)[0], cancelled=cancelled, **options)
    next(stream)
    cancelled.set()
    list(stream)
    assert len(passes) < 400
    assert stream.finish_reason is None


def test_no_piece_has_half_a_character(loaded):
    """The random model's tokenizer writes letters that it does not know byte by byte."""
    llava = loaded()
    said = "a 😀 é b"
    ids = llava[0](said, add_special_tokens=False).input_ids
    assert len(ids) > len(said)
    forced = {"prefix_allowed_tokens_fn": lambda _, before: [ids[len(before)]], "max_new_tokens": len(ids)}
    pieces = list(Engine(llava).stream(requests_of(llava)[0], do_sample=False, **forced))
    assert "".join(pieces) == said
    assert len(pieces) > 2
    assert not any("\ufffd" in piece for piece in pieces)


def test_draws_with_a_seed_are_of_the_seed_alone(loaded):
    llava = loaded()
    request, engine = requests_of(llava)[0], Engine(llava)

    def drawn(seed: int | None) -> str:
        torch.rand(1)  # moves torch's own generator
        return "".join(engine.stream(request, logits_processor=[Draw(3.0, seed=seed)], **GREEDY))

    assert drawn(1) == drawn(1) != drawn(2)
    assert len({drawn(None) for _ in range(3)}) > 1
