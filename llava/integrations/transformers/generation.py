"""What `generate` is given besides tensors: things that read the sequences, which must go on reading the whole prompt.

Shapes: B prompts, L tokens of the prompts as they were given, S tokens of the pruned ones.
"""

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput


class Restorer:
    """Turns sequences that begin with the pruned prompts into those that begin with the prompts as given."""

    def __init__(self, original: torch.LongTensor, pruned_length: int) -> None:
        """`original` is (B, L), `pruned_length` S."""
        self.original, self.pruned_length = original, pruned_length

    @property
    def dropped(self) -> int:
        """L - S."""
        return self.original.shape[1] - self.pruned_length

    def ids(self, sequences: torch.LongTensor) -> torch.LongTensor:
        """(rows, S + new) -> (rows, L + new), where rows are B, or several of each prompt."""
        original = self.original.to(sequences.device).repeat_interleave(len(sequences) // len(self.original), dim=0)
        return torch.cat([original, sequences[:, self.pruned_length :]], dim=1)

    def output(self, output: torch.LongTensor | ModelOutput) -> torch.LongTensor | ModelOutput:
        """What `generate` returns, ids or an output with `sequences`."""
        if isinstance(output, torch.Tensor):
            return self.ids(output)
        output.sequences = self.ids(output.sequences)
        return output

    def criteria(self, criteria: list) -> StoppingCriteriaList:
        """The user's stopping criteria, given the whole prompt."""
        return StoppingCriteriaList([_Criterion(self, criterion) for criterion in criteria])

    def processors(self, processors: list) -> LogitsProcessorList:
        """The user's logits processors, given the whole prompt."""
        return LogitsProcessorList([_Processor(self, processor) for processor in processors])

    def allowed_tokens(self, function):
        """The user's `prefix_allowed_tokens_fn`, given the whole prompt."""
        return lambda row, ids: function(row, torch.cat([self.original[row].to(ids), ids[self.pruned_length :]]))

    def streamer(self, streamer: BaseStreamer) -> BaseStreamer:
        """The user's streamer, which is sent the prompt first."""
        return _Streamer(self, streamer)

    def limits(self, options: dict, config: GenerationConfig | None, own: GenerationConfig) -> dict:
        """`max_length` and `min_length`, which count the prompt, for the pruned prompt; where they are set at all."""
        limits = {}
        for name, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
            sources = [options, *(vars(source) for source in (config, own) if source is not None)]
            values = {key: next((s[key] for s in sources if s.get(key) is not None), None) for key in (name, new)}
            if values[name] is not None and values[new] is None:
                limits[name] = max(values[name] - self.dropped, 0)
        return limits


class _Criterion(StoppingCriteria):
    def __init__(self, restorer: Restorer, inner) -> None:
        self.restorer, self.inner = restorer, inner

    def __call__(self, input_ids, scores, **kwargs):
        return self.inner(self.restorer.ids(input_ids), scores, **kwargs)


class _Processor(LogitsProcessor):
    def __init__(self, restorer: Restorer, inner) -> None:
        self.restorer, self.inner = restorer, inner

    def __call__(self, input_ids, scores):
        return self.inner(self.restorer.ids(input_ids), scores)


class _Streamer(BaseStreamer):
    def __init__(self, restorer: Restorer, inner: BaseStreamer) -> None:
        self.prompt, self.inner = restorer.original.cpu(), inner

    def put(self, value) -> None:
        value, self.prompt = (value, None) if self.prompt is None else (self.prompt, None)
        self.inner.put(value)

    def end(self) -> None:
        self.inner.end()
