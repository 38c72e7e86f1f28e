"""A cache with room for what follows has what transformers' own has, whatever is done to it on the way."""

import torch
from transformers import DynamicCache, LlamaConfig

from llava.model.kv_cache import ROOM, roomy_cache


def test_it_has_the_keys_and_values_of_transformers_own():
    config = LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2)
    caches, draw = (roomy_cache(config), DynamicCache(config=config)), torch.Generator().manual_seed(0)

    def add(rows: int, length: int) -> None:
        new = [torch.randn(rows, 2, length, 8, generator=draw) for _ in range(2)]
        for given, expected in zip(*(cache.update(*new, 0) for cache in caches), strict=True):
            assert torch.equal(given, expected)

    add(2, 5)
    for _ in range(ROOM + 2):
        add(2, 1)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([1, 0, 1]))
    chosen = caches[0].layers[0].keys.data_ptr()
    add(3, 4)
    assert caches[0].layers[0].keys.data_ptr() == chosen  # chosen rows have room: nothing is copied again
    for cache in caches:
        cache.crop(-3)
    add(3, 2)
    for cache in caches:
        cache.reorder_cache(torch.tensor([2, 2, 0]))
    add(3, 1)
    assert caches[0].get_seq_length() == caches[1].get_seq_length() == 5 + ROOM + 2 + 4 - 3 + 2 + 1
