"""The attention that patches receive, by the formula, for more patches than come at once."""

import pytest
import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipAttention

from llava.integrations.transformers.importance import watching
from llava.pruning import importance
from llava.pruning.importance import QUERIES_AT_ONCE, received, received_attention, rotation

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
