"""Muon for the matrices of the tiny models, alongside another optimizer for the rest."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from playground.tiny.muon import MuonWithRest, hidden_matrices


def make(muon: float, rest: float) -> tuple[LlamaForCausalLM, MuonWithRest]:
    """A language model, always the same, and its optimizer with these learning rates."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    adam = torch.optim.AdamW(model.parameters(), lr=rest)
    return model, MuonWithRest(hidden_matrices(model), adam, muon, 0.0)


def step(model: LlamaForCausalLM, optimizer: MuonWithRest, seed: int) -> None:
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(seed))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("is_muon", [True, False])
def test_muon_trains_the_matrices_and_the_other_optimizer_the_rest(is_muon):
    model, optimizer = make(0.01 * is_muon, 0.01 * (not is_muon))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    outer = {"model.embed_tokens.weight", "lm_head.weight"}
    matrices = {name for name, weight in before.items() if weight.ndim == 2} - outer
    step(model, optimizer, 0)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == (matrices if is_muon else before.keys() - matrices)


def test_a_schedule_sets_the_learning_rates_of_both():
    model, optimizer = make(0.01, 0.01)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    step(model, optimizer, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_its_state_goes_on_bit_for_bit():
    whole, parted = make(0.01, 0.001), make(0.01, 0.001)
    for seed in range(2):
        step(*whole, seed)
        step(*parted, seed)
    model, optimizer = make(0.5, 0.5)
    model.load_state_dict(parted[0].state_dict())
    optimizer.load_state_dict(parted[1].state_dict())
    step(*whole, 2)
    step(model, optimizer, 2)
    expected = whole[0].state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
