"""Users' methods are guests: they harm nobody, and what they return, raise and are read from is theirs and named."""

import logging
import os
import pickle
import re
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

from llava.eval import run_llava
from llava.inference import Engine
from llava.inference.images import choose_tokens, encode_images
from llava.inference.memory import is_out_of_memory
from llava.pruning import METHOD_NAMES, MergedTokens, MethodError, PruningError, Settings, Views, load_method, select
from llava.pruning.method import method_digest
from llava.pruning.views import VIEWS
from llava.serve import cli
from tests.conftest import picture

PATCHES, CHANNELS = 16, 4


@pytest.fixture
def write(tmp_path):
    """write(body, name="mine.py", head="") -> the path of a method whose `select` has this body."""

    def method(body: str, name: str = "mine.py", head: str = "") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        path.write_text(f"import torch\nfrom llava.pruning import *\n{head}\ndef select(views, settings):\n{lines}")
        return str(path)

    return method


def views_of(crops: int = 2, dtype: torch.dtype = torch.float32) -> Views:
    """Every view there is, of random values; half of them computed when they are read."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).to(dtype)

    whole = draw(crops, 1 + PATCHES, CHANNELS)
    made = {
        "importance": draw(crops, PATCHES),
        "keys": draw(crops, 1 + PATCHES, 3),
        "projected": draw(crops, PATCHES, 5),
        "text_embeds": draw(2, 6),
    }
    return Views(
        whole[:, 1:],
        hidden_states=whole,
        pixels=draw(crops, 3, 8, 8),
        image_embeds=draw(crops, PATCHES, 6),
        question="What?",
        word_embeds=draw(3, 5),
        **{name: lambda value=value: value for name, value in made.items()},
    )


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
    body = "for kept in SEEN:\n    kept.patches.zero_()\nSEEN.append(views.keep(torch.tensor([[1, 2]] * 2)))\nreturn SEEN[-1]"
    late = Settings(2, pruning_method=write(body, "late.py", "SEEN = []"))
    first, _ = select(views_of(), late), select(views_of(), late)
    assert first.patches.tolist() == [[1, 2]] * 2


def test_keep_takes_the_tokens_from_the_picture(write):
    views = views_of()
    body = "views.features.zero_()\nreturn views.keep(torch.tensor([[5, 2]] * 2))"
    kept = select(views, Settings(2, pruning_method=write(body)))
    assert torch.equal(kept.tokens, views.features[:, [2, 5]])


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


def test_an_engine_answers_others_as_if_it_had_not_been_there(write, loaded):
    """The same pictures at a writing method's settings, and at those of others, before and after."""
    engine, image = Engine(loaded()), picture()
    harm = "views.importance.neg_()\nviews.features.mul_(0)\nreturn views.keep(torch.arange(4).unsqueeze(0))"
    mine, others = Settings(4, pruning_method=write(harm)), [Settings(4, 0.5), Settings(4, pruning_method="fastervlm")]
    options = {"do_sample": False, "max_new_tokens": 4}

    def ask(pruning: list[Settings]) -> list[str]:
        asked = [engine.request("What?", image, pruning=each) for each in pruning]
        return [said.text for said in engine.answer(asked, **options)]

    alone = [ask([each])[0] for each in others]
    assert len(set(alone)) == 2
    assert ask([mine, *others, mine, *others])[1:3] == alone
    session = engine.session(visual_token_num=4, pruning_method=mine.pruning_method)
    session.ask("What?", [image], **options)
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
        "1 / 0": r"mine.py failed: ZeroDivisionError: division by zero \(line 11 of mine.py\)",
        "return None": r"mine.py: prune_decoder must return an output whose last_hidden_state is \(1, L, ",
        "output.last_hidden_state = output.last_hidden_state[:, :0]": r"mine.py: .*, got \(1, 0, ",
        "output.last_hidden_state = output.last_hidden_state[..., :3]": r"mine.py: .*, got \(1, \d+, 3\)",
    }.items():
        mine.write_text(DECODER.format(code))
        with pytest.raises(MethodError, match=named):
            ask(str(mine))


