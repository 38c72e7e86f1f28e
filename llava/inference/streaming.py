"""An answer piece by piece, while it is generated."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer


class _Stop(StoppingCriteria):
    """Ends generation at the next token once it is `wanted`."""

    def __init__(self) -> None:
        self.wanted = threading.Event()

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        return torch.full((len(input_ids),), self.wanted.is_set(), device=input_ids.device)


def uses_beams(options: dict) -> bool:
    """Whether these generation options ask for beam search, which has no token to show before the end."""
    return (options.get("num_beams") or 1) > 1


def stream_text(
    tokenizer: PreTrainedTokenizerBase, generate: Callable[..., torch.LongTensor], options: dict
) -> Generator[str, None, torch.LongTensor]:
    """Yield the text of one answer as it is generated, with beams as one piece; returns what `generate` returns.

    `generate` takes generation options, `streamer` and `stopping_criteria` among them, and is called in another
    thread. What it raises is raised here. A consumer that closes the generator ends generation at the next token.
    """
    if uses_beams(options):
        output_ids = generate(**options)
        yield tokenizer.batch_decode(output_ids, skip_special_tokens=True)[0].strip()
        return output_ids
    streamer, stop = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True), _Stop()
    criteria = StoppingCriteriaList([*(options.get("stopping_criteria") or []), stop])
    options = options | {"streamer": streamer, "stopping_criteria": criteria}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(generate, **options)
        answer.add_done_callback(lambda _: streamer.text_queue.put(streamer.stop_signal))  # after an error too
        try:
            yield from filter(None, streamer)
        finally:
            stop.wanted.set()
        return answer.result()
