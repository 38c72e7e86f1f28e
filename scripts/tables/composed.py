"""Tables that are made of several files of results."""

from collections.abc import Callable

from llava.errors import InputError
from llava.eval.report.score_table import ABSENT
from scripts.tables.book import Book, markdown, table_markdown
from scripts.tables.leaderboard import section

V15 = "LLaVA-1.5-7B"
OF_UNPRUNED = "share of the unpruned score"
V15_TASKS = {
    "vqav2": "VQAv2",
    "gqa": "GQA",
    "vizwiz": "VizWiz",
    "sqa": "SQA-I",
    "textvqa": "TextVQA",
    "pope": "POPE",
    "mme": "MME-P",
    "mmbench": "MMB",
    "mmbench_cn": "MMB-CN",
    "mmvet": "MM-Vet",
}
V15_ROWS = {576: "none", 128: "vispruner", 64: "vispruner", 32: "vispruner"}


def readme(book: Book) -> str:
    """What pruning buys LLaVA-1.5-7B: published scores, arithmetic, and times of random weights on an H200."""
    heading = [f"{V15}, visual tokens", "GQA", "TextVQA", "POPE", "MMBench", "of the unpruned score", "prefill FLOPs"]
    heading += ["first token, 1 prompt", "first token, 16 prompts", "KV cache"]
    kinds = [*["published"] * 5, "arithmetic", "measured here", "measured here", "arithmetic"]
    rows = [["", *(f"*{kind}*" for kind in kinds)]]
    for tokens, method in V15_ROWS.items():
        tasks = ("gqa", "textvqa", "pope", "mmbench")
        scores = [f"{book.score(V15, method, task, tokens):.1f}" for task in tasks]
        share = 100 if method == "none" else book.score(V15, method, OF_UNPRUNED, tokens)
        flops, cache = (
            book.value("arithmetic.llava-v1.5-7b", column, visual_tokens=tokens)
            for column in ("prefill FLOPs, %", "KV cache, MiB")
        )
        times = [_first_token(book, tokens, batch) for batch in (1, 16)]
        label = f"{tokens}, nothing pruned" if method == "none" else str(tokens)
        rows.append([label, *scores, f"{share:g} %", f"{flops} %", *times, f"{cache} MiB"])
    return markdown(heading, rows)


def _first_token(book: Book, tokens: int, batch: int) -> str:
    """The time to the first token on an H200, without its share; a dash where it was not measured."""
    try:
        of = {"shape": "llava-v1.5-7b", "attention": "SDPA", "batch": batch, "visual tokens": tokens}
        time = book.value("gpu/h200.answer", "first token", **of)
    except InputError:
        return ABSENT
    return f"{time[0] if isinstance(time, list) else time:.0f} ms"


def h200_summary(book: Book) -> str:
    """Shares of the unpruned model on an H200, of one prompt and of several."""
    heading = ["", "visual tokens", "prefill FLOPs", "first token", "answer of 32 tokens", "KV cache"]
    rows = []
    for label, shape, batch, whole, kept in (
        ("LLaVA-1.5, one prompt", "llava-v1.5-7b", 1, 576, 64),
        ("LLaVA-1.5, 16 prompts at once", "llava-v1.5-7b", 16, 576, 64),
        ("LLaVA-1.6, one prompt", "llava-v1.6-7b", 1, 2880, 320),
    ):
        of = {"shape": shape, "attention": "SDPA", "batch": batch}
        flops, first, answer, cache = (
            book.value("gpu/h200.answer", column, **of, visual_tokens=kept)
            for column in ("prefill FLOPs", "first token", "answer", "KV cache, MiB")
        )
        share = 100 * cache / book.value("gpu/h200.answer", "KV cache, MiB", **of, visual_tokens=whole)
        shares = [flops, first[1], answer[1], round(share)]
        rows.append([label, f"{whole} to {kept}", *(f"{number} %" for number in shares)])
    return markdown(heading, rows)