REFUSED = {
    # what is kept
    "negative": ("views.keep(torch.tensor([[-1, -2, 0, 1]] * 2))", "patch -2 of crop 0, which has the patches 0 to 15"),
    "beyond the end": ("views.keep(torch.tensor([[1, 2, 3, 16]] * 2))", "patch 16 of crop 0"),
    "far beyond": ("views.keep(torch.tensor([[1, 2], [3, 2**62]]))", f"patch {2**62} of crop 1"),
    "far below": ("views.keep(torch.tensor([[1, -(2**63)], [3, 4]]))", f"patch -{2**63} of crop 0"),
    "the same": ("views.keep(torch.tensor([[3, 3, 3, 3]] * 2))", "patch 3 of crop 0 twice"),
    "the same in one crop": ("views.keep(torch.tensor([[1, 2, 3], [1, 2, 1]]))", "patch 1 of crop 1 twice"),
    "a list": ("views.keep([[0, 1], [2, 3]])", r"int64, got list \[\[0, 1\], \[2, 3\]\] \(line 5 of mine.py\)"),
    "numpy": ("views.keep(torch.tensor([[0, 1]] * 2).numpy())", r"int64, got ndarray array\(\[\[0, 1\]"),
    "nothing": ("views.keep(None)", "int64, got NoneType None"),
    "flat": ("views.keep(torch.tensor([0, 1]))", r"must be a tensor \(2, T\) of int64, got \(2,\) of int64"),
    "three dimensions": ("views.keep(torch.zeros(2, 1, 1).long())", r"got \(2, 1, 1\) of int64"),
    "floats": ("views.keep(torch.tensor([[0.0, 1.0]] * 2))", r"got \(2, 2\) of float32"),
    "a mask": ("views.keep(views.importance > 0.5)", r"got \(2, 16\) of bool"),
    "int32": ("views.keep(torch.tensor([[0, 1]] * 2).int())", r"got \(2, 2\) of int32"),
    "a row too few": ("views.keep(torch.tensor([[0, 1]]))", r"must be a tensor \(2, T\) of int64, got \(1, 2\)"),
    "a row too many": ("views.keep(torch.tensor([[0, 1]] * 3))", r"got \(3, 2\)"),
    "too many": (
        "views.keep(torch.arange(17).expand(2, -1))",
        "17 patches are kept of each crop: they must be 1 to 16",
    ),
    "none at all": ("views.keep(torch.zeros(2, 0).long())", "0 patches are kept of each crop"),
    "elsewhere": ("views.keep(torch.zeros(2, 2, device='meta').long())", "patches are on meta, the features on cpu"),
    "kept on the way": ("MergedTokens(views.keep(torch.tensor([[-1, 0]] * 2)).tokens)", "patch -1 of crop 0"),
    # tokens and patches of its own
    "not ascending": ("VisualTokens(views.features[:, :2], torch.tensor([[1, 0]] * 2))", "patch 0 of crop 0 after 1"),
    "of other patches": ("VisualTokens(views.features[:, :2], torch.tensor([[1, 99]] * 2))", "patch 99 of crop 0"),
    "patches that are a list": (
        "VisualTokens(views.features[:, :2], [[0, 1]] * 2)",
        "patches must be a tensor, not list",
    ),
    "tokens that are a list": (
        "MergedTokens([[1.0] * 4])",
        r"tokens must be a tensor \(2, T, 4\) .*, got list \[\[1.0, ",
    ),
    "flat tokens": ("MergedTokens(views.features[:, 0])", r"tokens must be .*, got \(2, 4\) of float32"),
    "of integers": ("MergedTokens(torch.zeros(2, 2, 4).long())", r"of floating numbers, got \(2, 2, 4\) of int64"),
    "complex": ("MergedTokens(torch.zeros(2, 2, 4).cfloat())", r"got \(2, 2, 4\) of complex64"),
    "of one crop": ("MergedTokens(views.features[:1, :2])", r"tokens must be a tensor \(2, T, 4\) .*, got \(1, 2, 4\)"),
    "of another width": ("MergedTokens(views.projected)", r"got \(2, 16, 5\)"),
    "more than patches": ("MergedTokens(views.hidden_states)", "17 tokens of each crop: they must be 1 to 16"),
    "no token": ("MergedTokens(views.features[:, :0])", "0 tokens of each crop"),
    "tokens elsewhere": ("MergedTokens(views.features.to('meta'))", "tokens are on meta, the features on cpu"),
    "not a number": ("MergedTokens(views.features[:, :2] * float('nan'))", "tokens that are not finite"),
    "infinite": ("MergedTokens(views.features[:, :2] / 0)", "tokens that are not finite"),
    "one of them": ("MergedTokens(views.features.index_fill(1, torch.tensor([7]), -torch.inf))", "are not finite"),
    "infinite in the tower's dtype": ("MergedTokens(views.features.double() * 1e200)", "are not finite"),
    "another thing": ("views.features[:, :2]", "select must return VisualTokens or MergedTokens, not Tensor"),
    "forgotten": ("None", "select must return VisualTokens or MergedTokens, not NoneType"),
    "indices alone": ("torch.tensor([[0, 1]] * 2)", "select must return VisualTokens or MergedTokens, not Tensor"),
    "a pair": ("(views.features, torch.tensor([[0, 1]]))", "VisualTokens or MergedTokens, not tuple"),
}


