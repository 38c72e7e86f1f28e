"""Methods by name, by file and by module, and what they get and return."""

import pytest
import torch

from llava.errors import InputError
from llava.pruning import (
    METHOD_NAMES,
    MergedTokens,
    Method,
    PruningError,
    Settings,
    Views,
    VisualTokens,
    load_method,
    method_label,
    select,
)
from llava.pruning.method import method_summary
from tests.conftest import IMAGE, ROOT, ask, count_visual_tokens, load, picture

FIRST_PATCHES = """
import torch


def select(views, settings):
    crops, patches, _ = views.features.shape
    kept = torch.arange(patches - 1, patches - 1 - settings.visual_token_num, -1)
    return views.keep(kept.repeat(crops, 1))
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FIRST_PATCHES)
    return path


def test_the_package_imports_nothing_else_of_llava_but_its_error():
    for path in (ROOT / "llava" / "pruning").rglob("*.py"):
        for line in path.read_text().splitlines():
            if line.strip().startswith(("import llava", "from llava")):
                assert line.strip().startswith(("from llava.pruning", "from llava.errors import")), (path.name, line)


def test_vispruner_comes_first_and_every_method_is_a_file():
    assert METHOD_NAMES[:2] == ("vispruner", "none")
    assert set(METHOD_NAMES) >= {"divprune", "fastervlm", "fastv", "random", "visionzip"}
    for name in METHOD_NAMES:
        assert isinstance(load_method(name), Method)
        assert load_method(name).in_decoder == hasattr(load_method(name), "prune_decoder")


def test_every_method_says_in_a_line_what_it_does(mine):
    lines = {name: method_summary(name) for name in METHOD_NAMES}
    assert all(20 < len(line) < 130 and line.endswith(".") for line in lines.values()), lines
    assert len(set(lines.values())) == len(lines)
    assert method_summary(str(mine)) == ""
    mine.write_text('"""Keep the first ones.\n\nMore of it."""\n' + FIRST_PATCHES)
    assert method_summary(str(mine)) == "Keep the first ones."
    for broken in ("def select(:", "\0"):
        mine.write_text(broken)
        assert method_summary(str(mine)) == ""


def test_a_method_from_a_file_chooses_what_it_says(mine, loaded):
    llava = loaded()
    llava[1].visual_token_num, llava[1].pruning_method = 5, str(mine)
    pixels = llava[2]([picture()], return_tensors="pt").pixel_values
    assert llava[1].encode_images(pixels).patches.tolist() == [[139, 140, 141, 142, 143]]
    assert count_visual_tokens(llava, [IMAGE], [picture()]) == [5]
    assert len(ask(llava, [IMAGE], [picture()], new=1)) == 1


def test_a_method_from_a_module(mine, monkeypatch, checkpoints):
    package = mine.parent / "my_methods"
    package.mkdir()
    (package / "__init__.py").touch()
    mine.rename(package / "last.py")
    monkeypatch.syspath_prepend(mine.parent)
    model = load(checkpoints(), pruning_method="my_methods.last", visual_token_num=3)[1]
    assert model.encode_images(torch.zeros(2, 3, 168, 168)).patches.tolist() == [[141, 142, 143]] * 2


def test_an_edited_file_is_read_again(mine):
    views = Views(torch.rand(1, 9, 4))
    settings = Settings(2, pruning_method=str(mine))
    assert select(views, settings).patches.tolist() == [[7, 8]]
    mine.write_text(FIRST_PATCHES.replace("patches - 1, patches - 1 -", "patches - 2, patches - 2 -"))
    assert select(views, settings).patches.tolist() == [[6, 7]]


@pytest.mark.parametrize(
    ("name", "label"), [("divprune", "divprune"), ("some/where/mine.py", "mine"), ("package.module.other", "other")]
)
def test_a_short_name_for_folders(name, label):
    assert method_label(name) == label


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("tome", "must be one of vispruner, none, .*, a .py file or a package.module, got 'tome'"),
        ("nowhere/mine.py", "there is no file nowhere/mine.py"),
        ("no_such_package.module", "must be one of"),
        (None, "must be one of"),
        (7, "must be one of"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name, named):
    with pytest.raises(ValueError, match=named):
        Settings(1, pruning_method=name)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("def select(views, settings:\n", r"mine.py cannot be imported: SyntaxError: .*line 1"),
        ("import nothing_like_this\n", "mine.py cannot be imported: ModuleNotFoundError: No module named"),
        ("def choose(views, settings):\n    pass\n", r"mine.py defines no function select\(views, settings\)"),
    ],
)
def test_a_file_that_is_no_method_is_named(mine, checkpoints, text, named):
    mine.write_text(text)
    with pytest.raises(InputError, match=named):
        load(checkpoints(), pruning_method=str(mine))


def test_what_a_method_must_return_is_checked(mine, loaded):
    mine.write_text("def select(views, settings):\n    return views.features[:, :2]\n")
    with pytest.raises(PruningError, match="must return VisualTokens or MergedTokens, not Tensor"):
        select(Views(torch.rand(1, 9, 4)), Settings(2, pruning_method=str(mine)))
    with pytest.raises(PruningError, match=r"got \(1, 2, 4\) and \(1, 3\)"):
        VisualTokens(torch.rand(1, 2, 4), torch.zeros(1, 3, dtype=torch.long))


def test_views_are_computed_when_they_are_asked_for():
    asked = []

    def importance() -> torch.Tensor:
        asked.append("importance")
        return torch.arange(9.0).unsqueeze(0)

    views = Views(torch.rand(1, 9, 4), importance=importance)
    select(views, Settings(2, pruning_method="none"))
    assert asked == []
    for _ in range(2):
        assert select(views, Settings(2, pruning_method="fastervlm")).patches.tolist() == [[7, 8]]
    assert asked == ["importance"]
    with pytest.raises(PruningError, match="this vision tower gives no keys"):
        select(Views(torch.rand(1, 9, 4), importance=importance, hidden_states=torch.rand(1, 10, 4)),
               Settings(2, pruning_method="visionzip"))  # fmt: skip


ASKS = """
def select(views, settings):
    return views.keep_all() if views.question else views.keep(views.features.new_tensor([[0, 1]]).long())
