"""The attention that patches receive, by the formula, for more patches than come at once."""

import pytest
import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipAttention

from llava.integrations.transformers.importance import watching
from llava.pruning import importance
from llava.pruning.importance import (
    QUERIES_AT_ONCE,
    received,
    received_attention,
    received_in_segments,
    rotation,
)
from tests.recipes import run_python

PATCHES = 2 * QUERIES_AT_ONCE + 88


@pytest.fixture(autouse=True)
def several_blocks_on_a_cpu(monkeypatch):
    monkeypatch.setattr(importance, "SCORES_IN_CACHE", QUERIES_AT_ONCE * PATCHES)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    config = SiglipVisionConfig(hidden_size=32, num_attention_heads=4)
    config._attn_implementation = "eager"
    return SiglipAttention(config).eval()


def test_it_is_the_mean_of_the_map_over_queries_and_heads(attention):
    hidden_states = torch.randn(2, PATCHES, 32)
    _, weights = attention(hidden_states)
    torch.testing.assert_close(received_attention(attention, hidden_states), weights.mean(dim=(1, 2)))


def test_padding_neither_gives_nor_receives(attention):
    hidden_states = torch.randn(1, PATCHES, 32)
    is_patch = torch.ones(1, PATCHES, dtype=torch.bool)
    is_patch[:, 400:] = False
    expected = received_attention(attention, hidden_states[:, :400])
    found = received_attention(attention, hidden_states, is_patch)
    torch.testing.assert_close(found[:, :400], expected)
    assert not found[:, 400:].any()


@pytest.mark.parametrize("lengths", [[9, 9, 9], [4, 20, 3]])
def test_patches_attend_to_those_of_their_segment(attention, lengths):
    hidden_states = torch.randn(27, 32)
    parts = hidden_states.unsqueeze(0).split(lengths, dim=1)
    expected = torch.cat([attention(part)[1].mean(dim=1).sum(dim=1)[0] for part in parts])
    torch.testing.assert_close(received_in_segments(attention, hidden_states, lengths), expected)


CHECK = """
import numpy as np, torch, triton.language as tl
from llava.pruning.kernels import received_triton
if not torch.cuda.is_available():  # Triton's interpreter has bfloat16 as integers, and multiplies those
    from triton.runtime import interpreter
    plain = interpreter.InterpreterBuilder.create_dot
    def create_dot(self, *given):
        parts = [x for x in given[:2]]
        if parts[0].dtype == tl.bfloat16:
            values = [(x.data.astype(np.uint32) << 16).view(np.float32) for x in parts]
            parts = [interpreter.TensorHandle(x, tl.float32) for x in values]
        return plain(self, *parts, *given[2:])
    interpreter.InterpreterBuilder.create_dot = create_dot
device = "cuda" if torch.cuda.is_available() else "cpu"
received_triton._ENOUGH = 1000  # both sizes of a block
checked = 0
for seed, (crops, heads, patches, width, dtype) in enumerate({cases}):
    draw = torch.Generator().manual_seed(seed)
    queries, keys = (torch.randn(crops, patches, heads, width, generator=draw) for _ in range(2))
    queries, keys = (x.transpose(1, 2).to(device, getattr(torch, dtype)) for x in (3 * queries, keys))
    padded = torch.ones(crops, patches, dtype=torch.bool, device=device)
    padded[0, patches // 2 :] = False
    padded[-1, :3] = False
    for is_patch in (None, padded):
        maps = (queries.double() @ keys.double().transpose(2, 3)) * 0.2
        if is_patch is not None:
            maps = maps.masked_fill(~is_patch[:, None, None], -torch.inf)
        maps = maps.softmax(dim=3)
        given = torch.ones_like(padded) if is_patch is None else is_patch
        expected = (maps * given[:, None, :, None]).sum(dim=2).mean(dim=1).float()
        ours = received_triton.received(queries, keys, 0.2, is_patch)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        checked += 1
print(checked)
"""
CASES = [(1, 2, 37, 64, "float32"), (2, 3, 130, 72, "bfloat16"), (1, 1, 200, 80, "float16"), (2, 2, 65, 8, "float32")]
CASES += [
    (1, 2, 129, 128, "bfloat16"),
    (3, 4, 90, 80, "bfloat16"),
    (1, 1, 8, 88, "float16"),
    (1, 1, 333, 72, "float32"),
]
LARGE = [(1, 16, 729, 72, "float16"), (1, 16, 4096, 80, "bfloat16"), (2, 16, 1025, 64, "float32")]


