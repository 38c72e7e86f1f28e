"""The rounds on the CPU and in the kernel (in Triton's interpreter without a GPU): the plain version's indices."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

CHECK = """
import torch
from llava.pruning.{module} import drop_duplicates
from llava.pruning.duplicates import MAX_DROPPED_PER_ROUND
from llava.pruning.duplicates import drop_duplicates_in_torch as plain
from llava.pruning.vispruner import cosine_similarity_matrix
device = "cuda" if torch.cuda.is_available() and "{module}" == "duplicates_triton" else "cpu"
checked = 0
for seed, (batch, patches, keep) in enumerate({cases}):
    features = torch.randn(batch, patches, 16, generator=torch.Generator().manual_seed(seed)).to(device)
    if seed % 3 == 1:
        features = features.round()  # many equal similarities
    if seed % 3 == 2:
        features = features[:, :1].expand(-1, patches, -1)  # nothing but equal ones
    similarity = cosine_similarity_matrix(features)
    ours = drop_duplicates(similarity, keep, MAX_DROPPED_PER_ROUND)
    assert ours.tolist() == plain(similarity, keep).tolist(), (batch, patches, keep)
    checked += 1
print(checked)
"""
CASES = [(1, 40, 9), (2, 33, 5), (1, 20, 20), (3, 17, 1), (1, 64, 33), (1, 9, 2), (2, 41, 16), (1, 2, 1), (1, 70, 3)]


LARGE = [(2, 544, 32), (1, 300, 1), (3, 257, 100)]


@pytest.mark.parametrize("module", ["duplicates_cpu", "duplicates_triton"])
def test_all_rounds_give_the_plain_versions_indices(module):
    if module == "duplicates_triton":
        pytest.importorskip("triton")
    cases = CASES if module == "duplicates_triton" and not torch.cuda.is_available() else CASES + LARGE
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(module=module, cases=cases)],
        **{"capture_output": True, "text": True, "check": False, "cwd": ROOT, "env": environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(len(cases))
