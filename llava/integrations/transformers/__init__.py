"""VisPruner for transformers' own vision-language models, in two lines.

    from llava.integrations.transformers import prune
    model = prune(LlavaForConditionalGeneration.from_pretrained("llava-hf/llava-1.5-7b-hf"), visual_token_num=64)

or for the length of a block: `with pruned(model, 64): ...`. The processor stays as it is, unless `downsample` is asked
to make pictures smaller in place of pruning them. `docs/plug.md` has the table
of models.
"""

from llava.integrations.transformers.downsample import count_tokens, downsample
from llava.integrations.transformers.wrapping import prune, pruned, unprune

__all__ = ["count_tokens", "downsample", "prune", "pruned", "unprune"]
