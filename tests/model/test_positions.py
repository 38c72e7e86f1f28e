"""Where kept tokens stand: every way of asking against a full forward for each token, whose positions are by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import InputError
from llava.inference import Engine, Request, Session, make_request
from llava.inference.likelihood import answer_losses
from llava.pruning import Settings
from llava.pruning.kv_cache import CACHE, cache_in
from llava.vision.pixels import process_images
from tests.conftest import IMAGE, inputs_of, picture

KEPT = ("original", "after")
PATCHES, NEW = 144, 5
ONE, TWO = [1, 20, IMAGE_TOKEN_INDEX, 30, 40, 50], [1, 7, IMAGE_TOKEN_INDEX, 8, IMAGE_TOKEN_INDEX, 9, 10, 11, 12]
PICTURES = [picture(200, 150, 1), picture(90, 300, 2), picture(300, 300, 3)]
GREEDY = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
LOGITS = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
MERGED = """import torch
from llava.pruning import MergedTokens


def select(views, settings):
    return MergedTokens(views.features.unflatten(1, (6, -1)).mean(dim=2))
"""


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def pixels_of(llava: tuple, images: list) -> dict:
    _, model, image_processor, _ = llava
    sizes = [image.size for image in images]
    return {"images": process_images(images, image_processor, model.config), "image_sizes": sizes}


def places_by_hand(chosen, pruning: Settings) -> tuple[list[int], int]:
    """The places of one crop's tokens and its room: the kept patches themselves, or centres that a method gives."""
    number = chosen.tokens.shape[1]
    if pruning.positions == "renumbered":
        return list(range(number)), number
    if pruning.positions == "after":
        return list(range(number)), PATCHES
    if chosen.patches is None:
        return [int((i + 0.5) * PATCHES / number) for i in range(number)], PATCHES
    return chosen.patches[0].tolist(), PATCHES


def by_hand(llava: tuple, ids: list[int], images: list, pruning: Settings, new: int = NEW) -> torch.Tensor:
    """(new, vocabulary): the logits of a greedy answer, a whole forward for each token, one crop an image."""
    model, images = llava[1], iter(images)
    embeds, positions, at = [], [], 0
    for token in ids:
        if token == IMAGE_TOKEN_INDEX:
            chosen = model.encode_images(pixels_of(llava, [next(images)])["images"][0][None], pruning)
            places, room = places_by_hand(chosen, pruning)
            embeds.append(chosen.tokens[0])
            positions += [at + place for place in places]
            at += room
        else:
            embeds.append(model.model.embed_tokens(torch.tensor([token])))
            positions.append(at)
            at += 1
    embeds, said = torch.cat(embeds), []
    for _ in range(new):
        where = torch.tensor([positions])
        hidden = model.model(
            inputs_embeds=embeds[None], position_ids=where, attention_mask=torch.ones_like(where), use_cache=False
        ).last_hidden_state
        said.append(model.lm_head(hidden[0, -1]))
        embeds = torch.cat([embeds, model.model.embed_tokens(said[-1].argmax().view(1))])
        positions.append(at)
        at += 1
    return torch.stack(said)


def assert_by_hand(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=3e-5)


@pytest.fixture
def merging(tmp_path):
    path = tmp_path / "merging.py"
    path.write_text(MERGED)
    return str(path)


