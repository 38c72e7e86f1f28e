"""How often answers at some budgets are the unpruned ones: the table that `budget` fills and `budget_report` shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llava.eval.benchmarks.questions import Question
from llava.eval.report.proportions import wilson_interval
from llava.pruning.settings import Settings

if TYPE_CHECKING:
    from llava.inference.request import Completion
    from llava.model.builder import LoadedModel


@dataclass(frozen=True)
class Row:
    """The answers at one budget and ratio.

    Attributes:
        tokens: T, of each crop; N for the unpruned model.
        ratio: None for a method that has none, and for the unpruned model.
        answers: the texts, in the order of the questions.
        same: how many of them are the unpruned ones.
        visual_tokens: mean number of them in a prompt.
        prefill_share: FLOPs of the prompts in the language model, as a share of the unpruned ones.
        cache_bytes: mean size of a prompt's KV cache.
        scores: the benchmark's headline figures, by heading.
    """

    tokens: int
    ratio: float | None
    answers: list[str]
    same: int
    visual_tokens: float
    prefill_share: float
    cache_bytes: float
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def agreement(self) -> float:
        """Share of the answers that are the unpruned ones."""
        return self.same / len(self.answers)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the agreement; see `proportions.wilson_interval`."""
        return wilson_interval(self.same, len(self.answers))


@dataclass(frozen=True)
class Budgets:
    """How often answers at some budgets are the unpruned ones.

    Attributes:
        about: what was asked, by name.
        wanted: the agreement that is wanted.
        questions: the sample.
        unpruned: the answers that the others are compared with.
        rows: one for each budget and ratio, from few tokens to many.
    """

    about: dict[str, str | int | float]
    wanted: float
    questions: list[Question]
    unpruned: Row
    rows: list[Row]

    def smallest(self, by: Callable[[Row], float]) -> Row | None:
        """The row with the fewest tokens where `by` is at least the wanted agreement; None if there is none.

        Of several ratios it is the one with the highest agreement. `by` is the agreement, or a bound of it.
        """
        enough = [row for row in self.rows if by(row) >= self.wanted]
        return min(enough, key=lambda row: (row.tokens, -row.agreement), default=None)

    @property
    def by_estimate(self) -> Row | None:
        """The smallest budget whose agreement in the sample is the wanted one."""
        return self.smallest(lambda row: row.agreement)

    @property
    def by_interval(self) -> Row | None:
        """The smallest budget where the lower end of the interval is."""
        return self.smallest(lambda row: row.interval[0])


def make_row(
    loaded: LoadedModel,
    pruning: Settings,
    said: list[Completion],
    unpruned: list[Completion],
    scores: dict[str, float],
) -> Row:
    """The row of one of the settings, from what was said there to the questions, and `unpruned` to the same ones."""
    from llava.model.flops import Decoder, tokens_later

    model = loaded[1]
    decoder, patches = Decoder.from_config(model.config), model.get_vision_tower().num_patches
    flops = visual_tokens = cache = 0
    for completion in said:
        tokens, visual = completion.prompt_tokens, sum(completion.num_visual_tokens)
        left, full_layers = tokens_later(pruning, tokens, visual, patches)
        flops += decoder.prefill_flops(tokens, left, full_layers)
        visual_tokens += visual - (tokens - left)
        cache += decoder.cache_bytes(tokens, left, full_layers, model.dtype.itemsize)
    return Row(
        tokens=pruning.visual_token_num or patches,
        ratio=pruning.important_ratio if pruning.prunes and pruning.method.reads_ratio else None,
        answers=[completion.text for completion in said],
        same=sum(one.text == other.text for one, other in zip(said, unpruned, strict=True)),
        visual_tokens=visual_tokens / len(said),
        prefill_share=flops / sum(decoder.prefill_flops(completion.prompt_tokens) for completion in unpruned),
        cache_bytes=cache / len(said),
        scores=scores,
    )