def gpus(book: Book) -> str:
    """A section for each card, with a caption and a table for each of its tables."""
    parts, cards = [], dict.fromkeys(name.partition(".")[0] for name in book.tables if name.startswith("gpu/"))
    for card in cards:
        names = [name for name in book.tables if name.startswith(f"{card}.")]
        machines = {about["machine"] for name in names for about in book.abouts[name]}
        parts.append(f"### {', '.join(sorted(machines)).removeprefix('one ')}\n")
        for name in names:
            told = [
                "; ".join(dict.fromkeys(about[key] for about in book.abouts[name] if key in about))
                for key in ("note", "versions", "date")
            ]
            commands = dict.fromkeys(f"`{about['command']}`" for about in book.abouts[name])
            said = ". ".join(filter(None, told))
            parts.append(f"{said}; {', '.join(commands)}:\n\n{table_markdown(book.tables[name])}")
    return "\n".join(parts)


def times_published(book: Book) -> str:
    """What VisPruner's authors published of the time of LLaVA-NeXT-7B, beside the same model's shape on an H200."""
    kinds = ["published", "published", "measured here", "measured here"]
    rows = [["", *(f"*{kind}*" for kind in kinds)]]
    for tokens in (2880, 640, 160):
        method = "none" if tokens == 2880 else "vispruner"
        time, whole = (
            book.score("LLaVA-NeXT-7B", each, "CUDA time", number)
            for each, number in ((method, tokens), ("none", 2880))
        )
        of = {"shape": "llava-v1.6-7b", "attention": "SDPA", "batch": 1, "visual tokens": tokens}
        mine = book.value("gpu/h200.answer", "first token", **of)
        mine, share = mine if isinstance(mine, list) else (mine, 100)
        rows.append([str(tokens), f"{time:g} ms", f"{100 * time / whole:.0f} %", f"{mine:g} ms", f"{share} %"])
    heading = ["LLaVA-1.6-7B, visual tokens", "CUDA time, VisPruner's authors", "of the unpruned"]
    return markdown([*heading, "first token, H200, random weights", "of the unpruned"], rows)


def published_v15(book: Book) -> str:
    """The published scores of LLaVA-1.5-7B, unpruned and by VisPruner."""
    rows, above = [], ""
    for tokens, method in V15_ROWS.items():
        label = "its paper" if method == "none" else "VisPruner, its authors"
        scores = [f"{book.score(V15, method, task, tokens):.1f}" for task in V15_TASKS]
        rows.append(["" if label == above else label, str(tokens), *scores])
        above = label
    return markdown([V15, "tokens", *V15_TASKS.values()], rows)


def published(book: Book) -> str:
    """All published figures, by model, method and number of tokens."""
    rows = [
        [
            *(each["model"], each["method"]),
            str(each.get("tokens", ABSENT)),
            ABSENT if each["kept"] is None else f"{100 * each['kept']:.3g} %",
            *(
                V15_TASKS.get(each["task"], each["task"]),
                f"{each['score']:{'g' if each['unit'] == 'ms' else '.1f'}}",
                each["unit"],
                each["source"],
            ),
        ]
        for each in book.published
    ]
    return markdown(["model", "method", "tokens", "kept", "task", "score", "unit", "source"], rows)


def leaderboard(book: Book) -> str:
    """A section for each run."""
    return "\n".join(section(name, run) for name, run in book.runs.items())


COMPOSED: dict[str, Callable[[Book], str]] = {
    "readme": readme,
    "h200_summary": h200_summary,
    "gpus": gpus,
    "times_published": times_published,
    "published_v1.5": published_v15,
    "published": published,
    "leaderboard": leaderboard,
}


def render(book: Book, name: str) -> str:
    """The Markdown of a table. Raises InputError if there is none of that name, or it cannot be made."""
    try:
        return COMPOSED[name](book) if name in COMPOSED else table_markdown(book.tables[name])
    except InputError as error:
        raise InputError(f"table {name}: {error}") from None
    except KeyError as error:
        raise InputError(f"table {name}: docs/results has no {error}") from None
