"""`prune` and `unprune`: a model of transformers whose own `forward` and `generate` prune its pictures.

The model given gets two attributes, `forward` and `generate`, that stand before its class's methods; its class stays
as it is. A call goes this way: the tower runs (`calls`), the method chooses (`prompts`), and the host's own `forward`
is given embeddings of the shorter prompts with their mask and positions.

Shapes: B prompts, L tokens of the longest.
"""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel

from llava.integrations.transformers.budget import Budget
from llava.integrations.transformers.cached import remember
from llava.integrations.transformers.calls import Call, memory_of_whole, prompts_of_forward, prompts_of_generate
from llava.integrations.transformers.encoding import Encodings
from llava.integrations.transformers.generation import Restorer
from llava.integrations.transformers.hosts import find_host
from llava.integrations.transformers.hosts.base import Host
from llava.integrations.transformers.prompts import Prompts
from llava.integrations.transformers.question import check_question
from llava.pruning.kv_cache import as_one_sequence, cache_in, cache_of, cached_length
from llava.pruning.settings import NAMES, Settings, takes_settings

_STATE = "_visual_token_pruning"
_PROMPTS, _QUESTION = "pruned_prompts", "question"


@dataclass
class _State:
    """What a pruned model has besides its own.

    Attributes:
        host, budget: what it is, and the settings of a call that names none.
        own: what its __dict__ had of `forward` and `generate`.
        encodings: see `share_pictures`.
    """

    host: Host
    budget: Budget
    own: dict
    encodings: Encodings | None = None

    def budget_of(self, options: dict) -> Budget:
        """That of a call, whose settings are removed from its keyword arguments."""
        budget = self.budget.changed_by(options)
        budget.check(self.host)
        return budget

    def method(self, model: PreTrainedModel, name: str):
        """The method that it had."""
        return self.own[name] if name in self.own else getattr(type(model), name).__get__(model)


@takes_settings
def prune(model: PreTrainedModel, visual_token_num: int | float | None, **settings: Any) -> PreTrainedModel:
    """Make a model of transformers keep few visual tokens of each picture (Zhang et al., arXiv 2412.01818).

    Each setting may also be an argument of a single `generate` or `forward`, and a second `prune` replaces them all.
    Both also take `question`, what is asked about the pictures, for methods that choose by it: a text, or one for each
    picture in the order of their places; without it, it is read from the ids, see `question`.

    Args:
        model: one of the classes in `docs/plug.md`.
        visual_token_num: visual tokens to keep of each crop or frame, an integer >= 1, or their share, a float in
            (0, 1]; None gives the model back as it was.
        settings: the others of `llava.pruning.Settings`, such as `pruning_method`, a method that chooses patches;
            `budget_per` may also be "video": T, or the share, is then of all frames of a video.

    Returns: the model.

    Raises InputError for a model that is not known, with the list of those that are, and for a method that cannot work
    on transformers' models; ValueError for an invalid value; the message names the setting.
    """
    if visual_token_num is None and not Settings(**settings).is_blind:
        return unprune(model)
    return _prune_by(model, Budget.from_options(visual_token_num, **settings))


def _prune_by(model: PreTrainedModel, budget: Budget) -> PreTrainedModel:
    host = find_host(model)
    budget.check(host)
    if (state := vars(model).get(_STATE)) is not None:
        state.budget = budget
        return model
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


def share_pictures(model: PreTrainedModel) -> None:
    """From now on, a pruned model encodes pictures once that several prompts of a call, or a call and the next, have.

    Its weights must not change after that.
    """
    getattr(model, _STATE).encodings = Encodings()


@takes_settings
@contextmanager
def pruned(model: PreTrainedModel, visual_token_num: int | float | None, **settings: Any) -> Iterator[PreTrainedModel]:
    """`prune` for the length of a `with` block: afterwards the model is as it was, pruned otherwise or not at all.

    The arguments and errors are those of `prune`.
    """
    state = vars(model).get(_STATE)
    before = None if state is None else state.budget
    try:
        yield prune(model, visual_token_num, **settings)
    finally:
        if before is None:
            unprune(model)
        else:
            _prune_by(model, before)


