"""What was asked and answered on the page, what each answer took, and both as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from llava.pruning import Settings

if TYPE_CHECKING:
    from llava.serve.page.selection_view import Chosen


@dataclass(frozen=True)
class Figures:
    """What one answer took; None where it is not known.

    Attributes:
        visual_tokens: those of the picture that the language model read, from the first layer on or to the end.
        prompt_tokens: tokens of the prompt, visual tokens included.
        computed_tokens: how many of them were not in the KV cache.
        kv_cache_bytes: of the prompt in the KV cache.
        prefill_flops: of the language model for the whole prompt.
        answer_tokens: tokens of the answer.
        first_token: seconds from the question's turn to the first token.
        per_second: tokens per second after the first one, measured once.
        spread: the longest of the three measurements that `first_token` is the median of over the shortest; None where
            it was measured once.
    """

    visual_tokens: int | None = None
    prompt_tokens: int | None = None
    computed_tokens: int | None = None
    kv_cache_bytes: int | None = None
    prefill_flops: int | None = None
    answer_tokens: int | None = None
    first_token: float | None = None
    per_second: float | None = None
    spread: float | None = None


@dataclass
class Answer:
    """One answer: of how many tokens of each crop and how chosen (`label`), its text so far, what it took.

    `waiting` says how long it is until its turn; empty where it has it. One that is no longer asked for is not gone on
    with.
    """

    label: str
    text: str = ""
    figures: Figures = Figures()
    is_asked: bool = True
    is_done: bool = False
    waiting: str = ""


@dataclass
class Exchange:
    """A question with its pruned and unpruned answers; of the unpruned one perhaps only the cost is known.

    `former` is the exchange whose place it takes, for a question that is asked again.
    """

    question: str
    pruned: Answer
    unpruned: Answer
    former: "Exchange | None" = None


@dataclass
class Column:
    """One answer of a comparison: with these settings, beside what it would cost unpruned.

    `error` says why there is no answer; `kept` what was kept of the picture, where that is known of the answer alone.
    """

    pruning: Settings
    answer: Answer
    unpruned: Figures = Figures()
    error: ValueError | None = None
    kept: "Chosen | None" = None


@dataclass
class Comparison:
    """A question that is asked with several settings: a column for each, by its place on the page."""

    question: str
    columns: dict[int, Column]

    def stop(self) -> None:
        """Take back what has no answer yet."""
        for column in self.columns.values():
            column.answer.is_asked &= column.answer.is_done


def quantity(number: float | None, unit: str, step: int) -> str:
    """`12.3 MB`: a number with a prefix of `unit`; `step` is 1000, or 1024 for MiB and the like."""
    if number is None:
        return "–"
    prefixes = ["", "k", "M", "G", "T", "P"] if step == 1000 else ["", "Ki", "Mi", "Gi", "Ti"]
    place = 0
    while number >= step and place < len(prefixes) - 1:
        number, place = number / step, place + 1
    return f"{number:.0f} {unit}" if place == 0 else f"{number:.3g} {prefixes[place]}{unit}"


def seconds(value: float | None) -> str:
    """A time in milliseconds below a second."""
    if value is None:
        return "–"
    return f"{1000 * value:.0f} ms" if value < 0.9995 else f"{value:.2f} s"


def _prompt(figures: Figures) -> str:
    if figures.prompt_tokens is None:
        return "–"
    new = figures.computed_tokens
    return f"{figures.prompt_tokens}" + (f" ({new} new)" if new not in (None, figures.prompt_tokens) else "")


def _first_token(figures: Figures) -> str:
    is_marked = figures.first_token is not None and _is_noisy(figures)
    return (_NOISY if is_marked else "") + seconds(figures.first_token)


def _is_noisy(figures: Figures) -> bool:
    """Whether the time to the first token was measured once, or measurements of it differ by more than a half."""
    return figures.spread is None or figures.spread > 1.5


_NOISY = "≈ "
_NOTE = (
    "KV cache and FLOPs are arithmetic, of the language model for the whole prompt. Times are measured here, and what "
    "the KV cache has already is not computed again; ≈ is before noisy ones, which were measured once or "
    "differ by more than a half; the others are the median of three."
)
_ROWS = (
    ("Visual tokens", lambda f: "–" if f.visual_tokens is None else str(f.visual_tokens), "visual_tokens"),
    ("Prompt tokens", _prompt, "prompt_tokens"),
    ("KV cache of the prompt", lambda f: quantity(f.kv_cache_bytes, "B", 1024), "kv_cache_bytes"),
    ("Prefill FLOPs", lambda f: quantity(f.prefill_flops, "FLOPs", 1000), "prefill_flops"),
    ("Time to first token", _first_token, "first_token"),
    ("Tokens per second", lambda f: "–" if f.per_second is None else f"{_NOISY}{f.per_second:.1f}", None),
    ("Answer tokens", lambda f: "–" if f.answer_tokens is None else str(f.answer_tokens), None),
)


def _share(name: str | None, pruned: Figures, unpruned: Figures) -> str:
    """How much of the unpruned figure the pruned one is; empty where that says nothing."""
    if name == "first_token" and (_is_noisy(pruned) or _is_noisy(unpruned)):
        return ""
    first, second = (getattr(figures, name) if name else None for figures in (pruned, unpruned))
    return f"{100 * first / second:.0f} %" if first is not None and second else ""


def cost_rows(figures: Figures, unpruned: Figures) -> list[tuple[str, str, str]]:
    """Of the figures those that are no times: what each is called, the figure, and its share of the unpruned one."""
    costs = [row for row in _ROWS if row[2] in ("visual_tokens", "prompt_tokens", "kv_cache_bytes", "prefill_flops")]
    return [(title, show(figures), _share(name, figures, unpruned)) for title, show, name in costs]


def figures_html(exchange: Exchange | None) -> str:
    """The table of both answers of an exchange; empty for None."""
    if exchange is None:
        return ""
    pruned, unpruned = exchange.pruned.figures, exchange.unpruned.figures
    rows = "".join(
        f'<tr><th scope="row">{title}</th><td>{show(pruned)}</td><td>{show(unpruned)}</td>'
        f'<td class="share">{_share(name, pruned, unpruned)}</td></tr>'
        for title, show, name in _ROWS
    )
    note = "" if exchange.unpruned.is_asked else " Unpruned times are measured when that answer is asked for too."
    return (
        '<table class="figures"><caption>Of the last question</caption><thead><tr><th></th>'
        f'<th scope="col">{escape(exchange.pruned.label)}</th><th scope="col">Unpruned</th><th scope="col">Share</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="note">{_NOTE}{note}</p>'
    )


def transcript_html(exchanges: Sequence[Exchange]) -> str:
    """The conversation."""
    parts = []
    for exchange in reversed(exchanges):  # the style turns them round
        asked = [answer for answer in (exchange.pruned, exchange.unpruned) if answer.is_asked]
        answers = "".join(answer_html(answer) for answer in asked)
        parts.append(
            f'<div class="exchange"><div class="question">{_text(exchange.question)}</div>'
            f'<div class="answers">{answers}</div></div>'
        )
    if not exchanges:
        parts.append('<p class="empty">No question yet. Ask one about the picture.</p>')
    return f'<div class="talk" aria-live="polite">{"".join(parts)}</div>'


def answer_html(answer: Answer) -> str:
    """One answer, as far as it is; where it will be, what it waits for."""
    label = f'<div class="label">{escape(answer.label)}</div>'
    if answer.is_done:
        said = f'<div class="said">{_text(answer.text)}</div>{_COPY}' if answer.text else _nothing("nothing")
        return f'<div class="answer done">{label}{said}</div>'
    text = f'<span class="waiting">{escape(answer.waiting)}</span>' if answer.waiting else _text(answer.text)
    return f'<div class="answer running">{label}{text}</div>'


# page.js copies what stands before it.
_COPY = '<button type="button" class="copy" title="Copy this answer" aria-label="Copy this answer">Copy</button>'


def _nothing(why: str) -> str:
    return f'<i class="nothing">({why})</i>'


def _text(text: str) -> str:
    """A text as HTML that says it and nothing else: never markup, links or pictures."""
    return escape(text).replace("\n", "<br>")


def notice_html(message: str) -> str:
    """A message about what could not be done; empty for none."""
    return f'<div class="notice" role="alert">{escape(message)}</div>' if message else ""


def column_html(column: Column) -> str:
    """The answer of a comparison's column and what it took; of one that was taken back, that it was."""
    answer = column.answer
    if column.error is not None:
        return ""
    if not answer.is_asked:
        return f'<div class="answer"><div class="label">{escape(answer.label)}</div>{_nothing("stopped")}</div>'
    if not answer.is_done:
        return answer_html(answer)
    rows = "".join(
        f'<tr><th scope="row">{title}</th><td>{figure} <span class="share">{share}</span></td></tr>'
        for title, figure, share in cost_rows(answer.figures, column.unpruned)
    )
    caption = "<caption>Cost, and its share of unpruned</caption>" if column.unpruned != Figures() else ""
    return f'{answer_html(answer)}<table class="figures">{caption}<tbody>{rows}</tbody></table>'