def test_the_three_settings_differ(loaded):
    """Else the other tests would show nothing."""
    said = [by_hand(loaded(), ONE, PICTURES[:1], Settings(16, positions=own)) for own in ("renumbered", *KEPT)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (said[one] - said[other]).abs().max() > 3e-3


@pytest.mark.parametrize("positions", KEPT)
@pytest.mark.parametrize("method", ["vispruner", "visionzip", "prunesid", "merging"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen"])
def test_generate_and_its_caches(loaded, merging, family, method, positions):
    llava = loaded("v1.5", family)
    pruning = Settings(16, pruning_method=merging if method == "merging" else method, positions=positions)
    given = pixels_of(llava, PICTURES[:2])
    expected = by_hand(llava, TWO, PICTURES, pruning)
    for more in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        output = llava[1].generate(torch.tensor([TWO]), **given, pruning=pruning, **LOGITS, **more)
        assert_by_hand(torch.cat(output.logits), expected)


@pytest.mark.parametrize("positions", ["renumbered", *KEPT])
@pytest.mark.parametrize("tokens", [None, PATCHES, 200])
def test_all_tokens_give_the_unpruned_bits(loaded, positions, tokens):
    llava = loaded()
    given = pixels_of(llava, PICTURES[:2])
    for method in ("vispruner", "visionzip", "none"):
        own = {"visual_token_num": tokens, "positions": positions, "pruning_method": method}
        assert torch.equal(
            llava[1](torch.tensor([TWO]), **given, **own).logits, llava[1](torch.tensor([TWO]), **given).logits
        )


def test_what_does_not_prune_before_the_decoder_stays_as_it_is(loaded):
    llava = loaded()
    given = pixels_of(llava, PICTURES[:1])
    said = []
    for positions in ("renumbered", *KEPT):
        pruning = Settings(16, pruning_method="fastv", positions=positions)
        said.append(torch.cat(llava[1].generate(torch.tensor([ONE]), **given, pruning=pruning, **LOGITS).logits))
    assert torch.equal(said[0], said[1])
    assert torch.equal(said[0], said[2])


@pytest.mark.parametrize("positions", KEPT)
def test_padded_batches_beams_and_compiled_decoding(loaded, positions):
    llava, pruning = loaded(), Settings(16, positions=positions)
    model = llava[1]
    prompts = [f"A {IMAGE} dog?", f"{IMAGE}\nand a much longer question about {IMAGE} the two"]
    ids, given = inputs_of(llava, prompts, PICTURES)
    alone = [inputs_of(llava, prompts[:1], PICTURES[:1]), inputs_of(llava, prompts[1:], PICTURES[1:])]
    for row, (own, shown) in enumerate(((PICTURES[:1], alone[0]), (PICTURES[1:], alone[1]))):
        expected = by_hand(llava, shown[0][0].tolist(), own, pruning)
        together = model.generate(ids, **given, pruning=pruning, **LOGITS)
        assert_by_hand(torch.stack(together.logits)[:, row], expected)
    beams = [model.generate(one, **shown, pruning=pruning, **GREEDY, num_beams=3).tolist()[0] for one, shown in alone]
    assert model.generate(ids, **given, pruning=pruning, **GREEDY, num_beams=3).tolist() == beams
    plain = model.generate(ids, **given, pruning=pruning, **GREEDY).tolist()
    model.compile_decoding = True
    try:
        for _ in range(2):
            assert model.generate(ids, **given, pruning=pruning, **GREEDY).tolist() == plain
        renumbered = model.generate(ids, **given, pruning=Settings(16), **LOGITS)
    finally:
        model.compile_decoding = False
    assert_by_hand(
        torch.stack(renumbered.logits)[:, 0], by_hand(llava, alone[0][0][0].tolist(), PICTURES[:1], Settings(16))
    )


@pytest.mark.parametrize("positions", KEPT)
def test_the_engine_s_batches_share_prefixes_streams_and_likelihoods(loaded, positions):
    llava, pruning = loaded(), Settings(16, positions=positions)
    tokenizer, model = llava[:2]
    texts = ["What is it?", "Why?", "How many are there, and where?", "So?"]
    shown = [PICTURES[0], PICTURES[0], PICTURES[0], PICTURES[1]]
    requests = [make_request(text, [own], "llava_v1", model.config, pruning) for text, own in zip(texts, shown)]
    expected = []
    for request, own in zip(requests, shown):
        ids = inputs_of(llava, [request.prompt], [])[0][0].tolist()
        said = by_hand(llava, ids, [own], pruning).argmax(dim=1)
        expected.append(tokenizer.decode(said, skip_special_tokens=True).strip())
    options = {"do_sample": False, "max_new_tokens": NEW}
    for size in (1, 4):
        assert [said.text for said in Engine(llava, size).answer(requests, **options)] == expected
    stream = Engine(llava).stream(requests[0], **options)
    assert "".join(stream).strip() == expected[0]
    assert stream.next_position == stream.prompt_tokens - 16 + PATCHES

    answers = [" a dog</s>", " yes", " a red cat</s>", " no</s>"]
    wholes = [request.prompt + answer for request, answer in zip(requests, answers)]
    found = [loss for loss, _ in answer_losses(Engine(llava, 4), requests, wholes)]
    for loss, request, own, whole in zip(found, requests, shown, wholes):
        ids, start = (inputs_of(llava, [text], [])[0][0].tolist() for text in (whole, request.prompt))
        assert loss == pytest.approx(loss_by_hand(llava, ids, len(ids) - len(start), own, pruning), rel=1e-4)


def loss_by_hand(llava: tuple, ids: list[int], answer: int, image, pruning: Settings) -> float:
    """The mean loss of the last `answer` ids, of which each is predicted by a forward of its own."""
    losses = [
        cross_entropy(by_hand(llava, ids[:end], [image], pruning, 1)[0], torch.tensor(ids[end]))
        for end in range(len(ids) - answer, len(ids))
    ]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("positions", KEPT)
@pytest.mark.parametrize(("version", "family"), [("v1.5", "llama"), ("v1.6", "qwen"), ("v1.5", "mistral")])
def test_a_session_answers_as_without_its_cache(loaded, version, family, positions):
    llava = loaded(version, family)
    session, seen = Session(llava, pruning=Settings(16, positions=positions)), []
    turns = [("What is it?", 1), ("Why?", 0), (f"And {IMAGE} here?", 1), ("Are you sure?", 0)]
    for text, number in turns:
        new = PICTURES[len(seen) : len(seen) + number]
        seen += new
        said = session.ask(text, new, do_sample=False, max_new_tokens=NEW)
        ids, given = inputs_of(llava, [session.last.prompt], seen)
        alone = llava[1].generate(ids, **given, pruning=session.pruning, do_sample=False, max_new_tokens=NEW)
        assert said == llava[0].decode(alone[0], skip_special_tokens=True).strip()
    assert session.last.computed_tokens < session.last.prompt_tokens / 2
    before = session.conversation.copy()
    again = session.ask("Again?", do_sample=False, max_new_tokens=NEW)
    fork = session.fork(replace(session.pruning, positions="renumbered")).fork(session.pruning)
    session.conversation = fork.conversation = before  # the cache is cut, and the question asked again
    for asking in (session, fork):
        assert asking.ask("Again?", do_sample=False, max_new_tokens=NEW) == again


@pytest.mark.parametrize("positions", KEPT)
def test_steps_behind_a_caller_s_cache_go_on_where_it_ends(loaded, positions):
    """Text and a picture behind a cache that `forward` or `generate` filled, cut and copied, without positions."""
    llava, pruning = loaded(), Settings(16, positions=positions)
    model = llava[1]
    given, more = pixels_of(llava, PICTURES[:1]), pixels_of(llava, PICTURES[1:2])

    def step(ids: list[int], cache, **options):
        return model(torch.tensor([ids]), use_cache=True, **{CACHE: cache}, **options)

    first = model(torch.tensor([ONE]), **given, pruning=pruning, use_cache=True)
    filled = [cache_in(first)]
    answered = model.generate(torch.tensor([ONE]), **given, pruning=pruning, **LOGITS)
    filled.append(cache_in(answered))  # with all of the answer but its last token
    filled[1].crop(-(NEW - 1))
    for cache in filled:
        cut = copy.deepcopy(cache)
        assert_by_hand(step([60], cache).logits[0, -1], by_hand(llava, [*ONE, 60], PICTURES, pruning, 1)[0])
        assert_by_hand(step([61, 62], cache).logits[0, -1], by_hand(llava, [*ONE, 60, 61, 62], PICTURES, pruning, 1)[0])
        cut.crop(-2)  # two words after the picture
        assert_by_hand(step([63], cut).logits[0, -1], by_hand(llava, [*ONE[:-2], 63], PICTURES, pruning, 1)[0])
        masked = {"attention_mask": torch.ones(1, cut.get_seq_length() + 3, dtype=torch.long)}
        whole = [*ONE[:-2], 63, 70, IMAGE_TOKEN_INDEX, 71]
        said = step([70, IMAGE_TOKEN_INDEX, 71], cut, pruning=pruning, **more, **masked).logits[0, -1]
        assert_by_hand(said, by_hand(llava, whole, PICTURES, pruning, 1)[0])
        assert_by_hand(step([72], cut).logits[0, -1], by_hand(llava, [*whole, 72], PICTURES, pruning, 1)[0])
        cut.crop(1 - cut.get_seq_length())  # the picture is gone, and its room with it
        assert_by_hand(step([20, 5], cut).logits[0, -1], by_hand(llava, [1, 20, 5], [], pruning, 1)[0])


@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_a_prompt_is_one_sequence_to_flash_attention(loaded, monkeypatch, positions):
    """transformers takes gaps between its positions for sequences that are packed together."""
    model, given = loaded()[1], []

    def attend(module, query, key, *args, **kwargs):
        sequences = [kwargs.get(f"cu_seq_lens_{of}") for of in "qk"]
        given.append(([query.shape[2], key.shape[2]], [s if s is None else s.tolist() for s in sequences]))
        return sdpa_attention_forward(module, query, key, *args, **kwargs)

    AttentionInterface.register("noted", attend)
    AttentionMaskInterface.register("noted", sdpa_mask)
    monkeypatch.setattr(model.config, "_attn_implementation", "noted")
    pruning = Settings(16, positions=positions)
    shown = [pixels_of(loaded(), PICTURES[i : i + 1]) for i in range(2)]
    cache = cache_in(model(torch.tensor([TWO[:4]]), **shown[0], pruning=pruning, use_cache=True))
    model(torch.tensor([TWO[4:]]), **shown[1], pruning=pruning, **{CACHE: cache})
    for lengths, sequences in given:
        assert sequences == ([None, None] if positions == "renumbered" else [[0, length] for length in lengths])
    assert given[-1][0] == [20, 39]


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_caller_s_cache_are_known(loaded, side):
    llava, pruning = loaded(), Settings(16, positions="original")
    model = llava[1]
    short, long = [1, 5, 6], TWO[:4]  # without a picture, and with one
    width = len(long)
    padded = [0] * (width - len(short))
    ids = torch.tensor([long, [*padded, *short] if side == "left" else [*short, *padded]])
    mask = torch.tensor([[1] * width, [0] * len(padded) + [1] * 3 if side == "left" else [1] * 3 + [0] * len(padded)])
    model.config.tokenizer_padding_side = side
    try:
        given = pixels_of(llava, PICTURES[:1])
        output = model(ids, attention_mask=mask, **given, pruning=pruning, use_cache=True)
    finally:
        model.config.tokenizer_padding_side = "right"
    cache = cache_in(output)
    length = cache.get_seq_length()
    is_text = torch.ones(2, length, dtype=torch.long)
    is_text[1] = 0
    is_text[1, slice(-3, None) if side == "left" else slice(3)] = 1
    cache.batch_select_indices(torch.tensor([1, 0, 0]))
    is_text = torch.cat([is_text[[1, 0, 0]], torch.ones(3, 1, dtype=torch.long)], dim=1)
    said = model(torch.tensor([[9], [9], [10]]), attention_mask=is_text, use_cache=True, **{CACHE: cache}).logits[:, -1]
    for row, (begin, word) in enumerate(((short, 9), (long, 9), (long, 10))):
        assert_by_hand(said[row], by_hand(llava, [*begin, word], PICTURES, pruning, 1)[0])
    cache.layers[-1].keys = cache.layers[-1].keys + 1  # another's
    with pytest.raises(InputError, match="the cache has rows that it did not have"):
        model(torch.tensor([[9]] * 3), **{CACHE: cache})


@pytest.mark.parametrize("positions", KEPT)
def test_embedded_prompts_take_the_positions_that_they_were_made_with(loaded, positions):
    """Upstream's own way: prepare, then the language model; and text after it."""
    llava, pruning = loaded(), Settings(16, positions=positions)
    model = llava[1]
    model.pruning = pruning
    expected = by_hand(llava, ONE, PICTURES, pruning)
    given = pixels_of(llava, PICTURES[:1])
    prepared = model.prepare_inputs_labels_for_multimodal(torch.tensor([ONE]), None, None, None, None, **given)
    _, where, mask, _, embeds, _ = prepared
    output = model(inputs_embeds=embeds, position_ids=where, attention_mask=mask, use_cache=True)
    assert_by_hand(output.logits[0, -1], expected[0])
    without = model(inputs_embeds=embeds, position_ids=where, use_cache=False)  # and without a mask
    assert_by_hand(without.logits[0, -1], expected[0])
    for options in ({"use_cache": False}, {"use_cache": True}):
        rows = model(inputs_embeds=embeds.expand(2, -1, -1), position_ids=where, **options).logits[:, -1]
        assert_by_hand(rows, expected[:1].expand(2, -1))
    word = torch.tensor([[60]])
    step = model.prepare_inputs_labels_for_multimodal(word, None, None, cache_in(output), None, None)
    said = model(step[0], position_ids=step[1], attention_mask=step[2], **{CACHE: step[3]})
    assert_by_hand(said.logits[0, -1], by_hand(llava, [*ONE, 60], PICTURES, pruning, 1)[0])
    said = model.generate(inputs_embeds=embeds, position_ids=where, **LOGITS)
    assert_by_hand(torch.cat(said.logits), expected)
    moved = torch.arange(6)[None] + 3  # of the ids
    alike = model(torch.tensor([ONE]), **given, position_ids=moved).logits[0, -1]
    torch.testing.assert_close(alike, expected[0], rtol=1e-3, atol=1e-4)  # rotation knows distances alone
    for refused in (lambda: model(inputs_embeds=embeds), lambda: model.generate(inputs_embeds=embeds)):
        with pytest.raises(InputError, match=f"positions '{positions}' needs position_ids with inputs_embeds"):
            refused()
    with pytest.raises(InputError, match=r"position_ids must be \(1, 21\), got \(1, 6\)"):
        model.generate(inputs_embeds=embeds, position_ids=moved)
    with pytest.raises(InputError, match="positions: a prompt must not end with an image"):
        model.generate(torch.tensor([ONE[:3]]), **given)


@pytest.mark.parametrize("positions", KEPT)
def test_training_is_on_the_same_positions(loaded, positions):
    llava, pruning = loaded(), Settings(16, positions=positions)
    model = llava[1]
    ids = torch.tensor([[*ONE, 60, 61, 62], [*ONE, 63, 0, 0]])
    mask = torch.tensor([[1] * 9, [1] * 7 + [0] * 2]).bool()
    labels = ids.masked_fill(~mask | (torch.arange(9) < 6), IGNORE_INDEX)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, **pixels_of(llava, PICTURES[:2])}
    model.train()
    try:
        loss = model(**batch, pruning=pruning).loss
        one = model(**{name: value[:1] for name, value in batch.items()}, pruning=pruning).loss
    finally:
        model.eval()
    by_row = [
        loss_by_hand(llava, ids[0].tolist(), 3, PICTURES[0], pruning),
        loss_by_hand(llava, ids[1, :7].tolist(), 1, PICTURES[1], pruning),
    ]
    assert float(loss) == pytest.approx((3 * by_row[0] + by_row[1]) / 4, rel=1e-4)
    assert float(one) == pytest.approx(by_row[0], rel=1e-4)  # alone and without padding


def test_a_sample_is_cut_where_it_would_be_unpruned(loaded, monkeypatch, caplog):
    llava = loaded()
    model = llava[1].train()
    monkeypatch.setattr(model.config, "tokenizer_model_max_length", PATCHES + 4)
    try:
        given = (torch.tensor([ONE]), None, torch.tensor([ONE]), *pixels_of(llava, PICTURES[:1]).values(), "right")
        prompts = model.embed_prompts(*given, Settings(16, positions="original"))
        assert prompts.longest == 2 + 16 + 2  # of three words after the picture the last is beyond
        assert model.embed_prompts(*given, Settings(16)).longest == 2 + 16 + 3
    finally:
        model.eval()
    assert "a training sample of 149 tokens is cut" in caplog.text


@pytest.mark.parametrize(("positions", "fits"), [("renumbered", True), ("original", False), ("after", False)])
def test_the_context_is_used_as_without_pruning(loaded, monkeypatch, positions, fits):
    """Two pictures of 16 tokens are 39 tokens, and 295 positions."""
    llava, pruning = loaded(), Settings(16, positions=positions)
    model = llava[1]
    monkeypatch.setattr(model.config, "max_position_embeddings", 294)
    given = pixels_of(llava, PICTURES[:2])
    request = Request(f"{IMAGE} a {IMAGE} b c d e f g", tuple(PICTURES[:2]), pruning)
    cache = cache_in(model(torch.tensor([TWO[:4]]), **pixels_of(llava, PICTURES[:1]), pruning=pruning, use_cache=True))
    ways = [
        lambda: model(torch.tensor([TWO]), **given, pruning=pruning),
        lambda: model.generate(torch.tensor([TWO]), **given, pruning=pruning, max_new_tokens=1),
        lambda: next(Engine(llava).answer([request], max_new_tokens=1)),
        lambda: list(Engine(llava).stream(request, max_new_tokens=1)),
        lambda: Session(llava, pruning=pruning).ask(f"{IMAGE} a {IMAGE} b", PICTURES[:2], max_new_tokens=1),
        lambda: model(torch.tensor([TWO[4:]]), **pixels_of(llava, PICTURES[1:2]), pruning=pruning, **{CACHE: cache}),
        lambda: model(torch.tensor([[5] * 160]), **{CACHE: copy.deepcopy(cache)}),
    ]
    for way in ways:
        if fits:
            way()
        else:
            with pytest.raises(InputError, match="the prompt is longer than the context"):
                way()