@pytest.mark.parametrize(("returned", "named"), REFUSED.values(), ids=REFUSED)
def test_what_a_method_returns_is_refused_by_name_and_value(write, returned, named):
    with pytest.raises(MethodError, match=rf"^the pruning method .*mine\.py: .*{named}") as refused:
        select(views_of(), Settings(4, pruning_method=write(f"return {returned}")))
    assert "\n" not in str(refused.value)


def test_with_a_budget_per_image_patches_are_of_all_crops(write):
    body = "return views.keep(torch.tensor([[{}, 1]]))"
    settings = Settings(2, pruning_method=write(body.format(31)), budget_per="image")
    assert select(views_of(), settings).patches.tolist() == [[1, 31]]
    settings = Settings(2, pruning_method=write(body.format(32)), budget_per="image")
    with pytest.raises(MethodError, match="patch 32 of crop 0, which has the patches 0 to 31"):
        select(views_of(), settings)


def test_what_may_be_returned_still_may(write):
    """Fewer and more tokens than T, in any floating dtype, which become the tower's; changed ones; all; one."""
    views = views_of()
    for returned, number in {
        "views.keep(torch.tensor([[7]] * 2))": 1,
        "views.keep(torch.arange(15, 5, -1).expand(2, -1))": 10,
        "views.keep_all()": 16,
        "MergedTokens(views.features.double().mean(dim=1, keepdim=True))": 1,
        "MergedTokens(views.features.half()[:, :3])": 3,
        "VisualTokens(views.features[:, 2:4] * 2, torch.tensor([[2, 3]] * 2))": 2,
    }.items():
        tokens = select(views, Settings(4, pruning_method=write(f"return {returned}"))).tokens
        assert (tokens.shape, tokens.dtype) == ((2, number, CHANNELS), torch.float32), returned
    broken = Views(torch.full((1, PATCHES, CHANNELS), torch.nan))  # the tower's fault is not the method's
    assert isinstance(select(broken, Settings(4, pruning_method=write("return MergedTokens(views.features[:, :2])"))),
                      MergedTokens)  # fmt: skip


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("NEEDS = 3", "NEEDS may have question, text_embeds, word_embeds, not 3"),
        ("NEEDS = None", "NEEDS may have .*, not None"),
        ('NEEDS = "question"', "NEEDS may have .*, not 'question'"),
        ('NEEDS = ("answer",)', r"NEEDS may have .*, not \('answer',\)"),
        ('NEEDS = [["question"]]', r"NEEDS may have .*, not \[\['question'\]\]"),
        ("NEEDS = torch.tensor([1, 2])", "NEEDS may have .*, not tensor"),
        ('NEEDS = ("importance",)', r"NEEDS may have .*, not \('importance',\)"),
        ("EACH_CROP_ALONE = 'no'", "each_crop_alone must be True or False, got 'no'"),
        ("class Mine(Method):\n    merges = 1\n\nMETHOD = Mine()", "merges must be True or False, got 1"),
        ("class Mine(Method):\n    needs = 3\n\nMETHOD = Mine()", "NEEDS may have .*, not 3"),
        ("class Mine(Method):\n    in_decoder = True\n\nMETHOD = Mine()", "needs a function prune_decoder"),
        ("class Mine(Method):\n    pass\n\nMETHOD = Mine", "METHOD must be an object, not the class Mine"),
        ("class Mine(Method):\n    @property\n    def needs(self):\n        return 1 / 0\n\nMETHOD = Mine()",
         r"ZeroDivisionError: division by zero \(line 6 of mine.py\)"),
        ("select = None\nprune_decoder = print\ndel select\n", "integer FULL_LAYERS"),
    ],
)  # fmt: skip
def test_what_a_method_declares_is_refused_by_name(write, head, named):
    path = write("return views.keep_all()", head=head)
    if "prune_decoder = " in head:
        text = Path(path).read_text()
        Path(path).write_text(text[: text.index("\ndef select")])
    with pytest.raises(MethodError, match=rf"^the pruning method .*mine\.py.*: .*{named}"):
        _ = Settings(4, pruning_method=path).question_views


