"""Users' methods are guests: whatever they write, nobody else sees it."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from llava.inference import Engine
from llava.inference.images import choose_tokens, encode_images
from llava.pruning import METHOD_NAMES, MethodError, Settings, Views, select
from llava.pruning.views import VIEWS
from llava.vision.pictures import load_image
from tests import doors
from tests.conftest import load
from tests.pruning.guests import CHANNELS, PATCHES, views_of


def values_of(views: Views) -> dict:
    return {name: getattr(views, name) for name in VIEWS}


HARM = {
    "negated": "views.importance.neg_()",
    "sorted into itself": "torch.sort(views.importance.clone(), out=(views.importance, torch.empty(0).long()))",
    "indexed": "views.features[:, ::2] = 0",
    "part of it": "views.features[0].zero_()",
    "data": "views.importance.data.zero_()",
    "detached": "views.features.detach().mul_(-1)",
    "numpy": "views.importance.numpy()[:] = 0",
    "set": "views.importance.set_(torch.zeros_like(views.importance))",
    "resized": "views.features.resize_(2, 8, 4).zero_()",
    "storage": "views.hidden_states.untyped_storage().fill_(0)",
    "keys": "views.keys.mul_(2)",
    "projected": "views.projected.normal_()",
    "pixels": "views.pixels.fill_(1)",
    "image embeddings": "views.image_embeds.exp_()",
    "texts": "views.text_embeds.zero_()",
    "words": "views.word_embeds.add_(1)",
    "all that is kept": "views.keep_all().tokens.zero_()",
    "parts of views": "views.crops(slice(0, 1)).importance.neg_()\nviews.together().features.neg_()",
    "replaced": "views.importance = -views.importance\nviews.features = views.features * 0",
    "sources": "views._sources['importance'] = None\nviews._sources.clear()",
}


OF_CROPS_ALONE = ("keys", "storage")  # crops together have no such views
SHARED = [
    (how, name) for how in ("whole", "crops", "image") for name in HARM if how != "image" or name not in OF_CROPS_ALONE
]


@pytest.mark.parametrize(("shared", "harm"), SHARED)
def test_what_a_method_writes_into_its_views_is_seen_by_nobody_else(write, shared, harm):
    views, before = views_of(), values_of(views_of())
    given = views.with_question(question="Why?", word_embeds=views.word_embeds) if shared == "crops" else views
    path = write(f"{HARM[harm]}\nreturn views.keep_all()", head='NEEDS = ("question", "word_embeds", "text_embeds")')
    settings = Settings(3, pruning_method=path, budget_per="image" if shared == "image" else "crop")
    select(given, settings).tokens.zero_()  # what it returned is not the views' either
    for name, value in values_of(views).items():
        assert value == before[name] if isinstance(value, str) else torch.equal(value, before[name]), name
    expected = views_of().importance.topk(3).indices.sort().values
    assert torch.equal(select(given, Settings(3, pruning_method="fastervlm")).patches, expected)


def test_settings_are_not_to_be_written_into(write):
    number = torch.tensor(3)
    settings = Settings(number, pruning_method=write("settings.visual_token_num = 1\nreturn views.keep_all()"))
    with pytest.raises(MethodError, match="FrozenInstanceError") as failed:
        select(views_of(), settings)
    assert isinstance(failed.value.__cause__, FrozenInstanceError)
    number.fill_(1)
    assert (settings.visual_token_num, type(settings.visual_token_num)) == (3, int)


def test_what_it_returned_is_not_changed_later(write):
    """A method that uses its memory again, or writes into what it has returned."""
    body = "BUFFER.copy_(views.features[:, :2] + len(SEEN))\nSEEN.append(1)\nreturn MergedTokens(BUFFER)"
    again = Settings(2, pruning_method=write(body, head="BUFFER, SEEN = torch.zeros(2, 2, 4), []"))
    first, second = select(views_of(), again), select(views_of(), again)
    assert torch.equal(first.tokens + 1, second.tokens)
    body = "for kept in SEEN:\n    kept.patches.zero_()\n"
    body += "SEEN.append(views.keep(torch.tensor([[1, 2]] * 2)))\nreturn SEEN[-1]"
    late = Settings(2, pruning_method=write(body, "late.py", "SEEN = []"))
    first, _ = select(views_of(), late), select(views_of(), late)
    assert first.patches.tolist() == [[1, 2]] * 2


def test_keep_takes_the_tokens_from_the_picture(write):
    views = views_of()
    body = "views.features.zero_()\nreturn views.keep(torch.tensor([[5, 2]] * 2))"
    kept = select(views, Settings(2, pruning_method=write(body)))
    assert torch.equal(kept.tokens, views.features[:, [2, 5]])


def test_views_that_it_is_the_first_to_read_are_what_others_would_have_read(write):
    """In the modes of the call, not in those that the method has chosen for itself."""
    features, weight = torch.rand(1, PATCHES, CHANNELS), torch.rand(CHANNELS, CHANNELS, requires_grad=True)
    views = Views(features, projected=lambda: features @ weight)
    body = "with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):\n    views.projected.sum()\n"
    select(views, Settings(1, pruning_method=write(f"{body}return views.keep_all()")))
    assert views.projected.dtype is torch.float32
    views.projected.sum().backward()
    assert torch.allclose(weight.grad, features.sum(dim=(0, 1)).unsqueeze(1).expand(-1, CHANNELS))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        again = Views(features, projected=lambda: features @ weight)
        select(again, Settings(1, pruning_method=write(f"{body}return views.keep_all()", "cast.py")))
    assert (again.projected.dtype, again.projected.requires_grad) == (torch.bfloat16, False)


def test_gradients_flow_through_the_copies(write):
    features = torch.rand(1, PATCHES, CHANNELS, requires_grad=True)
    settings = Settings(2, pruning_method=write("return MergedTokens(views.features[:, 3:5] * 2)"))
    select(Views(features), settings).tokens.sum().backward()
    assert features.grad.sum(dim=2).tolist() == [[8.0 if patch in (3, 4) else 0.0 for patch in range(PATCHES)]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_built_in_methods_read_the_views_themselves_and_write_into_none(method, dtype):
    views = views_of(dtype=dtype)
    own = values_of(views)
    select(views, Settings(6, pruning_method=method))
    for name, value in values_of(views).items():
        assert value is own[name]
        assert isinstance(value, str) or torch.equal(value, getattr(views_of(dtype=dtype), name)), name


def test_an_engine_answers_others_as_if_it_had_not_been_there(write):
    """The same pictures at a writing method's settings, and at those of others, before and after."""
    (question, path), *_ = doors.asked()
    engine, image = Engine(load(doors.MODEL)), load_image(path)  # whose answers differ; a random model's may not
    harm = "views.importance.neg_()\nviews.features.mul_(0)\nreturn views.keep(torch.arange(4).unsqueeze(0))"
    mine, others = Settings(4, pruning_method=write(harm)), [Settings(4, 0.5), Settings(4, pruning_method="fastervlm")]
    options = {"do_sample": False, "max_new_tokens": 4}

    def ask(pruning: list[Settings]) -> list[str]:
        asked = [engine.request(question, image, pruning=each) for each in pruning]
        return [said.text for said in engine.answer(asked, **options)]

    alone = [ask([each])[0] for each in others]
    assert len(set(alone)) == 2
    assert ask([mine, *others, mine, *others])[1:3] == alone
    session = engine.session(visual_token_num=4, pruning_method=mine.pruning_method)
    session.ask(question, [image], **options)
    (encoded,) = encode_images(engine.loaded, [image], "the picture")
    for each in others:
        (forked,) = session.fork(each)._images.values()
        assert torch.equal(forked.tokens, choose_tokens(engine.model, [encoded], each)[0])


