"""`prune` and `unprune`: a model of transformers whose own `forward` and `generate` prune its pictures.

The model given gets two attributes, `forward` and `generate`, that stand before its class's methods; its class stays
as it is. A call goes this way: the tower runs, the method chooses (`prompts`), and the host's own `forward` is given
embeddings of the shorter prompts with their mask and positions.

Shapes: B prompts, L tokens of the longest.
"""

import functools
import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from types import MethodType

import torch
from transformers import Cache, PreTrainedModel

from llava.integrations.transformers.budget import SETTING_NAMES, Budget
from llava.integrations.transformers.generation import Restorer
from llava.integrations.transformers.hosts import find_host
from llava.integrations.transformers.hosts.base import Host, Picture, join
from llava.integrations.transformers.prompts import ATTRIBUTE, IGNORED_LABEL, Cached, Prompts, behind, prune_prompts
from llava.model.pruning_defaults import refuse_with_input_error
from llava.utils import InputError

_STATE = "_visual_token_pruning"
_PROMPTS = "pruned_prompts"
_CACHES = ("cache", "past_key_values")  # the argument's name from transformers 5.24 on, and before


@dataclass
class _State:
    """What a pruned model has besides its own: its host, its settings, and the methods that it had."""

    host: Host
    budget: Budget
    own: dict  # what its __dict__ had of `forward` and `generate`

    def method(self, model: PreTrainedModel, name: str):
        """The method that it had."""
        return self.own[name] if name in self.own else getattr(type(model), name).__get__(model)


def prune(
    model: PreTrainedModel,
    visual_token_num: int | float | None,
    important_ratio: float = 0.5,
    pruning_method: str = "vispruner",
    pruning_seed: int = 0,
) -> PreTrainedModel:
    """Make a model of transformers keep few visual tokens of each picture (Zhang et al., arXiv 2412.01818).

    Each setting may also be an argument of a single `generate` or `forward`, and a second `prune` replaces them all.

    Args:
        model: one of the classes in `docs/plug.md`.
        visual_token_num: visual tokens to keep of each crop or frame, an integer >= 1, or their share, a float in
            (0, 1]; None gives the model back as it was.
        important_ratio: share of them, in [0, 1], that are chosen for their importance.
        pruning_method: a method of `llava.pruning` that chooses patches.
        pruning_seed: the seed of what a method draws at random.

    Returns: the model.

    Raises InputError for a model that is not known, with the list of those that are, and for a method that cannot work
    on transformers' models; ValueError, naming the setting, for a value that is none.
    """
    if visual_token_num is None:
        return unprune(model)
    budget = Budget.of(
        visual_token_num, important_ratio=important_ratio, pruning_method=pruning_method, pruning_seed=pruning_seed
    )
    if (state := vars(model).get(_STATE)) is not None:
        state.budget = budget
        return model
    host = find_host(model)
    own = {name: vars(model)[name] for name in ("forward", "generate") if name in vars(model)}
    state = _State(host, budget, own)
    methods = {"forward": _forward_of(state.method(model, "forward")), "generate": _generate_of(type(model).generate)}
    setattr(model, _STATE, state)
    for name, function in methods.items():
        setattr(model, name, MethodType(function, model))
    return model


def unprune(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model back what `prune` took; one that was not pruned stays as it is. Returns the model."""
    if (state := vars(model).get(_STATE)) is not None:
        for name in (_STATE, "forward", "generate"):
            delattr(model, name)
        vars(model).update(state.own)
    return model


def _forward_of(original):
    """The function that becomes `forward`, with the signature of the model's own and the settings of a call."""
    names = list(inspect.signature(original).parameters)

    @refuse_with_input_error
    def forward(self, *args, **kwargs):
        given = {**dict(zip(names, args)), **kwargs}
        settings = {name: given.pop(name) for name in SETTING_NAMES if name in given}
        state = getattr(self, _STATE)
        prompts, budget = given.pop(_PROMPTS, None), state.budget.changed(settings)
        if prompts is None:
            prompts = _prompts_of_forward(self, state.host, given, budget)
        if prompts is None:
            return state.method(self, "forward")(**given)
        return _run(self, state, prompts, given)

    return _with_signature(forward, original)


def _with_signature(function, original):
    """`function` in the guise of `original`, so that transformers, which reads signatures, lets settings pass."""
    signature = inspect.signature(original)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (*SETTING_NAMES, _PROMPTS)]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    functools.update_wrapper(function, getattr(original, "__func__", original))
    function.__signature__ = signature.replace(parameters=[own, *parameters, *added, *rest])
    return function