def keeps(patch: int) -> str:
    return f"return views.keep(torch.tensor([[{patch:2}]] * 2))"  # of one length


def kept_by(name: str) -> int:
    return select(views_of(), Settings(1, pruning_method=name)).patches[0, 0].item()


def set_times(*paths: str) -> None:
    for path in paths:
        os.utime(path, (1_700_000_000, 1_700_000_000))


def test_methods_of_one_name_and_time_in_two_folders_are_two(write):
    first, second = write(keeps(3), "a/mine.py"), write(keeps(7), "b/mine.py")
    set_times(first, second)
    assert [kept_by(name) for name in (first, second, first)] == [3, 7, 3]
    assert method_digest(first) != method_digest(second)


def test_an_edit_that_changes_neither_time_nor_size_is_read(write):
    for patch in (3, 7, 3):
        path = write(keeps(patch))
        set_times(path)
        assert kept_by(path) == patch
    assert [file.name for file in Path(path).parent.iterdir()] == ["mine.py"]  # no compiled copy


def test_a_module_is_read_again_too(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "guests_of_test").mkdir()
    (tmp_path / "guests_of_test" / "__init__.py").touch()
    (tmp_path / "guests_of_test" / "helper.py").write_text("NUMBER = 5\n")
    name, digests = "guests_of_test.mine", []
    for patch in (3, 7):
        set_times(write(keeps(patch), "guests_of_test/mine.py"))
        assert kept_by(name) == patch
        digests.append(method_digest(name))
    assert len(set(digests)) == 2
    assert name not in sys.modules  # the user's own import of it is another matter
    body = "return views.keep(torch.tensor([[NUMBER]] * 2))"
    write(body, "guests_of_test/mine.py", "from .helper import NUMBER")
    assert kept_by(name) == 5


def test_names_follow_folders_and_links(write, tmp_path, monkeypatch):
    first, second = write(keeps(3), "a/mine.py"), write(keeps(7), "b/mine.py")
    for folder, patch in (("a", 3), ("b", 7)):
        monkeypatch.chdir(tmp_path / folder)
        assert kept_by("mine.py") == patch
    link = tmp_path / "link.py"
    for target, patch in ((first, 3), (second, 7)):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert kept_by(str(link)) == patch
        assert method_digest(str(link)) == method_digest(target)


