"""The selection: its definition, its edges, and that one input has one result."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from llava.pruning import Settings, Views, select, select_visual_tokens
from llava.pruning.kernels.duplicates import drop_duplicates
from llava.pruning.methods import vispruner


def random_input(batch: int = 1, patches: int = 144, channels: int = 32, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, patches, channels, generator=generator)
    return features, torch.rand(batch, patches, generator=generator)


@pytest.mark.parametrize("budget", [1, 2, 7, 16, 99, 143])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("patches", [144, 145])
def test_it_keeps_as_many_as_the_budget_in_raster_order_and_the_most_attended(budget, ratio, patches):
    features, attention = random_input(2, patches)
    kept = select_visual_tokens(features, attention, budget, ratio)
    assert kept.shape == (2, budget)
    assert kept.dtype is torch.int64
    assert (kept.diff(dim=1) > 0).all()
    for row, most in zip(kept, attention.topk(int(budget * ratio), dim=1).indices):
        assert set(most.tolist()) <= set(row.tolist())


@pytest.mark.parametrize("budget", [144, 145, 10_000])
def test_a_budget_of_all_patches_keeps_all(budget):
    kept = select_visual_tokens(*random_input(), budget)
    assert kept.tolist() == [list(range(144))]


def test_near_duplicates_go_first():
    """Six directions, one patch each, and ten copies of a seventh: when four must go, four of the copies do."""
    features = torch.eye(7).repeat_interleave(torch.tensor([1, 1, 1, 1, 1, 1, 10]), dim=0).unsqueeze(0)
    attention = torch.linspace(1, 0, 16).unsqueeze(0)
    kept = select_visual_tokens(features, attention, 12, important_ratio=0.0)[0].tolist()
    assert kept[:6] == [0, 1, 2, 3, 4, 5]


def test_a_round_worked_out_by_hand():
    """a = 0, 2, 4 and b = 1, 3: the best matches of a are .9, .2 and .5, so 0 goes first, then the list is 4, 2, 1, 3.

    Next a = 4, 1 and b = 2, 3, with best matches .7 and .3: 4 goes, and 1, 2, 3 remain.
    """
    similarity = torch.zeros(5, 5)
    for i, j, value in ((0, 1, 0.9), (2, 3, 0.2), (4, 1, 0.5), (4, 2, 0.7), (1, 3, 0.3)):
        similarity[i, j] = similarity[j, i] = value
    # Eight may go in a round, so only what is surplus does: one at a time shows the order between rounds.
    assert drop_duplicates(similarity[None], 4).tolist() == [[4, 2, 1, 3]]
    after_one = similarity[[4, 2, 1, 3]][:, [4, 2, 1, 3]]
    assert drop_duplicates(after_one[None], 3).tolist() == [[2, 1, 3]]


def test_no_more_than_eight_go_in_a_round():
    """Of 40, 10 must go: eight of those most like any b in a first round, then two of what the list is after it."""
    similarity = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(1))
    after_first = drop_duplicates(similarity, 32)[0]
    best = similarity[0][0::2, 1::2].amax(dim=1)
    assert after_first[:12].tolist() == [2 * i for i in best.argsort(descending=True).tolist()[8:]]
    assert after_first[12:].tolist() == list(range(1, 40, 2))
    second = drop_duplicates(similarity[:, after_first][:, :, after_first], 30)[0]
    assert torch.equal(drop_duplicates(similarity, 30)[0], after_first[second])


@pytest.mark.parametrize(("length", "keep"), [(1, 0), (2, 1), (3, 1), (3, 2), (5, 0), (9, 1), (576, 3)])
def test_odd_lists_and_small_rests_do_not_fail(length, keep):
    kept = drop_duplicates(torch.rand(2, length, length), keep)
    assert kept.shape == (2, keep)
    assert all(len(set(row)) == keep for row in kept.tolist())


def test_ties_go_to_the_lower_index():
    features, attention = torch.ones(1, 64, 4), torch.ones(1, 64)
    assert select_visual_tokens(features, attention, 16, 1.0).tolist() == [list(range(16))]
    # All similar alike: of a = 0, 2, 4, ... the first eight go.
    assert select_visual_tokens(features, attention, 56, 0.0).tolist() == [[1, 3, 5, 7, 9, 11, 13, *range(15, 64)]]


def test_each_image_of_a_batch_gets_what_it_gets_alone():
    features, attention = random_input(6, 576, 64)
    together = select_visual_tokens(features, attention, 64)
    alone = [select_visual_tokens(features[i : i + 1], attention[i : i + 1], 64) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_does_not_change_what_is_compared(dtype):
    features, attention = (x.to(dtype) for x in random_input(2))
    assert torch.equal(
        select_visual_tokens(features, attention, 32),
        select_visual_tokens(features.float(), attention.float(), 32),
    )


def test_autocast_does_not_change_the_result():
    features, attention = random_input(1, 576, 64)
    expected = select_visual_tokens(features, attention, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(select_visual_tokens(features, attention, 64), expected)


def test_the_input_is_left_as_it_was():
    features, attention = random_input()
    copies = features.clone(), attention.clone()
    select_visual_tokens(features, attention, 16)
    assert torch.equal(features, copies[0])
    assert torch.equal(attention, copies[1])


@pytest.mark.parametrize(
    ("budget", "ratio", "named"),
    [(0, 0.5, "at least 1"), (2.0, 0.5, "integer"), ("8", 0.5, "integer"), (8, -0.1, "ratio"), (8, 1.1, "ratio")],
)
def test_an_impossible_budget_is_named(budget, ratio, named):
    with pytest.raises(ValueError, match=named):
        select_visual_tokens(*random_input(), budget, ratio)


def test_no_budget_means_no_pruning():
    features, attention = random_input(2)
    chosen = select(Views(features, importance=attention), Settings(None))
    assert torch.equal(chosen.tokens, features)
    assert chosen.patches.tolist() == [list(range(144))] * 2
    assert not Settings(None).prunes


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 8, 4\) and \(2, 9\)"):
        select_visual_tokens(torch.rand(2, 8, 4), torch.rand(2, 9), 4)


def test_a_device_without_float64_computes_no_float64(monkeypatch):
    """Apple's MPS, in tensors that have a device and a dtype but no values."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                seen.append((result.device.type, result.dtype))
            return result

    monkeypatch.setattr(
        vispruner, "drop_duplicates", lambda similarity, keep, _: torch.zeros(2, keep, dtype=torch.long)
    )
    with FakeTensorMode(), Watch():
        features, attention = torch.empty(2, 9, 4, device="mps"), torch.empty(2, 9, device="mps")
        kept = select_visual_tokens(features, attention, 4)
    assert (kept.device.type, kept.shape) == ("mps", (2, 4))
    assert ("cpu", torch.float64) in seen
    assert ("mps", torch.float64) not in seen
