"""Write the reference cases that are computed: python -m tests.data.make_cases [folder]

Inputs come from seeded random numbers, results from `plain.py` and `plain_inputs.py`. A selection's input is taken only
if no result hinges on rounding: float32 and float64 agree, and so do features that differ in the sixth digit.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
from sentencepiece import SentencePieceProcessor

from tests.data import plain, plain_inputs

HERE = Path(__file__).parent
TOKENIZER = HERE.parents[1] / "playground" / "checkpoints" / "llava-tiny" / "tokenizer.model"
RATIOS = (0.0, 0.3, 0.5, 1.0)
SIDE, GRID = 168, [[168, 336], [336, 168], [336, 336], [504, 168], [168, 504]]
TOKENIZED_MODES = ("vicuna_v1", "llava_v1", "llava_llama_2", "mistral_instruct", "plain")
TEXTS = (
    "",
    "<image>",
    "No picture here.",
    "<image><image>",
    "First <image> then <image>\nand the end ",
    "  Two  spaces,\n\na tab\tand 3.14 <image>  ",
    "Größe? 图片里有什么？ 🦙 <image>",
    "Hello.</s>USER: And? </s> <s>[INST] More<image></s><image>",
)


def integer(random: Random, low: int, high: int) -> int:
    """From low to high, both included. Of Python's generator only random() is promised to stay as it is."""
    return low + int(random.random() * (high - low + 1))


def rows(random: Random, number: int, channels: int, spread: int = 99) -> np.ndarray:
    """(number, channels) integers in [-spread, spread]."""
    return np.array([[integer(random, -spread, spread) for _ in range(channels)] for _ in range(number)])


def clusters(random: Random, number: int, channels: int) -> np.ndarray:
    """Near-duplicates of six centres."""
    centres = rows(random, 6, channels)
    return np.stack([centres[integer(random, 0, 5)] for _ in range(number)]) + rows(random, number, channels, 6)


def walk(random: Random, number: int, channels: int) -> np.ndarray:
    """Each row differs a little from the one before, as neighbouring patches do."""
    return rows(random, 1, channels) + rows(random, number, channels, 20).cumsum(axis=0)


def signs(random: Random, number: int, channels: int) -> np.ndarray:
    """Rows of -1 and 1: with 4 or 16 channels every cosine is exact in any dtype, and many are equal."""
    return np.array([[2 * integer(random, 0, 1) - 1 for _ in range(channels)] for _ in range(number)])


def copies(random: Random, number: int, channels: int) -> np.ndarray:
    """Twelve rows of signs, each many times, in lengths of 1, 2, and 4: their cosine is exactly 1."""
    originals = signs(random, 12, channels)
    return np.stack([originals[integer(random, 0, 11)] * 2 ** integer(random, 0, 2) for _ in range(number)])


def alike(random: Random, number: int, channels: int) -> np.ndarray:
    return np.ones((number, channels), dtype=int)


def distinct_attention(random: Random, number: int) -> list[float]:
    return [x / 10_000 for x in sorted(range(1, 10_000), key=lambda _: random.random())[:number]]


def tied_attention(random: Random, number: int) -> list[float]:
    return [integer(random, 1, 4) / 100 for _ in range(number)]


# Name: rows, patches, channels, attention, channels of the keys (0: no keys, hence nothing for VisionZip), whether all
# arithmetic is exact, so that nothing can hinge on rounding and ties are ties.
INPUTS = {
    "random36": (rows, 36, 8, distinct_attention, 0, False),
    "random49": (rows, 49, 8, distinct_attention, 6, False),
    "random144": (rows, 144, 16, distinct_attention, 0, False),
    "odd37": (rows, 37, 8, distinct_attention, 0, False),
    "clusters49": (clusters, 49, 8, distinct_attention, 6, False),
    "clusters100": (clusters, 100, 8, distinct_attention, 0, False),
    "walk64": (walk, 64, 8, distinct_attention, 0, False),
    "ties36": (signs, 36, 16, tied_attention, 16, True),
    "copies48": (copies, 48, 16, distinct_attention, 4, True),
    "alike25": (alike, 25, 4, tied_attention, 0, True),
}


def make_input(name: str, seed: int) -> dict:
    make, patches, channels, make_attention, key_channels, _ = INPUTS[name]
    random = Random(seed)
    made = {"features": make(random, patches, channels), "cls_attention": make_attention(random, patches)}
    if key_channels:
        made["cls_state"] = rows(random, 1, channels)[0]
        made["keys"] = make(random, 1 + patches, key_channels)
    return {key: np.asarray(value).tolist() for key, value in made.items()}