"""


def test_a_method_is_given_of_the_question_what_it_says_it_needs(mine, loaded):
    mine.write_text(ASKS)
    _, model, *_ = loaded()
    pixels, pruning = torch.zeros(1, 3, 168, 168), Settings(2, pruning_method=str(mine))
    with pytest.raises(InputError, match="needs question, but no question was asked here, or its NEEDS lack it"):
        model.encode_images(pixels, pruning, "What?")
    mine.write_text('NEEDS = ("question",)' + ASKS)
    pruning = Settings(2, pruning_method=str(mine))
    assert model.encode_images(pixels, pruning, "What?").tokens.shape[1] == 144
    assert model.encode_images(pixels, pruning).tokens.shape[1] == 2
    mine.write_text('NEEDS = ("answer",)' + ASKS)
    with pytest.raises(
        PruningError, match=r"mine.py: NEEDS may have question, text_embeds, word_embeds, not \('answer',\)"
    ):
        _ = Settings(2, pruning_method=str(mine)).question_views


def test_views_of_some_crops_are_computed_for_all_at_once():
    asked = []

    def importance() -> torch.Tensor:
        asked.append("importance")
        return torch.arange(12.0).view(3, 4)

    views = Views(torch.rand(3, 4, 2), importance=importance)
    parts = [views.crops(slice(i, i + 1), question="What?") for i in range(3)]
    assert [part.importance.tolist() for part in parts] == views.importance.unsqueeze(1).tolist()
    assert [part.question for part in parts] == ["What?"] * 3
    assert asked == ["importance"]
    with pytest.raises(PruningError, match="this vision tower gives no keys"):
        _ = parts[0].keys


def test_kept_patches_come_in_raster_order_with_their_features():
    views = Views(torch.arange(12.0).view(1, 6, 2))
    kept = views.keep(torch.tensor([[4, 0, 3]]))
    assert kept.patches.tolist() == [[0, 3, 4]]
    assert kept.tokens.tolist() == [[[0.0, 1.0], [6.0, 7.0], [8.0, 9.0]]]


def test_merged_tokens_are_no_patches():
    hidden = torch.rand(1, 10, 4)
    views = Views(hidden[:, 1:], importance=torch.rand(1, 9), hidden_states=hidden, keys=torch.rand(1, 10, 3))
    assert isinstance(select(views, Settings(4, pruning_method="visionzip")), MergedTokens)


def test_select_visual_tokens_stays_where_it_was():
    from llava.model.visual_token_pruning import select_visual_tokens as former
    from llava.pruning import select_visual_tokens

    assert former is select_visual_tokens


def test_a_model_without_cls_features_is_not_pruned(checkpoints):
    model = load(checkpoints(), mm_vision_select_feature="cls_patch")[1]
    pixels = torch.zeros(1, 3, 168, 168)
    assert model.encode_images(pixels).tokens.shape[1] == 145
    with pytest.raises(InputError, match="pruning needs mm_vision_select_feature 'patch', not 'cls_patch'"):
        model.encode_images(pixels, Settings(8))


@pytest.mark.parametrize(
    ("given", "suffix"),
    [
        ({}, "_after"),
        ({"budget_per": "image"}, "_per_image_after"),
        ({"pruning_method": "fastv"}, ""),
        ({"pruning_method": "none"}, ""),
        ({"visual_token_num": None}, ""),
    ],
)
def test_positions_count_where_tokens_leave_before_the_decoder(given, suffix):
    own = Settings(**{"visual_token_num": 8, "positions": "after"} | given)
    assert own.suffix == suffix
    assert own.keeps_room == bool(suffix)
    assert own.read["positions"] == ("after" if suffix else "renumbered")
