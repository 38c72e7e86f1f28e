"""A KV cache with room for what follows."""

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens that are added in place before keys and values are copied again


class _RoomyLayer(DynamicLayer):
    """Keys and values with room behind them. transformers' own layer copies all that it has for each token."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """The keys and values (R, H, P + new, d) with these (R, H, new, d) added."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._with_room = {}
        length = self.get_seq_length()
        self.keys = self._add("keys", self.keys, key_states, length)
        self.values = self._add("values", self.values, value_states, length)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, with room behind them: what follows is then added without a second copy."""
        if (length := self.get_seq_length()) == 0:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            whole = old.new_empty(len(indices), old.shape[1], length + ROOM, old.shape[3])
            used = whole[:, :, :length]
            torch.index_select(old, 0, indices, out=used)
            self._with_room[name] = whole, used
            setattr(self, name, used)

    def _add(self, name: str, old: torch.Tensor, new: torch.Tensor, length: int) -> torch.Tensor:
        whole, used = self._with_room.get(name, (None, None))
        end = length + new.shape[2]
        if used is not old or whole.shape[2] < end:  # cut, or with other rows
            whole = new.new_empty(*new.shape[:2], end + ROOM, new.shape[3])
            if length:
                whole[:, :, :length] = old
        whole[:, :, length:end] = new
        used = whole[:, :, :end]
        self._with_room[name] = whole, used
        return used


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache, in which tokens are added in place where a layer has all tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
