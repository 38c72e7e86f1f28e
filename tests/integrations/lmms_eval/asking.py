"""Requests of lmms-eval, which must be installed, about documents that have `pictures`."""

from lmms_eval.api.instance import Instance

GREEDY = {"max_new_tokens": 8, "temperature": 0, "do_sample": False}
QUESTION = "What is in the picture?\nAnswer the question using a single word or phrase."


def to_visual(document: dict) -> list:
    return document["pictures"]


def instance(kind: str, *arguments) -> Instance:
    return Instance(request_type=kind, arguments=arguments, idx=0, metadata={"task": "t", "doc_id": 0, "repeats": 1})


def question(text: str, document: int, task: str = "scenes", **options) -> Instance:
    return instance("generate_until", text, GREEDY | options, to_visual, document, task, "test")


def choice(text: str, answer, document: int) -> Instance:
    return instance("loglikelihood", text, answer, to_visual, document, "scenes", "test")
