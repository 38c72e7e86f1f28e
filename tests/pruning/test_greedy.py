"""The greedy rules on the CPU against sums written out, and in the kernel (in Triton's interpreter without a GPU)."""

import numpy as np
import pytest
import torch

from llava.pruning.kernels.greedy import farthest, most_covering, most_voluminous
from tests.recipes import run_python

CHECK = """
import torch
from llava.pruning.kernels import greedy_cpu, greedy_triton
from llava.pruning.kernels.cosine import cosines, rounded, unit_vectors
device = "cuda" if torch.cuda.is_available() else "cpu"
checked = 0
for seed, (images, rows, patches, number) in enumerate({cases}):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(images, patches, 48, generator=draw)
    if seed % 2:
        features = features[:, torch.randint(patches, (patches,), generator=draw)]  # some patches are equal
    unit = unit_vectors(features)
    similarity = rounded(cosines(unit, unit))
    values = torch.randint(0, 9, (images, rows, patches), generator=draw).double()
    weight = torch.randint(1, 4, (images, patches), generator=draw).double()
    distance = 1 - similarity
    diagonal = torch.eye(patches, dtype=torch.bool)
    for rule, matrix, first, times in (
        ("farthest", distance, distance.masked_fill(diagonal, torch.inf).amin(dim=2), None),
        ("covering", values, values.sum(dim=1), weight),
        ("voluminous", similarity, similarity.diagonal(dim1=1, dim2=2), None),
    ):
        given = (matrix, first, times)
        theirs = greedy_cpu.pick(rule, *(None if x is None else x.numpy() for x in given), number)
        matrix, first, times = (None if x is None else x.to(device) for x in given)
        ours = greedy_triton.pick(rule, matrix, first, number, times)
        assert ours.tolist() == theirs.tolist(), (rule, images, rows, patches, number)
        checked += 1
print(checked)
"""
CASES = [(1, 37, 37, 9), (2, 20, 33, 8), (1, 70, 64, 20), (3, 5, 17, 4), (1, 3, 2, 1)]
CASES += [(1, 9, 70, 64)]  # more picks than channels
LARGE = [(2, 576, 576, 64), (1, 2900, 2880, 32), (1, 8, 1025, 3)]


@pytest.mark.slow
def test_the_kernel_picks_what_the_cpu_picks():
    pytest.importorskip("triton")
    cases = CASES + LARGE if torch.cuda.is_available() else CASES
    done = run_python(
        "-c", CHECK.format(cases=cases), **({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(3 * len(cases))


def test_of_equal_patches_the_first_is_picked():
    equal = torch.ones(1, 7, 7, dtype=torch.float64)
    assert most_covering(equal.clone(), 3).tolist() == [[0, 1, 2]]
    assert most_voluminous(equal, 3).tolist() == [[0, 1, 2]]
    assert farthest(1 - equal, 3).tolist() == [[0, 1, 2]]


def test_what_is_below_zero_covers_nothing():
    values = torch.tensor([[[-5.0, 1.0, 0.0], [3.0, 1.0, 2.5]]], dtype=torch.float64)
    assert most_covering(values, 2).tolist() == [[0, 1]]  # 3, then 1 more


def test_a_weight_counts_many_times():
    values = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    assert most_covering(values, 1, torch.tensor([[1.0, 1.1]])).tolist() == [[1]]


def test_the_most_voluminous_set_has_the_greatest_determinants():
    """Each pick, among those that are left, makes the determinant of the kernel of all picks greatest."""
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(12, 8))
    kernel = vectors @ vectors.T
    picked = most_voluminous(torch.from_numpy(kernel).unsqueeze(0), 6)[0].tolist()
    for step, pick in enumerate(picked):
        before = picked[:step]
        others = [i for i in range(12) if i not in before]
        best = max(others, key=lambda i, before=before: np.linalg.det(kernel[np.ix_([*before, i], [*before, i])]))
        assert pick == best
