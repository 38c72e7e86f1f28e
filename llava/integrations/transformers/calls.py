"""From the arguments of a call of `generate` or `forward` to its pruned prompts.

Shapes: B prompts, L tokens of the longest.
"""

from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.hosts.base import Host, Picture, join
from llava.integrations.transformers.prompts import (
    ATTRIBUTE,
    IGNORED_LABEL,
    Cached,
    Prompts,
    Unpruned,
    after_cache,
    prune_prompts,
)
from llava.model.encode import encodes_one_by_one
from llava.pruning.kv_cache import cache_in, cached_length


@dataclass(frozen=True)
class Call:
    """A call of a pruned model.

    Attributes:
        budget: the settings of this call.
        given: its arguments, by name; those that its prompts are made of leave it.
    """

    model: PreTrainedModel
    host: Host
    budget: Budget
    given: dict

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures that lose tokens. Raises InputError if the tower has run already."""
        if not self.budget.prunes:
            return False
        if self.given.get("mm_encoder_outputs") is not None:
            raise InputError("mm_encoder_outputs has all visual tokens: give the pixels to a pruned model")
        names = [name for name in self.host.inputs if name.startswith("pixel_values")]
        if all(self.given.get(name) is None for name in names):
            return False
        return not self.budget.keeps_all_of(self.host.largest_crop(self.model, self.given))

    @property
    def past(self) -> int:
        """Tokens in the cache that it is given."""
        cache = cache_in(self.given)
        return int(cached_length(cache))

    @property
    def cached(self) -> Cached | None:
        """What its cache holds of pruned prompts; None if that is nothing."""
        cached = getattr(cache_in(self.given), ATTRIBUTE, None)
        return cached.up_to(self.past) if cached is not None and self.past else None


def prompts_of_generate(call: Call) -> Prompts | None:
    """The pruned prompts of a call of `generate`; None where there is nothing to prune."""
    cached, given, ids = call.cached, call.given, call.given["input_ids"]
    if cached is None and not call.has_pictures:
        return None
    for name in ("assistant_model", "assistant_early_exit"):
        if given.get(name) is not None:
            raise InputError(f"{name} cannot be used with pruned pictures: the assistant would need its own prompt")
    _check_ids(ids)
    mask = given.pop("attention_mask", None)
    mask = _mask_of(ids, call) if mask is None else mask
    cached = cached or Cached.without_pruning(ids, call.past, mask)
    before = ids[:, :0]
    if cached.length and ids.shape[1] == mask.shape[1]:  # the whole conversation, of which the cache has a part
        if ids.shape[1] <= cached.length:
            raise InputError(f"the cache holds {cached.length} tokens and the prompt only {ids.shape[1]}")
        before, ids = ids[:, : cached.length], ids[:, cached.length :]
    positions = mask[:, -ids.shape[1] :].long().cumsum(dim=1) - 1
    return _prune(call, Unpruned(cached, before, ids, mask, positions, "left"))


def prompts_of_forward(call: Call) -> Prompts | None:
    """The pruned prompts of a call of `forward`, which take the place of those given; None if nothing is to prune."""
    cached, given, ids = call.cached, call.given, call.given.get("input_ids")
    if cached is None and not call.has_pictures:
        return None
    _check_ids(ids)
    if not isinstance(given.get("logits_to_keep", 0), int):
        raise InputError("logits_to_keep must be an integer where pictures are pruned")
    # without positions, transformers' models count from the number of cached tokens, padding or not
    cached = (cached or Cached.without_pruning(ids, call.past)).for_rows(len(ids))
    positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    mask = given.pop("attention_mask", None)
    if mask is None:
        mask = ids.new_ones(len(ids), cached.length + ids.shape[1])
    is_left = bool((mask[:, cached.length : cached.length + 1] == 0).any())
    prompts = _prune(call, Unpruned(cached, ids[:, :0], ids, mask, positions, "left" if is_left else "right"))
    if given.get("labels") is not None:
        given["labels"] = prompts.take(given["labels"], IGNORED_LABEL)
    given.update(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask)
    return prompts


def _mask_of(ids: torch.LongTensor, call: Call) -> torch.LongTensor:
    """(B, L): as `generate` makes a mask where it is given none: pad tokens are padding unless they end sequences."""
    pad, eos = (
        next((s[name] for s in (call.given, vars(call.model.generation_config)) if s.get(name) is not None), None)
        for name in ("pad_token_id", "eos_token_id")
    )
    ends = eos if isinstance(eos, list) else [eos]
    return torch.ones_like(ids) if pad is None or pad in ends else (ids != pad).long()


def _check_ids(ids: torch.LongTensor | None) -> None:
    if ids is None:
        raise InputError("pruning needs input_ids, in which the pictures' placeholders are")


def _prune(call: Call, unpruned: Unpruned) -> Prompts:
    """Encode the pictures among the arguments, and prune the prompts, whose `positions` count from 0 so far."""
    model, host, given, cached = call.model, call.host, call.given, unpruned.cached
    shape = unpruned.input_ids.shape
    parts = {name: given.pop(name) for name in host.inputs if name in given}
    pictures = [
        (token, after_cache(encode_pictures(model, host, token, own), token, unpruned))
        for token, own in host.split(model, parts)
    ]
    positions = given.pop("position_ids", None)
    if positions is None or cached.is_pruned:
        axes = host.positions(model, unpruned.input_ids, unpruned.mask, [p for _, own in pictures for p in own])
        positions = (unpruned.positions if axes is None else axes) + cached.next_position
    else:  # of the tokens alone, or of those in the cache too; M-RoPE's three axes may follow a fourth
        positions = positions[..., -shape[1] :]
        positions = positions[-3:] if positions.ndim == 3 else positions
        positions = positions.expand(*positions.shape[:-2], *shape)
    aligned = {name: value[:, -shape[1] :] for name in host.aligned if (value := given.pop(name, None)) is not None}
    config = model.generation_config
    pad_id = config.pad_token_id if config is not None else None
    return prune_prompts(replace(unpruned, positions=positions, aligned=aligned), pictures, call.budget, pad_id or 0)


def encode_pictures(model: PreTrainedModel, host: Host, token: int, parts: list[dict]) -> list[Picture]:
    """The pictures whose arguments are `parts`, as `host.split` makes them: see `encodes_one_by_one`."""
    one_by_one = encodes_one_by_one(model.dtype, model.training)
    groups = [[part] for part in parts] if one_by_one else [parts] * bool(parts)
    return [picture for group in groups for picture in host.encode(model, token, join(group))]
