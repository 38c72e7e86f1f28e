"""Whether kept tokens gain by the size of their cluster: log(size) added to the attention logits of every layer.

    python -m scripts.benchmarks.cluster_size --output out/cluster_size.json

Each patch that VisPruner drops belongs to the kept one that is nearest by cosine; a cluster's size is one more than
what belongs to it. Four kinds of tokens are compared on the bundled model: kept patches alone, 0.7 of the kept patch
and 0.3 of the mean of what belongs to it, and both with log(size) added to the logits of attention to them, as Token
Merging has it (arXiv 2210.09461, section 3). A question is right if greedy decoding gives exactly the labelled answer,
which one pass over prompt and answer shows. Questions are the bundled ones that have one answer, and questions about
places on scenes that neither training nor the benchmarks have.

Differences are paired: intervals are of the bootstrap over pictures, p is that of McNemar's exact test.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava.cli import CommandParser, output_file, run_command
from llava.errors import InputError
from llava.eval.evaluation import BUNDLED_DATA, BUNDLED_MODEL
from llava.files import write_json
from llava.tables import markdown_table

if TYPE_CHECKING:
    import torch

    from llava.eval.benchmarks.items import Items
    from llava.model.builder import LoadedModel
    from llava.pruning import VisualTokens

BUDGETS = (32, 16, 8)
POSITIONS = ("renumbered", "original")
KINDS = ("kept", "mixed", "kept+size", "mixed+size")
PAIRS = (("kept+size", "kept"), ("mixed+size", "mixed"), ("mixed+size", "kept"), ("mixed", "kept"))
SHARE = 0.3  # of the mean of what belongs to a kept patch
SEED = 1_700_000_000  # of the scenes: beyond those of training and of the benchmarks
BATCH = 32


@dataclass(frozen=True)
class Asked:
    """A question about a picture, and its answer: `group` is "bundled" or "places"."""

    group: str
    image: Path | bytes
    text: str
    answer: str


def bundled_questions(every: int) -> Iterator[Asked]:
    """The questions about every so many-th picture of the bundled benchmarks that are scored by one answer."""
    from playground.tiny.evaluate.kinds import truths
    from playground.tiny.evaluate.scores import read_benchmarks

    labels = {name: [answer for _, answer in found] for name, found in truths(BUNDLED_DATA).items()}
    rows = json.loads((BUNDLED_DATA / "textvqa" / "TextVQA_0.5.1_val.json").read_text(encoding="utf-8"))["data"]
    labels["TextVQA"] = [Counter(row["answers"]).most_common(1)[0][0] for row in rows]
    files = (BUNDLED_DATA / "pope" / "coco").glob("*.json")
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pope = {(row["image"], row["text"]): row["label"] for row in rows}
    for name, questions in read_benchmarks(BUNDLED_DATA).items():
        if name == "POPE":
            labels[name] = [pope[question.image.name, question.prompt.split("\n")[0]] for question in questions]
        images = list(dict.fromkeys(q.image for q in questions if q.image is not None))[::every]
        for question, answer in zip(questions, labels.get(name, [])):
            if question.image in images:
                yes_or_no = answer.capitalize() if answer in ("yes", "no") else answer
                yield Asked("bundled", question.image, question.asked, yes_or_no)


def place_questions(scenes: int) -> Iterator[Asked]:
    """Questions about places on so many scenes of their own, each text once."""
    from playground.tiny.drawing import jpeg
    from playground.tiny.questions import SHORT, is_related, where, which_relation, which_side
    from playground.tiny.scenes import make_scene

    for seed in range(SEED, SEED + scenes):
        scene, rng = make_scene(seed), random.Random(seed)
        picture = jpeg(scene)
        made = [maker(scene, rng) for maker in (where, which_side, is_related, which_relation)]
        for question in {question.text: question for question in made if question is not None}.values():
            yield Asked("places", picture, f"{question.text}\n{SHORT}", question.answer)


def clusters(features: torch.Tensor, kept: torch.LongTensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The clusters of kept patches (T,) among features (N, C): the mean (T, C) of what is dropped, and sizes (T,).

    The mean of nothing is the kept patch itself.
    """
    import torch

    is_dropped = torch.ones(len(features), dtype=torch.bool).index_fill(0, kept, False)
    unit, dropped = torch.nn.functional.normalize(features, dim=1), features[is_dropped]
    nearest = (unit[is_dropped] @ unit[kept].T).argmax(dim=1)
    number = torch.bincount(nearest, minlength=len(kept))
    sums = torch.zeros(len(kept), features.shape[1]).index_add(0, nearest, dropped)
    means = torch.where(number[:, None] > 0, sums / number.clamp(min=1)[:, None], features[kept])
    return means, number + 1.0