def _forward_of(original):
    """The function that becomes `forward`, with the signature of the model's own and the settings of a call."""
    names = list(inspect.signature(original).parameters)

    def forward(self, *args, **kwargs):
        given = {**dict(zip(names, args)), **kwargs}
        state = getattr(self, _STATE)
        budget, question = state.budget_of(given), check_question(given.pop(_QUESTION, None))
        run = state.method(self, "forward")
        if _PROMPTS in given:  # a step of `generate`
            prompts = given.pop(_PROMPTS)
            return _run(self, state, prompts, given) if prompts else run(**given)
        call = Call(self, state.host, budget, given, question, state.encodings)
        if (prompts := prompts_of_forward(call)) is not None:
            return _run(self, state, prompts, given)
        is_first = not call.past
        output = run(**given)
        if is_first and not self.training and (cache := cache_of(output)):
            remember(cache, memory_of_whole(call, in_generate=False))
        return output

    return _with_signature(forward, original)


def _with_signature(function, original):
    """`function` in the guise of `original`, so that transformers, which reads signatures, lets settings pass."""
    signature = inspect.signature(original)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in (*NAMES, _QUESTION, _PROMPTS)]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    functools.update_wrapper(function, getattr(original, "__func__", original))
    function.__signature__ = signature.replace(parameters=[own, *parameters, *added, *rest])
    return function


def _generate_of(original):
    """The function that becomes `generate`."""

    @functools.wraps(original)
    @torch.no_grad()
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
        budget, question = state.budget_of(kwargs), check_question(kwargs.pop(_QUESTION, None))
        ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        given = {**kwargs, "input_ids": ids}
        if _PROMPTS in kwargs:  # a decoding method that calls `generate`
            return run(ids, **options, **kwargs)
        call = Call(self, state.host, budget, given, question, state.encodings)
        if (prompts := prompts_of_generate(call)) is None:
            is_first = not call.past
            output = run(ids, **options, **kwargs, **{_PROMPTS: False})
            if is_first and (cache := cache_in(kwargs) or cache_of(output)):
                remember(cache, memory_of_whole(call, in_generate=True))
            return output
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
        **prompts.aligned,
        "input_ids": torch.cat([before, prompts.input_ids], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),  # `forward` has those of the prompts
        _PROMPTS: prompts,
    }


def _run(model: PreTrainedModel, state: _State, prompts: Prompts, given: dict):
    """The model's own `forward` on pruned prompts or on what follows them, with the arguments that are left."""
    cache, ids = cache_in(given), given["input_ids"]
    past = int(cached_length(cache))
    step = prompts.step(past, ids.shape[1], len(ids))
    given["position_ids"] = step.positions
    if cache is None and given.get("attention_mask") is None:
        # `generate` drops a mask of ones, without which gaps between positions are the ends of packed sequences
        given["attention_mask"] = torch.ones_like(ids)
    has_text_positions = len(ids) == 1 < ids.shape[1] and step.positions.ndim == 2
    if has_text_positions and (step.positions.diff(dim=1) != 1).any():
        given.update(as_one_sequence(past, ids.shape[1], ids.device))
    surroundings = nullcontext()
    if past < prompts.end:
        is_visual = step.token >= 0
        own = step.token[is_visual].to(model.device if prompts.tokens is None else prompts.tokens.device)
        given.update(step.aligned)
        embeds = model.get_input_embeddings()(ids.masked_fill(is_visual, 0))  # a placeholder may be no id of the table
        given["input_ids"] = None
        if prompts.tokens is not None:
            embeds = embeds.masked_scatter(is_visual.unsqueeze(-1), prompts.tokens[own].to(embeds))
        given["inputs_embeds"] = embeds
        given.update(state.host.more_inputs(model, ids, is_visual, embeds))
        surroundings = state.host.entering(model, is_visual, tuple(layer[own] for layer in prompts.layers))
    with surroundings:
        output = state.method(model, "forward")(**given)
    is_last = past < prompts.end <= past + ids.shape[1]
    if is_last and (prompts.memory or not past) and (cache := cache or cache_of(output)):
        remember(cache, prompts.memory)
    return output
