"""Benchmarks: questions -> answers -> scores and files to submit.

`evaluate` answers and scores a benchmark from Python; it is imported when first used.
"""


def __getattr__(name: str):
    if name == "evaluate":
        from llava.eval.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
