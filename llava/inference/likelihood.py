"""How well a model expects answers that it is given."""

from collections.abc import Iterable, Iterator
from itertools import takewhile

import torch
from torch.nn.functional import cross_entropy

from llava.checkpoints.tokenizer import tokenizer_image_token
from llava.conversation import without_pictures
from llava.errors import InputError
from llava.inference.engine import Engine
from llava.inference.images import ImageStream
from llava.inference.memory import default_batch_size, refuse_too_large
from llava.inference.prefix_sharing import embed
from llava.inference.request import Request


def answer_losses(engine: Engine, requests: Iterable[Request], answered: list[str]) -> Iterator[tuple[float, bool]]:
    """Of each answer the mean loss of its tokens, and whether it is the one that greedy decoding gives.

    Args:
        engine: the model, and how many requests it takes at once.
        requests: what is asked. An image is encoded once for requests that follow one another on it.
        answered: each request's prompt followed by an answer and what ends the answer, which counts as one of its
            tokens.

    Raises InputError as `Engine.answer` does, for an answer without a token, and for methods that prune inside the
    decoder: what they keep would depend on the answer.
    """
    model = engine.model
    requests = [request.with_settings(model.pruning) for request in requests]
    answered = [without_pictures(text) if r.pruning.is_blind else text for r, text in zip(requests, answered)]
    for request in requests:
        if request.pruning.prunes_in_decoder:
            raise InputError(f"{request.pruning.pruning_method} drops tokens on the way: answers have no loss")
    stream = ImageStream(engine.loaded, requests, engine.num_workers)
    start = 0
    while start < len(requests):
        first = requests[start]
        size = engine.batch_size or default_batch_size(model, first.pruning, len(first.images), {})
        alike = takewhile(lambda request, pruning=first.pruning: request.pruning == pruning, requests[start:][:size])
        batch = list(alike)
        visual = [tokens for images in stream.next_batch(batch) for tokens in images]
        with refuse_too_large(first.name if len(batch) == 1 else f"a batch of {len(batch)} answers"):
            yield from _losses(engine, batch, answered[start : start + len(batch)], visual)
        start += len(batch)


@torch.inference_mode()
def _losses(engine: Engine, batch: list[Request], answered: list[str], visual: list[torch.Tensor]) -> list[tuple]:
    """The losses of one batch, whose images have these visual tokens."""
    model = engine.model
    wholes = [tokenizer_image_token(text, engine.tokenizer, return_tensors="pt") for text in answered]
    lengths = []
    for request, whole in zip(batch, wholes, strict=True):
        prompt = tokenizer_image_token(request.prompt, engine.tokenizer, return_tensors="pt")
        lengths.append(len(whole) - _common(prompt, whole))
        if not lengths[-1]:
            raise InputError(f"{request.name} has an answer without a token")
    prompts = embed(model, wholes, visual)
    model.check_context(prompts.longest)
    logits = model(
        inputs_embeds=prompts.inputs_embeds,
        attention_mask=prompts.attention_mask,
        position_ids=prompts.positions(torch.zeros_like(prompts.source[:, :1])),
        pruning=batch[0].pruning,
        use_cache=False,
        logits_to_keep=max(lengths) + 1,
    ).logits
    losses = []
    for scores, whole, length in zip(logits, wholes, lengths):
        scores, answer = scores[-length - 1 : -1].float(), whole[-length:].to(scores.device)
        losses.append((float(cross_entropy(scores, answer)), bool((scores.argmax(dim=1) == answer).all())))
    return losses


def _common(first: torch.LongTensor, second: torch.LongTensor) -> int:
    """How many tokens two prompts begin with alike."""
    return sum(1 for _ in takewhile(bool, (a == b for a, b in zip(first.tolist(), second.tolist()))))
