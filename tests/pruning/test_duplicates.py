"""The rounds on the CPU and in the kernel (in Triton's interpreter without a GPU): the plain version's indices."""

import pytest
import torch

from llava.pruning import select_visual_tokens
from llava.pruning.kernels.duplicates import drop_duplicates, drop_duplicates_in_torch
from llava.pruning.methods.vispruner import cosine_similarity_matrix
from tests.recipes import run_python

CHECK = """
import torch
from llava.pruning.kernels.{module} import drop_duplicates
from llava.pruning.kernels.duplicates import MAX_DROPPED_PER_ROUND
from llava.pruning.kernels.duplicates import drop_duplicates_in_torch as plain
from llava.pruning.methods.vispruner import cosine_similarity_matrix
device = "cuda" if torch.cuda.is_available() and "{module}" == "duplicates_triton" else "cpu"
checked = 0
for seed, (batch, patches, keep) in enumerate({cases}):
    features = torch.randn(batch, patches, 16, generator=torch.Generator().manual_seed(seed)).to(device)
    if seed % 4 == 1:
        features = features.round()  # many equal similarities
    if seed % 4 == 2:
        features = features[:, :1].expand(-1, patches, -1)  # nothing but equal ones
    if seed % 4 == 3:  # clusters, whose similarities differ by less than 2**-30
        features = features[:, torch.arange(patches) % 6] + 1e-6 * features
    similarity = cosine_similarity_matrix(features)
    for in_order in (False, True):
        ours = drop_duplicates(similarity, keep, MAX_DROPPED_PER_ROUND, in_order)
        assert ours.tolist() == plain(similarity, keep, in_order).tolist(), (batch, patches, keep, in_order)
    checked += 1
print(checked)
"""
CASES = [(1, 40, 9), (1, 33, 5), (1, 20, 3), (2, 41, 16), (1, 2, 1), (1, 70, 3), (1, 9, 2), (1, 40, 7), (1, 20, 20)]
LARGE = [(2, 544, 32), (1, 300, 1), (2, 544, 32), (2, 544, 32), (3, 257, 100)]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["duplicates_cpu", "duplicates_triton"])
def test_all_rounds_give_the_plain_versions_indices(module):
    if module == "duplicates_triton":
        pytest.importorskip("triton")
    cases = CASES if module == "duplicates_triton" and not torch.cuda.is_available() else CASES + LARGE
    environment = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = run_python("-c", CHECK.format(module=module, cases=cases), **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(len(cases))


def in_order_by_lists(similarity: list[list[float]], keep: int) -> list[int]:
    """The rounds whose list keeps its order, one entry at a time."""
    left = list(range(len(similarity)))
    while len(left) > keep:
        a, b = left[0::2], left[1::2]
        most = {i: max(similarity[i][j] for j in b) for i in a}
        gone = sorted(a, key=lambda i: -most[i])[: min(8, len(left) - keep)]
        left = [i for i in left if i not in gone]
    return left


@pytest.mark.parametrize(("patches", "keep"), [(40, 9), (33, 5), (20, 19), (17, 1), (9, 2)])
def test_the_list_may_keep_its_order(patches, keep):
    features = torch.randn(2, patches, 6, generator=torch.Generator().manual_seed(patches)).round()
    similarity = cosine_similarity_matrix(features)
    expected = [in_order_by_lists(image.tolist(), keep) for image in similarity]
    assert drop_duplicates_in_torch(similarity, keep, in_order=True).tolist() == expected
    assert drop_duplicates(similarity, keep, in_order=True).tolist() == expected


def test_noise_as_of_another_gpu_moves_the_papers_rounds_and_not_those_in_raster_order():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(1, 1, 64, generator=draw) + torch.randn(8, 576, 64, generator=draw)
    noisy = features * (1 + 1e-6 * torch.randn(features.shape, generator=draw))
    attention = torch.rand(8, 576, generator=draw)
    same = {}
    for in_order in (False, True):
        one, other = (select_visual_tokens(f, attention, 64, 0.0, in_order).tolist() for f in (features, noisy))
        same[in_order] = sum(len({*a} & {*b}) for a, b in zip(one, other)) / (8 * 64)
    assert same[False] < 0.9
    assert same[True] > 0.99
