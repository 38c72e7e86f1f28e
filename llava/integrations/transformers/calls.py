"""From the arguments of a call of `generate` or `forward` to its pruned prompts.

Shapes: B prompts, L tokens of the longest.
"""

import itertools
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel

from llava.errors import InputError
from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.cached import Memory, has_all_tokens, keeps_states, recall
from llava.integrations.transformers.encoding import Encodings, encode_pictures
from llava.integrations.transformers.hosts.base import Host
from llava.integrations.transformers.prompts import IGNORED_LABEL, Prompts, Unpruned, memory_after, prune_prompts
from llava.integrations.transformers.question import Asked, Question, with_questions
from llava.pruning.kv_cache import cache_in, cached_length
from llava.pruning.settings import IMAGE


@dataclass(frozen=True)
class Call:
    """A call of a pruned model.

    Attributes:
        budget: the settings of this call.
        given: its arguments, by name; those that its prompts are made of leave it.
        question: about all its pictures that are not in the cache, or one for each; None if the ids have it.
        encodings: of the pictures of the last call, which this one shares; None if calls share none.
    """

    model: PreTrainedModel
    host: Host
    budget: Budget
    given: dict
    question: Question = None
    encodings: Encodings | None = None

    @property
    def gives_pictures(self) -> bool:
        """Whether there are pictures."""
        return any(self.given.get(name) is not None for name in self.host.inputs if name.startswith("pixel_values"))

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures that lose tokens or are shared. Raises InputError if the tower has run already."""
        if self.encodings is None and not self.budget.prunes:
            return False
        if self.given.get("mm_encoder_outputs") is not None:
            raise InputError("mm_encoder_outputs has all visual tokens: give the pixels to a pruned model")
        if any(isinstance(self.given.get(name), list | tuple) for name in self.host.inputs if name.endswith("_videos")):
            return True  # videos of different lengths, which the model's own code cannot take
        if self.encodings is not None:
            return self.gives_pictures
        return self.gives_pictures and not self.budget.keeps_all_of(self.host.largest_crop(self.model, self.given))

    @property
    def past(self) -> int:
        """Tokens in the cache that it is given."""
        return int(cached_length(cache_in(self.given)))

    def memory(self, ids: torch.LongTensor | None, several: bool) -> Memory | None:
        """What its cache remembers of the prompts whose `ids` (B, L) are given: see `recall`."""
        return None if ids is None else recall(cache_in(self.given), len(ids), several)

    def check_others(self, ids: torch.LongTensor, is_whole: bool) -> None:
        """Raise InputError if a cache that no pruned model filled is not known to have all that was said so far.

        `is_whole` is whether `ids` are those of the whole conversation.
        """
        cache, mask = cache_in(self.given), self.given.get("attention_mask")
        if not is_whole:
            is_short = isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] > self.past + ids.shape[1]
            if is_short and not cache.is_compileable:
                number = mask.shape[1] - ids.shape[1]
                raise InputError(
                    f"the cache has {self.past} tokens, but attention_mask {number} before those of input_ids"
                )
            return
        is_text = ~torch.isin(ids[:, : self.past], self.placeholder_ids(ids))
        if not is_text.all() and not has_all_tokens(cache, self.model.get_decoder(), ids[:, : self.past], is_text):
            raise InputError(
                "the cache does not tell what was dropped of its pictures: go on with the one that was filled or a copy"
            )

    def placeholder_ids(self, ids: torch.LongTensor) -> torch.LongTensor:
        """Those of all kinds of pictures."""
        return torch.tensor([token for token, _ in self.host.split(self.model, {})], device=ids.device)

    def is_for_the_model(self, memory: Memory | None) -> bool:
        """Whether the model's own code does all that is to be done.

        With M-RoPE it does not after a cache: it counts on from the model's last prompts, whichever those were.
        """
        if self.has_pictures:
            return False
        return memory is None or (memory.cached.is_whole and not self.gives_pictures and not self.host.has_axes)


def prompts_of_generate(call: Call) -> Prompts | None:
    """The pruned prompts of a call of `generate`; None where there is nothing to prune."""
    given, ids, past = call.given, call.given["input_ids"], call.past
    memory = call.memory(ids, several=True)
    if memory is None and past and ids is not None:
        mask = given.get("attention_mask")
        call.check_others(ids, is_whole=mask is None or mask.shape[1] == ids.shape[1])
    if call.is_for_the_model(memory):
        return None
    for name in ("assistant_model", "assistant_early_exit"):
        if given.get(name) is not None:
            raise InputError(f"{name} cannot be used with pruned pictures: the assistant would need its own prompt")
    _check_ids(ids)
    mask = given.pop("attention_mask", None)
    mask = mask_of(ids, call) if mask is None else mask
    cached = (memory or Memory.unknown(ids, call.host.first_position)).up_to(past, mask)
    before = ids[:, :0]
    if cached.length and ids.shape[1] == mask.shape[1]:  # the whole conversation, of which the cache has a part
        if ids.shape[1] <= cached.length:
            raise InputError(f"the cache holds {cached.length} tokens and the prompt only {ids.shape[1]}")
        before, ids = ids[:, : cached.length], ids[:, cached.length :]
    positions = mask[:, -ids.shape[1] :].long().cumsum(dim=1) - 1
    return _prune(call, Unpruned(cached, before, ids, mask, positions, "left"))


def prompts_of_forward(call: Call) -> Prompts | None:
    """The pruned prompts of a call of `forward`, which take the place of those given; None if nothing is to prune."""
    given, ids, past = call.given, call.given.get("input_ids"), call.past
    memory = call.memory(ids, several=False)
    if memory is None and past and ids is not None:
        call.check_others(ids, is_whole=False)
        if call.host.has_axes and given.get("position_ids") is None:
            raise InputError("position_ids are needed after a cache that this model did not fill since it was pruned")
    if call.is_for_the_model(memory):
        return None
    _check_ids(ids)
    if not isinstance(given.get("logits_to_keep", 0), int):
        raise InputError("logits_to_keep must be an integer where pictures are pruned")
    mask = given.pop("attention_mask", None)
    # without positions, transformers' models count from the number of cached tokens, padding or not; M-RoPE without it
    counts = mask if call.host.has_axes else None
    cached = (memory or Memory.unknown(ids, call.host.first_position)).up_to(past, counts)
    positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    if mask is None:
        mask = ids.new_ones(len(ids), cached.length + ids.shape[1])
    is_left = bool((mask[:, cached.length : cached.length + 1] == 0).any())
    prompts = _prune(call, Unpruned(cached, ids[:, :0], ids, mask, positions, "left" if is_left else "right"))
    if given.get("labels") is not None:
        given["labels"] = prompts.take(given["labels"], IGNORED_LABEL)
    given.update(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask)
    return prompts


def mask_of(ids: torch.LongTensor, call: Call) -> torch.LongTensor:
    """(B, L): as `generate` makes a mask where it is given none: pad tokens are padding unless they end sequences."""
    padding, eos = (
        next((s[name] for s in (call.given, vars(call.model.generation_config)) if s.get(name) is not None), None)
        for name in ("pad_token_id", "eos_token_id")
    )
    ends = eos if isinstance(eos, list) else [eos]
    return torch.ones_like(ids) if padding is None or padding in ends else (ids != padding).long()


def _check_ids(ids: torch.LongTensor | None) -> None:
    if ids is None:
        raise InputError("pruning needs input_ids, in which the pictures' placeholders are")


def _prune(call: Call, unpruned: Unpruned) -> Prompts:
    """Encode the pictures among the arguments, and prune the prompts, whose `positions` (B, L) count from 0 so far."""
    model, host, given, ids = call.model, call.host, call.given, unpruned.input_ids
    kinds = host.split(model, {name: given.pop(name) for name in host.inputs if name in given})
    old, new = {}, {}
    for token, parts in kinds:
        old[token], new[token] = _after_cache(call, unpruned, token, parts)
    if call.host.has_axes and unpruned.cached.length and not unpruned.cached.is_known and any(new.values()):
        position = _others_position(call, unpruned, old)
        unpruned = replace(unpruned, cached=replace(unpruned.cached, position=position))
    positions = _positions_of(call, unpruned, new)
    aligned = {name: value[:, -ids.shape[1] :] for name in host.aligned if (value := given.pop(name, None)) is not None}
    pictures = []
    for token, own in encode_pictures(model, host, new, call.encodings).items():
        if call.budget.prunes and call.budget.settings.budget_per == IMAGE:
            own = host.whole_pictures(model, own, ids, (ids == token) & unpruned.mask)
        pictures.append((token, own))
    if call.budget.settings.question_views and any(own for _, own in pictures):
        whole = torch.cat([unpruned.before, ids], dim=1)
        asked = Asked(whole, unpruned.attention_mask[:, -whole.shape[1] :].bool(), unpruned.before.shape[1])
        needs = call.budget.settings.question_views
        pictures = with_questions(model, host, pictures, asked, call.question, needs)
    config = model.generation_config
    pad_id = config.pad_token_id if config is not None else None
    unpruned = replace(unpruned, positions=positions, aligned=aligned)
    prompts = prune_prompts(unpruned, pictures, call.budget, pad_id or 0, host.splits_crops)
    if keeps_states(cache_in(given)) and prompts.start and not prompts.attention_mask[:, prompts.start :].all():
        name = type(model).__name__
        raise InputError(
            f"{name} has layers that read padding after a cache: give rows of different lengths one by one"
        )
    return prompts


def _numbers(call: Call, token: int, parts: list[dict]) -> list[int]:
    """The placeholders of each picture."""
    return [call.host.placeholders(call.model, token, part) for part in parts]


def _after_cache(call: Call, unpruned: Unpruned, token: int, parts: list[dict]) -> tuple[list[dict], list[dict]]:
    """The pictures that are in the cache, where all of a conversation's were given again, and those that are not.

    Raises InputError unless the placeholders `token` are as many as the pictures' tokens, each picture's in one prompt.
    """
    numbers = _numbers(call, token, parts)
    whole = torch.cat([unpruned.before, unpruned.input_ids], dim=1)
    is_own = (whole == token) & unpruned.attention_mask[:, -whole.shape[1] :].bool()
    start = unpruned.before.shape[1]
    if int(is_own.sum()) != sum(numbers):  # only the new ones are given
        is_own[:, :start] = False
    rows, columns = (places.tolist() for places in is_own.nonzero(as_tuple=True))
    if len(rows) != sum(numbers) and parts:
        raise InputError(
            f"{sum(numbers)} visual token(s) of {len(numbers)} picture(s) for {len(rows)} placeholder(s) with id "
            f"{token} in the prompts"
        )
    old, new = [], []
    for part, end, number in zip(parts, itertools.accumulate(numbers), numbers):
        first, last = end - number, end - 1
        if rows[first] != rows[last]:
            raise InputError("the placeholders of a picture are spread over two prompts")
        is_cached = [columns[i] < start for i in (first, last)]
        if is_cached[0] != is_cached[1]:
            raise InputError("the cache ends inside a picture: start with a new one")
        (old if is_cached[0] else new).append(part)
    return old, new


def _others_position(call: Call, unpruned: Unpruned, old: dict[int, list[dict]]) -> torch.LongTensor:
    """(B, 1): M-RoPE's position after a cache that no pruned model filled, from its ids and its pictures.

    Raises InputError if those, and positions, were not given.
    """
    ids, mask = unpruned.before, unpruned.attention_mask[:, : unpruned.cached.length].bool()
    if call.given.get("position_ids") is not None:
        return unpruned.cached.position
    missing = [(ids == token).sum() - sum(_numbers(call, token, parts)) for token, parts in old.items()]
    if ids.shape[1] != mask.shape[1] or any(missing):
        raise InputError(
            "a cache that no pruned model filled does not tell the positions of what follows: give position_ids, or "
            "the ids and the pictures of the whole conversation to generate"
        )
    return call.host.positions(call.model, pad(ids, (0, 1), value=-1), pad(mask, (0, 1), value=True), old)[0, :, -1:]


def memory_of_whole(call: Call, in_generate: bool) -> Memory | None:
    """What a cache holds that was empty before the model's own code served this call; None if it was given no ids."""
    given, ids = call.given, call.given.get("input_ids")
    if ids is None:
        return None
    mask, columns = given.get("attention_mask"), torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    if mask is None and in_generate:
        mask = mask_of(ids, call)
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        mask = torch.ones_like(ids)
    counted = mask.long().cumsum(dim=1) - 1 if in_generate else columns
    has_kinds = given.get("mm_token_type_ids") is not None  # or else transformers numbers pictures as text
    pictures = dict(call.host.split(call.model, given)) if call.host.has_axes and has_kinds else {}
    unpruned = Unpruned(Memory.unknown(ids, call.host.first_position).cached, ids[:, :0], ids, mask, counted, "left")
    token = (torch.isin(ids, call.placeholder_ids(ids)) | ~unpruned.mask).long() - 1
    return memory_after(unpruned, columns, token, _positions_of(call, unpruned, pictures))


def _positions_of(call: Call, unpruned: Unpruned, new: dict[int, list[dict]]) -> torch.LongTensor:
    """(B, L + 1) or (3, B, L + 1): of all tokens and of one that follows, after what is cached."""
    cached, ids, mask = unpruned.cached, unpruned.input_ids, unpruned.mask
    given = call.given.pop("position_ids", None)
    if given is not None and cached.is_whole:  # of the tokens alone, or of those in the cache too
        given = given[..., -ids.shape[1] :]
        given = given[-3:] if given.ndim == 3 else given  # M-RoPE's three axes may follow a fourth
        given = given.expand(*given.shape[:-2], *ids.shape)
        return _and_next(given, mask)
    positions = call.host.positions(call.model, pad(ids, (0, 1), value=-1), pad(mask, (0, 1), value=True), new)
    if positions is None:
        positions = _and_next(unpruned.positions, mask)
    return positions + cached.position


def _and_next(positions: torch.LongTensor, mask: torch.BoolTensor) -> torch.LongTensor:
    """Positions (..., B, L) and that of a token that follows the last which is no padding."""
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(dim=1, keepdim=True)
    return torch.cat([positions, positions.gather(-1, last.expand(*positions.shape[:-1], 1)) + 1], dim=-1)
