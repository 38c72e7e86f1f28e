"""What the page does: pictures are encoded once, visitors do not disturb each other, what is shown is what is kept."""

import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from llava.errors import InputError
from llava.inference import Session
from llava.model.encode import choose
from llava.model.flops import Decoder
from llava.pruning import Settings
from llava.serve.page.drawing import crop_images
from llava.serve.page.selection_view import kept_patches
from llava.serve.page.service import Service
from llava.serve.page.visitors import Visitors
from tests.conftest import generate_alone, picture
from tests.serve.conftest import GREEDY, SIXTEEN, ask
from tests.serve.test_drawing import Drawing

BLIND = Settings(8, pruning_method="blind")


def alone(service: Service, file, prompt: str, pruning: Settings) -> str:
    """What the model answers to a whole prompt about a picture, without the page."""
    return generate_alone(service.model.loaded, prompt, [Image.open(file)], pruning=pruning, **GREEDY)


@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
def test_a_picture_is_encoded_once_for_all_drawings_and_questions(service_of, picture_file, encoded, version):
    service = service_of(version)
    crops = encoded(service.model.model)
    service.take_picture("me", picture_file, "picture.png")
    assert len(crops) == 1
    for number in (1, 5, 16, 100, 144):
        service.draw_kept("me", Settings(number))
    service.draw_importance("me")
    ask(service, "me", "What is it?", compare=True)
    ask(service, "me", "Why?", Settings(32, 0.2), compare=True)
    ask(service, "me", "Are you sure?", Settings(8, pruning_method="divprune"))
    assert len(crops) == 1


def test_the_drawn_patches_are_those_that_the_model_keeps(service_of, picture_file):
    service = service_of("v1.6")
    service.take_picture("me", picture_file, "picture.png")
    seen = service.visitors.get("me").encoded
    for pruning in (SIXTEEN, Settings(16, 0.0), Settings(16, 1.0), Settings(9, 0.3)):
        kept = kept_patches(service.model.model, seen.views, pruning)
        patches = service.model.model.encode_images(seen.views.pixels, pruning).patches
        assert [sorted(crop.important | crop.others) for crop in kept] == patches.tolist()
        most = seen.views.importance.topk(int(pruning.visual_token_num * pruning.important_ratio), dim=1).indices
        assert [set(crop.important) for crop in kept] == [set(row) for row in most.tolist()]
        drawing = Drawing(service.draw_kept("me", pruning))
        for name, kinds in (("important", [crop.important for crop in kept]), ("other", [c.others for c in kept])):
            drawn = [{y * 12 + x for x, y in squares} for squares in drawing.squares(name)]
            assert drawn == [set(kind) for kind in kinds if kind]


@pytest.mark.parametrize("size", [(300, 100), (100, 260), (200, 200)])
@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
def test_padding_is_where_the_tower_sees_nothing_of_the_picture(service_of, tmp_path, monkeypatch, version, size):
    service, file = service_of(version), tmp_path / "white.png"
    if version == "v1.5":
        monkeypatch.setattr(service.model.model.config, "image_aspect_ratio", "pad")
    Image.new("RGB", size, "white").save(file)
    service.take_picture("me", file, "white.png")
    seen = service.visitors.get("me").encoded
    processor = service.model.loaded.image_processor
    crops = crop_images(seen.views.pixels.numpy(), processor.image_mean, processor.image_std)
    for (left, top, right, bottom), crop in zip(service.model.sheet(seen).contents(), crops, strict=True):
        is_white = (np.asarray(crop) > 200).all(axis=-1)  # padding is grey or black
        share = is_white.reshape(12, 14, 12, 14).mean(axis=(1, 3))  # of each patch
        x, y = (
            np.clip(np.arange(12) + 1, start, end) - np.clip(np.arange(12), start, end)
            for start, end in ((left, right), (top, bottom))
        )
        assert np.allclose(y[:, None] * x, share, atol=0.15)
    assert ("padding" in service.draw_kept("me", SIXTEEN)) is (size != (200, 200))


