"""The kernel of all rounds, in Triton's interpreter where there is no GPU: the plain version's indices, exactly."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT

pytest.importorskip("triton")
CHECK = """
import torch
from llava.model.triton_rounds import drop_duplicates
from llava.model.visual_token_pruning import MAX_DROPPED_PER_ROUND, cosine_similarity_matrix
from llava.model.visual_token_pruning import drop_duplicates_in_torch as plain
device = "cuda" if torch.cuda.is_available() else "cpu"
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


def test_the_kernel_gives_the_plain_versions_indices():
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(cases=CASES)],
        **{"capture_output": True, "text": True, "check": False, "cwd": ROOT, "env": environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(len(CASES))