def _generate_of(original):
    """The function that becomes `generate`."""

    @functools.wraps(original)
    @torch.no_grad()
    @refuse_with_input_error
    def generate(
        self,
        inputs=None,
        generation_config=None,
        logits_processor=None,
        stopping_criteria=None,
        prefix_allowed_tokens_fn=None,
        **kwargs,
    ):
        state = getattr(self, _STATE)
        run = state.method(self, "generate")
        options = {
            "generation_config": generation_config,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
        }
        settings = {name: kwargs.pop(name) for name in SETTING_NAMES if name in kwargs}
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        given = {**kwargs, "input_ids": ids}
        prompts = None if _PROMPTS in kwargs else _prompts_of_generate(self, state, given, settings)
        if prompts is None:
            return run(ids, **options, **kwargs, visual_token_num=None)
        restorer = Restorer(ids, prompts.end)
        options["logits_processor"] = logits_processor and restorer.processors(logits_processor)
        options["stopping_criteria"] = stopping_criteria and restorer.criteria(stopping_criteria)
        options["prefix_allowed_tokens_fn"] = prefix_allowed_tokens_fn and restorer.allowed_tokens(
            prefix_allowed_tokens_fn
        )
        if kwargs.get("streamer") is not None:
            given["streamer"] = restorer.streamer(kwargs["streamer"])
        given.update(restorer.limits(kwargs, generation_config, self.generation_config))
        given.update(_short_inputs(prompts, ids))
        return restorer.output(run(**options, **given))

    return generate


def _short_inputs(prompts: Prompts, ids: torch.LongTensor) -> dict:
    """The tensors that `generate` is given in place of the user's: cached tokens and pruned prompts."""
    # where the ids of cached tokens were not given, no one reads what stands for them
    has_all = ids.shape[1] == prompts.cached.length + prompts.length
    before = prompts.cached.take(ids, 0) if has_all else ids.new_zeros(len(ids), prompts.start)
    mask = prompts.attention_mask
    return {
        **{name: torch.cat([torch.zeros_like(before), value], dim=1) for name, value in prompts.aligned.items()},
        "input_ids": torch.cat([before, prompts.input_ids], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),  # `forward` has those of the prompts
        _PROMPTS: prompts,
    }


def _prompts_of_generate(model: PreTrainedModel, state: _State, given: dict, settings: dict) -> Prompts | None:
    """The pruned prompts of a call of `generate`, whose arguments they need leave `given`; None to leave it alone."""
    budget, ids = state.budget.changed(settings), given["input_ids"]
    cached = _cached(given)
    if cached is None and not _has_pictures(model, state.host, given, budget):
        return None
    for name in ("assistant_model", "assistant_early_exit"):
        if given.get(name) is not None:
            raise InputError(f"{name} cannot be used with pruned pictures: the assistant would need its own prompt")
    _check_ids(ids)
    mask = given.pop("attention_mask", None)
    mask = torch.ones_like(ids) if mask is None else mask
    cached = cached or _plain_cached(given, ids, mask)
    before = ids[:, :0]
    if cached.length and ids.shape[1] == mask.shape[1]:  # the whole conversation, of which the cache has a part
        if ids.shape[1] <= cached.length:
            raise InputError(f"the cache holds {cached.length} tokens and the prompt only {ids.shape[1]}")
        before, ids = ids[:, : cached.length], ids[:, cached.length :]
    positions = mask[:, mask.shape[1] - ids.shape[1] :].long().cumsum(dim=1) - 1
    return _make_prompts(model, state.host, given, budget, cached, before, ids, mask, positions, "left")


def _prompts_of_forward(model: PreTrainedModel, host: Host, given: dict, budget: Budget) -> Prompts | None:
    """The pruned prompts of a call of `forward`, which take the place of those in `given`; None to leave it alone."""
    cached, ids = _cached(given), given.get("input_ids")
    if cached is None and not _has_pictures(model, host, given, budget):
        return None
    _check_ids(ids)
    if not isinstance(given.get("logits_to_keep", 0), int):
        raise InputError("logits_to_keep must be an integer where pictures are pruned")
    cached, mask = (cached or _plain_cached(given, ids, None)).for_rows(len(ids)), given.pop("attention_mask", None)
    if mask is None:
        mask = ids.new_ones(len(ids), cached.length + ids.shape[1])
    # transformers' models number the tokens of a call from what is in the cache, padding or not
    positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    is_left = bool((mask[:, cached.length : cached.length + 1] == 0).any())
    side = "left" if is_left else "right"
    prompts = _make_prompts(model, host, given, budget, cached, ids[:, :0], ids, mask, positions, side)
    if given.get("labels") is not None:
        given["labels"] = prompts.take(given["labels"], IGNORED_LABEL)
    given.update(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask)
    return prompts


def _check_ids(ids: torch.LongTensor | None) -> None:
    if ids is None:
        raise InputError("pruning needs input_ids, in which the pictures' placeholders are")


