"""What is asked: made and checked without torch, so that commands can answer before it is imported."""

from tests.recipes import run_python

LIGHT = """
import sys
from llava.eval.run import answering
from llava.inference.request import Request
from llava.pruning import Settings
Request("What is in <image>?", ("a.png",), Settings(16))
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_requests_are_made_without_torch():
    done = run_python("-c", LIGHT)
    assert done.returncode == 0, done.stderr
