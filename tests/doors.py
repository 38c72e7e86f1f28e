"""Questions about bundled pictures, and the engine's answers to them by each method: what every door must answer."""

import json
from pathlib import Path

from llava.inference import Engine, Request, make_request
from llava.pruning import Settings, load_method
from tests.conftest import ROOT

MODEL = ROOT / "playground" / "checkpoints" / "llava-tiny"
DATA = ROOT / "playground" / "data" / "scenes" / "textvqa"
GREEDY = {"do_sample": False, "max_new_tokens": 8}
TOKENS, NUMBER = 8, 5  # so few tokens that methods differ in their answers


def asked() -> list[tuple[str, Path]]:
    """(text, picture) of the first question about each of some pictures."""
    rows = [json.loads(line) for line in (DATA / "llava_textvqa_val_v051_ocr.jsonl").read_text().splitlines()]
    first = {row["image"]: row["text"] for row in reversed(rows)}
    pictures = list(dict.fromkeys(row["image"] for row in rows))[:NUMBER]
    return [(first[picture], DATA / "train_images" / picture) for picture in pictures]


def settings(method: str) -> Settings:
    return Settings(TOKENS, pruning_method=method)


def request(loaded, text: str, picture: Path, method: str) -> Request:
    return make_request(text, [picture], "vicuna_v1", loaded.model.config, settings(method), as_displayed=False)


def engine_answers(loaded, method: str) -> list[str]:
    """The engine's answers, each alone."""
    engine = Engine(loaded, batch_size=1)
    return [next(engine.answer([request(loaded, *one, method)], **GREEDY)).text for one in asked()]


def must_be_refused(method: str) -> bool:
    """Whether a door whose language model is another's can only refuse it."""
    declared = load_method(method)
    return bool(declared.needs) or declared.in_decoder or declared.blind