def test_the_first_token_is_measured_three_times_where_that_is_cheap(service_of, picture_file, monkeypatch):
    said = []
    for limit in (float("inf"), 0):
        monkeypatch.setattr("llava.serve.page.local_model.MOST_REPEATED", limit)
        service = service_of()
        service.take_picture("me", picture_file, "picture.png")
        first, second = ask(service, "me", "What is it?", compare=True), ask(service, "me", "Why?")
        assert [answer.figures.spread is None for answer in (first.pruned, first.unpruned)] == [limit == 0] * 2
        assert second.pruned.figures.spread is None  # of what comes after a history the cache has a part
        said.append((first.pruned.text, first.unpruned.text, second.pruned.text, second.pruned.figures.computed_tokens))
    assert said[0] == said[1]


@pytest.mark.parametrize("method", ["vispruner", "vispruner_stable", "divprune"])
def test_a_budget_for_all_crops_together_is_drawn_where_its_patches_lie(service_of, picture_file, method):
    service = service_of("v1.6")
    service.take_picture("me", picture_file, "picture.png")
    encoded = service.visitors.get("me").encoded
    pruning = Settings(40, 0.25, method, budget_per="image")
    html, crops = service.draw_kept("me", pruning), len(encoded.views.pixels)
    kept = kept_patches(service.model.model, encoded.views, pruning)
    (patches,) = choose(service.model.model, encoded.views, pruning).patches.tolist()
    assert len(kept) == crops > 1
    drawn = [i * 144 + patch for i, crop in enumerate(kept) for patch in sorted(crop.important | crop.others)]
    assert drawn == patches
    important = encoded.views.importance.flatten().topk(10).indices.tolist() if method != "divprune" else []
    assert [i * 144 + patch for i, crop in enumerate(kept) for patch in sorted(crop.important)] == sorted(important)
    assert f"40 of {crops * 144} of all crops together" in html
    drawing = Drawing(html)
    assert sum(len(squares) for name in ("important", "other") for squares in drawing.squares(name)) == 40
    assert ask(service, "me", "What is it?", pruning).pruned.is_done
    assert kept_patches(service.model.model, encoded.views, replace(pruning, visual_token_num=crops * 144))


