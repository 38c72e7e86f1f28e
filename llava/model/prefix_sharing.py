"""Generation for prompts that begin alike: system prompt and image pass through the language model once for them all.

Shapes: P beginnings, B prompts, D model channels.
"""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from llava.model.kv_cache import CACHE
from llava.pruning import PruningSettings


def generate_from_prefixes(
    model: PreTrainedModel,
    prefixes: list[torch.Tensor],
    prefix_of: list[int],
    endings: list[torch.LongTensor],
    visual_nums: list[int],
    pruning: PruningSettings | None = None,
    **options,
) -> torch.LongTensor:
    """Answer prompts of which each is one of `prefixes` and an ending of its own.

    Args:
        model: a LLaVA model in eval mode.
        prefixes: P tensors (length, D), embedded beginnings, images included.
        prefix_of: which of them each of the B prompts begins with.
        endings: B tensors (length,) int64, the token ids that follow.
        visual_nums: how many visual tokens each of the P beginnings ends with.
        pruning: the settings of this call; the model's own if None.
        options: transformers' generation options.

    Returns: (B, new) ids of the answers; in float32 each is the one that the whole prompt gets by itself.
    Raises: InputError if a prompt is longer than the context.
    """
    device = model.device
    if (pruning or model.pruning).prunes_in_decoder:  # what is kept of a beginning depends on the ending
        embed = model.model.embed_tokens
        whole = [torch.cat([prefixes[p], embed(ids.to(device))]) for p, ids in zip(prefix_of, endings)]
        visual = []
        for row, p in zip(whole, prefix_of):
            visual.append(torch.zeros(len(row), dtype=torch.bool, device=device))
            visual[-1][len(prefixes[p]) - visual_nums[p] : len(prefixes[p])] = True
        embeds, mask = _pad_left(whole)
        is_visual = pad_sequence(visual, batch_first=True, padding_side="left")
        model.check_context(embeds.shape[1])
        return model.generate_from_embeds(embeds, mask, embeds.shape[1], is_visual, pruning, **options)
    begun, begun_mask = _pad_left([prefix.to(device) for prefix in prefixes])
    ids, ids_mask = _pad_left([ending.to(device) for ending in endings])
    rows = torch.tensor(prefix_of, device=device)
    mask = torch.cat([begun_mask[rows], ids_mask], dim=1)
    longest = int(mask.sum(dim=1).max())
    model.check_context(longest)

    cache = DynamicCache(config=model.config)
    positions = (begun_mask.cumsum(dim=1) - 1).clamp(min=0)
    given = {"attention_mask": begun_mask, "position_ids": positions, CACHE: cache, "use_cache": True}
    model.model(inputs_embeds=begun, **given)
    # Beam search multiplies its inputs by the number of beams, but not a cache that it is given.
    cache.batch_select_indices(rows.repeat_interleave(options.get("num_beams") or 1))
    embeds = torch.cat([begun[rows], model.model.embed_tokens(ids)], dim=1)
    return model.generate_from_embeds(embeds, mask, longest, pruning=pruning, cache=cache, **options)


def _pad_left(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.LongTensor]:
    """Rows of differing length as one tensor, and the mask (rows, longest) of what is not padding."""
    mask = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    return tuple(pad_sequence(part, batch_first=True, padding_side="left") for part in (rows, mask))