def test_what_two_files_define_under_one_name_stays_apart(write):
    head = "from dataclasses import dataclass\n\n@dataclass\nclass Box:\n    patch: 'int' = {}\n"
    methods = [load_method(write(keeps(3), f"{i}/mine.py", head.format(i))) for i in range(2)]
    boxes = [sys.modules[method.method.select.__module__].Box() for method in methods]
    assert [pickle.loads(pickle.dumps(box)).patch for box in boxes] == [0, 1]


def test_settings_that_know_a_former_kind_of_the_file_say_so(write):
    path = write(keeps(3))
    settings = Settings(1, pruning_method=path)
    assert not settings.prunes_in_decoder
    Path(path).write_text("FULL_LAYERS = 2\n\n\ndef prune_decoder(*args, **kwargs):\n    pass\n")
    with pytest.raises(MethodError, match=r"mine.py has become another kind"):
        select(views_of(), settings)
    Path(path).unlink()
    with pytest.raises(PruningError, match=r"there is no file .*mine.py"):
        select(views_of(), settings)


RAISED = {
    "an error": ("raise ValueError('bad\\nluck')", "ValueError: bad luck"),
    "a division": ("1 / 0", "ZeroDivisionError: division by zero"),
    "the end": ("import sys; sys.exit()", "SystemExit"),
    "the end with a code": ("raise SystemExit(3)", "SystemExit: 3"),
    "the end with words": ("import sys; sys.exit('no luck')", "SystemExit: no luck"),
    "no error's error": ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    "an assertion": ("assert False", "AssertionError"),
    "a message that fails": (
        "class Bad(Exception):\n    def __str__(self): raise RuntimeError\nraise Bad",
        "Bad",
    ),
    "a long message": ("raise KeyError('x' * 10_000)", "KeyError: 'xxx.*xxx\\.\\.\\."),
    "one in a library": ("import json; json.loads('{')", "JSONDecodeError: Expecting property name"),
    "too deep": ("def down(): down()\ndown()", "RecursionError: maximum recursion depth"),
}


@pytest.mark.parametrize(("code", "said"), RAISED.values(), ids=RAISED)
@pytest.mark.parametrize("where", ["import", "select", "METHOD"])
def test_what_a_method_raises_names_it_and_the_line(write, code, said, where):
    if where == "import":
        path = write("return views.keep_all()", head=code)
    elif where == "select":
        path = write(f"{code}\nreturn views.keep_all()")
    else:
        lines = "".join(f"        {line}\n" for line in code.splitlines())
        path = write(
            "pass", head=f"class Mine(Method):\n    def select(self, views, settings):\n{lines}\nMETHOD = Mine()"
        )
    text = Path(path).read_text().splitlines()
    last = next(line for line in reversed(code.splitlines()) if line.strip()).strip()
    number = next(i for i, line in enumerate(text, 1) if line.strip() == last)
    number -= said.startswith("RecursionError")  # of the function that calls itself
    how = "cannot be imported" if where == "import" else "failed"
    expected = rf"^the pruning method .*mine\.py {how}: {said}.* \(line {number} of mine\.py\)$"
    with pytest.raises(MethodError, match=expected) as failed:
        select(views_of(), Settings(4, pruning_method=path))
    assert "\n" not in str(failed.value)
    assert failed.value.__cause__ is not None
    assert len(str(failed.value)) < len(path) + 450