def _has_pictures(model: PreTrainedModel, host: Host, given: dict, budget: Budget) -> bool:
    """Whether there are pictures that lose tokens. Raises InputError if the tower has run already."""
    if not budget.prunes:
        return False
    if given.get("mm_encoder_outputs") is not None:
        raise InputError("mm_encoder_outputs has all visual tokens: give the pixels to a pruned model")
    pixels = [name for name in host.inputs if name.startswith("pixel_values") and given.get(name) is not None]
    return bool(pixels) and not budget.keeps_all_of(host.largest_crop(model, given))


def _cache_in(given: dict) -> Cache | None:
    return next((given[name] for name in _CACHES if given.get(name) is not None), None)


def _cached(given: dict) -> Cached | None:
    """What a cache of pruned prompts holds, if one is among the arguments."""
    cache = _cache_in(given)
    cached = getattr(cache, ATTRIBUTE, None)
    if cached is None or not int(cache.get_seq_length()):
        return None
    return cached.up_to(int(cache.get_seq_length()))


def _plain_cached(given: dict, ids: torch.LongTensor, mask: torch.Tensor | None) -> Cached:
    """What another cache holds, or none."""
    cache = _cache_in(given)
    past = 0 if cache is None else int(cache.get_seq_length())
    return Cached.without_pruning(
        len(ids), past, mask if mask is not None and mask.shape[1] > past else None, ids.device
    )


def _make_prompts(
    model: PreTrainedModel,
    host: Host,
    given: dict,
    budget: Budget,
    cached: Cached,
    before: torch.LongTensor,
    ids: torch.LongTensor,
    mask: torch.Tensor,
    positions: torch.LongTensor,
    side: str,
) -> Prompts:
    """Encode the pictures among the arguments, which leave `given`, and prune the prompts `ids` (B, L).

    `before` are the ids of the cached tokens if they were given, none of them dropped. `mask` is that of the cached
    tokens, none of them dropped, and of `ids`; `positions` (B, L) count from 0.
    """
    if mask.shape != (len(ids), cached.length + ids.shape[1]):
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}, but there are {len(ids)} prompts of {ids.shape[1]} tokens"
            + (f" behind {cached.length} tokens in the cache" if cached.length else "")
        )
    pictures_given = {name: given.pop(name) for name in host.inputs if name in given}
    own_mask = mask[:, cached.length :].bool()
    pictures = [
        (token, behind(encode_pictures(model, host, token, parts), token, before, ids, mask))
        for token, parts in host.split(model, pictures_given)
    ]
    if (absolute := given.pop("position_ids", None)) is None or cached.is_pruned:
        multi = host.positions(model, ids, own_mask, [p for _, own in pictures for p in own])
        absolute = (positions if multi is None else multi) + cached.next_position
    pad = model.generation_config.pad_token_id if model.generation_config is not None else None
    return prune_prompts(
        ids,
        own_mask,
        absolute.expand(*absolute.shape[:-2], *ids.shape),
        pictures,
        budget,
        cached,
        cached.take(mask, 0),
        side,
        {name: value for name in host.aligned if (value := given.pop(name, None)) is not None},
        pad or 0,
    )


def encode_pictures(model: PreTrainedModel, host: Host, token: int, parts: list[dict]) -> list[Picture]:
    """The pictures whose arguments are `parts`, as `host.split` makes them.

    To answer in float32 every picture is encoded by itself: the size of a batch changes the last bits of the features,
    and the selection can turn on them, so that an answer would depend on what else is in the batch.
    """
    one_by_one = model.dtype is torch.float32 and not model.training
    groups = [[part] for part in parts] if one_by_one else [parts] * bool(parts)
    return [picture for group in groups for picture in host.encode(model, token, join(group))]


def _run(model: PreTrainedModel, state: _State, prompts: Prompts, given: dict):
    """The model's own `forward` on pruned prompts or on what follows them, with the arguments that are left."""
    cache, ids = _cache_in(given), given["input_ids"]
    past = 0 if cache is None else int(cache.get_seq_length())
    step = prompts.step(past, ids.shape[1], len(ids))
    given["position_ids"] = step.positions
    surroundings = nullcontext()
    if past < prompts.end:
        is_visual = step.token >= 0
        own = step.token[is_visual]
        given.update(step.aligned)
        embeds = model.get_input_embeddings()(ids.masked_fill(is_visual, 0))  # a placeholder may be no id of the table
        given["input_ids"] = None
        given["inputs_embeds"] = embeds.masked_scatter(is_visual.unsqueeze(-1), prompts.tokens[own].to(embeds))
        surroundings = state.host.entering(model, is_visual, tuple(layer[own] for layer in prompts.layers))
    with surroundings:
        output = state.method(model, "forward")(**given)
    if (cache := cache if cache is not None else _cache_of(output)) is not None:
        setattr(cache, ATTRIBUTE, prompts.as_cached())
    return output


def _cache_of(output) -> Cache | None:
    """The cache that a call has made, if it has."""
    values = output if isinstance(output, tuple) else output.values()
    return next((value for value in values if isinstance(value, Cache)), None)