def settings(name: str) -> Iterator[dict]:
    """The method, budget and share of important patches of each case of an input."""
    _, patches, _, _, key_channels, _ = INPUTS[name]
    for budget in (1, patches // 4, patches // 2, patches - 1, patches, patches + 1):
        for ratio in RATIOS if budget < patches else RATIOS[2:3]:
            yield {"method": "vispruner", "visual_token_num": budget, "important_ratio": ratio}
        for method in ("fastervlm", "divprune", *(["visionzip"] if key_channels else [])):
            yield {"method": method, "visual_token_num": budget}


def solve(case: dict, made: dict, arrays: Callable = np.array) -> list:
    """Kept patches, of VisionZip the tokens; `arrays` makes arrays of the input's lists."""
    number, features, attention = case["visual_token_num"], arrays(made["features"]), np.array(made["cls_attention"])
    if number >= len(features):
        return list(range(len(features)))  # nothing is pruned, and nothing merged
    if case["method"] == "vispruner":
        return plain.vispruner(features, attention, number, case["important_ratio"])
    if case["method"] == "fastervlm":
        return plain.fastervlm(attention, number)
    if case["method"] == "divprune":
        return plain.divprune(features, number)
    hidden_states = arrays([made["cls_state"], *made["features"]])
    return plain.visionzip(hidden_states, attention, arrays(made["keys"]), number).round(4).tolist()


def is_steady(case: dict, made: dict, exact: bool) -> bool:
    """Whether the result is the same in float32, and, unless all arithmetic is exact, of slightly other features."""
    random = Random(0)

    def disturbed(values: list) -> np.ndarray:
        noise = np.array([random.random() for _ in range(np.size(values))]).reshape(np.shape(values))
        return np.array(values) * (1 + 1e-6 * (2 * noise - 1))

    variants = [lambda values: np.array(values, dtype=np.float32), *([] if exact else 3 * [disturbed])]
    result = solve(case, made)
    return all(np.allclose(solve(case, made, variant), result, rtol=0, atol=1e-3) for variant in variants)


def selection() -> dict:
    """Inputs, and the cases of each with what is kept."""
    inputs, cases = {}, []
    for name, (*_, exact) in INPUTS.items():
        seed = 0
        while not all(is_steady(case, make_input(name, seed), exact) for case in settings(name)):
            seed += 1
        made = inputs[name] = make_input(name, seed)
        for case in settings(name):
            merges = case["method"] == "visionzip" and case["visual_token_num"] < len(made["features"])
            cases.append({"input": name, **case, "tokens" if merges else "kept": solve(case, made)})
    return {"inputs": inputs, "cases": cases}


def fastv() -> list[dict]:
    """Prompts as lengths of text, picture, text, ..., the last token's attention, and by budget what stays."""
    prompts = (
        ([3, 36, 5], distinct_attention),
        ([0, 25, 4], distinct_attention),
        ([2, 16, 3, 16, 1], distinct_attention),
        ([6], distinct_attention),
        ([1, 36, 8], tied_attention),
    )
    made = []
    for seed, (lengths, make_attention) in enumerate(prompts):
        patches = max(lengths[1::2], default=36)
        is_visual = [stretch % 2 == 1 for stretch, length in enumerate(lengths) for _ in range(length)]
        attention = make_attention(Random(seed), len(is_visual))
        budgets = (1, patches // 4, patches - 1, patches)
        left = [plain.fastv(np.array(attention), is_visual, budget / patches) for budget in budgets]
        cases = [{"visual_token_num": budget, "left": places} for budget, places in zip(budgets, left)]
        made.append({"lengths": lengths, "patches": patches, "attention": attention, "cases": cases})
    return made


def token_ids() -> list[dict]:
    """Texts, some of them prompts of prompts.json, with their ids in the bundled model's vocabulary."""
    sentencepiece = SentencePieceProcessor(str(TOKENIZER))
    prompts = json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))
    texts = ["".join(prompt["prompt"]) for prompt in prompts if prompt["modes"][0] in TOKENIZED_MODES]
    return [{"text": text, "ids": plain_inputs.token_ids(text, sentencepiece)} for text in (*texts, *TEXTS)]


def pixels() -> list[dict]:
    """Of drawings that are wide, tall, and nearly square: each crop's mean by channel, and every 28th pixel.

    No drawing shrinks more in height than in width: Pillow 13 then resizes the height first, older releases the width,
    and as values are rounded and cut off to 0..255 in between, pixels differ.
    """
    cases = []
    for width, height in ((300, 150), (90, 160), (240, 220), (100, 100)):
        picture = plain_inputs.drawing(width, height)
        for mode in ("pad", "anyres"):
            result = plain_inputs.pad(picture, SIDE) if mode == "pad" else plain_inputs.anyres(picture, SIDE, GRID)
            facts = {"means": result.mean(axis=(2, 3)), "every_28th": result[:, :, 14::28, 14::28]}
            facts = {name: values.round(4).tolist() for name, values in facts.items()}
            cases.append({"width": width, "height": height, "image_aspect_ratio": mode, **facts})
    return cases


def as_text(value, indent: int = 0) -> str:
    """JSON with a line for each row of numbers."""
    items = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
    text = json.dumps(value, ensure_ascii=False)
    if len(text) < 100 or not any(isinstance(item, dict | list) for item in items):
        return text
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(items)
    lines = [" " * (indent + 1) + key + as_text(item, indent + 1) for key, item in zip(keys, items)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return start + "\n" + ",\n".join(lines) + "\n" + " " * indent + end


FILES = {"selection.json": selection, "fastv.json": fastv, "token_ids.json": token_ids, "pixels.json": pixels}


def write_cases(folder: Path) -> None:
    for name, make in FILES.items():
        (folder / name).write_text(as_text(make()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