DECODER = """
from llava.pruning.methods.fastv import FastV


class Mine(FastV):
    def prune_decoder(self, decoder, inputs_embeds, **options):
        given = {{name: value.clone() if hasattr(value, "clone") else value for name, value in options.items()}}
        output = super().prune_decoder(decoder, inputs_embeds.clone(), **given)
        inputs_embeds.zero_()
        {}
        return output


METHOD = Mine()
"""


def test_a_method_inside_the_decoder_is_a_guest_too(tmp_path, loaded):
    _, model, *_ = loaded()
    embeds, mine = torch.rand(1, 20, model.config.hidden_size), tmp_path / "mine.py"
    visual = torch.arange(20).unsqueeze(0) < 15

    def ask(method: str) -> list[int]:
        more = {"is_visual": visual, "visual_token_num": 40, "pruning_method": method}
        return model.generate(inputs_embeds=embeds, do_sample=False, max_new_tokens=4, **more).tolist()

    before = embeds.clone()
    mine.write_text(DECODER.format(""))
    assert ask(str(mine)) == ask("fastv")
    assert torch.equal(embeds, before)
    for code, named in {
        "1 / 0": r"mine.py failed: ZeroDivisionError: division by zero \(line 10 of mine.py\)",
        "return None": r"mine.py: prune_decoder must return an output whose last_hidden_state is \(1, L, ",
        "output.last_hidden_state = output.last_hidden_state[:, :0]": r"mine.py: .*, got \(1, 0, ",
        "output.last_hidden_state = output.last_hidden_state[..., :3]": r"mine.py: .*, got \(1, \d+, 3\)",
    }.items():
        mine.write_text(DECODER.format(code))
        with pytest.raises(MethodError, match=named):
            ask(str(mine))