def test_a_key_that_is_pressed_is_no_error_of_a_method(write):
    with pytest.raises(KeyboardInterrupt):
        select(views_of(), Settings(4, pruning_method=write("raise KeyboardInterrupt")))
    with pytest.raises(KeyboardInterrupt):
        load_method(write("pass", head="raise KeyboardInterrupt"))


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("def broken(:", r"SyntaxError: invalid syntax \(mine.py, line 3\)"),
        ("  x = 1\n y = 2", r"IndentationError: .*line 3\)"),
        ("x = '\\0'.join(['a'])\nimport nothing_like_this", r"ModuleNotFoundError: .*'nothing_like_this' \(line 4 of"),
    ],
)
def test_a_file_that_cannot_be_read_as_python_names_the_line(write, head, named):
    with pytest.raises(MethodError, match=rf"mine\.py cannot be imported: {named}"):
        load_method(write("pass", head=head))


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("import sys; sys.exit(3)", r"SystemExit: 3 \(line 3 of __init__.py\)"),
        ("raise ValueError('bad')", r"ValueError: bad \(line 3 of __init__.py\)"),
        ("import nothing_like_this", r"ModuleNotFoundError: .* \(line 3 of __init__.py\)"),
    ],
)
def test_a_package_that_fails_is_named(write, tmp_path, monkeypatch, head, named):
    monkeypatch.syspath_prepend(tmp_path)
    write("pass", "failing_package/__init__.py", head)
    write("return views.keep_all()", "failing_package/mine.py")
    with pytest.raises(MethodError, match=f"failing_package.mine cannot be imported: {named}"):
        Settings(4, pruning_method="failing_package.mine")


def test_what_the_tower_lacks_is_said_with_the_method_s_name(write):
    path = write("return views.keep(views.keys)")
    with pytest.raises(
        PruningError, match=r"mine.py: this vision tower gives no keys, .* \(line 5 of mine.py\)"
    ) as said:
        select(Views(torch.rand(1, 9, 4)), Settings(2, pruning_method=path))
    assert not isinstance(said.value, MethodError)


def test_memory_that_runs_out_is_known_as_that(write):
    for code, is_memory in (("raise MemoryError", True), ("torch.empty(2**60)", True), ("raise ValueError", False)):
        with pytest.raises(MethodError, match=r"mine.py failed: .*\(line 5 of") as failed:
            select(views_of(), Settings(4, pruning_method=write(code)))
        assert is_out_of_memory(failed.value) == is_memory


@pytest.fixture
def asked(checkpoints, tmp_path):
    """Options of a command that asks about a picture."""
    picture().save(tmp_path / "picture.png")
    model = ["--model-path", checkpoints(), "--device", "cpu", "--visual_token_num", "4", "--temperature", "0"]
    return [*model, "--image-file", tmp_path / "picture.png", "--max_new_tokens", "2"]


@pytest.fixture
def logger(caplog):
    """What commands set for `--debug`, as it was before."""
    own = logging.getLogger("llava")
    yield own
    own.setLevel(logging.NOTSET)


@pytest.mark.parametrize(("head", "code"), [("import sys; sys.exit(0)", "pass"), ("", "raise ValueError('bad')")])
def test_a_command_ends_with_one_line_and_has_the_traceback_with_debug(write, call, asked, logger, caplog, head, code):
    options = [*asked, "--query", "What?", "--pruning_method", write(code, head=head)]
    ended, _, said = call(run_llava, *options)
    assert (ended, said.count("\n")) == (2, 1)
    assert re.match(
        r"error: the pruning method .*mine.py .*(SystemExit: 0|ValueError: bad) \(line \d of mine.py\)", said
    )
    assert "Traceback" not in caplog.text
    assert call(run_llava, *options, "--debug")[::2] == (ended, said)
    assert f"    {head or code}\n" in caplog.text


def test_a_chat_goes_on_after_a_method_failed(write, call, asked, logger, caplog):
    body = "if len(SEEN) < 1:\n    SEEN.append(1 / len(SEEN))\nreturn views.keep_all()"
    options = [*asked, "--pruning_method", write(body, head="SEEN = []")]
    ended, _, said = call(cli, *options, "--debug", stdin=["What?", "What?", ""])
    assert (ended, said.count("\n")) == (0, 2)
    assert said.count("mine.py failed: ZeroDivisionError: division by zero (line 6 of mine.py)") == 2
    assert caplog.text.count("    SEEN.append(1 / len(SEEN))\n") == 2
