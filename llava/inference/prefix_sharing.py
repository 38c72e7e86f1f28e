"""Generation for a batch of prompts; where prompts begin alike, the beginning passes through the model once.

Shapes: P beginnings, B prompts, D model channels.
"""

from itertools import pairwise

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.splice import EmbeddedPrompts, PlacedTokens, check_answerable, splice
from llava.pruning import Settings
from llava.pruning.kv_cache import CACHE


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    prompts: list[torch.LongTensor],
    visual: list[list[torch.Tensor | PlacedTokens]],
    pruning: Settings,
    **options,
) -> torch.LongTensor:
    """Answer prompts. Those that follow one another and are alike up to their last image share that part.

    Args:
        model: a LLaVA model in eval mode.
        prompts: B tensors (length,) int64 of token ids, with -200 for each image.
        visual: the visual tokens (length, D) of each image of each prompt; the same tensor where the image is the same.
        pruning: the settings of this call.
        options: transformers' generation options.

    Returns: (B, new) ids of the answers; in float32 each is the one that the prompt gets by itself.
    Raises: InputError if a prompt is longer than the context.
    """
    cuts = [_after_last_image(ids) for ids in prompts]
    firsts = [0]  # the prompts that begin otherwise than the one before
    for i, j in pairwise(range(len(prompts))):
        same_images = all(a is b for a, b in zip(visual[i], visual[j])) and len(visual[i]) == len(visual[j])
        if not same_images or not torch.equal(prompts[i][: cuts[i]], prompts[j][: cuts[j]]):
            firsts.append(j)
    # What a method in the decoder keeps of a beginning depends on the ending: there is nothing to share.
    if pruning.prunes_in_decoder or len(firsts) == len(prompts) or not cuts[0]:
        whole = embed(model, prompts, [tokens for images in visual for tokens in images])
        model.check_context(whole.furthest)
        return model.answer(whole, pruning, **options)
    begun = embed(model, [prompts[i][: cuts[i]] for i in firsts], [tokens for i in firsts for tokens in visual[i]])
    begins_with = [sum(first <= i for first in firsts) - 1 for i in range(len(prompts))]
    endings = [ids[cut:] for ids, cut in zip(prompts, cuts)]
    return _generate_from_beginnings(model, begun, begins_with, endings, pruning, **options)


def embed(
    model: PreTrainedModel, prompts: list[torch.LongTensor], visual: list[torch.Tensor | PlacedTokens]
) -> EmbeddedPrompts:
    """Prompts padded on the left, with the visual tokens of all their images in place.

    Raises InputError if there are not as many images as image tokens.
    """
    ids, mask = _pad_left([prompt.to(model.device) for prompt in prompts])
    return splice(ids, mask.bool(), None, visual, model.model.embed_tokens, "left")


def _generate_from_beginnings(
    model: PreTrainedModel,
    begun: EmbeddedPrompts,
    begins_with: list[int],
    endings: list[torch.LongTensor],
    pruning: Settings,
    **options,
) -> torch.LongTensor:
    """Answer B prompts of which prompt i begins with beginning `begins_with[i]` of P and goes on with `endings[i]`."""
    rows = torch.tensor(begins_with, device=model.device)
    ids, ids_mask = _pad_left([ending.to(model.device) for ending in endings])
    mask = torch.cat([begun.attention_mask[rows], ids_mask], dim=1)
    begin, start = begun.positions(), begun.next_position[rows]
    positions = torch.cat([begin[rows], (ids_mask.cumsum(dim=1) - 1 + start) * ids_mask], dim=1)
    ends = start + ids_mask.sum(dim=1, keepdim=True)
    check_answerable(positions, ends)
    furthest = int(ends.max())
    model.check_context(furthest)
    cache = DynamicCache(config=model.config)
    model.model(
        inputs_embeds=begun.inputs_embeds,
        attention_mask=begun.attention_mask,
        position_ids=begin,
        use_cache=True,
        **{CACHE: cache},
    )
    # Beam search multiplies its inputs by the number of beams, but not a cache that it is given.
    cache.batch_select_indices(rows.repeat_interleave(options.get("num_beams") or 1))
    embeds = torch.cat([begun.inputs_embeds[rows], model.model.embed_tokens(ids)], dim=1)
    is_visual = torch.cat([begun.is_visual[rows], torch.zeros_like(ids, dtype=torch.bool)], dim=1)
    return model.generate_from_embeds(embeds, mask, furthest, is_visual, pruning, positions, cache=cache, **options)


def _after_last_image(ids: torch.LongTensor) -> int:
    """Where a prompt (length,) continues after its last image; 0 if it has no image."""
    places = (ids == IMAGE_TOKEN_INDEX).nonzero()
    return int(places[-1]) + 1 if len(places) else 0


def _pad_left(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.LongTensor]:
    """Rows of differing length as one tensor, and the mask (rows, longest) of what is not padding."""
    mask = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    return tuple(pad_sequence(part, batch_first=True, padding_side="left") for part in (rows, mask))