@pytest.mark.slow
def test_the_kernels_give_what_the_formula_gives():
    """In Triton's interpreter without a GPU."""
    pytest.importorskip("triton")
    has_gpu = torch.cuda.is_available()
    cases = CASES + LARGE if has_gpu else CASES
    done = run_python("-c", CHECK.format(cases=cases), **({} if has_gpu else {"TRITON_INTERPRET": "1"}))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(2 * len(cases))


class Attention(torch.nn.Module):
    """Queries, keys and values by one matrix or by three, and fewer keys than queries."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scaling = 4, 8, 0.3
        if fused:
            self.qkv = torch.nn.Linear(32, 96)
        else:
            self.q_proj, self.k_proj, self.q_norm = (
                torch.nn.Linear(32, 32),
                torch.nn.Linear(32, 16),
                torch.nn.RMSNorm(8),
            )


@torch.no_grad()
@pytest.mark.parametrize("fused", [True, False])
def test_rotary_positions_by_the_formula(fused):
    """Pairs of channels as complex numbers, each times a number of its position: two axes with half a head each."""
    torch.manual_seed(0)
    attention, hidden_states, angles = Attention(fused), torch.randn(2, 6, 32), torch.randn(2, 6, 4)
    if fused:
        queries, keys = attention.qkv(hidden_states).view(2, 6, 3, 4, 8).unbind(2)[:2]
    else:
        queries = attention.q_norm(attention.q_proj(hidden_states).view(2, 6, 4, 8))
        keys = attention.k_proj(hidden_states).view(2, 6, 2, 8)[:, :, [0, 0, 1, 1]]
    turned = []
    for states in (queries, keys):
        axes = states.unflatten(-1, (2, 2, 2)).transpose(-1, -2).contiguous()  # pairs last
        turns = torch.polar(torch.ones(2, 6, 1, 2, 2), angles.view(2, 6, 1, 2, 2))
        turned.append(torch.view_as_real(torch.view_as_complex(axes) * turns).flatten(-3))
    maps = torch.einsum("bqhd,bkhd->bhqk", *turned).mul(0.3).softmax(dim=-1)
    doubled = angles.view(2, 6, 2, 1, 2).expand(-1, -1, -1, 2, -1).flatten(2)
    rotate = rotation(doubled.cos(), doubled.sin(), axes=2)
    torch.testing.assert_close(received_attention(attention, hidden_states, rotate=rotate), maps.mean(dim=(1, 2)))


def test_no_map_of_all_queries_is_made():
    """On the meta device nothing is computed, and the greatest result of an operation shows."""

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            if isinstance(output, torch.Tensor):
                self.largest = max(self.largest, output.numel())
            return output

    queries = torch.empty(1, 16, 9000, 8, device="meta")
    with Sizes() as sizes:
        found = received(queries, queries, 1.0)
    assert found.shape == (1, 9000)
    assert sizes.largest == 16 * 9000 * QUERIES_AT_ONCE


def test_hooks_are_gone_when_the_block_ends(attention):
    with pytest.raises(KeyError), watching(inputs=[attention], outputs=[attention]) as seen:
        attention(torch.ones(1, 3, 32))
        assert seen.hidden_states(attention).shape == seen.outputs[attention].shape == (1, 3, 32)
        raise KeyError
    assert not attention._forward_hooks
    assert not attention._forward_pre_hooks
