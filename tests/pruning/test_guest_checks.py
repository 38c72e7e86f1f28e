"""What users' methods return and declare: refused by name and value, and what may be returned is not."""

from pathlib import Path

import pytest
import torch

from llava.pruning import MergedTokens, MethodError, Settings, Views, select
from tests.pruning.guests import CHANNELS, PATCHES, views_of

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
    "projected, of the tower's width": ("MergedTokens(views.features, projected=True)", r"\(2, T, 5\) .*\(2, 16, 4\)"),
    "more than patches": ("MergedTokens(views.hidden_states)", "17 tokens of each crop: they must be 1 to 16"),
    "no token": ("MergedTokens(views.features[:, :0])", "0 tokens of each crop"),
    "tokens elsewhere": ("MergedTokens(views.features.to('meta'))", "tokens are on meta, the features on cpu"),
    "not a number": ("MergedTokens(views.features[:, :2] * float('nan'))", "tokens that are not finite"),
    "infinite": ("MergedTokens(views.features[:, :2] / 0)", "tokens that are not finite"),
    "one of them": ("MergedTokens(views.features.index_fill(1, torch.tensor([7]), -torch.inf))", "are not finite"),
    "infinite in the tower's dtype": ("MergedTokens(views.features.double() * 1e200)", "are not finite"),
    "centres too few": ("MergedTokens(views.features[:, :2], torch.tensor([[1]] * 2))", "2 tokens of 1 patches"),
    "centres beyond": ("MergedTokens(views.features[:, :2], torch.tensor([[1, 16]] * 2))", "puts a token at patch 16"),
    "centres below": ("MergedTokens(views.features[:, :2], torch.tensor([[1, -1]] * 2))", "puts a token at patch -1"),
    "centres that are floats": ("MergedTokens(views.features[:, :2], torch.ones(2, 2))", "of int64, got .* float32"),
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
        "MergedTokens(views.features[:, :3], torch.tensor([[15, 0, 0]] * 2))": 3,
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
        ("prune_decoder = print\ndel select\nFULL_LAYERS = -1\n", "FULL_LAYERS must be the number .*, got -1"),
        ("prune_decoder = print\ndel select\n", "FULL_LAYERS must be the number .*, got None"),
    ],
)  # fmt: skip
def test_what_a_method_declares_is_refused_by_name(write, head, named):
    path = write("return views.keep_all()", head=head)
    if "prune_decoder = " in head:
        text = Path(path).read_text()
        Path(path).write_text(text[: text.index("\ndef select")])
    with pytest.raises(MethodError, match=rf"^the pruning method .*mine\.py.*: .*{named}"):
        _ = Settings(4, pruning_method=path).question_views


@pytest.mark.parametrize(
    ("counts", "says"), [("3", None), ("0", "got 0"), ("patches + 1", "got 17"), ("'3'", "got '3'")]
)
def test_how_many_a_method_keeps_is_what_it_says_or_refused(write, counts, says):
    head = f"class Mine(Method):\n    def count(self, number, patches):\n        return {counts}\n\nMETHOD = Mine()\n"
    name = write("return views.keep_all()", head=head)
    settings = Settings(4, pruning_method=name)
    assert settings.left(4) == 4  # all, which the method is not asked about
    if says is None:
        assert (settings.left(PATCHES), settings.kept(PATCHES, 2)) == (3, 6)
        return
    with pytest.raises(MethodError, match=f"count must return 1 to {PATCHES}, {says}"):
        settings.left(PATCHES)