def test_of_what_a_method_calls_important_what_it_keeps_is_drawn(service_of, picture_file, tmp_path):
    """A method that changes what VisPruner keeps, and says nothing of which patches are important."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import torch\nfrom llava.pruning.methods.vispruner import VisPruner\n\n\nclass Mine(VisPruner):\n"
        "    def select(self, views, settings):\n        return views.keep(torch.arange(50, 66).unsqueeze(0))\n\n\n"
        "METHOD = Mine()\n"
    )
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    encoded = service.visitors.get("me").encoded
    (kept,) = kept_patches(service.model.model, encoded.views, Settings(16, 1.0, str(mine)))
    most = set(encoded.views.importance[0].topk(16).indices.tolist())
    assert kept.important | kept.others == set(range(50, 66))
    assert kept.important == most & set(range(50, 66))


def test_methods_whose_tokens_are_no_patches_say_so(service_of, picture_file):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    assert "language model" in service.draw_kept("me", Settings(16, pruning_method="fastv"))
    assert "merges patches" in service.draw_kept("me", Settings(16, pruning_method="visionzip"))
    assert "first question" in service.draw_kept("me", Settings(16, pruning_method="mmtok"))
    for method in ("random", "fastervlm", "divprune"):
        drawing = Drawing(service.draw_kept("me", Settings(16, pruning_method=method)))
        assert [len(squares) for squares in drawing.squares("other")] == [16]
        assert not drawing.squares("important")
    assert "Every patch is kept" in service.draw_kept("me", Settings(16, pruning_method="none"))
    assert "pool merges patches" in service.draw_kept("me", Settings(16, pruning_method="pool"))
    assert "0 of 144, chosen by blind" in service.draw_kept("me", Settings(16, pruning_method="blind"))


def test_an_answer_streams_and_is_the_models(service_of, picture_file):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    shown = [talk for talk, _ in service.ask("me", "What is it?", SIXTEEN, True)]
    assert len(shown) > 3
    assert "running" in shown[0]
    assert "running" not in shown[-1]
    exchange = service.visitors.get("me").exchanges[0]
    session = Session(service.model.loaded, service.model.template, SIXTEEN)
    assert exchange.pruned.text == session.ask("What is it?", [picture_file], **GREEDY)
    assert exchange.unpruned.text == alone(service, picture_file, session.last.prompt, Settings())
    assert exchange.pruned.text != exchange.unpruned.text


def test_the_conversation_goes_on_when_the_settings_change(service_of, picture_file):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    settings = [SIXTEEN, SIXTEEN, Settings(48), Settings(8, pruning_method="fastv"), BLIND, SIXTEEN]
    session = Session(service.model.loaded, service.model.template, SIXTEEN)
    new = []
    for i, pruning in enumerate(settings):
        exchange = ask(service, "me", f"What is number {i}?", pruning, compare=i in (2, 3))
        if i == 0:
            session.ask("What is number 0?", [picture_file], **GREEDY)
        else:
            session = session.fork(pruning)
            session.ask(f"What is number {i}?", **GREEDY)
        # In a session of its own, whose answers are those to the whole conversation, whatever came beside it.
        assert exchange.pruned.text == session.last.text
        if exchange.unpruned.is_asked:
            assert exchange.unpruned.text == alone(service, picture_file, session.last.prompt, Settings())
        new.append(exchange.pruned.figures.computed_tokens == exchange.pruned.figures.prompt_tokens)
    assert new == [True, False, True, True, True, True]


@pytest.mark.parametrize("version", ["v1.5", "v1.6"])
@pytest.mark.parametrize("method", ["vispruner", "fastv", "dart", "visionzip", "pool", "blind"])
def test_the_figures_are_those_of_the_answer(service_of, picture_file, version, method):
    service = service_of(version)
    service.take_picture("me", picture_file, "picture.png")
    pruning = Settings(16, pruning_method=method)
    expected = ask(service, "me", "What is it?", pruning).unpruned.figures
    service.visitors.get("me").start_over()
    exchange = ask(service, "me", "What is it?", pruning, compare=True)
    pruned, unpruned = exchange.pruned.figures, exchange.unpruned.figures
    assert (unpruned.visual_tokens, unpruned.prompt_tokens) == (expected.visual_tokens, expected.prompt_tokens)
    assert (unpruned.kv_cache_bytes, unpruned.prefill_flops) == (expected.kv_cache_bytes, expected.prefill_flops)
    whole = service.model.count_visual_tokens(service.visitors.get("me").encoded, Settings())
    assert unpruned.visual_tokens == whole
    assert pruned.visual_tokens < whole / 5
    assert unpruned.prefill_flops == Decoder.from_config(service.model.model.config).prefill_flops(
        unpruned.prompt_tokens
    )
    assert pruned.kv_cache_bytes < unpruned.kv_cache_bytes
    for figures in (pruned, unpruned):
        assert figures.first_token > 0
        assert 1 <= figures.answer_tokens <= GREEDY["max_new_tokens"]


def test_the_cache_is_as_large_as_the_figures_say(service_of, picture_file, loaded):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    figures = ask(service, "me", "What is it?").pruned.figures
    session = Session(service.model.loaded, service.model.template, SIXTEEN)
    session.ask("What is it?", [picture_file], do_sample=False, max_new_tokens=1)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in session._cache.layers)
    assert figures.kv_cache_bytes == held


def test_visitors_with_other_budgets_do_not_disturb_each_other(service_of, tmp_path):
    service = service_of()
    settings = [Settings(4), Settings(16, 0.0), Settings(48), Settings(16, 1.0)]
    questions = ["What is it?", "Why?"]
    expected, files = [], []
    for i, pruning in enumerate(settings):
        files.append(tmp_path / f"{i}.png")
        picture(seed=i).save(files[-1])
        session = Session(service.model.loaded, service.model.template, pruning)
        first = session.ask(questions[0], [files[-1]], **GREEDY)
        expected.append([first, session.ask(questions[1], **GREEDY)])
    said, failed = {}, []

    def visit(i: int) -> None:
        try:
            service.take_picture(str(i), files[i], "it")
            answers = []
            for question in questions:
                answers.append(ask(service, str(i), question, settings[i]).pruned.text)
                for number in (3, 30):
                    service.draw_kept(str(i), Settings(number))
            said[i] = answers
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert [said[i] for i in range(len(settings))] == expected
    assert len({str(answers) for answers in expected}) == len(expected)


def test_who_waits_is_told_how_many_are_before(service_of, picture_file):
    service = service_of()
    assert service.queue_state() == "Queue: empty"
    service.take_picture("me", picture_file, "picture.png")
    first, second = service.queue.enter(), service.queue.enter()
    assert service.queue_state() == "Queue: 1 waiting, 1 answering"
    shown = service.ask("me", "What is it?", SIXTEEN, False)
    assert "Waiting: 2 before you" in next(shown)[0]
    first.leave()
    assert "You are next" in next(shown)[0]
    second.leave()
    assert "Waiting" not in list(shown)[-1][0]
    assert service.queue_state() == "Queue: empty"


def test_what_is_left_early_was_not_asked(service_of, picture_file):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    before = ask(service, "me", "What is it?")
    waiting = service.queue.enter()
    for _ in range(2):  # while it waits, and in the middle of the answer
        shown = service.ask("me", "And why is that so?", SIXTEEN, True)
        next(shown)
        next(shown)
        shown.close()
        assert service.visitors.get("me").exchanges == [before]
        if len(service.queue):
            waiting.leave()
    assert len(service.queue) == 0
    assert ask(service, "me", "Why?").pruned.figures.prompt_tokens < 2 * before.pruned.figures.prompt_tokens


def test_an_answer_that_is_stopped_was_not_asked(service_of, picture_file):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    before = ask(service, "me", "What is it?")
    shown = service.ask("me", "And why is that so?", SIXTEEN, True)
    next(shown)
    next(shown)
    service.stop("me")
    assert "And why" not in service.transcript("me")[0]
    assert not list(shown)  # the answer ends, though nobody has closed it
    assert service.visitors.get("me").exchanges == [before]

    shown = service.ask("me", "Why?", SIXTEEN, True)
    while not service.visitors.get("me").exchanges[-1].unpruned.is_asked:
        next(shown)
    service.stop("me")
    list(shown)
    exchange = service.visitors.get("me").exchanges[-1]
    assert (exchange.pruned.is_done, exchange.unpruned.is_asked) == (True, False)
    assert exchange.unpruned.figures.first_token is None
    ask(service, "me", "Really?", compare=True)


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("", "question is empty"),
        (" \n", "question is empty"),
        ("word " * 5000, "longer than the context"),
        ("<image> or <image>?", "placeholder"),
    ],
)
def test_a_question_that_cannot_be_answered_is_told_and_the_conversation_goes_on(
    service_of, picture_file, question, named
):
    service = service_of()
    with pytest.raises(InputError, match="no picture yet"):
        list(service.ask("me", "What is it?", SIXTEEN, False))
    service.take_picture("me", picture_file, "picture.png")
    for _ in range(2):
        with pytest.raises(InputError, match=named):
            list(service.ask("me", question, SIXTEEN, True))
        assert len(service.queue) == 0
        exchanges = service.visitors.get("me").exchanges
        ask(service, "me", "What is it?")
        assert len(service.visitors.get("me").exchanges) == len(exchanges) + 1


def test_what_only_pruning_makes_fit_is_answered_with_it(service_of, picture_file):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    room = service.model.model.config.max_position_embeddings
    tokens = ask(service, "me", "word").pruned.figures.prompt_tokens
    service.visitors.get("me").start_over()
    more = ask(service, "me", "word word").pruned.figures.prompt_tokens - tokens
    service.visitors.get("me").start_over()
    question = "word " * ((room - tokens - 40) // more)
    exchange = ask(service, "me", question, compare=True)
    assert exchange.pruned.is_done
    assert "longer than the context" in exchange.unpruned.text
    assert exchange.unpruned.is_done


def test_a_picture_that_cannot_be_taken_leaves_the_one_before(service_of, picture_file, tmp_path):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    before = ask(service, "me", "What is it?")
    bad, large, cut = tmp_path / "bad.png", tmp_path / "large.png", tmp_path / "cut.png"
    bad.write_bytes(b"no picture")
    Image.new("1", (10_000, 5_001)).save(large)
    cut.write_bytes(picture_file.read_bytes()[:2000])
    for file, named in [(bad, "not a picture of a known format"), (large, "too large: 10000 x 5001"), (cut, "cut.png")]:
        with pytest.raises(InputError, match=re.escape(named)):
            service.take_picture("me", file, file.name)
        assert service.visitors.get("me").exchanges == [before]
    ask(service, "me", "Why?")


def test_a_visitor_chooses_among_what_is_offered(service_of, tmp_path):
    service = service_of()

    def chosen(tokens, ratio, method) -> dict:
        return {"visual_token_num": tokens, "important_ratio": ratio, "pruning_method": method}

    assert service.pruning(**chosen(9, 0.25, "divprune")) == Settings(9, 0.25, "divprune")
    own = tmp_path / "own.py"
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    bad = [(None, 0.5, "vispruner"), (0, 0.5, "vispruner"), (16.5, 0.5, "vispruner"), ("16", 0.5, "vispruner")]
    bad += [(16, None, "vispruner"), (16, 1.5, "vispruner"), (16, 0.5, None), (16, 0.5, "antigravity")]
    for values in [*bad, (16, 0.5, str(own))]:
        with pytest.raises(ValueError, match=r"T has|visual_token_num|important_ratio|not offered"):
            service.pruning(**chosen(*values))
    assert not (tmp_path / "ran").exists()
    given = Service(service.model, None, Settings(1000, pruning_method=str(own)))  # by who serves the page
    assert given.pruning(**chosen(16, 0.5, str(own))).pruning_method == str(own)
    assert given.settings.visual_token_num == 144


def test_a_new_picture_or_a_new_start_begins_a_conversation(service_of, picture_file, tmp_path):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    first = ask(service, "me", "What is it?")
    ask(service, "me", "Why?")
    service.visitors.get("me").start_over()
    assert "No question yet" in service.transcript("me")[0]
    assert ask(service, "me", "What is it?").pruned.text == first.pruned.text
    service.take_picture("me", picture_file, "picture.png")
    assert service.transcript("me")[1] == ""


def test_only_so_many_are_remembered_and_fewer_have_a_cache(service_of, picture_file):
    service = service_of()
    service.visitors = Visitors(most=3, most_caches=2)
    for key in "abc":
        service.take_picture(key, picture_file, "picture.png")
        ask(service, key, "What is it?")
    # That of the first was freed: its history is computed again, with the same answer as the others'.
    answers = {key: ask(service, key, "Why?") for key in "cba"}
    assert len({exchange.pruned.text for exchange in answers.values()}) == 1
    new = {key: exchange.pruned.figures.computed_tokens for key, exchange in answers.items()}
    assert new["a"] == answers["a"].pruned.figures.prompt_tokens
    assert new["c"] == new["b"] < new["a"] / 2
    service.take_picture("d", picture_file, "picture.png")
    assert len(service.visitors) == 3
    assert not service.visitors.get("c").exchanges
    service.visitors.forget("d")
    with pytest.raises(InputError, match="no picture yet"):
        ask(service, "d", "What is it?")


def test_a_tower_without_cls_is_drawn_by_the_attention_that_is_received(service_of, picture_file, monkeypatch):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    assert "[CLS] attention" in service.draw_importance("me")
    monkeypatch.setattr(type(service.model.model.get_vision_tower()), "NAME", "SigLIP")
    assert "Attention received" in service.draw_importance("me")


def test_a_server_answers_and_a_model_beside_it_draws(service_of, picture_file, model_server):
    from llava.serve.page.vllm_server import VllmServer

    with pytest.raises(InputError, match=r"144 patches.* 576"):
        service_of(server=VllmServer(model_server.url, GREEDY))
    model_server.pruning["patches"] = 144
    service = service_of(server=VllmServer(model_server.url, GREEDY))
    service.take_picture("me", picture_file, "picture.png")
    exchange = ask(service, "me", "What is it?", compare=True)
    assert exchange.pruned.text == "1 texts, (200, 150), 16 tokens"
    assert exchange.unpruned.text == "1 texts, (200, 150), 144 tokens"
    assert Drawing(service.draw_kept("me", SIXTEEN)).squares("important")
    figures = exchange.pruned.figures
    assert figures.visual_tokens == 16
    assert figures.prefill_flops == Decoder.from_config(service.model.model.config).prefill_flops(
        70
    )  # as the server counted


def test_a_server_alone_says_that_nothing_can_be_drawn(picture_file, model_server):
    from llava.serve.page.vllm_server import VllmServer

    service = Service(None, VllmServer(model_server.url, GREEDY), Settings())
    assert (service.patches, service.settings.visual_token_num) == (576, 64)
    service.take_picture("me", picture_file, "picture.png")
    assert "--model-path" in service.draw_kept("me", SIXTEEN)
    assert service.picture_source("me") == service.draw_importance("me") == ""
    exchange = ask(service, "me", "What is it?", compare=True)
    assert exchange.unpruned.text == "1 texts, (200, 150), 576 tokens"
    assert exchange.pruned.figures.prompt_tokens == 70
    assert exchange.pruned.figures.kv_cache_bytes is None
    with pytest.raises(InputError, match="visual_token_num must be at least 1"):
        ask(service, "me", "refuse this")
    assert len(service.visitors.get("me").exchanges) == 1


def test_a_server_that_takes_no_settings_is_asked_with_its_own(service_of, picture_file, model_server):
    from llava.serve.page.vllm_server import VllmServer

    settings = {"visual_token_num": 16, "important_ratio": 0.25, "pruning_method": "fastervlm"}
    model_server.pruning = {"patches": 144, "takes_settings": False, "settings": settings}
    for server_draws in (False, True):
        server = VllmServer(model_server.url, GREEDY)
        service = Service(service_of().model if server_draws else None, server, Settings())
        assert service.settings == Settings(**settings)
        service.take_picture("me", picture_file, "picture.png")
        chosen = service.pruning(**vars(Settings(99)))
        exchange = ask(service, "me", "What is it?", chosen, compare=True)
        assert (exchange.pruned.text, exchange.unpruned.text) == ("1 texts, (200, 150), its own tokens", "")
        assert exchange.pruned.label == "16 of 144 tokens"
    most = service.visitors.get("me").encoded.views.importance[0].topk(16).indices.tolist()
    drawn = Drawing(service.draw_kept("me", chosen)).squares("kept")
    assert {place for squares in drawn for place in squares} == {(patch % 12, patch // 12) for patch in most}


def test_what_an_unknown_server_keeps_is_neither_drawn_nor_counted(service_of, picture_file, model_server):
    from llava.serve.page.vllm_server import VllmServer

    model_server.pruning = None
    service = Service(service_of().model, VllmServer(model_server.url, GREEDY), Settings())
    service.take_picture("me", picture_file, "picture.png")
    assert "not known" in service.draw_kept("me", service.settings)
    exchange = ask(service, "me", "What is it?", service.settings, compare=True)
    assert exchange.pruned.text == "1 texts, (200, 150), its own tokens"
    assert not any(character.isdigit() for character in exchange.pruned.label)
    assert (exchange.pruned.figures.visual_tokens, exchange.pruned.figures.prompt_tokens) == (None, 70)


def test_tokens_of_merged_patches_are_not_taken_for_patches(service_of, picture_file):
    service = service_of()
    service.take_picture("me", picture_file, "picture.png")
    views = service.visitors.get("me").encoded.views
    assert kept_patches(service.model.model, views, Settings(16, pruning_method="visionzip")) is None
    every = kept_patches(service.model.model, views, Settings(500))
    assert [sorted(crop.others) for crop in every] == [list(range(144))]
