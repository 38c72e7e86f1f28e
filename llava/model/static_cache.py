"""Keys and values that stay in place from one answer to the next, so that a compiled step can be used again."""

from transformers import PreTrainedConfig, StaticCache

STEP = 256  # tokens: prompts that differ little in length share a cache, hence a CUDA graph


class ReusedCache:
    """The last static cache, given out again while its size fits: graphs are bound to its memory."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config, self.size, self.cache = config, None, None

    def empty(self, batch: int, length: int) -> StaticCache:
        """An empty cache for `batch` prompts with at least `length` tokens each, answers included."""
        size = (batch, -(-length // STEP) * STEP)
        if self.size != size:
            self.size, self.cache = size, StaticCache(config=self.config, max_cache_len=size[1])
        self.cache.reset()
        return self.cache


def can_be_static(options: dict) -> bool:
    """Whether generation with these options is given no cache and will not have to reorder one, as beams do."""
    given = options.get("past_key_values") is not None or options.get("max_length") is not None
    return not given and (options.get("num_beams") or 1) == 1