def biased_mask(mask: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(B, 1, L, L): what is added to attention logits, from a mask and each token's bias, (B, L) both."""
    import torch

    length = mask.shape[1]
    is_seen = torch.ones(length, length, dtype=torch.bool).tril() & mask.bool()[:, None, :]
    return bias[:, None, :].where(is_seen, torch.finfo(bias.dtype).min)[:, None]


class Trial:
    """The bundled model, asked with each kind of tokens."""

    def __init__(self, loaded: LoadedModel) -> None:
        from llava.model.template import find_template

        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        self.template = find_template("llava-tiny", "llava", None, str(BUNDLED_MODEL))

    def hits(self, batch: list[Asked], encoded: list, sweep: list[str]) -> dict[tuple, list[bool]]:
        """Which of a batch's answers are right, by budget, positions and kind."""
        from llava.model.encode import choose
        from llava.pruning import Settings

        found = {}
        for budget in BUDGETS:
            chosen = {id(image): choose(self.model, image.views, Settings(budget)) for image in encoded}
            parts = {id(i): clusters(i.views.features[0], chosen[id(i)].patches[0]) for i in encoded}
            for positions in sweep:
                for kind in KINDS:
                    own = [(chosen[id(image)], image.views.features[0], *parts[id(image)]) for image in encoded]
                    found[budget, positions, kind] = self._right(batch, own, positions, kind)
        return found

    def _right(self, batch: list[Asked], own: list[tuple], positions: str, kind: str) -> list[bool]:
        import torch

        from llava.inference.prefix_sharing import embed

        visual = [self._tokens(*image[:3], positions, kind.startswith("mixed")) for image in own]
        prompts = [self._ids(asked, False) for asked in batch]
        wholes = [self._ids(asked, True) for asked in batch]
        lengths = [len(whole) - len(prompt) for whole, prompt in zip(wholes, prompts)]
        embedded = embed(self.model, wholes, visual)
        bias = torch.zeros(embedded.is_visual.shape)
        if kind.endswith("size"):
            bias[embedded.is_visual] = torch.cat([sizes for *_, sizes in own]).log()
        hidden = self.model.model(
            inputs_embeds=embedded.inputs_embeds,
            attention_mask=biased_mask(embedded.attention_mask, bias),
            position_ids=embedded.positions(),
            use_cache=False,
        )[0]
        said = self.model.lm_head(hidden[:, -max(lengths) - 1 : -1]).argmax(dim=2)
        return [torch.equal(row[-n:], whole[-n:]) for row, whole, n in zip(said, wholes, lengths)]

    def _tokens(self, chosen: VisualTokens, features: torch.Tensor, means: torch.Tensor, positions: str, mixed: bool):
        from dataclasses import replace

        from llava.model.places import place_tokens

        if mixed:
            tokens = (1 - SHARE) * features[chosen.patches[0]] + SHARE * means
            chosen = replace(chosen, tokens=self.model.project(tokens[None]))
        return chosen.tokens[0] if positions == "renumbered" else place_tokens(chosen, positions, len(features))

    def _ids(self, asked: Asked, with_answer: bool) -> torch.LongTensor:
        from llava.checkpoints.tokenizer import tokenizer_image_token
        from llava.inference.request import make_request

        prompt = make_request(asked.text, [asked.image], self.template, self.model.config).prompt
        if with_answer:
            prompt += f" {asked.answer}{self.tokenizer.eos_token}"
        return tokenizer_image_token(prompt, self.tokenizer, return_tensors="pt")


def ask(questions: list[Asked], sweep: list[str]) -> dict[tuple, list[bool]]:
    """Which questions are right, by budget, positions and kind; questions on one picture follow one another."""
    import torch
    from tqdm import tqdm

    from llava.inference.images import encode_images
    from llava.model.builder import load_pretrained_model

    loaded = load_pretrained_model(str(BUNDLED_MODEL), None, "llava-tiny", device="cpu")
    trial, found = Trial(loaded), {}
    with torch.inference_mode():
        for start in tqdm(range(0, len(questions), BATCH), desc="batches"):
            batch, seen = questions[start : start + BATCH], {}
            for asked in batch:
                if asked.image not in seen:
                    (seen[asked.image],) = encode_images(loaded, [asked.image], "a question", as_displayed=False)
            for key, hits in trial.hits(batch, [seen[asked.image] for asked in batch], sweep).items():
                found.setdefault(key, []).extend(hits)
    return found


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of so many questions that only one of two runs has right."""
    number = only_first + only_second
    tail = sum(math.comb(number, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**number)


def compare(questions: list[Asked], found: dict[tuple, list[bool]], group: str) -> list[dict]:
    """Each pair of kinds at each budget and positions, over the questions of a group."""
    from llava.eval.benchmarks.items import accuracy_items
    from llava.eval.report.bootstrap import draw_figures, interval

    numbers = [i for i, asked in enumerate(questions) if asked.group == group]
    pictures = {image: i for i, image in enumerate(dict.fromkeys(asked.image for asked in questions))}

    def items(hits: list[bool]) -> Items:
        return accuracy_items(numbers, [pictures[questions[i].image] for i in numbers], [hits[i] for i in numbers])

    rows, of_key = [], {key: items(hits) for key, hits in found.items()}
    draws = dict(zip(of_key, draw_figures(list(of_key.values()))))
    for budget in BUDGETS:
        for positions in dict.fromkeys(key[1] for key in found):
            for one, other in PAIRS:
                first, second = (budget, positions, one), (budget, positions, other)
                low, high = interval(draws[first] - draws[second])
                hits = [(found[first][i], found[second][i]) for i in numbers]
                counts = [hits.count((True, False)), hits.count((False, True))]
                rows.append(
                    {"questions": group, "tokens": budget, "positions": positions, "first": one, "second": other}
                    | {"accuracy": [of_key[second].figure, of_key[first].figure]}
                    | {"difference": of_key[first].figure - of_key[second].figure, "low": low, "high": high}
                    | {"only_first": counts[0], "only_second": counts[1], "p": mcnemar(*counts)}
                )
    return rows


def table(rows: list[dict]) -> str:
    """The comparisons as Markdown."""
    lines = [["questions", "T", "positions", "compared", "accuracy", "difference", "counts"]]
    for row in rows:
        before, after = row["accuracy"]
        difference = f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
        counts = f"{row['only_first']}:{row['only_second']} p = {row['p']:.1g}"
        compared = f"{row['first']} - {row['second']}"
        shown = f"{before:.1f} -> {after:.1f}"
        lines.append([row["questions"], str(row["tokens"]), row["positions"], compared, shown, difference, counts])
    return markdown_table(lines, left=4)


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="ask about every so many-th bundled picture (1)")
    parser.add_argument("--scenes", type=int, default=300, help="scenes of the questions about places (300)")
    parser.add_argument("--positions", nargs="+", choices=POSITIONS, default=POSITIONS, help="the settings (both)")
    parser.add_argument("--output", required=True, type=output_file, help="results as JSON")
    args = parser.parse_args()
    if min(args.every, args.scenes) < 1:
        raise InputError("every and scenes must be at least 1")
    questions = [*bundled_questions(args.every), *place_questions(args.scenes)]
    found = ask(questions, args.positions)
    rows = [row for group in ("bundled", "places") for row in compare(questions, found, group)]
    numbers = Counter(asked.group for asked in questions)
    write_json(args.output, {"questions": numbers, "every": args.every, "comparisons": rows}, sort_keys=False)
    print(", ".join(f"{number} {group} questions" for group, number in numbers.items()))
    print(table(rows))


if __name__ == "__main__":
    run_command(main)
